//! Every way from a client to a Service's backend, with real sockets, in each CNI style.
//!
//! One testbed a style serves all its cases. The daemon runs on both nodes, as in production.

#[cfg(test)]
mod tests {
    use std::{
        io,
        net::{IpAddr, SocketAddr},
        time::{Duration, Instant},
    };

    use anyhow::{Context as _, Result, bail, ensure};
    use shunt_tests::{
        Addrs, Builder, Cases, Cni, Daemon, Family, Host, Node, Pod, Testbed, addr, gate,
        gate::Need,
        objects::{Endpoint, Service},
        traffic::{EchoServer, UdpClient, exchange},
        wait,
    };

    /// What Services listen on, and what their backends do.
    const PORT: u16 = 80;
    const TARGET: u16 = 8080;
    /// A client of TCP repeats its SYN after a second: what is refused before was refused at the first.
    const REFUSAL_LIMIT: Duration = Duration::from_millis(900);
    const LIMIT: Duration = Duration::from_mins(1);

    #[test]
    fn services_are_reached_with_routed_pods() {
        every_way(Cni::Routed, Testbed::builder());
    }

    #[test]
    fn services_are_reached_with_bridged_pods() {
        every_way(Cni::Bridge, Testbed::builder());
    }

    #[test]
    fn services_are_reached_with_vxlan_between_nodes() {
        every_way(Cni::Vxlan, Testbed::builder());
    }

    #[test]
    fn services_are_reached_with_ipip_between_nodes() {
        if !gate::skip(&[Need::Ipip]) {
            every_way(Cni::Ipip, Testbed::builder());
        }
    }

    /// Pods leave their checksums to be finished by the device; here the kernel has to do it after the programs.
    #[test]
    fn services_are_reached_through_devices_that_finish_no_checksums() {
        if !gate::skip(&[Need::Tool("ethtool")]) {
            every_way(Cni::Routed, Testbed::builder().checksums(false));
        }
    }

    /// The pods a and b are on n1, c is on n2; each runs a server under its name, and so do both nodes.
    struct Scene {
        cni: Cni,
        a: Pod,
        b: Pod,
        c: Pod,
        bed: Testbed,
    }

    fn every_way(cni: Cni, builder: Builder) {
        if gate::skip(gate::DAEMON) {
            return;
        }
        let bed = builder.style(cni).build().unwrap();
        let (n1, n2) = (bed.node(0).clone(), bed.node(1).clone());
        let [a, b, c] = [n1.pod("a"), n1.pod("b"), n2.pod("c")].map(Result::unwrap);
        let pods = [&a, &b, &c].map(|pod| EchoServer::start(pod, TARGET).unwrap());
        let nodes = [&n1, &n2].map(|node| EchoServer::start(node, TARGET).unwrap());
        let scene = Scene { cni, a, b, c, bed };
        scene.write_services();
        let daemons = [&n1, &n2].map(|node| Daemon::on(node, &scene.bed).start().unwrap());
        let mut cases = Cases::new();
        scene.cluster_ips_from_pods(&mut cases);
        scene.own_frontends_from_pods(&mut cases);
        scene.frontends_from_outside(&mut cases);
        scene.without_endpoints(&mut cases);
        scene.spread(&mut cases);
        scene.endpoint_change(&mut cases);
        scene.bulk(&mut cases);
        cases.finish();
        drop((daemons, pods, nodes));
    }

    fn plain(name: &str, n: u8) -> Service {
        Service::plain(name, n, PORT, TARGET)
    }

    fn open(name: &str, n: u8) -> Service {
        Service::open(name, n, PORT, TARGET)
    }

    const LOCAL: u8 = 1;
    const REMOTE: u8 = 2;
    const ITSELF: u8 = 3;
    const OWN_NODE: u8 = 4;
    const OTHER_NODE: u8 = 5;
    const OPEN_LOCAL: u8 = 6;
    const OPEN_REMOTE: u8 = 7;
    const EMPTY: u8 = 8;
    const NOT_READY: u8 = 9;
    const SPREAD: u8 = 10;
    const CHANGING: u8 = 11;

    /// Whom the server takes for its client.
    #[derive(Clone, Copy, PartialEq, Eq)]
    enum Seen {
        /// The client's own socket.
        Client,
        /// Any address of the client's node.
        Node,
        Anyone,
    }

    impl Scene {
        fn n1(&self) -> &Node {
            self.bed.node(0)
        }

        fn n2(&self) -> &Node {
            self.bed.node(1)
        }

