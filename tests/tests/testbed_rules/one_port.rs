//! One port of a client, by which it reaches a backend through a Service and without one: each is answered by whom it has dialled.

use std::net::SocketAddr;

use anyhow::{Context as _, Result, ensure};
use proxy_common::reason::Reason;
use shunt_tests::{
    Cases, Daemon, Family, Host as _, addr, gate,
    objects::Endpoint,
    traffic::{Connection, UdpClient},
};

use crate::scene::{PORT, Scene, TARGET, open};

const SERVICE: u8 = 9;
/// How often each end is asked in turn.
const TURNS: usize = 5;

/// By packets at the client's node; and where the client's sockets have the backend already, by packets at the backend's.
#[test]
fn a_port_serves_for_the_service_and_for_its_backend() {
    if gate::skip(gate::DAEMON) {
        return;
    }
    let scene = Scene::new();
    let servers = scene.servers();
    scene.write(&open("remote", SERVICE), &[Endpoint::pod(&scene.c)]);
    let mut cases = Cases::new();
    let mut ports = 20_000..;
    for sockets in ["off", "auto"] {
        let daemons = [scene.n1(), scene.n2()].map(|node| Daemon::on(node, &scene.bed).sockets(sockets).start().unwrap());
        for family in Family::ALL {
            let (backend, cluster_ip) = (scene.c.addrs().at(family, TARGET), addr::cluster_ips(SERVICE).at(family, PORT));
            let node_port = scene.n2().addrs().at(family, addr::node_port(SERVICE));
            // A pod's sockets are given backends after its first connection.
            drop(scene.a.connect(cluster_ip).unwrap());
            let (direct, services) = if sockets == "off" { (backend, vec![node_port, cluster_ip]) } else { (cluster_ip, vec![node_port]) };
            for service in services {
                for order in [[service, direct], [direct, service]] {
                    let port = ports.next().unwrap();
                    let netns = scene.a.netns();
                    let name = |protocol| format!("--socket-lb {sockets}: {} and then {} by {protocol}", order[0], order[1]);
                    cases.run(name("TCP"), || netns.run(|| connections(port, order)));
                    if direct == backend {
                        cases.run(name("UDP"), || netns.run(|| datagrams(port, order)));
                    }
                }
            }
        }
        cases.run(format!("--socket-lb {sockets}: they have met"), || {
            let met = daemons.iter().map(|daemon| daemon.counted(Reason::PortCollision.name())).sum::<Result<u64>>()?;
            ensure!(met > 0, "no port was another's");
            Ok(())
        });
    }
    cases.finish();
    drop(servers);
}

fn connections(port: u16, order: [SocketAddr; 2]) -> Result<()> {
    let mut open = Vec::new();
    for to in order {
        let mut connection = Connection::open_from(port, to).with_context(|| format!("to {to}"))?;
        connection.expect_server("c")?;
        connection.ping().with_context(|| format!("to {to}"))?;
        open.push(connection);
    }
    for _ in 0..TURNS {
        for (connection, to) in open.iter_mut().zip(order) {
            connection.ping().with_context(|| format!("to {to}, again"))?;
        }
    }
    Ok(())
}

fn datagrams(port: u16, order: [SocketAddr; 2]) -> Result<()> {
    let mut client = UdpClient::unconnected_from(port, order[0])?;
    for to in (0..TURNS).flat_map(|_| order) {
        client.ask_other(to);
        // An answer from anybody else is an error.
        ensure!(client.ask()?.server == "c", "answered by another");
    }
    Ok(())
}
