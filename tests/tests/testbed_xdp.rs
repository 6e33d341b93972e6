//! XDP on uplinks: what it translates, what it leaves to tc, and how its program comes and goes.

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use anyhow::{Context as _, Result, ensure};
    use serde_json::Value;
    use shunt_tests::{
        Cases, Cni, Daemon, Family, Host as _, Pod, Testbed, addr, gate,
        gate::Need,
        objects::{Endpoint, Service},
        traffic::{EchoServer, exchange},
        wait,
    };

    const PORT: u16 = 80;
    const TARGET: u16 = 8080;
    const NODE_PORT: u16 = 30_001;
    const LIMIT: Duration = Duration::from_mins(1);
    const NEEDS: &[Need] = &[Need::Tool("ethtool")];

    #[test]
    fn outside_clients_are_served_in_generic_xdp() {
        served("generic");
    }

    #[test]
    fn outside_clients_are_served_in_native_xdp() {
        served("native");
    }

    fn served(mode: &str) {
        if gate::skip(gate::DAEMON) || gate::skip(NEEDS) {
            return;
        }
        // A frame's checksum is finished, as on a wire.
        let bed = Testbed::builder().style(Cni::Routed).nodes(1).checksums(false).build().unwrap();
        let scene = Scene::new(&bed);
        let mut daemon = Daemon::on(bed.node(0), &bed).args(&["--xdp", mode]).start().unwrap();
        let mut cases = Cases::new();
        for family in Family::ALL {
            scene.reached(&mut cases, &daemon, family);
        }
        cases.run("the device shows its mode", || {
            let shown = uplink(&daemon)?;
            ensure!(shown["xdp"]["mode"] == mode && shown["xdp"]["program"] == "uplink_xdp", "{shown}");
            Ok(())
        });
        cases.run("a restart keeps the link", || {
            let before = uplink(&daemon)?["xdp"]["link_id"].clone();
            daemon.restart()?;
            let after = uplink(&daemon)?["xdp"]["link_id"].clone();
            ensure!(before == after && before != Value::Null, "link {before} became {after}");
            let at = daemon.counted("xdp_translated")?;
            bed.client().connect(scene.node_port(Family::V4))?.expect_server("b")?;
            ensure!(daemon.counted("xdp_translated")? > at, "nothing is translated any more");
            Ok(())
        });
        cases.finish();
        drop(daemon);

        let mut daemon = Daemon::on(bed.node(0), &bed).args(&["--xdp", mode]).start().unwrap();
        daemon.terminate().unwrap();
        let without = Daemon::on(bed.node(0), &bed).start().unwrap();
        assert_eq!(uplink(&without).unwrap()["xdp"], Value::Null);
        let link = bed.node(0).netns().exec("ip link show eth0").unwrap();
        assert!(!link.contains("xdp"), "{link}");
    }

    /// A pod's checksum, and that of any client on this machine, is only begun when the frame arrives.
    #[test]
    fn what_xdp_cannot_know_is_left_to_tc() {
        if gate::skip(gate::DAEMON) {
            return;
        }
        let bed = Testbed::builder().style(Cni::Routed).nodes(1).build().unwrap();
        let scene = Scene::new(&bed);
        let daemon = Daemon::on(bed.node(0), &bed).args(&["--xdp", "generic"]).start().unwrap();
        // They stay open: what the kernel says for a socket that is closing has a finished checksum.
        let open = Family::ALL.map(|family| {
            let to = scene.node_port(family);
            let connection = bed.client().connect(to).unwrap();
            connection.expect_server("b").unwrap();
            assert_eq!(bed.client().ask(to).unwrap().server, "b");
            connection
        });
        assert_eq!(daemon.counted("xdp_translated").unwrap(), 0);
        drop(open);
    }

    struct Scene<'a> {
        bed: &'a Testbed,
        _pod: Pod,
        _server: EchoServer,
    }

    impl<'a> Scene<'a> {
        /// One pod behind one Service, and one Service without.
        fn new(bed: &'a Testbed) -> Self {
            let pod = bed.node(0).pod("b").unwrap();
            let server = EchoServer::start(&pod, TARGET).unwrap();
            let service = |name, n| Service::named(name).cluster_ips(addr::cluster_ips(n)).node_port(PORT, TARGET, addr::node_port(n));
            bed.manifests().write("web", &service("web", 1).with_endpoints(&[Endpoint::pod(&pod)])).unwrap();
            bed.manifests().write("empty", &service("empty", 2).with_endpoints(&[])).unwrap();
            Self { bed, _pod: pod, _server: server }
        }

        fn node_port(&self, family: Family) -> std::net::SocketAddr {
            self.bed.node(0).addrs().at(family, NODE_PORT)
        }

        fn reached(&self, cases: &mut Cases, daemon: &Daemon, family: Family) {
            let (client, to) = (self.bed.client(), self.node_port(family));
            cases.run(format!("TCP over {family}"), || {
                let (before, left) = (daemon.counted("xdp_translated")?, daemon.counted("xdp_done")?);
                let mut connection = client.connect(to)?;
                connection.expect_server("b")?;
                ensure!(client.addrs().contains(connection.seen.ip()), "the server sees {}", connection.seen);
                connection.ping()?;
                exchange(&connection, 8 << 20)?;
                // Late packets of the connection are counted between one look and the next.
                wait::until("tc to leave alone what XDP has translated", LIMIT, || {
                    let (translated, done) = (daemon.counted("xdp_translated")?, daemon.counted("xdp_done")?);
                    ensure!(translated > before + 3, "XDP has translated {} packets", translated - before);
                    // A device may join packets on their way from one to the other.
                    ensure!(done > left && done <= translated, "XDP has translated {translated} packets, tc has left {done} alone");
                    Ok(())
                })
            });
            cases.run(format!("UDP over {family}"), || {
                let before = daemon.counted("xdp_translated")?;
                let server = client.ask(to)?.server;
                ensure!(server == "b", "answered by {server}");
                ensure!(daemon.counted("xdp_translated")? > before, "not by XDP");
                Ok(())
            });
            cases.run(format!("refused over {family}"), || {
                let to = self.bed.node(0).addrs().at(family, NODE_PORT + 1);
                let error = client.connect(to).err().context("it was answered")?;
                ensure!(error.kind() == std::io::ErrorKind::ConnectionRefused, "{error}");
                Ok(())
            });
        }
    }

    fn uplink(daemon: &Daemon) -> Result<Value> {
        let shown = daemon.show("devices")?;
        shown.as_array().into_iter().flatten().find(|device| device["name"] == "eth0").cloned().context("eth0 is not shown")
    }
}
