//! The daemon on a real control plane: pods become endpoints, endpoints become traffic, and the API server may die.
//!
//! The daemons read a kubeconfig that allows what deploy/kustomize/base/shunt.yaml allows, so a missing verb shows here.

#[cfg(test)]
mod tests {
    use std::{
        io,
        net::{SocketAddr, TcpStream},
        thread,
        time::Duration,
    };

    use anyhow::{Result, bail, ensure};
    use serde_json::{Value, json};
    use shunt_tests::{
        Cases, Cni, ControlPlane, Daemon, Family, Host, Node, Pod, Testbed, addr, control_plane, gate,
        objects::{Endpoint, Service},
        traffic::{Connection, EchoServer, Load, Pinger},
        wait,
    };

    const PORT: u16 = 80;
    const TARGET: u16 = 8080;
    const NODE_PORT: u16 = 30_080;
    /// For what takes the API server, the controllers and the daemons together; a change in effect takes milliseconds.
    const LIMIT: Duration = Duration::from_mins(1);
    /// From a slice as a client sees it to traffic: longer than any machine is busy with something else.
    const CHANGE_LIMIT: Duration = Duration::from_secs(10);

    const PROXY_NAME: &str = "service.kubernetes.io/service-proxy-name";
    const HEADLESS: &str = "service.kubernetes.io/headless";

    // The first address of the range is the API server's.
    const LOCAL: (&str, u8) = ("local", 10);
    const REMOTE: (&str, u8) = ("remote", 11);
    const ITSELF: (&str, u8) = ("itself", 12);
    const OPEN: (&str, u8) = ("open", 13);
    const EMPTY: (&str, u8) = ("empty", 14);
    const CHANGING: (&str, u8) = ("changing", 15);
    const PASSING: (&str, u8) = ("passing", 16);
    const BALANCED: (&str, u8) = ("balanced", 17);
    const BY_HAND: (&str, u8) = ("by-hand", 18);

    #[test]
    fn pods_become_endpoints() {
        if gate::skip(gate::TESTBED) || gate::skip(&[gate::Need::ControlPlane]) {
            return;
        }
        let bed = Testbed::builder().style(Cni::Bridge).build().unwrap();
        let [b, c] = [bed.node(0).pod("b").unwrap(), bed.node(1).pod("c").unwrap()];
        let control_plane = ControlPlane::start(&bed).unwrap();
        let mut watch = control_plane.watch_slices("web");
        control_plane.publish(&plain(("web", 10))).unwrap();
        for pod in [&b, &c] {
            control_plane.run_pod(pod, &["web"]).unwrap();
        }
        for family in Family::ALL {
            let both = [&b, &c].map(|pod| pod.addrs().of(family));
            watch.wait_for(LIMIT, |ready| both.iter().all(|addr| ready.contains(addr))).unwrap();
        }
        control_plane.set_ready(&b, false).unwrap();
        watch.wait_for(LIMIT, |ready| ready == [c.addrs().v4]).unwrap();
    }

    #[test]
    fn the_deployment_is_accepted() {
        if gate::skip(gate::TESTBED) || gate::skip(&[gate::Need::ControlPlane]) {
            return;
        }
        let bed = Testbed::builder().nodes(1).build().unwrap();
        let control_plane = ControlPlane::start(&bed).unwrap();
        for object in control_plane::deployment().unwrap() {
            control_plane.api().apply_dry(&object).unwrap();
        }
        for folder in ["base", "kind"] {
            let mut kubectl = control_plane.kubectl().unwrap();
            let folder = format!("{}/../deploy/kustomize/{folder}", env!("CARGO_MANIFEST_DIR"));
            let output = kubectl.args(["apply", "--dry-run=server", "--server-side", "--force-conflicts", "-k", &folder]).output().unwrap();
            assert!(output.status.success(), "{folder}: {output:?}");
        }
    }