        fn write_services(&self) {
            let [a, b, c] = [&self.a, &self.b, &self.c].map(Endpoint::pod);
            let [n1, n2] = [self.n1(), self.n2()].map(|node| Endpoint::of(node, node));
            let services = [
                (plain("local", LOCAL), vec![b.clone()]),
                (plain("remote", REMOTE), vec![c.clone()]),
                (plain("itself", ITSELF), vec![a.clone()]),
                (plain("own-node", OWN_NODE), vec![n1]),
                (plain("other-node", OTHER_NODE), vec![n2]),
                (open("open-local", OPEN_LOCAL), vec![b.clone()]),
                (open("open-remote", OPEN_REMOTE), vec![c.clone()]),
                (open("empty", EMPTY), Vec::new()),
                (plain("not-ready", NOT_READY), vec![b.clone().not_ready()]),
                (plain("spread", SPREAD), vec![a, b.clone(), c]),
                (plain("changing", CHANGING), vec![b]),
            ];
            for (service, endpoints) in services {
                self.write(&service, &endpoints);
            }
        }

        fn write(&self, service: &Service, endpoints: &[Endpoint]) {
            let objects = service.with_endpoints(endpoints);
            self.bed.manifests().write(service.name(), &objects).unwrap();
        }

        fn cluster_ips_from_pods(&self, cases: &mut Cases) {
            let a = &self.a;
            let to = |n| (addr::cluster_ips(n), PORT);
            reach(cases, "ClusterIP, backend on the node", a, to(LOCAL), ("b", Seen::Client));
            reach(cases, "ClusterIP, backend on another node", a, to(REMOTE), ("c", Seen::Client));
            reach(cases, "ClusterIP of itself", a, to(ITSELF), ("a", Seen::Node));
            reach(cases, "ClusterIP, the own node", a, to(OWN_NODE), ("n1", Seen::Client));
            // Pods of a network that is unknown outside leave their node with its address.
            let seen = if self.cni.pods_are_routed() { Seen::Client } else { Seen::Node };
            reach(cases, "ClusterIP, another node", a, to(OTHER_NODE), ("n2", seen));
            reach(cases, "ClusterIP of its node's pod", &self.c, to(REMOTE), ("c", Seen::Node));
            reach(cases, "ClusterIP, backend on n1", &self.c, to(LOCAL), ("b", Seen::Client));
        }

        fn own_frontends_from_pods(&self, cases: &mut Cases) {
            for (n, server, seen) in [(OPEN_LOCAL, "b", Seen::Client), (OPEN_REMOTE, "c", Seen::Anyone)] {
                for (kind, to) in self.frontends(n) {
                    reach(cases, kind, &self.a, to, (server, seen));
                }
            }
        }

        fn frontends_from_outside(&self, cases: &mut Cases) {
            for (n, server, seen) in [(OPEN_LOCAL, "b", Seen::Client), (OPEN_REMOTE, "c", Seen::Node)] {
                for (kind, to) in self.frontends(n) {
                    reach(cases, kind, self.bed.client(), to, (server, seen));
                }
            }
        }

        fn without_endpoints(&self, cases: &mut Cases) {
            for n in [EMPTY, NOT_READY] {
                refuse(cases, "ClusterIP", &self.a, (addr::cluster_ips(n), PORT));
            }
            for (kind, to) in self.frontends(EMPTY) {
                refuse(cases, kind, &self.a, to);
                refuse(cases, kind, self.bed.client(), to);
            }
        }

        /// What a Service can be dialled at besides its ClusterIP, all of it on n1.
        fn frontends(&self, n: u8) -> [(&'static str, (Addrs, u16)); 3] {
            [
                ("NodePort", (self.n1().addrs(), addr::node_port(n))),
                ("external IP", (addr::external_ips(n), PORT)),
                ("LB IP", (addr::load_balancer_ips(n), PORT)),
            ]
        }

        /// The chi-square test's statistic stays below the limit for two degrees of freedom and p = 0.00001.
        fn spread(&self, cases: &mut Cases) {
            const CONNECTIONS: u32 = 900;
            let expected = f64::from(CONNECTIONS / 3);
            for family in Family::ALL {
                cases.run(format!("connections are spread over {family}"), || {
                    let to = addr::cluster_ips(SPREAD).at(family, PORT);
                    let mut counts = [0.0; 3];
                    for _ in 0..CONNECTIONS {
                        let server = self.b.connect(to)?.server;
                        let index = ["a", "b", "c"].iter().position(|name| *name == server);
                        counts[index.context("an unknown server")?] += 1.0;
                    }
                    let chi = counts.map(|n: f64| (n - expected).powi(2) / expected);
                    let chi: f64 = chi.iter().sum();
                    ensure!(chi < 23.03, "{counts:?} connections, chi-square {chi}");
                    Ok(())
                });
            }
        }

        fn endpoint_change(&self, cases: &mut Cases) {
            let to = Family::ALL.map(|family| addr::cluster_ips(CHANGING).at(family, PORT));
            let mut old = to.map(|to| self.a.connect(to).unwrap());
            let mut asking = to.map(|to| self.a.netns().run(|| UdpClient::connected(to)).unwrap());
            let before = asking.each_mut().map(|client| client.ask().unwrap().server);
            cases.run("before the change, UDP", || {
                ensure!(before.iter().all(|server| server == "b"), "answered by {before:?}");
                Ok(())
            });
            self.write(&plain("changing", CHANGING), &[Endpoint::pod(&self.c)]);
            for (n, to) in to.into_iter().enumerate() {
                cases.run(format!("a change takes effect for new connections to {to}"), || {
                    let moved = || self.a.connect(to)?.expect_server("c");
                    wait::until("the change", LIMIT, moved)?;
                    (0..50).try_for_each(|_| self.a.connect(to)?.expect_server("c"))
                });
                cases.run(format!("an established connection to {to} stays"), || old[n].ping().context("pinging"));
                cases.run(format!("a UDP socket connected to {to} moves"), || {
                    let server = asking[n].ask()?.server;
                    ensure!(server == "c", "answered by {server}");
                    Ok(())
                });
            }
        }

        fn bulk(&self, cases: &mut Cases) {
            for n in [LOCAL, REMOTE, ITSELF] {
                for family in Family::ALL {
                    let to = addr::cluster_ips(n).at(family, PORT);
                    cases.run(format!("64 MiB each way through {to}"), || {
                        let connection = self.a.connect(to)?;
                        Ok(exchange(&connection, 64 << 20)?)
                    });
                }
            }
        }
    }

