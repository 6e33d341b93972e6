//! Affinity, source ranges, traffic policies, terminating endpoints, what no Service defines: one cluster that has all of them.

use std::{
    io,
    net::{SocketAddr, TcpStream},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, bail, ensure};
use serde_json::json;
use shunt_tests::{Cases, Daemon, Family, Host, addr, gate, objects::Endpoint, traffic::UdpClient, wait};

use crate::scene::{PORT, Scene, Seen, both, open, plain, sees};

const LIMIT: Duration = Duration::from_mins(1);
/// Nobody who is going to answer takes so long; who is not answered repeats his SYN once in it.
const SILENCE: Duration = Duration::from_millis(1500);
/// A client of TCP repeats its SYN after a second: what is refused before was refused at the first.
const AT_ONCE: Duration = Duration::from_millis(900);
/// Of the services with affinity.
const AFFINITY_SECS: u64 = 6;
/// One backend of three is found so often in a row by one in 10^9 clients without affinity.
const ATTEMPTS: usize = 20;

const STICKY: u8 = 1;
const OPEN_RANGES: u8 = 2;
const CLOSED_RANGES: u8 = 3;
const LOCAL_HERE: u8 = 4;
const LOCAL_ELSEWHERE: u8 = 5;
const TERMINATING: u8 = 6;
const INTERNAL_LOCAL: u8 = 7;
const PASSING: u8 = 8;
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

impl Scene {
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
