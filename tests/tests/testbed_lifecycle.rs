//! What clients notice while endpoints, pods and the daemon come and go: nothing.

#[cfg(test)]
mod tests {
    use std::{
        collections::BTreeMap,
        net::SocketAddr,
        sync::atomic::{AtomicBool, Ordering},
        thread,
        time::{Duration, Instant},
    };

    use anyhow::{Result, bail, ensure};
    use serde_json::json;
    use shunt_tests::{
        Addrs, Cases, Cni, Daemon, Family, Host as _, Node, Pod, Testbed, addr, gate,
        objects::{Endpoint, Service},
        tcx::{self, ForeignProgram, Verdict},
        traffic::{EchoServer, Load, LoadReport, PingReport, Pinger, UdpClient},
        wait,
    };

    const PORT: u16 = 80;
    const TARGET: u16 = 8080;
    const NODE_PORT: u16 = 30_080;
    /// New connections a second, from the pod and from outside together.
    const RATE: u32 = 500;
    /// For what takes milliseconds on a machine with nothing else to do.
    const LIMIT: Duration = Duration::from_mins(1);
    /// When a new pod must be served at the latest: the resolver in it asks again only after five seconds.
    const NEW_POD_LIMIT: Duration = Duration::from_secs(1);
    /// So many services that planning them all is a long round.
    const MANY: u16 = 2000;
    const ZONES: usize = 3;
    /// What makes a round of the control path a long one: far more than it takes to serve a device.
    const LONG: Duration = Duration::from_millis(20);

    /// All of these want the machine for themselves, so they follow each other on one testbed.
    #[test]
    fn clients_notice_nothing() {
        if gate::skip(gate::DAEMON) {
            return;
        }
        let scene = Scene::build(Cni::Bridge);
        scene.publish(&[&scene.b, &scene.c]);
        let mut daemon = Daemon::on(scene.n1(), &scene.bed).start().unwrap();
        let mut cases = Cases::new();
        cases.run("endpoints change every 50 ms", || scene.endpoints_change());
        cases.run("the daemon is killed", || scene.daemon_is_killed(&mut daemon));
        cases.run("the daemon is restarted", || scene.daemon_is_restarted(&mut daemon));
        cases.run("what changed while it was down takes effect", || scene.changes_while_down(&mut daemon));
        cases.run("no warning is repeated", || warned_once_a_life(&daemon.log()));
        cases.finish();
    }

    #[test]
    fn a_new_pod_is_served_at_once_with_bridged_pods() {
        new_pods(Cni::Bridge);
    }

    #[test]
    fn a_new_pod_is_served_at_once_with_routed_pods() {
        new_pods(Cni::Routed);
    }

    /// The node moves from zone to zone, so that every service port is planned again all the time, and one of them changes.
    #[test]
    fn a_new_pod_is_served_at_once_while_the_control_path_is_busy() {
        if gate::skip(gate::DAEMON) {
            return;
        }
        let scene = Scene::build(Cni::Bridge);
        scene.publish(&[&scene.b, &scene.c]);
        scene.publish_many();
        let daemon = Daemon::on(scene.n1(), &scene.bed).args(&["-v", "4"]).start().unwrap();
        let done = AtomicBool::new(false);
        let mut ages = Ages::default();
        thread::scope(|scope| {
            scope.spawn(|| {
                for zone in (0..ZONES).cycle().take_while(|_| !done.load(Ordering::Relaxed)) {
                    scene.move_to_zone(zone).unwrap();
                    thread::sleep(LONG);
                }
            });
            let end = Done(&done);
            for n in 0..10 {
                wait_for_long_round(&daemon).unwrap();
                ages.note(&scene, n);
            }
            wait_for_long_round(&daemon).unwrap();
            drop(end);
        });
        ages.check();
    }

