//! One port of a client, by which it reaches a backend through a Service and without one: each is answered by whom it has dialled.

use std::net::SocketAddr;

use anyhow::{Context as _, Result, ensure};
use proxy_common::reason::Reason;
use shunt_tests::{
    Cases, Daemon, Family, Host as _, Netns, addr, gate,
    objects::Endpoint,
    traffic::{Connection, UdpClient},
};

use crate::scene::{PORT, Scene, TARGET, open};

const SERVICE: u8 = 9;
/// How often each end is asked in turn.
const TURNS: usize = 5;

/// The client dials one, then the other.
#[derive(Clone, Copy, Debug)]
enum First {
    Service,
    Backend,
}

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
            let direct = if sockets == "off" { backend } else { cluster_ip };
            for (service, first) in
                [node_port, cluster_ip].into_iter().flat_map(|to| [First::Service, First::Backend].map(|first| (to, first)))
            {
                if service == direct {
                    continue;
                }
                let port = ports.next().unwrap();
                let netns = scene.a.netns();
                let name = |protocol| format!("--socket-lb {sockets}: {first:?} first, {direct} and {service} by {protocol}");
                cases.run(name("TCP"), || connections(netns, port, service, direct, first));
                if direct == backend {
                    cases.run(name("UDP"), || datagrams(netns, port, service, backend, first));
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

fn connections(netns: &Netns, port: u16, service: SocketAddr, direct: SocketAddr, first: First) -> Result<()> {
    let order = if matches!(first, First::Service) { [service, direct] } else { [direct, service] };
    netns.run(|| {
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
    })
}

fn datagrams(netns: &Netns, port: u16, service: SocketAddr, backend: SocketAddr, first: First) -> Result<()> {
    let order = if matches!(first, First::Service) { [service, backend] } else { [backend, service] };
    netns.run(|| {
        let mut client = UdpClient::unconnected_from(port, service)?;
        for to in (0..TURNS).flat_map(|_| order) {
            client.ask_other(to);
            // It says when it was answered by anybody else.
            ensure!(client.ask()?.server == "c", "answered by another");
        }
        Ok(())
    })
}
