//! Shunt beside the real kube-proxy: the same Services and endpoints, a node for each, and the same questions to both. Whom they lead to, whom they
//! refuse or leave without an answer, and whom the servers take for their clients must be the same.

#[cfg(test)]
mod tests {
    use std::{
        collections::BTreeSet,
        io,
        net::{SocketAddr, TcpStream},
        sync::{
            Mutex,
            atomic::{AtomicUsize, Ordering},
        },
        thread,
        time::Duration,
    };

    use anyhow::{Context as _, Result};
    use serde_json::{Value, json};
    use shunt_tests::{
        Addrs, Client, Cni, Daemon, Family, Host, Node, Pod, Testbed, addr,
        control_plane::{ControlPlane, ProxyMode},
        gate,
        gate::Need,
        objects::{Endpoint, Service},
        traffic::{Connection, EchoServer, UdpClient},
        wait,
    };

    const PORT: u16 = 80;
    const TARGET: u16 = 8080;
    const LIMIT: Duration = Duration::from_mins(2);
    /// Nobody who is going to answer takes so long; who is not answered at first repeats his SYN in it.
    const SILENCE: Duration = Duration::from_millis(1800);
    /// So many datagrams in a row without an answer are no accident.
    const UDP_SILENCES: usize = 3;
    /// With one backend here and two elsewhere, one of both kinds is missed by one question in ten million.
    const ATTEMPTS: usize = 40;
    /// What differs is asked again: a machine that has other things to do is late now and then, and not twice at the same question.
    const ROUNDS: usize = 3;
    /// Questions mostly wait, for answers that do not come.
    const AT_A_TIME: usize = 24;

    /// So long after the last object both proxies have taken all of them: kube-proxy gathers changes for a second.
    const SETTLED: Duration = Duration::from_secs(5);

    /// A node with a proxy, a client pod and a backend.
    struct Side {
        node: Node,
        client: Pod,
        here: Pod,
    }

    /// What a question comes to.
    type Outcome = BTreeSet<Fact>;

    /// What is seen when it is asked again and again.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
    enum Fact {
        /// A server of the node answers.
        Here,
        /// One of another node does.
        Elsewhere,
        /// A server takes the client for itself.
        SeenAsItself,
        /// A server takes the client for the node.
        SeenAsNode,
        Refused,
        Silence,
    }

    /// Who asks.
    #[derive(Clone, Copy, Debug)]
    enum From {
        Outside,
        Pod,
        /// A process of the node.
        Node,
    }