    /// Tells the thread beside to end, whatever way this one ends.
    struct Done<'a>(&'a AtomicBool);

    impl Drop for Done<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }

    /// The foreign program runs behind ours, so its verdict only counts when ours passes the packet on.
    #[test]
    fn another_programs_verdict_counts() {
        if gate::skip(gate::DAEMON) || gate::skip(&[gate::Need::Kernel(6, 6)]) {
            return;
        }
        let scene = Scene::build(Cni::Bridge);
        scene.publish(&[&scene.b]);
        let (node, device) = (scene.n1().netns(), scene.a.host_device());
        let _first = ForeignProgram::attach(node, device, Verdict::Next).unwrap();
        let _daemon = Daemon::on(scene.n1(), &scene.bed).start().unwrap();
        let mut client = scene.a.netns().run(|| UdpClient::connected(cluster_ip(Family::V4))).unwrap();
        client.ask().unwrap();
        let last = ForeignProgram::attach(node, device, Verdict::Drop).unwrap();
        client.ask_within(Duration::from_millis(300)).unwrap_err();
        drop(last);
        client.ask().unwrap();
    }

    #[test]
    fn cleanup_removes_what_is_ours_and_nothing_else() {
        if gate::skip(gate::DAEMON) || gate::skip(CLEANUP) {
            return;
        }
        let scene = Scene::build(Cni::Bridge);
        scene.publish(&[&scene.b]);
        let devices = ["eth0", scene.a.host_device()];
        for device in devices {
            add_foreign_filter(scene.n1(), device);
        }
        let has_tcx = gate::Need::Kernel(6, 6).is_met();
        let attach = || ForeignProgram::attach(scene.n1().netns(), devices[1], Verdict::Next);
        let _foreign = has_tcx.then(|| attach().unwrap());
        let before = programs(scene.n1(), devices);
        let mut daemon = Daemon::on(scene.n1(), &scene.bed).start().unwrap();
        scene.a.connect(cluster_ip(Family::V4)).unwrap();
        assert_ne!(programs(scene.n1(), devices), before, "the daemon attached nothing");
        let refusal = daemon.cleanup().unwrap_err().to_string();
        assert!(refusal.contains("end it first"), "{refusal}");
        scene.a.connect(cluster_ip(Family::V4)).unwrap();
        daemon.terminate().unwrap();
        scene.a.connect(cluster_ip(Family::V4)).unwrap();
        daemon.cleanup().unwrap();
        assert_eq!(programs(scene.n1(), devices), before);
        assert!(!daemon.bpffs().exists(), "pins are left");
        scene.a.connect(scene.b.addrs().at(Family::V4, TARGET)).unwrap();
        daemon.cleanup().unwrap();
    }

    /// Each life of the daemon may warn of a thing once, however often it is met again.
    fn warned_once_a_life(log: &str) -> Result<()> {
        let lives = log.lines().filter(|line| line.contains("run: started")).count();
        let mut warnings = BTreeMap::new();
        for (_, warning) in log.lines().filter_map(|line| line.split_once("WARN")) {
            *warnings.entry(warning).or_insert(0) += 1;
        }
        let repeated = warnings.into_iter().find(|(_, count)| *count > lives);
        repeated.map_or(Ok(()), |(warning, n)| bail!("warned {n} times in {lives} lives: {warning}"))
    }

    /// The pods a, b and d are on n1, c is on n2; all but a serve, and so does n1 itself.
    struct Scene {
        a: Pod,
        b: Pod,
        c: Pod,
        d: Pod,
        _servers: Vec<EchoServer>,
        bed: Testbed,
    }

    impl Scene {
        fn build(cni: Cni) -> Self {
            let bed = Testbed::builder().style(cni).build().unwrap();
            let (n1, n2) = (bed.node(0), bed.node(1));
            let [a, b, d] = ["a", "b", "d"].map(|name| n1.pod(name).unwrap());
            let c = n2.pod("c").unwrap();
            let of_pods = [&b, &c, &d].map(|pod| EchoServer::start(pod, TARGET).unwrap());
            let servers = of_pods.into_iter().chain([EchoServer::start(n1, TARGET).unwrap()]).collect();
            Self { a, b, c, d, _servers: servers, bed }
        }

        fn n1(&self) -> &Node {
            self.bed.node(0)
        }

        fn publish(&self, pods: &[&Pod]) {
            let service = Service::named("web").cluster_ips(addr::cluster_ips(1));
            let service = service.node_port(PORT, TARGET, NODE_PORT);
            let endpoints: Vec<_> = pods.iter().map(|pod| Endpoint::pod(pod)).collect();
            self.bed.manifests().write("web", &service.with_endpoints(&endpoints)).unwrap();
        }

        /// Many services with three pods each. Those of the first one differ by zone.
        fn publish_many(&self) {
            let endpoints = [&self.b, &self.c, &self.d].map(Endpoint::pod);
            let mut many: Vec<_> = (1..=MANY).flat_map(|n| numbered(n).with_endpoints(&endpoints)).collect();
            for (zone, endpoint) in many[1]["endpoints"].as_array_mut().into_iter().flatten().enumerate() {
                endpoint["hints"] = json!({"forZones": [{"name": format!("z{zone}")}]});
            }
            self.bed.manifests().write("many", &many).unwrap();
        }

        fn move_to_zone(&self, zone: usize) -> Result<()> {
            let mut node = self.n1().manifest();
            node["metadata"]["labels"]["topology.kubernetes.io/zone"] = format!("z{zone}").into();
            self.bed.manifests().write("nodes", &[node, self.bed.node(1).manifest()])
        }

        fn endpoints_change(&self) -> Result<()> {
            let traffic = Traffic::start(self)?;
            let sets: [&[&Pod]; 4] = [&[&self.b], &[&self.b, &self.c], &[&self.d, &self.b], &[&self.b, &self.c, &self.d]];
            for set in sets.into_iter().cycle().take(100) {
                self.publish(set);
                thread::sleep(Duration::from_millis(50));
                traffic.wait_for(5)?;
            }
            let report = traffic.finish(500)?;
            let servers: Vec<_> = report.by_server.keys().map(String::as_str).collect();
            ensure!(servers == ["b", "c", "d"], "connections went to {servers:?} only");
            Ok(())
        }

        fn daemon_is_killed(&self, daemon: &mut Daemon) -> Result<()> {
            let before = daemon.show("services")?;
            let traffic = Traffic::start(self)?;
            traffic.wait_for(200)?;
            daemon.kill9()?;
            traffic.wait_for(500)?;
            ensure!(daemon.show("services")? == before, "the state is not readable while it is down");
            daemon.restart()?;
            traffic.wait_for(500)?;
            traffic.finish(1_000)?;
            let after = daemon.show("services")?;
            ensure!(after == before, "the services were {before}, now they are {after}");
            Ok(())
        }

        fn daemon_is_restarted(&self, daemon: &mut Daemon) -> Result<()> {
            let traffic = Traffic::start(self)?;
            for _ in 0..3 {
                daemon.terminate()?;
                traffic.wait_for(200)?;
                daemon.restart()?;
                traffic.wait_for(200)?;
            }
            traffic.finish(1_000).map(drop)
        }

        fn changes_while_down(&self, daemon: &mut Daemon) -> Result<()> {
            self.publish(&[&self.b]);
            let to = cluster_ip(Family::V4);
            let all_to = |name| (0..30).try_for_each(|_| self.a.connect(to)?.expect_server(name));
            wait::until("the change", LIMIT, || all_to("b"))?;
            daemon.kill9()?;
            self.publish(&[&self.d]);
            all_to("b")?;
            daemon.restart()?;
            all_to("d")
        }
    }

    fn cluster_ip(family: Family) -> SocketAddr {
        addr::cluster_ips(1).at(family, PORT)
    }

    /// Load and established connections, from the pod a to the `ClusterIP`s and from outside to the node port.
    struct Traffic {
        loads: [Load; 2],
        pingers: [Pinger; 2],
    }

    impl Traffic {
        fn start(scene: &Scene) -> Result<Self> {
            let inside = Family::ALL.map(cluster_ip);
            let outside = Family::ALL.map(|family| scene.n1().addrs().at(family, NODE_PORT));
            let (pod, client) = (&scene.a, scene.bed.client());
            Ok(Self {
                pingers: [Pinger::start(pod, &inside, 10)?, Pinger::start(client, &outside, 10)?],
                loads: [Load::start(pod, &inside, RATE / 2), Load::start(client, &outside, RATE / 2)],
            })
        }

        /// Waits until there are as many more connections.
        fn wait_for(&self, n: u64) -> Result<()> {
            let opened = || self.loads.iter().map(|load| load.so_far().ok).sum::<u64>();
            let goal = opened() + n;
            wait::until("more connections", LIMIT, || {
                ensure!(opened() >= goal, "{} of {goal}", opened());
                Ok(())
            })
        }

        /// Ends it, and fails when anything failed.
        fn finish(self, at_least: u64) -> Result<LoadReport> {
            let mut all = LoadReport::default();
            for load in self.loads {
                all.add(load.finish());
            }
            let pings = self.pingers.map(Pinger::finish);
            all.check(at_least)?;
            pings.iter().try_for_each(PingReport::check)?;
            Ok(all)
        }
    }

    fn new_pods(cni: Cni) {
        if gate::skip(gate::DAEMON) {
            return;
        }
        let scene = Scene::build(cni);
        scene.publish(&[&scene.b, &scene.c]);
        let _daemon = Daemon::on(scene.n1(), &scene.bed).start().unwrap();
        let mut ages = Ages::default();
        for n in 0..10 {
            ages.note(&scene, n);
        }
        ages.check();
    }

    /// How old new pods were when they asked the first question that was answered.
    #[derive(Default)]
    struct Ages(Vec<Duration>);

    impl Ages {
        /// A pod is born when it has spoken with its node: if the kernel loses the first packet of a neighbour while the device comes up, it
        /// repeats it after a second, with or without us.
        fn note(&mut self, scene: &Scene, n: u32) {
            let pod = scene.n1().pod(&format!("new{n}")).unwrap();
            for family in Family::ALL {
                pod.ask(scene.n1().addrs().at(family, TARGET)).unwrap();
            }
            let born = Instant::now();
            self.0.extend(Family::ALL.map(|family| first_answered(&pod, born, cluster_ip(family))));
        }

        fn check(mut self) {
            self.0.sort_unstable();
            let (n, median, max) = (self.0.len(), self.0[self.0.len() / 2], self.0[self.0.len() - 1]);
            println!("{n} questions of new pods, served at the age of {median:?} (median), {max:?} (max)");
            assert!(max < NEW_POD_LIMIT, "{:?}", self.0);
        }
    }

    /// Asks until there is an answer, each time with more patience.
    fn first_answered(pod: &Pod, born: Instant, to: SocketAddr) -> Duration {
        let ask_within = |limit| pod.netns().run(|| UdpClient::unconnected(to)?.ask_within(limit));
        let mut patience = Duration::ZERO;
        loop {
            patience += Duration::from_millis(10);
            let age = born.elapsed();
            match ask_within(patience) {
                Ok(_) => return age,
                Err(error) => assert!(age < LIMIT, "no answer from {to} to a pod of {age:?}: {error}"),
            }
        }
    }

    /// Waits until one more round has ended that had the control path busy for long.
    fn wait_for_long_round(daemon: &Daemon) -> Result<()> {
        let before = long_rounds(&daemon.log());
        wait::until("a long round", LIMIT, || {
            let log = daemon.log();
            ensure!(long_rounds(&log) > before, "the last of {before}, and what came since:\n{log}");
            Ok(())
        })
    }

    /// How many rounds the log tells of that took long.
    fn long_rounds(log: &str) -> usize {
        let elapsed = |line: &str| line.split_once("applied")?.1.split_once("elapsed=")?.1.trim().to_owned().into();
        log.lines().filter_map(elapsed).filter(|elapsed: &String| is_long(elapsed)).count()
    }

    /// Reads a duration as it is logged: a number and its unit.
    fn is_long(elapsed: &str) -> bool {
        let (number, unit) = elapsed.split_at(elapsed.find(char::is_alphabetic).unwrap_or(elapsed.len()));
        let number: f64 = number.parse().unwrap();
        match unit {
            "s" => number >= LONG.as_secs_f64(),
            "ms" => number >= LONG.as_secs_f64() * 1e3,
            _ => false,
        }
    }

    /// One of many services.
    fn numbered(n: u16) -> Service {
        let [high, low] = n.to_be_bytes();
        let addrs = Addrs::new(&format!("10.96.{}.{low}", high + 1), &format!("fd00:10:96::1:{n:x}"));
        Service::named(&format!("many{n}")).cluster_ips(addrs).port(PORT, TARGET)
    }

    const CLEANUP: &[gate::Need] = &[gate::Need::Tool("tc")];

    /// Puts a classifier that lets all pass on a device, as another program would.
    fn add_foreign_filter(node: &Node, device: &str) {
        let lines = format!(
            "tc qdisc add dev {device} clsact && \
             tc filter add dev {device} ingress protocol all pref 7 bpf bytecode '1,6 0 0 4294967295'"
        );
        node.netns().exec(&lines).unwrap();
    }

    /// What is attached to these devices by tc and by tcx, which is empty on a kernel without it.
    fn programs(node: &Node, devices: [&str; 2]) -> [(String, Option<[u32; 2]>); 2] {
        devices.map(|device| {
            let show = |hook| format!("tc filter show dev {device} {hook}");
            let filters = node.netns().exec(&[show("ingress"), show("egress")].join(" && "));
            (filters.unwrap(), tcx::count(node.netns(), device).ok())
        })
    }
}