    /// All of these share one control plane; the API server dies at the end.
    #[test]
    fn services_are_served_from_an_api_server() {
        if gate::skip(gate::DAEMON) || gate::skip(&[gate::Need::ControlPlane]) {
            return;
        }
        let (mut scene, mut control_plane) = Scene::build();
        let mut cases = Cases::new();
        scene.pods_reach_backends(&mut cases);
        scene.the_client_reaches_backends(&mut cases);
        scene.without_endpoints(&mut cases);
        cases.run("the API server at its ClusterIP", || scene.api_server_as_a_service());
        cases.run("kubectl of the node at that ClusterIP", || scene.kubectl_dials_a_service(&control_plane));
        cases.run("a server that is gone without a word is noticed", || scene.connections_are_kept_alive());
        cases.run("an endpoint change is in effect at once", || scene.endpoints_change(&control_plane));
        cases.run("the type of a Service changes", || scene.type_changes(&control_plane));
        cases.run("a Service is another proxy's for a while", || scene.proxy_name_changes(&control_plane));
        cases.run("a Service is a name for another for a while", || scene.external_name_changes(&control_plane));
        cases.run("slices are a headless Service's for a while", || scene.slices_become_headless(&control_plane));
        cases.run("a Service is deleted and comes back", || scene.deleted(&control_plane));
        cases.run("the API server is killed", || scene.api_server_is_killed(&mut control_plane));
        cases.run("a daemon that starts afterwards", || scene.daemons[0].restart().and_then(|()| scene.is_served(OPEN)));
        cases.run("the daemons have the rights they need", || scene.nothing_is_refused());
        cases.finish();
    }

    /// The pods a and b are on n1, c is on n2, and each serves; the daemons run on both nodes.
    struct Scene {
        daemons: [Daemon; 2],
        a: Pod,
        b: Pod,
        c: Pod,
        _servers: [EchoServer; 3],
        bed: Testbed,
    }

    /// A Service that only has `ClusterIP`s.
    fn plain((name, n): (&str, u8)) -> Service {
        Service::named(name).cluster_ips(addr::cluster_ips(n)).port(PORT, TARGET)
    }

    fn open((name, n): (&str, u8)) -> Service {
        Service::named(name).cluster_ips(addr::cluster_ips(n)).node_port(PORT, TARGET, NODE_PORT)
    }

    fn balanced((name, n): (&str, u8), node_port: u16) -> Service {
        let service = Service::named(name).cluster_ips(addr::cluster_ips(n)).node_port(PORT, TARGET, node_port);
        service.external_ips(addr::external_ips(n)).load_balancer_ips(addr::load_balancer_ips(n))
    }

    fn cluster_ip((_, n): (&str, u8), family: Family) -> SocketAddr {
        addr::cluster_ips(n).at(family, PORT)
    }

    impl Scene {
        fn build() -> (Self, ControlPlane) {
            let bed = Testbed::builder().style(Cni::Bridge).build().unwrap();
            let [n1, n2] = [bed.node(0).clone(), bed.node(1).clone()];
            let [a, b, c] = [n1.pod("a"), n1.pod("b"), n2.pod("c")].map(Result::unwrap);
            let servers = [&a, &b, &c].map(|pod| EchoServer::start(pod, TARGET).unwrap());
            let control_plane = ControlPlane::start(&bed).unwrap();
            let mut watch = control_plane.watch_slices(PASSING.0);
            for service in [LOCAL, REMOTE, ITSELF, CHANGING, PASSING].map(plain) {
                control_plane.publish(&service).unwrap();
            }
            control_plane.publish(&open(OPEN)).unwrap();
            control_plane.publish(&balanced(EMPTY, NODE_PORT + 1)).unwrap();
            control_plane.publish(&balanced(BALANCED, NODE_PORT + 2)).unwrap();
            control_plane.run_pod(&a, &[ITSELF.0]).unwrap();
            control_plane.run_pod(&c, &[REMOTE.0, CHANGING.0]).unwrap();
            control_plane.run_pod(&b, &[LOCAL.0, OPEN.0, BALANCED.0, CHANGING.0, PASSING.0]).unwrap();
            watch.wait_for(LIMIT, |ready| ready == [b.addrs().v6]).unwrap();
            let daemons = [n1, n2].map(|node| Daemon::on(&node, &bed).kubeconfig(control_plane.kubeconfig()).start().unwrap());
            (Self { daemons, a, b, c, _servers: servers, bed }, control_plane)
        }

