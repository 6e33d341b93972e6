//! What a Service's fields say of who is served by whom, with real sockets: affinity, source ranges, traffic policies, terminating endpoints, what
//! no Service defines, and for whom the node stands in.

#[cfg(test)]
mod tests {
    use std::{
        io,
        net::{SocketAddr, TcpStream},
        thread,
        time::{Duration, Instant},
    };

    use anyhow::{Context as _, Result, bail, ensure};
    use serde_json::json;
    use shunt_tests::{
        Addrs, Cases, Client, Cni, Daemon, Family, Host, Node, Pod, Testbed, addr, gate,
        gate::Need,
        objects::{Endpoint, Service},
        traffic::{EchoServer, UdpClient},
        wait,
    };

    const PORT: u16 = 80;
    const TARGET: u16 = 8080;
    const LIMIT: Duration = Duration::from_mins(1);
    /// Nobody who is going to answer takes so long; who is not answered repeats his SYN once in it.
    const SILENCE: Duration = Duration::from_millis(1500);
    /// A client of TCP repeats its SYN after a second: what is refused before was refused at the first.
    const AT_ONCE: Duration = Duration::from_millis(900);
    /// Of the services with affinity.
    const AFFINITY_SECS: u64 = 6;
    /// One backend of three is found so often in a row by one in 10^9 clients without affinity.
    const ATTEMPTS: usize = 20;

    /// The pods a and b are on n1, c and d on n2; each runs a server under its name.
    struct Scene {
        a: Pod,
        b: Pod,
        c: Pod,
        d: Pod,
        bed: Testbed,
    }

    const STICKY: u8 = 1;
    const OPEN_RANGES: u8 = 2;
    const CLOSED_RANGES: u8 = 3;
    const LOCAL_HERE: u8 = 4;
    const LOCAL_ELSEWHERE: u8 = 5;
    const TERMINATING: u8 = 6;
    const INTERNAL_LOCAL: u8 = 7;
    const PASSING: u8 = 8;
    const HERE: u8 = 9;
    const ELSEWHERE: u8 = 10;
    const ITSELF: u8 = 11;
    const WAITING: u8 = 12;
    /// No Service has this ClusterIP.
    const UNALLOCATED: u8 = 77;

    #[test]
    fn a_services_fields_are_obeyed() {
        if gate::skip(gate::DAEMON) {
            return;
        }
        let scene = Scene::new();
        let servers = scene.servers();
        scene.write_services();
        let mut daemons = [0, 1].map(|node| Daemon::on(scene.bed.node(node), &scene.bed).start().unwrap());
        let mut cases = Cases::new();
        scene.affinity(&mut cases, &mut daemons[0]);
        scene.source_ranges(&mut cases);
        scene.policies(&mut cases);
        scene.terminating(&mut cases);
        scene.became_ready(&mut cases);
        scene.undefined(&mut cases);
        cases.finish();
        drop((daemons, servers));
    }

    /// As the daemon does it by itself: only for clients outside whose backend is elsewhere, and for who reaches itself.
    #[test]
    fn the_node_stands_in_where_it_has_to() {
        let cluster_ips = [(HERE, Seen::Client), (ELSEWHERE, Seen::Client), (ITSELF, Seen::Node)];
        stand_in(&[], cluster_ips, [(HERE, Seen::Client), (ELSEWHERE, Seen::Node)]);
    }

    #[test]
    fn the_node_stands_in_as_with_kube_proxy() {
        let cluster_ips = [(HERE, Seen::Client), (ELSEWHERE, Seen::Client), (ITSELF, Seen::Node)];
        stand_in(&["--masquerade", "kube-proxy"], cluster_ips, [(HERE, Seen::Node), (ELSEWHERE, Seen::Node)]);
    }

    #[test]
    fn the_node_stands_in_for_every_pod() {
        let cluster_ips = [(HERE, Seen::Node), (ELSEWHERE, Seen::Node), (ITSELF, Seen::Node)];
        // It is about ClusterIPs: outside clients fare as they would without.
        stand_in(&["--masquerade-all"], cluster_ips, [(HERE, Seen::Client), (ELSEWHERE, Seen::Node)]);
    }