    impl From {
        fn name(self) -> &'static str {
            match self {
                Self::Outside => "outside",
                Self::Pod => "a pod",
                Self::Node => "the node",
            }
        }
    }

    /// A question that both sides are asked.
    struct Question {
        name: String,
        is_tcp: bool,
        from: From,
        /// Which backend it is does not matter, only that it stays the same one.
        is_sticky: bool,
        to: SocketAddr,
    }

    #[test]
    fn shunt_does_as_kube_proxy_does() {
        if gate::skip(gate::DAEMON) || gate::skip(&[Need::ControlPlane]) {
            return;
        }
        let bed = Testbed::builder().style(Cni::Routed).nodes(3).build().unwrap();
        let sides = [0, 1].map(|index| Side::new(bed.node(index)).unwrap());
        let remote = bed.node(2).pod("remote").unwrap();
        let servers: Vec<_> = [&sides[0].here, &sides[1].here, &remote].map(|pod| EchoServer::start(pod, TARGET).unwrap()).into();
        let control = ControlPlane::start(&bed).unwrap();
        let settings = settings(&sides, &remote);
        let proxy = control.kube_proxy(&sides[0].node, ProxyMode::Nftables).unwrap();
        let daemon = Daemon::on(&sides[1].node, &bed).kubeconfig(control.kubeconfig());
        let daemon = daemon.args(&["--masquerade", "kube-proxy"]).sockets("auto").start().unwrap();
        // The Services as they come, and again when each has become another one.
        for (turned, source_ports) in [(0, "20000 39999"), (9, "40000 59999")] {
            // Datagrams from a port that was used before are those of an older client: a change of policies is for new ones.
            // Shunt's node has ports that it gives to others, which its own sockets must not have, and tracks none of those.
            for netns in [sides[0].client.netns(), sides[1].client.netns(), sides[0].node.netns(), bed.client().netns()] {
                netns.sysctl(&[("ipv4/ip_local_port_range", source_ports)]).unwrap();
            }
            for n in 0..settings.len() {
                publish(&control, n, &settings[(n + turned) % settings.len()]).unwrap();
            }
            // The last object there is: a Service whose only backend is another one each time.
            let last = &sides[turned % 2].here;
            publish(&control, settings.len(), &Setting::new("last", &[], &[Endpoint::pod(last)])).unwrap();
            for side in &sides {
                let to = addr::cluster_ips(number(settings.len())).at(Family::V4, PORT);
                wait::until("both proxies", LIMIT, || side.client.connect(to)?.expect_server(last.name())).unwrap();
            }
            thread::sleep(SETTLED);
            let kinds: Vec<_> = (0..settings.len()).map(|n| &settings[(n + turned) % settings.len()]).collect();
            let mut left = None;
            for _ in 0..ROUNDS {
                let differing = compare(&ask_both(&bed, &sides, &kinds, left.as_ref()));
                if differing.is_empty() {
                    left = None;
                    break;
                }
                left = Some(differing);
            }
            assert!(left.is_none(), "they differ each time:\n{}", left.iter().flatten().cloned().collect::<Vec<_>>().join("\n"));
        }
        drop((proxy, daemon, servers));
    }

    /// Asks both sides all questions, or only those with these names.
    fn ask_both(bed: &Testbed, sides: &[Side; 2], kinds: &[&Setting], only: Option<&BTreeSet<String>>) -> [Vec<(String, Outcome)>; 2] {
        sides.each_ref().map(|side| {
            for network in addr::EXTERNAL_NETS.iter().chain(&addr::LOAD_BALANCER_NETS) {
                bed.route(network, &side.node).unwrap();
            }
            let mut questions = questions(kinds, side);
            questions.retain(|question| only.is_none_or(|names| names.contains(&question.name)));
            let outcomes = side.ask_all(&questions, bed.client()).unwrap();
            questions.into_iter().map(|question| question.name).zip(outcomes).collect()
        })
    }

    /// The questions that are answered differently.
    fn compare([by_kube_proxy, by_shunt]: &[Vec<(String, Outcome)>; 2]) -> BTreeSet<String> {
        let kinds: BTreeSet<_> = by_kube_proxy.iter().map(|(_, outcome)| outcome).collect();
        println!("{} questions, with {} kinds of answers: {kinds:?}", by_shunt.len(), kinds.len());
        let both = by_kube_proxy.iter().zip(by_shunt).filter(|((_, kube_proxy), (_, shunt))| kube_proxy != shunt);
        let differing = both.map(|((name, kube_proxy), (_, shunt))| {
            println!("{name}: kube-proxy {kube_proxy:?}, Shunt {shunt:?}");
            name.clone()
        });
        differing.collect()
    }

    /// What a Service says, and who its endpoints are.
    struct Setting {
        name: String,
        fields: Vec<(&'static str, Value)>,
        endpoints: Vec<Endpoint>,
    }

    impl Setting {
        fn new(name: &str, fields: &[(&'static str, Value)], endpoints: &[Endpoint]) -> Self {
            Self { name: name.to_owned(), fields: fields.to_vec(), endpoints: endpoints.to_vec() }
        }

        /// Whether a client has but one backend, whichever.
        fn is_sticky(&self) -> bool {
            self.fields.iter().any(|(field, _)| *field == "sessionAffinity")
        }
    }

    /// The number of a Service in its addresses. The first is the API server's own.
    fn number(n: usize) -> u8 {
        u8::try_from(n + 2).expect("there are less than 250 Services")
    }

    /// Makes a Service what a setting says: one without a selector, and its slices.
    fn publish(control: &ControlPlane, n: usize, setting: &Setting) -> Result<()> {
        let (name, n) = (format!("service-{n}"), number(n));
        let mut service = Service::open(&name, n, PORT, TARGET);
        for (field, value) in &setting.fields {
            service = service.with(field, value.clone());
        }
        let mut objects = service.with_endpoints(&setting.endpoints);
        objects[0]["spec"]["ipFamilyPolicy"] = json!("RequireDualStack");
        for object in &objects {
            control.api().apply(object)?;
        }
        control.api().apply_status(&objects[0]).map(drop)
    }

    /// Every combination of traffic policies with every kind of endpoints, and what else a Service can say.
    fn settings(sides: &[Side; 2], remote: &Pod) -> Vec<Setting> {
        let here: Vec<_> = sides.iter().map(|side| Endpoint::pod(&side.here)).collect();
        let elsewhere = vec![Endpoint::pod(remote)];
        let each = |endpoints: &[Endpoint], change: fn(Endpoint) -> Endpoint| endpoints.iter().cloned().map(change).collect::<Vec<_>>();
        let sets = [
            ("all ready", [here.clone(), elsewhere.clone()].concat()),
            ("elsewhere only", elsewhere.clone()),
            ("none", Vec::new()),
            ("none ready", [each(&here, Endpoint::not_ready), each(&elsewhere, Endpoint::not_ready)].concat()),
            ("here terminating", [each(&here, Endpoint::terminating), elsewhere.clone()].concat()),
            ("elsewhere terminating", [each(&here, Endpoint::not_ready), each(&elsewhere, Endpoint::terminating)].concat()),
            ("all terminating", [each(&here, Endpoint::terminating), each(&elsewhere, Endpoint::terminating)].concat()),
        ];
        let policies = [("Cluster", "Cluster"), ("Local", "Cluster"), ("Cluster", "Local"), ("Local", "Local")];
        let mut settings = Vec::new();
        for (external, internal) in policies {
            for (kind, endpoints) in &sets {
                let fields = [("externalTrafficPolicy", json!(external)), ("internalTrafficPolicy", json!(internal))];
                settings.push(Setting::new(&format!("{external} outside, {internal} inside, {kind}"), &fields, endpoints));
            }
        }
        let all = &sets[0].1;
        let client = addr::client();
        let ranges = |v4: String, v6: String| ("loadBalancerSourceRanges", json!([v4, v6]));
        let own = ranges(format!("{}/32", client.of(Family::V4)), format!("{}/128", client.of(Family::V6)));
        let others = ranges("203.0.113.0/24".into(), "2001:db8:ffff::/48".into());
        let one_family = ("loadBalancerSourceRanges", json!(["203.0.113.0/24"]));
        let pods = ranges("10.244.0.0/16".into(), "fd00:244::/48".into());
        for (name, ranges) in [("own", own), ("others", others.clone()), ("one family", one_family), ("pods", pods)] {
            settings.push(Setting::new(&format!("source ranges of {name}"), &[ranges], all));
        }
        settings.push(Setting::new("source ranges, none ready", &[others], &sets[3].1));
        settings.push(Setting::new("not ready, but published", &[("publishNotReadyAddresses", json!(true))], &sets[3].1));
        settings.push(Setting::new("affinity", &[("sessionAffinity", json!("ClientIP"))], all));
        settings
    }

    /// Each Service at each kind of address, by each protocol, from a pod and from outside; and what no Service has.
    fn questions(settings: &[&Setting], side: &Side) -> Vec<Question> {
        let mut questions = Vec::new();
        let mut ask = |name: &str, askers: &[From], addrs: Addrs, port: u16, is_sticky: bool| {
            for (family, is_tcp) in Family::ALL.into_iter().flat_map(|family| [(family, true), (family, false)]) {
                for &from in askers {
                    let protocol = if is_tcp { "TCP" } else { "UDP" };
                    let name = format!("{name} from {}, {family}, {protocol}", from.name());
                    questions.push(Question { name, is_tcp, from, is_sticky, to: addrs.at(family, port) });
                }
            }
        };
        let (anywhere, inside) = (&[From::Outside, From::Pod, From::Node][..], &[From::Pod, From::Node][..]);
        for (n, setting) in settings.iter().enumerate() {
            let (name, n, is_sticky) = (&setting.name, number(n), setting.is_sticky());
            // Nobody outside has a route to it.
            ask(&format!("{name}: ClusterIP"), inside, addr::cluster_ips(n), PORT, is_sticky);
            ask(&format!("{name}: NodePort"), anywhere, side.node.addrs(), addr::node_port(n), is_sticky);
            ask(&format!("{name}: external IP"), anywhere, addr::external_ips(n), PORT, is_sticky);
            ask(&format!("{name}: LB IP"), anywhere, addr::load_balancer_ips(n), PORT, is_sticky);
        }
        ask("another port of a ClusterIP", inside, addr::cluster_ips(2), PORT + 1, false);
        ask("a ClusterIP that no Service has", inside, addr::cluster_ips(222), PORT, false);
        ask("a port of the node that is nobody's", anywhere, side.node.addrs(), 31_999, false);
        questions
    }

    impl Side {
        fn new(node: &Node) -> Result<Self> {
            let [client, here] = ["client", "here"].map(|name| node.pod(&format!("{name}-{}", node.name())));
            // The kernel, which refuses for kube-proxy, tells each client about one in a second.
            node.netns().sysctl(&[("ipv4/icmp_ratelimit", "0"), ("ipv6/icmp/ratelimit", "0")])?;
            Ok(Self { node: node.clone(), client: client?, here: here? })
        }

        fn ask_all(&self, questions: &[Question], outside: &Client) -> Result<Vec<Outcome>> {
            let next = AtomicUsize::new(0);
            let outcomes = Mutex::new(vec![Outcome::default(); questions.len()]);
            thread::scope(|scope| {
                let work = || -> Result<()> {
                    loop {
                        let n = next.fetch_add(1, Ordering::Relaxed);
                        let Some(question) = questions.get(n) else { return Ok(()) };
                        let outcome = match question.from {
                            From::Outside => self.ask(question, outside),
                            From::Pod => self.ask(question, &self.client),
                            From::Node => self.ask(question, &self.node),
                        };
                        outcomes.lock().unwrap()[n] = outcome.with_context(|| question.name.clone())?;
                    }
                };
                let workers: Vec<_> = (0..AT_A_TIME).map(|_| scope.spawn(work)).collect();
                workers.into_iter().try_for_each(|worker| worker.join().expect("a worker does not panic"))
            })?;
            Ok(outcomes.into_inner()?)
        }

        /// Asks until servers of both kinds have answered, often enough to believe that there is but one, or until it is refused or in vain.
        fn ask(&self, question: &Question, from: &impl Host) -> Result<Outcome> {
            let (mut outcome, mut silences) = (Outcome::new(), 0);
            for _ in 0..ATTEMPTS {
                let answer = from.netns().run(|| if question.is_tcp { dial(question.to) } else { send(question.to) });
                let (server, seen) = match answer {
                    Ok(answer) => answer,
                    Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                        outcome.insert(Fact::Refused);
                        break;
                    }
                    // The kernel has so for datagrams that kube-proxy refuses or drops, and Shunt for whatever it would drop.
                    Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                        outcome.insert(if question.is_tcp { Fact::Silence } else { Fact::Refused });
                        break;
                    }
                    Err(error) if matches!(error.kind(), io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock) => {
                        // The kernel does not tell of more refusals at once than fifty, of which a datagram would be the only one to hear.
                        silences += 1;
                        if question.is_tcp || silences == UDP_SILENCES {
                            outcome.insert(Fact::Silence);
                            break;
                        }
                        continue;
                    }
                    Err(error) => return Err(error.into()),
                };
                let (is_here, is_client) = (server == self.here.name(), from.addrs().contains(seen.ip()));
                outcome.insert(if is_here { Fact::Here } else { Fact::Elsewhere });
                outcome.insert(if is_client { Fact::SeenAsItself } else { Fact::SeenAsNode });
                if outcome.contains(&Fact::Here) && outcome.contains(&Fact::Elsewhere) {
                    return Ok(outcome);
                }
            }
            if question.is_sticky && outcome.remove(&Fact::Elsewhere) {
                outcome.insert(Fact::Here);
            }
            Ok(outcome)
        }
    }

    /// Who answers, and whom he sees.
    type Answer = io::Result<(String, SocketAddr)>;

    fn dial(to: SocketAddr) -> Answer {
        // Only for the time limit: a connection that is greeted is another one.
        drop(TcpStream::connect_timeout(&to, SILENCE)?);
        let connection = Connection::open(to)?;
        Ok((connection.server.clone(), connection.seen))
    }

    fn send(to: SocketAddr) -> Answer {
        let answer = UdpClient::connected(to)?.ask_within(SILENCE)?;
        Ok((answer.server, answer.seen))
    }
}
