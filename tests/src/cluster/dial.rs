//! What the clients and servers of [`renew`](super::renew) run, each inside a pod or beside one.

use std::{
    io::{self, Read as _},
    net::SocketAddr,
    thread,
};

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};

use crate::{
    addr::Addrs,
    host::Here,
    traffic::{EchoServer, Load, LoadReport, PingReport, Pinger},
};

/// Connections that are kept and used, of each client.
const KEPT: usize = 8;

/// What a server is told.
#[derive(clap::Args)]
pub struct Server {
    #[arg(long)]
    port: u16,
    #[arg(long, env = "NAME")]
    name: String,
    /// The pod's own
    #[arg(long, env = "ADDRESSES", value_delimiter = ',')]
    addresses: Vec<std::net::IpAddr>,
}

/// What a client is told.
#[derive(clap::Args)]
pub struct Client {
    /// What is dialled, in turn
    #[arg(long, required = true, value_delimiter = ',')]
    to: Vec<SocketAddr>,
    /// Connections a second, and as many questions
    #[arg(long)]
    rate: u32,
}

/// What a client has seen.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Seen {
    pub(super) connections: LoadReport,
    pub(super) questions: LoadReport,
    pub(super) kept: PingReport,
}

/// Serves until it is ended.
pub fn serve(server: &Server) -> Result<()> {
    let (mut v4, mut v6) = (None, None);
    for address in &server.addresses {
        match address {
            std::net::IpAddr::V4(address) => v4 = Some(*address),
            std::net::IpAddr::V6(address) => v6 = Some(*address),
        }
    }
    let (Some(v4), Some(v6)) = (v4, v6) else { bail!("a server has an address of each family, not {:?}", server.addresses) };
    let _server = EchoServer::start(&Here::named(&server.name, Addrs { v4, v6 })?, server.port)?;
    loop {
        thread::park();
    }
}

/// Dials until its input ends, then says what it saw.
pub fn dial(client: &Client) -> Result<()> {
    let here = Here::named("client", Addrs::new("127.0.0.1", "::1"))?;
    let kept = Pinger::start(&here, &client.to, KEPT).context("opening the connections that are kept")?;
    let connections = Load::start(&here, &client.to, client.rate);
    let questions = Load::of_questions(&here, &client.to, client.rate);
    io::stdin().read_to_end(&mut Vec::new()).context("waiting for the end")?;
    let seen = Seen { connections: connections.finish(), questions: questions.finish(), kept: kept.finish() };
    println!("{}", serde_json::to_string(&seen).context("writing what was seen")?);
    Ok(())
}