    /// A device with VLANs sees their packets as well, with the tag already taken off: they are the business of the VLAN's own device.
    #[test]
    fn packets_of_a_vlan_are_its_devices() {
        if gate::skip(gate::DAEMON) || gate::skip(&[Need::Vlan]) {
            return;
        }
        let scene = Scene::new();
        let servers = scene.servers();
        scene.write(&open("elsewhere", ELSEWHERE), &[Endpoint::pod(&scene.c)]);
        let vlan = |addr: &str| {
            format!("link add link eth0 name eth0.100 type vlan id 100\nlink set eth0.100 up\naddr add {addr}/24 dev eth0.100\n")
        };
        scene.n1().netns().ip(&vlan("198.18.100.11")).unwrap();
        scene.bed.router().ip(&vlan("198.18.100.1")).unwrap();
        let to = addr::external_ips(ELSEWHERE).at(Family::V4, PORT);
        scene.bed.router().ip(&format!("route replace {} via 198.18.100.11\n", to.ip())).unwrap();
        let daemon = Daemon::on(scene.n1(), &scene.bed).start().unwrap();
        let mut cases = Cases::new();
        cases.run("it is an uplink", || {
            let devices = daemon.show("devices")?;
            let roles = devices.as_array().into_iter().flatten().map(|it| (&it["name"], &it["role"])).collect::<Vec<_>>();
            ensure!(roles.contains(&(&json!("eth0.100"), &json!("uplink"))), "{roles:?}");
            Ok(())
        });
        cases.run("a client comes by it", || sees(scene.client(), to, Seen::Node));
        cases.finish();
        drop(servers);
    }