        fn n1(&self) -> &Node {
            self.bed.node(0)
        }

        fn pods_reach_backends(&self, cases: &mut Cases) {
            for (service, server) in [(LOCAL, &self.b), (REMOTE, &self.c), (ITSELF, &self.a)] {
                for family in Family::ALL {
                    let to = cluster_ip(service, family);
                    let seen = if service == ITSELF { None } else { Some(self.a.addrs().of(family)) };
                    reach(cases, service.0, &self.a, to, server.name(), |it| seen.is_none_or(|seen| it.ip() == seen));
                }
            }
        }

        fn the_client_reaches_backends(&self, cases: &mut Cases) {
            let client = self.bed.client();
            for family in Family::ALL {
                let to = [
                    ("NodePort", self.n1().addrs().at(family, NODE_PORT)),
                    ("external IP", addr::external_ips(BALANCED.1).at(family, PORT)),
                    ("LB IP", addr::load_balancer_ips(BALANCED.1).at(family, PORT)),
                ];
                for (kind, to) in to {
                    reach(cases, kind, client, to, "b", |seen| seen.ip() == client.addrs().of(family));
                }
            }
        }

        fn without_endpoints(&self, cases: &mut Cases) {
            for family in Family::ALL {
                let (to, node_port) = (cluster_ip(EMPTY, family), self.n1().addrs().at(family, NODE_PORT + 1));
                cases.run(format!("{to} without endpoints, TCP"), || refused(&self.a.connect(to).map(drop)));
                cases.run(format!("{to} without endpoints, UDP"), || refused(&self.a.ask_connected(to).map(drop)));
                cases.run(format!("{node_port} without endpoints"), || refused(&self.bed.client().connect(node_port).map(drop)));
            }
        }

        /// The kernel asks the server whether it is there, for nothing comes on a watch for long.
        fn connections_are_kept_alive(&self) -> Result<()> {
            wait::until("a timer of the daemon's connections", LIMIT, || {
                let connections = self.daemons[0].node().netns().exec("ss -tnoH state established")?;
                ensure!(connections.contains("timer:(keepalive"), "{connections}");
                Ok(())
            })
        }

        /// The only Service that the control plane makes by itself; its endpoint is no pod.
        fn api_server_as_a_service(&self) -> Result<()> {
            let to = SocketAddr::from(([10, 96, 0, 1], 443));
            let connect = || self.a.netns().run(|| TcpStream::connect_timeout(&to, LIMIT));
            wait::until("a connection", LIMIT, || Ok(connect().map(drop)?))
        }

