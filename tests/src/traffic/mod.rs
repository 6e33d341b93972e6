//! Real traffic: a server that says who it is and whom it sees, clients that measure, and load that counts.
//!
//! The protocol: a TCP server greets with one line, `<its name> <the client's address as it sees it>`, then echoes
//! every byte it gets. A UDP server answers each datagram with that line and the datagram behind it.

use std::{io, net::SocketAddr, time::Duration};

use crate::wait;

mod bulk;
mod connection;
mod flood;
mod frame;
mod load;
mod pinger;
mod server;
mod udp;

pub use self::{
    bulk::exchange,
    connection::Connection,
    flood::Flood,
    frame::send_frame,
    load::{Load, LoadReport},
    pinger::{PingReport, Pinger},
    server::EchoServer,
    udp::{Answer, UdpClient},
};

/// How long a client waits for anything: longer than three repetitions of a lost SYN, and than any machine is busy with something else.
pub fn patience() -> Duration {
    wait::at_most(Duration::from_secs(10))
}

/// Reads a greeting: the server's name and the client's address as the server sees it.
fn parse_greeting(line: &str) -> io::Result<(String, SocketAddr)> {
    let parsed = line.split_once(' ').and_then(|(name, seen)| Some((name, seen.parse().ok()?)));
    let (name, seen) = parsed.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, format!("not a greeting: {line:?}")))?;
    Ok((name.to_owned(), seen))
}
