//! How long the first packet of a flow takes, there and back, with few and with very many Services.

use std::{
    net::{SocketAddr, UdpSocket},
    time::Instant,
};

use anyhow::{Context as _, Result};

use super::{Options, cpus, scene::Filler};
use crate::{
    addr::{self, Family},
    bench::figures::{Contender, Route, Row, Summary, spread},
    cni::Cni,
    daemon::Daemon,
    host::Host as _,
    objects::{Endpoint, Service},
    testbed::Testbed,
    traffic::{EchoServer, patience},
};

const PORT: u16 = 80;
/// Where the server is dialled directly, and where through the Service: the same source port at one of them would be two clients in one.
const DIRECT: u16 = 7000;
const SERVED: u16 = 7001;
/// Services in one file.
const IN_A_FILE: u32 = 1000;
/// New flows in a round.
const FLOWS: usize = 2000;
/// Room for more Services than are measured.
const SIZES: &[&str] = &["--frontends", "262144", "--backends", "262144", "--services", "262144"];

/// Measures direct traffic and Shunt, with so many Services from manifests.
pub(super) fn measure(services: u32, options: &Options) -> Result<Vec<Row>> {
    let bed = Testbed::builder().style(Cni::Routed).nodes(1).build()?;
    let [client, server] = [bed.node(0).pod("client")?, bed.node(0).pod("server")?];
    let _servers = [EchoServer::start(&server, DIRECT)?, EchoServer::start(&server, SERVED)?];
    let service = Service::named("measured").cluster_ips(addr::cluster_ips(1)).port(PORT, SERVED);
    bed.manifests().write("measured", &service.with_endpoints(&[Endpoint::pod(&server)]))?;
    for first in (1..services).step_by(IN_A_FILE as usize) {
        let objects: Vec<_> = (first..services.min(first + IN_A_FILE)).map(Filler).flat_map(|it| it.objects(it.nobody())).collect();
        bed.manifests().write(&format!("fillers-{first}"), &objects)?;
    }
    let _daemon = Daemon::on(bed.node(0), &bed).args(SIZES).start()?;
    let (direct, shunt) = (server.addrs().at(Family::V4, DIRECT), addr::cluster_ips(1).at(Family::V4, PORT));
    let contenders = [(Contender::Direct, direct), (Contender::Shunt, shunt)];
    let mut summary = Summary::new(&contenders.map(|(contender, _)| contender));
    for round in 0..options.rounds {
        for turn in 0..contenders.len() {
            let contender = (round + turn) % contenders.len();
            let to = contenders[contender].1;
            let times = client.netns().run(|| {
                cpus::stay_on_the_first()?;
                (0..FLOWS).map(|_| first_packet(to)).collect::<Result<Vec<_>>>()
            });
            summary.note(contender, spread(&times?)[0]);
        }
    }
    Ok(summary.rows("first packet of a flow", Route::SameNode.name(), services, "us"))
}

/// How many microseconds a datagram of a new flow and its answer take.
fn first_packet(to: SocketAddr) -> Result<f64> {
    let socket = UdpSocket::bind("0.0.0.0:0").context("binding a socket")?;
    socket.connect(to)?;
    socket.set_read_timeout(Some(patience()))?;
    let start = Instant::now();
    socket.send(b"first")?;
    socket.recv(&mut [0; 256]).with_context(|| format!("an answer from {to}"))?;
    Ok(start.elapsed().as_secs_f64() * 1e6)
}