    /// Whom the server takes for its client.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum Seen {
        Client,
        Node,
    }

    fn stand_in(args: &[&str], cluster_ips: [(u8, Seen); 3], node_ports: [(u8, Seen); 2]) {
        if gate::skip(gate::DAEMON) {
            return;
        }
        let scene = Scene::new();
        let servers = scene.servers();
        let backends = [(HERE, &scene.b), (ELSEWHERE, &scene.c), (ITSELF, &scene.a)];
        for (n, backend) in backends {
            scene.write(&open(&format!("backend-{n}"), n), &[Endpoint::pod(backend)]);
        }
        let daemons = [0, 1].map(|node| Daemon::on(scene.bed.node(node), &scene.bed).args(args).start().unwrap());
        let mut cases = Cases::new();
        for (n, expected) in cluster_ips {
            both(&mut cases, &format!("a pod dials {n} with {args:?}"), addr::cluster_ips(n), PORT, |to| {
                sees(&scene.a, to, expected).with_context(|| format!("{expected:?} expected"))
            });
        }
        for (n, expected) in node_ports {
            both(&mut cases, &format!("a client outside dials {n} with {args:?}"), scene.n1().addrs(), addr::node_port(n), |to| {
                sees(scene.client(), to, expected).with_context(|| format!("{expected:?} expected"))
            });
        }
        cases.run("no flow of a Service's is taken for another's", || {
            for daemon in &daemons {
                let count = daemon.counted("foreign")?;
                ensure!(count == 0, "{count} packets on {}", daemon.node().name());
            }
            Ok(())
        });
        cases.finish();
        drop((daemons, servers));
    }

    /// Plugins let the kernel choose the port under which a pod's connection leaves, and it may be a node port.
    #[test]
    fn what_a_plugin_masquerades_is_not_the_services() {
        if gate::skip(gate::DAEMON) {
            return;
        }
        let scene = Scene::new();
        let servers = (scene.servers(), EchoServer::start(scene.client(), TARGET).unwrap());
        scene.write(&open("elsewhere", ELSEWHERE), &[Endpoint::pod(&scene.c)]);
        let port = addr::node_port(ELSEWHERE);
        let rules = format!("oifname \"eth0\" meta l4proto {{ tcp, udp }} th dport {TARGET} masquerade to :{port}");
        let chain = "type nat hook postrouting priority srcnat;";
        scene.n1().netns().nft(&format!("table inet cni {{\nchain postrouting {{\n{chain}\n{rules}\n}}\n}}\n")).unwrap();
        let daemon = Daemon::on(scene.n1(), &scene.bed).start().unwrap();
        let mut cases = Cases::new();
        both(&mut cases, "a pod's connection", scene.client().addrs(), TARGET, |to| {
            let mut connection = scene.a.connect(to)?;
            let datagram = scene.a.ask(to)?;
            for (server, seen) in [(&connection.server, connection.seen), (&datagram.server, datagram.seen)] {
                ensure!((server.as_str(), seen.port()) == ("client", port), "{server} sees {seen}");
            }
            (0..ATTEMPTS).try_for_each(|_| Ok(connection.ping()?))
        });
        cases.run("they are counted", || {
            ensure!(daemon.counted("foreign")? > 0);
            Ok(())
        });
        cases.finish();
        drop(servers);
    }

    /// By TCP and by UDP, the server sees the client's own address, or the node's.
    fn sees(from: &impl Host, to: SocketAddr, expected: Seen) -> Result<()> {
        let mut connection = from.connect(to)?;
        connection.ping()?;
        let datagram = from.ask(to)?;
        for seen in [connection.seen, datagram.seen] {
            let is_client = from.addrs().contains(seen.ip());
            ensure!(is_client == (expected == Seen::Client), "the server sees {seen}");
        }
        Ok(())
    }

    fn plain(name: &str, n: u8) -> Service {
        Service::plain(name, n, PORT, TARGET)
    }

    fn open(name: &str, n: u8) -> Service {
        Service::open(name, n, PORT, TARGET)
    }

    fn both(cases: &mut Cases, name: &str, addrs: Addrs, port: u16, mut case: impl FnMut(SocketAddr) -> Result<()>) {
        for family in Family::ALL {
            cases.run(format!("{name}, {family}"), || case(addrs.at(family, port)));
        }
    }

    impl Scene {
        fn new() -> Self {
            let bed = Testbed::builder().style(Cni::Routed).build().unwrap();
            let [a, b] = ["a", "b"].map(|name| bed.node(0).pod(name).unwrap());
            let [c, d] = ["c", "d"].map(|name| bed.node(1).pod(name).unwrap());
            Self { a, b, c, d, bed }
        }

        fn servers(&self) -> [EchoServer; 4] {
            [&self.a, &self.b, &self.c, &self.d].map(|pod| EchoServer::start(pod, TARGET).unwrap())
        }

        fn n1(&self) -> &Node {
            self.bed.node(0)
        }

        fn n2(&self) -> &Node {
            self.bed.node(1)
        }

        fn client(&self) -> &Client {
            self.bed.client()
        }

        fn write(&self, service: &Service, endpoints: &[Endpoint]) {
            self.bed.manifests().write(service.name(), &service.with_endpoints(endpoints)).unwrap();
        }

        fn write_services(&self) {
            let [b, c, d] = [&self.b, &self.c, &self.d].map(|pod| || Endpoint::pod(pod));
            let sticky = json!({"clientIP": {"timeoutSeconds": AFFINITY_SECS}});
            let sticky = open("sticky", STICKY).with("sessionAffinity", json!("ClientIP")).with("sessionAffinityConfig", sticky);
            self.write(&sticky, &[b(), c(), d()]);
            let client = addr::client();
            let ranges = json!([format!("{}/32", client.of(Family::V4)), format!("{}/128", client.of(Family::V6))]);
            self.write(&open("open-ranges", OPEN_RANGES).with("loadBalancerSourceRanges", ranges), &[b()]);
            let others = json!(["203.0.113.0/24", "2001:db8:ffff::/48"]);
            self.write(&open("closed-ranges", CLOSED_RANGES).with("loadBalancerSourceRanges", others), &[b()]);
            let local = json!("Local");
            self.write(&open("local-here", LOCAL_HERE).with("externalTrafficPolicy", local.clone()), &[b(), c()]);
            self.write(&open("local-elsewhere", LOCAL_ELSEWHERE).with("externalTrafficPolicy", local.clone()), &[c()]);
            self.write(&plain("internal-local", INTERNAL_LOCAL).with("internalTrafficPolicy", local), &[b(), c(), d()]);
            self.write(&open("terminating", TERMINATING), &[b().not_ready(), c().terminating()]);
            self.write(&plain("waiting", WAITING), &[b().not_ready()]);
            self.write(&plain("passing", PASSING), &[b()]);
            let cidr = json!({
                "apiVersion": "networking.k8s.io/v1",
                "kind": "ServiceCIDR",
                "metadata": {"name": "kubernetes"},
                "spec": {"cidrs": ["10.96.0.0/16", "fd00:10:96::/112"]},
            });
            self.bed.manifests().write("service-cidr", &[cidr]).unwrap();
        }

        /// A client goes on with its backend, by whatever address of the Service, until it was away too long.
        fn affinity(&self, cases: &mut Cases, daemon: &mut Daemon) {
            both(cases, "a client stays with its backend", addr::cluster_ips(STICKY), PORT, |to| {
                let first = self.a.connect(to)?.server;
                let node_port = SocketAddr::new(self.n1().addrs().of(family(to)), addr::node_port(STICKY));
                for _ in 0..ATTEMPTS {
                    self.a.connect(to)?.expect_server(&first)?;
                    self.a.connect(node_port)?.expect_server(&first)?;
                }
                let datagrams = self.a.ask(to)?.server;
                for _ in 0..ATTEMPTS {
                    let server = self.a.ask(to)?.server;
                    ensure!(server == datagrams, "datagrams to {datagrams} and {server}");
                }
                Ok(())
            });
            let to = Family::ALL.map(|family| self.n1().addrs().at(family, addr::node_port(STICKY)));
            let start = Instant::now();
            let before = to.map(|to| self.client().connect(to).unwrap().server);
            cases.run("the daemon restarts", || daemon.restart());
            for (to, before) in to.into_iter().zip(&before) {
                cases.run(format!("a client outside stays at {to} while the daemon restarts"), || {
                    let server = self.client().connect(to)?.server;
                    // A slow machine makes it a long time.
                    let was_away = start.elapsed() >= Duration::from_secs(AFFINITY_SECS);
                    ensure!(server == *before || was_away, "answered by {server} instead of {before}");
                    Ok(())
                });
            }
            for (to, before) in to.into_iter().zip(before) {
                cases.run(format!("a client that was away from {to} for too long may go elsewhere"), || {
                    wait::until("another backend", LIMIT, || {
                        thread::sleep(Duration::from_secs(AFFINITY_SECS) + Duration::from_millis(100));
                        let server = self.client().connect(to)?.server;
                        ensure!(server != before, "still at {server}");
                        Ok(())
                    })
                });
            }
        }

        fn source_ranges(&self, cases: &mut Cases) {
            let (client, a) = (self.client(), &self.a);
            let addrs = addr::load_balancer_ips;
            both(cases, "a client in the source ranges", addrs(OPEN_RANGES), PORT, |to| served(client, to, "b"));
            both(cases, "a client out of them", addrs(CLOSED_RANGES), PORT, |to| silent(client, to));
            both(cases, "a pod out of them", addrs(OPEN_RANGES), PORT, |to| silent(a, to));
            // They are for the load balancer's addresses only.
            both(cases, "a client out of them, external IP", addr::external_ips(CLOSED_RANGES), PORT, |to| served(client, to, "b"));
            both(cases, "a client out of them, NodePort", self.n1().addrs(), addr::node_port(CLOSED_RANGES), |to| served(client, to, "b"));
            both(cases, "a pod out of them, ClusterIP", addr::cluster_ips(CLOSED_RANGES), PORT, |to| served(a, to, "b"));
        }

        fn policies(&self, cases: &mut Cases) {
            let (client, a) = (self.client(), &self.a);
            let [n1, n2] = [self.n1(), self.n2()].map(Host::addrs);
            both(cases, "externalTrafficPolicy Local, backends here and elsewhere", n1, addr::node_port(LOCAL_HERE), |to| {
                (0..ATTEMPTS).try_for_each(|_| served(client, to, "b"))?;
                sees(client, to, Seen::Client)
            });
            both(cases, "externalTrafficPolicy Local, backend elsewhere", n1, addr::node_port(LOCAL_ELSEWHERE), |to| silent(client, to));
            both(cases, "externalTrafficPolicy Local, the backend's node", n2, addr::node_port(LOCAL_ELSEWHERE), |to| {
                served(client, to, "c")?;
                sees(client, to, Seen::Client)
            });
            // What is dialled from inside the cluster is served by all backends.
            both(cases, "externalTrafficPolicy Local, from a pod", n1, addr::node_port(LOCAL_ELSEWHERE), |to| served(a, to, "c"));
            both(cases, "internalTrafficPolicy Local", addr::cluster_ips(INTERNAL_LOCAL), PORT, |to| {
                (0..ATTEMPTS).try_for_each(|_| served(a, to, "b"))
            });
        }

        /// Who still serves is better than nobody, but not than who is ready.
        fn terminating(&self, cases: &mut Cases) {
            let to = addr::cluster_ips(TERMINATING);
            // No new socket gets the port of one that is kept, and with it the flow to its endpoint.
            let mut kept = Vec::new();
            both(cases, "a terminating endpoint serves", to, PORT, |to| {
                for _ in 0..ATTEMPTS {
                    self.a.connect(to)?.expect_server("c")?;
                    let mut socket = self.a.netns().run(|| UdpClient::unconnected(to))?;
                    let server = socket.ask()?.server;
                    ensure!(server == "c", "answered by {server}");
                    kept.push(socket);
                }
                Ok(())
            });
            let old = Family::ALL.map(|family| self.a.connect(to.at(family, PORT)));
            self.write(&open("terminating", TERMINATING), &[Endpoint::pod(&self.b), Endpoint::pod(&self.c).terminating()]);
            for (family, old) in Family::ALL.into_iter().zip(old) {
                let to = to.at(family, PORT);
                cases.run(format!("a ready endpoint at {to} serves new clients"), || {
                    wait::until("the change", LIMIT, || served(&self.a, to, "b"))?;
                    (0..ATTEMPTS).try_for_each(|_| served(&self.a, to, "b"))
                });
                cases.run(format!("who is at a terminating endpoint of {to} stays"), || Ok(old?.ping()?));
            }
        }

        /// Who asked before anybody was ready reaches him afterwards, from the same socket.
        fn became_ready(&self, cases: &mut Cases) {
            let asking = Family::ALL.map(|family| {
                let to = addr::cluster_ips(WAITING).at(family, PORT);
                let mut asking = self.a.netns().run(|| UdpClient::connected(to)).unwrap();
                let early = asking.ask();
                cases.run(format!("nobody is ready at {to}"), || {
                    let Err(error) = early else { bail!("answered") };
                    ensure!(error.kind() == io::ErrorKind::ConnectionRefused, "{error}");
                    Ok(())
                });
                asking
            });
            self.write(&plain("waiting", WAITING), &[Endpoint::pod(&self.b)]);
            for (family, mut asking) in Family::ALL.into_iter().zip(asking) {
                cases.run(format!("a socket that asked before an endpoint was ready, {family}"), || {
                    wait::until("an answer", LIMIT, || {
                        let server = asking.ask_within(SILENCE)?.server;
                        ensure!(server == "b", "answered by {server}");
                        Ok(())
                    })
                });
            }
        }

        /// What no Service has is not left to the default route.
        fn undefined(&self, cases: &mut Cases) {
            let to = addr::cluster_ips(PASSING);
            both(cases, "a port that the ClusterIP does not have", to, PORT + 1, |to| refused_at_once(&self.a, to));
            both(cases, "an address that no Service has", addr::cluster_ips(UNALLOCATED), PORT, |to| silent(&self.a, to));
            let asking = Family::ALL.map(|family| self.a.netns().run(|| UdpClient::connected(to.at(family, PORT))).unwrap());
            both(cases, "a Service", to, PORT, |to| served(&self.a, to, "b"));
            self.bed.manifests().remove("passing").unwrap();
            both(cases, "a Service that was deleted", to, PORT, |to| {
                wait::until("the deletion", LIMIT, || {
                    ensure!(self.a.netns().run(|| TcpStream::connect_timeout(&to, SILENCE)).is_err(), "it still serves");
                    Ok(())
                })?;
                silent(&self.a, to)
            });
            for (family, mut asking) in Family::ALL.into_iter().zip(asking) {
                cases.run(format!("a socket that goes on asking a deleted Service, {family}"), || match asking.ask_within(SILENCE) {
                    Ok(answer) => bail!("answered by {}", answer.server),
                    Err(error) => {
                        ensure!(is_silence(&error), "{error}");
                        Ok(())
                    }
                });
            }
        }
    }

    fn family(to: SocketAddr) -> Family {
        if to.is_ipv4() { Family::V4 } else { Family::V6 }
    }

    fn served(from: &impl Host, to: SocketAddr, server: &str) -> Result<()> {
        from.connect(to)?.expect_server(server)?;
        let answer = from.ask(to)?;
        ensure!(answer.server == server, "answered by {}", answer.server);
        Ok(())
    }

    fn is_silence(error: &io::Error) -> bool {
        matches!(error.kind(), io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock)
    }

    /// Neither TCP nor UDP is answered, and nobody says why.
    fn silent(from: &impl Host, to: SocketAddr) -> Result<()> {
        match from.netns().run(|| TcpStream::connect_timeout(&to, SILENCE)) {
            Ok(_) => bail!("connected"),
            Err(error) => ensure!(is_silence(&error), "TCP: {error}"),
        }
        match from.netns().run(|| UdpClient::connected(to)?.ask_within(SILENCE)) {
            Ok(answer) => bail!("answered by {}", answer.server),
            Err(error) => ensure!(is_silence(&error), "UDP: {error}"),
        }
        Ok(())
    }

    /// TCP and connected UDP are refused, and TCP at its first attempt.
    fn refused_at_once(from: &impl Host, to: SocketAddr) -> Result<()> {
        let start = Instant::now();
        let Err(error) = from.connect(to) else { bail!("connected") };
        ensure!(error.kind() == io::ErrorKind::ConnectionRefused, "TCP: {error}");
        ensure!(start.elapsed() < wait::at_most(AT_ONCE), "refused after {:?}", start.elapsed());
        let Err(error) = from.ask_connected(to) else { bail!("answered") };
        ensure!(error.kind() == io::ErrorKind::ConnectionRefused, "UDP: {error}");
        Ok(())
    }
}