        /// A program in Go, which dials for itself.
        fn kubectl_dials_a_service(&self, control_plane: &ControlPlane) -> Result<()> {
            let mut kubectl = control_plane.kubectl_in(self.n1().netns())?;
            let output = kubectl.args(["--server", "https://10.96.0.1:443", "get", "--raw", "/version"]).output()?;
            let (said, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
            ensure!(said.contains("gitVersion"), "{said}{error}");
            let dialled = self.daemons[0].counted("socket_dialled")?;
            ensure!(dialled > 0, "its socket was not given a backend");
            Ok(())
        }

        /// Each pod is ready in turn: what is measured ends with the first connection to the one that has joined.
        fn endpoints_change(&self, control_plane: &ControlPlane) -> Result<()> {
            let [b, c] = [&self.b, &self.c];
            let mut watch = control_plane.watch_slices(CHANGING.0);
            for (joining, leaving) in [(b, c), (c, b), (b, c), (c, b)] {
                control_plane.set_ready(leaving, true)?;
                control_plane.set_ready(joining, false)?;
                watch.wait_for(LIMIT, |ready| ready == [leaving.addrs().v4])?;
                self.wait_for_server(CHANGING, leaving.name())?;
                control_plane.set_ready(joining, true)?;
                let to = cluster_ip(CHANGING, Family::V4);
                let used = thread::scope(|scope| {
                    let used = scope.spawn(|| self.a.netns().run(|| Connection::first_to(to, joining.name(), LIMIT)));
                    let changed = watch.wait_for(LIMIT, |ready| ready.contains(&joining.addrs().v4.into()));
                    Ok::<_, anyhow::Error>(used.join().expect("no panic")?.saturating_duration_since(changed?))
                })?;
                println!("{} joined: used {used:?} after its slice was seen", joining.name());
                ensure!(used < CHANGE_LIMIT, "{} was used only {used:?} after its slice was seen", joining.name());
            }
            [b, c].into_iter().try_for_each(|pod| control_plane.set_ready(pod, true))
        }

        fn type_changes(&self, control_plane: &ControlPlane) -> Result<()> {
            let to = self.n1().addrs().at(Family::V4, NODE_PORT);
            let client = self.bed.client();
            control_plane.publish(&plain(OPEN))?;
            wait::until("a NodePort that is gone", LIMIT, || refused(&client.connect(to).map(drop)))?;
            self.is_served(OPEN)?;
            control_plane.publish(&open(OPEN))?;
            wait::until("a NodePort that is back", LIMIT, || client.connect(to)?.expect_server("b"))
        }

        fn proxy_name_changes(&self, control_plane: &ControlPlane) -> Result<()> {
            let service = plain(PASSING).object();
            for _ in 0..2 {
                self.is_served(PASSING)?;
                control_plane.api().merge(&service, &label(PROXY_NAME, json!("other")))?;
                self.wait_until_unknown(PASSING)?;
                control_plane.api().merge(&service, &label(PROXY_NAME, Value::Null))?;
                self.wait_for_server(PASSING, "b")?;
            }
            Ok(())
        }

        fn external_name_changes(&self, control_plane: &ControlPlane) -> Result<()> {
            let service = plain(PASSING).object();
            control_plane.api().merge(&service, &json!({"spec": {"type": "ExternalName", "externalName": "example.org"}}))?;
            self.wait_until_unknown(PASSING)?;
            let mut spec = service["spec"].clone();
            spec["externalName"] = Value::Null;
            spec["ipFamilyPolicy"] = json!("PreferDualStack");
            control_plane.api().merge(&service, &json!({"spec": spec}))?;
            self.wait_for_server(PASSING, "b")
        }

        fn slices_become_headless(&self, control_plane: &ControlPlane) -> Result<()> {
            let service = plain(BY_HAND).with("ipFamilyPolicy", json!("RequireDualStack"));
            let endpoints = [Endpoint::pod(&self.b)];
            control_plane.api().create_all(&service.with_endpoints(&endpoints))?;
            self.wait_for_server(BY_HAND, "b")?;
            let set = |value: &Value| {
                let merge = |slice: &Value| control_plane.api().merge(slice, &label(HEADLESS, value.clone())).map(drop);
                service.slices(&endpoints).iter().try_for_each(merge)
            };
            set(&json!(""))?;
            wait::until("a Service without endpoints", LIMIT, || {
                Family::ALL.into_iter().try_for_each(|family| refused(&self.a.connect(cluster_ip(BY_HAND, family)).map(drop)))
            })?;
            set(&Value::Null)?;
            self.wait_for_server(BY_HAND, "b")
        }

        fn deleted(&self, control_plane: &ControlPlane) -> Result<()> {
            control_plane.api().delete(&plain(PASSING).object())?;
            self.wait_until_unknown(PASSING)?;
            control_plane.publish(&plain(PASSING))?;
            self.wait_for_server(PASSING, "b")
        }

        /// Traffic goes on without it, and what changes after its return takes effect.
        fn api_server_is_killed(&self, control_plane: &mut ControlPlane) -> Result<()> {
            let to = Family::ALL.map(|family| cluster_ip(LOCAL, family));
            let outside = Family::ALL.map(|family| self.n1().addrs().at(family, NODE_PORT));
            let loads = [Load::start(&self.a, &to, 200), Load::start(self.bed.client(), &outside, 200)];
            let pinger = Pinger::start(&self.a, &to, 4)?;
            control_plane.kill_api_server()?;
            // Long enough for everyone to notice.
            thread::sleep(Duration::from_secs(2));
            control_plane.start_api_server()?;
            let mut watch = control_plane.watch_slices(CHANGING.0);
            control_plane.set_ready(&self.c, false)?;
            watch.wait_for(2 * LIMIT, |ready| ready == [self.b.addrs().v4])?;
            self.wait_for_server(CHANGING, "b")?;
            loads.iter().try_for_each(|load| load.wait_for(300))?;
            loads.into_iter().try_for_each(|load| load.finish().check(300))?;
            pinger.finish().check()
        }

        /// Says whether the log has the word of a server that forbids something.
        /// A server that is gone refuses connections, which is another matter.
        fn nothing_is_refused(&self) -> Result<()> {
            let logs = self.daemons.iter().map(Daemon::log).collect::<String>();
            let lines: Vec<_> = logs
                .lines()
                .filter(|line| line.replace("Connection refused", "").contains("refuse") || line.to_lowercase().contains("forbidden"))
                .collect();
            ensure!(lines.is_empty(), "{lines:#?}");
            Ok(())
        }

        fn is_served(&self, service: (&str, u8)) -> Result<()> {
            Family::ALL.into_iter().try_for_each(|family| Ok(self.a.connect(cluster_ip(service, family)).map(drop)?))
        }

        /// Waits until all connections to a Service are this server's.
        fn wait_for_server(&self, service: (&str, u8), name: &str) -> Result<()> {
            let all = |family| (0..20).try_for_each(|_| self.a.connect(cluster_ip(service, family))?.expect_server(name));
            wait::until("a change of the endpoints", LIMIT, || Family::ALL.into_iter().try_for_each(all))
        }

        /// Waits until neither daemon has a Service of this name.
        fn wait_until_unknown(&self, (name, _): (&str, u8)) -> Result<()> {
            wait::until("a Service that is not served", LIMIT, || {
                self.daemons.iter().try_for_each(|daemon| {
                    let services = daemon.show("services")?.to_string();
                    ensure!(!services.contains(&format!("default/{name}")), "there is {services}");
                    Ok(())
                })
            })
        }
    }

    /// TCP and UDP arrive at the right server, which sees the right client.
    fn reach(cases: &mut Cases, kind: &str, from: &impl Host, to: SocketAddr, server: &str, is_seen: impl Fn(SocketAddr) -> bool) {
        cases.run(format!("{kind}: {} to {to}, TCP", from.name()), || {
            let mut connection = from.connect(to)?;
            connection.expect_server(server)?;
            ensure!(is_seen(connection.seen), "the server sees {}", connection.seen);
            Ok(connection.ping()?)
        });
        cases.run(format!("{kind}: {} to {to}, UDP", from.name()), || {
            let answer = from.ask(to)?;
            ensure!(answer.server == server && is_seen(answer.seen), "{answer:?}");
            Ok(())
        });
    }

    fn refused(result: &io::Result<()>) -> Result<()> {
        match result {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
            other => bail!("not refused but {other:?}"),
        }
    }

    /// A change of a label; null takes it away.
    fn label(key: &str, value: Value) -> Value {
        let mut change = json!({"metadata": {"labels": {}}});
        change["metadata"]["labels"][key] = value;
        change
    }
}