    /// TCP and UDP over both families arrive at the right server, which sees the right client.
    fn reach(cases: &mut Cases, kind: &str, from: &impl Host, (addrs, port): (Addrs, u16), (server, seen): (&str, Seen)) {
        for family in Family::ALL {
            let to = addrs.at(family, port);
            let name = format!("{} to {to} ({kind})", from.name());
            cases.run(format!("{name}, TCP"), || {
                let mut connection = from.connect(to)?;
                connection.expect_server(server)?;
                check_seen(from, seen, connection.seen, Some(connection.local))?;
                Ok(connection.ping()?)
            });
            cases.run(format!("{name}, UDP"), || {
                let answer = from.ask(to)?;
                ensure!(answer.server == server, "answered by {}", answer.server);
                check_seen(from, seen, answer.seen, None)
            });
            cases.run(format!("{name}, connected UDP"), || {
                let mut client = from.netns().run(|| UdpClient::connected(to))?;
                for _ in 0..3 {
                    let answer = client.ask()?;
                    ensure!(answer.server == server, "answered by {}", answer.server);
                    check_seen(from, seen, answer.seen, None)?;
                }
                Ok(())
            });
        }
    }

    fn check_seen(from: &impl Host, expected: Seen, seen: SocketAddr, local: Option<SocketAddr>) -> Result<()> {
        let own = from.addrs().contains(seen.ip());
        let holds = match expected {
            Seen::Client => own && local.is_none_or(|local| local == seen),
            Seen::Node => !own && is_a_nodes(seen.ip()),
            Seen::Anyone => true,
        };
        ensure!(holds, "the server sees {seen}, the client is {local:?} at {:?}", from.addrs());
        Ok(())
    }

    /// Whether an address is one of a node's own: on the underlay, the pods' gateway, or the tunnel's.
    fn is_a_nodes(ip: IpAddr) -> bool {
        (1..=2).any(|node| {
            let [gateway, tunnel] = [1, 0].map(|host| addr::pod(node, host));
            [addr::node(node), gateway, tunnel].iter().any(|addrs| addrs.contains(ip))
        })
    }

    /// TCP and connected UDP over both families are refused, and at once.
    fn refuse(cases: &mut Cases, kind: &str, from: &impl Host, (addrs, port): (Addrs, u16)) {
        for family in Family::ALL {
            let to = addrs.at(family, port);
            let name = format!("{} to {to} ({kind}) without endpoints", from.name());
            cases.run(format!("{name}, TCP"), || refused(|| from.connect(to).map(drop)));
            cases.run(format!("{name}, UDP"), || refused(|| from.ask_connected(to).map(drop)));
        }
    }

    /// A machine that has other things to do as well may be late now and then; not always.
    fn refused(attempt: impl Fn() -> io::Result<()>) -> Result<()> {
        const ATTEMPTS: usize = 5;
        let mut times = Vec::new();
        while times.len() < ATTEMPTS {
            let start = Instant::now();
            let Err(error) = attempt() else { bail!("it was answered") };
            let took = start.elapsed();
            ensure!(error.kind() == io::ErrorKind::ConnectionRefused, "{error} after {took:?}");
            if took < REFUSAL_LIMIT {
                return Ok(());
            }
            times.push(took);
        }
        bail!("refused, but only after {times:?}")
    }
}
