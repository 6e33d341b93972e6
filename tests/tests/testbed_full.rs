//! Maps that are too small for what the cluster has: nothing is lost that was there, and the log says what to do.

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, net::SocketAddr, time::Duration};

    use anyhow::{Context as _, Result, ensure};
    use serde_json::Value;
    use shunt_tests::{
        Cases, Cni, Daemon, Family, Host as _, Pod, Testbed, addr, gate,
        objects::{Endpoint, Service},
        traffic::{EchoServer, Flood, Load, Pinger, UdpClient},
        wait,
    };

    const PORT: u16 = 80;
    const TARGET: u16 = 8080;
    const LIMIT: Duration = Duration::from_mins(1);
    /// More than fit, of which each map is filled by itself.
    const MANY: u8 = 200;
    const SMALL: &[&str] = &["--frontends", "64", "--backends", "64", "--services", "64", "--flows", "1024"];

    #[test]
    fn what_was_there_is_served_whatever_comes() {
        if gate::skip(gate::DAEMON) {
            return;
        }
        let bed = Testbed::builder().style(Cni::Routed).nodes(1).build().unwrap();
        let [client, server] = ["client", "server"].map(|name| bed.node(0).pod(name).unwrap());
        let _server = EchoServer::start(&server, TARGET).unwrap();
        let scene = Scene { bed, client, server };
        scene.write("first", &[scene.service(1, 1)]).unwrap();
        let daemon = Daemon::on(scene.bed.node(0), &scene.bed).args(SMALL).start().unwrap();
        let first = Family::ALL.map(|family| addr::cluster_ips(1).at(family, PORT));
        let pinger = Pinger::start(&scene.client, &first, 10).unwrap();
        let load = Load::start(&scene.client, &first, 100);
        let mut cases = Cases::new();
        cases.run("more services than there is room for", || scene.more_services(&daemon));
        cases.run("a service with more endpoints than there is room for", || scene.more_endpoints(&daemon));
        cases.run("room comes back", || scene.room_comes_back(&daemon));
        cases.run("more flows than there is room for", || scene.more_flows(&daemon));
        cases.run("each warning is given once", || warned_once(&daemon.log()));
        cases.run("nothing was lost", || {
            // However soon all of that was over.
            load.wait_for(100)?;
            load.finish().check(100)?;
            pinger.finish().check()
        });
        cases.finish();
    }

    /// SYNs that nobody goes on with come to a node port, and most begin no flow; whoever is connected there does not notice, and once they
    /// have ended, neither does who connects.
    #[test]
    fn a_flood_of_syns_leaves_connections_alone() {
        if gate::skip(gate::DAEMON) {
            return;
        }
        let bed = Testbed::builder().style(Cni::Routed).nodes(1).build().unwrap();
        let server = bed.node(0).pod("server").unwrap();
        let _server = EchoServer::start(&server, TARGET).unwrap();
        let service = Service::open("flooded", 1, PORT, TARGET);
        bed.manifests().write("flooded", &service.with_endpoints(&[Endpoint::pod(&server)])).unwrap();
        // So few that a slow machine, too, sends many more.
        let daemon = Daemon::on(bed.node(0), &bed).args(&["--new-flows", "50"]).start().unwrap();
        let to = bed.node(0).addrs().at(Family::V4, addr::node_port(1));
        let SocketAddr::V4(flooded) = to else { unreachable!("an address of IPv4") };
        let pinger = Pinger::start(bed.client(), &[to], 10).unwrap();
        let flood = Flood::from_outside(&bed, flooded, 20_000).unwrap();
        wait::until("the flood to be limited", LIMIT, || {
            let count = daemon.counted("flows_limited")?;
            ensure!(count > 2000, "{count} SYNs began no flow");
            Ok(())
        })
        .unwrap();
        assert!(flood.finish() > 0.0);
        pinger.finish().check().unwrap();
        bed.client().connect(to).unwrap().expect_server("server").unwrap();
    }

    struct Scene {
        bed: Testbed,
        client: Pod,
        server: Pod,
    }

    impl Scene {
        /// A Service whose first endpoint answers; nobody asks the others.
        fn service(&self, n: u8, endpoints: u8) -> Vec<Value> {
            let service = Service::named(&format!("s{n}")).cluster_ips(addr::cluster_ips(n)).port(PORT, TARGET);
            let others = (2..=endpoints).map(|host| Endpoint::at(addr::pod(9, host), "n9").not_ready());
            service.with_endpoints(&std::iter::once(Endpoint::pod(&self.server)).chain(others).collect::<Vec<_>>())
        }

        fn write(&self, name: &str, services: &[Vec<Value>]) -> Result<()> {
            self.bed.manifests().write(name, &services.concat())
        }

        fn more_services(&self, daemon: &Daemon) -> Result<()> {
            let all: Vec<_> = (2..MANY).map(|n| self.service(n, 1)).collect();
            self.write("many", &all)?;
            has_said(daemon, 0, "a map is nearly full")?;
            has_said(daemon, 0, "there is room for")?;
            let frontends = daemon.show("frontends")?;
            let dialled = frontends.as_array().into_iter().flatten().filter_map(|frontend| frontend["address"].as_str());
            let served: BTreeSet<u8> = dialled.filter_map(|address| address.strip_prefix("10.96.0.")?.parse().ok()).collect();
            ensure!(served.contains(&1) && (10..64).contains(&served.len()), "served: {served:?}");
            served.into_iter().try_for_each(|n| self.client.connect(to(n)).map(drop)).context("what fits is served")
        }

        fn more_endpoints(&self, daemon: &Daemon) -> Result<()> {
            self.bed.manifests().remove("many")?;
            wait::until("the others' end", LIMIT, || {
                let services = daemon.show("status")?["services"].clone();
                ensure!(services == 2, "{services} service ports are left");
                Ok(())
            })?;
            let before = daemon.log().len();
            let huge = Service::named("huge").cluster_ips(addr::cluster_ips(2)).port(PORT, TARGET);
            let endpoints: Vec<_> = (1..=200).map(|host| Endpoint::at(addr::pod(9, host), "n9")).collect();
            self.write("huge", &[huge.with_endpoints(&endpoints)])?;
            has_said(daemon, before, "no room for more backend")?;
            self.client.connect(to(1)).map(drop)?;
            Ok(())
        }

        fn room_comes_back(&self, _daemon: &Daemon) -> Result<()> {
            self.bed.manifests().remove("huge")?;
            self.write("many", &[self.service(3, 1)])?;
            wait::until("the service", LIMIT, || Ok(self.client.connect(to(3)).map(drop)?))
        }

        /// The flow table is for 512 flows; those that go on stay.
        fn more_flows(&self, daemon: &Daemon) -> Result<()> {
            self.client.netns().run(|| (0..1000).try_for_each(|_| UdpClient::unconnected(to(3))?.ask().map(drop)))?;
            has_said(daemon, 0, "the flow table is nearly full")
        }
    }

    fn to(n: u8) -> SocketAddr {
        addr::cluster_ips(n).at(Family::V4, PORT)
    }

    /// Waits until the log says it from here on.
    fn has_said(daemon: &Daemon, since: usize, what: &str) -> Result<()> {
        wait::until("the warning", LIMIT, || {
            let log = daemon.log();
            ensure!(log[since..].contains(what), "no {what:?} in\n{}", &log[since..]);
            Ok(())
        })
    }

    /// Each warning is given once, however many services it is about.
    fn warned_once(log: &str) -> Result<()> {
        let mut seen = BTreeSet::new();
        let mut warnings = log.lines().filter_map(|line| line.split_once("WARN")).map(|(_, warning)| warning);
        let repeated = warnings.find(|warning| !seen.insert(*warning));
        ensure!(repeated.is_none(), "said twice: {repeated:?}");
        ensure!(seen.len() < 20, "{} warnings:\n{log}", seen.len());
        Ok(())
    }
}
