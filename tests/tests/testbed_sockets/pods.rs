//! What is left to the packets of pods, and what becomes of pods' sockets.

use std::{
    collections::BTreeSet,
    io::ErrorKind,
    net::{SocketAddr, TcpListener, TcpStream},
    os::fd::AsFd as _,
    thread,
};

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::socket::{SockaddrIn, SockaddrIn6, getsockopt, sockopt};
use serde_json::json;
use shunt_tests::{
    Cases, Family, Host as _, Netns, Pod, addr, gate,
    objects::{Endpoint, Service},
    traffic::{Connection, EchoServer, UdpClient},
    wait,
};

use crate::{
    rules::Rules,
    scene::{Dialled, LIMIT, NEEDS, PORT, Place, Socket, TARGET, connected, entries, flows, is_refused, loopback},
};

#[test]
fn pods_get_what_their_packets_would() {
    if gate::skip(gate::DAEMON) || gate::skip(NEEDS) {
        return;
    }
    let mut rules = Rules::start("all");
    let a = rules.node().pod("a").unwrap();
    let mut cases = Cases::new();
    cases.run("a network namespace that is no pod's", || rules.another_cluster(&a));
    cases.run("affinity and source ranges are for packets", || rules.left_to_packets(&a));
    cases.run("a sidecar is asked for the Service that its pod dialled", || rules.sidecar(&a));
    cases.run("nothing is translated twice", || rules.translated_once(&a));
    cases.run("a pod that is its own backend", || rules.itself());
    cases.run("pods that are connected to a backend that has gone learn of it, and no others", || rules.pods_learn(&a));
    cases.run("a pod that has asked for a name is known when it connects", || rules.known_by_datagrams());
    cases.run("flows and sockets survive another mode", || rules.modes(&a));
    cases.finish();
}

impl Rules {
    fn by_pod(&self, a: &Pod, socket: Socket, family: Family) -> Result<String> {
        self.called_by(a, Dialled::ClusterIp, socket, family)
    }

    /// Publishes it with the first backend alone, and waits until a pod has it.
    fn alone(&self, a: &Pod) -> Result<()> {
        let is_b = || {
            let server = self.by_pod(a, Socket::Tcp, Family::V4)?;
            ensure!(server == "b", "answered by {server}");
            Ok(())
        };
        self.publish(&[], &[&self.pods[0]], || (0..10).try_for_each(|_| is_b()))
    }

    /// What a cluster within a pod has for its own: a namespace behind the pod's, and a Service there that has the address of ours.
    fn another_cluster(&self, a: &Pod) -> Result<()> {
        self.alone(a)?;
        let addrs = addr::cluster_ips(9);
        let [v4, v6] = addrs.both();
        let inner = Netns::create_in(&format!("{}x", a.netns().name()), self.node().cgroup())?;
        a.netns().ip(&format!(
            "link add inner type veth peer name eth0 netns {}\nlink set inner up\naddr add 192.0.2.1/24 dev inner\n\
             addr add 2001:db8:1::1/64 dev inner nodad\naddr add {v4}/32 dev lo\naddr add {v6}/128 dev lo nodad\n",
            inner.name()
        ))?;
        inner.ip("link set eth0 up\naddr add 192.0.2.2/24 dev eth0\naddr add 2001:db8:1::2/64 dev eth0 nodad\n\
             route add default via 192.0.2.1\nroute add default via 2001:db8:1::1\n")?;
        let own = Place { netns: a.netns().clone(), addrs };
        let server = EchoServer::named(&own, "inner", PORT)?;
        let before = entries(&self.daemon)?;
        for family in Family::ALL {
            for socket in Socket::ALL {
                for _ in 0..3 {
                    let answered = inner.run(|| socket.call(addrs.at(family, PORT)))?;
                    ensure!(answered == "inner", "{socket:?}, {family}: answered by {answered}");
                }
            }
        }
        ensure!(entries(&self.daemon)? <= before, "a socket was given a backend");
        drop(server);
        a.netns().ip(&format!("addr del {v4}/32 dev lo\naddr del {v6}/128 dev lo\nlink del inner\n"))
    }

    fn left_to_packets(&self, a: &Pod) -> Result<()> {
        let [b, c] = &self.pods;
        let sticks = || {
            let servers: BTreeSet<String> =
                (0..20).map(|n| self.by_pod(a, Socket::ALL[n % 2], Family::ALL[n % 2])).collect::<Result<_>>()?;
            // One of either family: a client of IPv4 is another one than that of IPv6.
            ensure!(servers.len() <= 2, "answered by {servers:?}");
            let of_one: BTreeSet<String> = (0..20).map(|_| self.by_pod(a, Socket::Tcp, Family::V4)).collect::<Result<_>>()?;
            ensure!(of_one.len() == 1, "answered by {of_one:?}");
            Ok(())
        };
        self.publish(&[("sessionAffinity", json!("ClientIP"))], &[b, c], sticks)?;
        let (before, flows_before) = (entries(&self.daemon)?, flows(&self.daemon)?);
        sticks()?;
        ensure!(entries(&self.daemon)? == before, "sockets were given a backend");
        ensure!(flows(&self.daemon)? > flows_before, "no flows were begun");

        let load_balancer = |family| self.called_by(a, Dialled::LoadBalancer, Socket::Tcp, family);
        let [v4, v6] = a.addrs().both().map(|addr| addr.to_string());
        let ranges = |ranges: [String; 2]| [("loadBalancerSourceRanges", json!(ranges))];
        let others = ranges(["198.51.100.0/24".to_owned(), "2001:db8:9::/64".to_owned()]);
        self.publish(&others, &[b], || if load_balancer(Family::V4).is_ok() { bail!("not denied") } else { Ok(()) })?;
        ensure!(load_balancer(Family::V6).is_err(), "IPv6 is not denied");
        self.publish(&ranges([format!("{v4}/32"), format!("{v6}/128")]), &[b], || load_balancer(Family::V4).map(drop))?;
        load_balancer(Family::V6).map(drop)
    }

    /// A sidecar's rules lead what the pod sends to it, and the kernel tells it what was dialled.
    fn sidecar(&self, a: &Pod) -> Result<()> {
        const SIDECAR: u16 = 15001;
        const TABLE: &str = "table inet sidecar";
        self.alone(a)?;
        for family in Family::ALL {
            let to = addr::cluster_ips(9).at(family, PORT);
            let listener = a.netns().run(|| TcpListener::bind((loopback(family), SIDECAR))).context("listening")?;
            let before = entries(&self.daemon)?;
            a.netns().nft(&format!(
                "{TABLE} {{\nchain output {{\ntype nat hook output priority -100;\nmeta nfproto ip{version} tcp dport {PORT} redirect to :{SIDECAR}\n}}\n}}\n",
                version = if family == Family::V4 { "v4" } else { "v6" },
            ))?;
            listener.set_nonblocking(true)?;
            let dialling = a.netns().run(|| TcpStream::connect_timeout(&to, LIMIT)).context("dialling");
            // A connection is there as soon as its client has it.
            let accepted = listener.accept().context("the sidecar has no connection");
            a.netns().nft(&format!("delete {TABLE}\n"))?;
            let ((accepted, _), _stream) = (accepted?, dialling?);
            let dialled = original_destination(&accepted, family)?;
            ensure!(dialled == to, "{to} was dialled, the sidecar hears of {dialled}");
            ensure!(entries(&self.daemon)? == before, "its socket was given a backend");
        }
        // Rules that have gone are in nobody's way. The kernel takes its time.
        wait::until("a socket that is given a backend", LIMIT, || {
            let before = flows(&self.daemon)?;
            self.by_pod(a, Socket::Tcp, Family::V4)?;
            let after = flows(&self.daemon)?;
            ensure!(after == before, "{before} flows became {after}");
            Ok(())
        })
    }

    /// A Service whose backend is a node port of another Service: if a socket got it for the first one, its packets would dial the other.
    fn translated_once(&self, a: &Pod) -> Result<()> {
        self.alone(a)?;
        let service = Service::plain("chained", 10, PORT, addr::node_port(9));
        self.bed.manifests().write("chained", &service.with_endpoints(&[Endpoint::of(self.node(), self.node())]))?;
        let to = |family| addr::cluster_ips(10).at(family, PORT);
        // Directly it is a Service, and as a backend it is a port where nobody listens.
        for family in Family::ALL {
            self.called_by(a, Dialled::NodePort, Socket::Tcp, family)?;
            wait::until("the chained service", LIMIT, || is_refused(a.netns().run(|| Socket::Tcp.call(to(family)))))?;
        }
        self.bed.manifests().remove("chained")
    }

    fn itself(&self) -> Result<()> {
        let [b, c] = &self.pods;
        let dial = |family| b.connect(addr::cluster_ips(9).at(family, PORT));
        self.publish(&[], &[b], || (0..10).try_for_each(|_| dial(Family::V4)?.expect_server("b")))?;
        for family in Family::ALL {
            let mut connection = dial(family)?;
            connection.ping()?;
            ensure!(connection.server == "b", "answered by {}", connection.server);
            // No packet leaves the pod, so nobody has to stand in for it.
            ensure!(connection.seen.ip() == b.addrs().of(family), "seen as {}", connection.seen);
        }
        self.publish(&[], &[b, c], || Ok(()))
    }

    fn pods_learn(&self, a: &Pod) -> Result<()> {
        const EACH: usize = 20;
        let [b, c] = &self.pods;
        let both = || {
            let servers: BTreeSet<String> = (0..20).map(|_| self.by_pod(a, Socket::Tcp, Family::V4)).collect::<Result<_>>()?;
            ensure!(servers.len() == 2, "answered by {servers:?}");
            Ok(())
        };
        self.publish(&[], &[b, c], both)?;
        let (mut on_b, mut on_c) = (Vec::new(), Vec::new());
        for n in 0..2 * EACH {
            let to = addr::cluster_ips(9).at(Family::ALL[n % 2], PORT);
            let mut client = a.netns().run(|| UdpClient::connected(to))?;
            if client.ask()?.server == "b" { on_b.push(client) } else { on_c.push(client) }
        }
        ensure!(on_b.len() > EACH / 2 && on_c.len() > EACH / 2, "{} and {}", on_b.len(), on_c.len());
        // One that has been connected to something else since has nothing to do with it any more.
        let mut moved = on_b.pop().context("somebody is on b")?;
        let family = if moved.peer()?.is_ipv4() { Family::V4 } else { Family::V6 };
        moved.reconnect(c.addrs().at(family, TARGET))?;
        thread::scope(|scope| {
            let waiting: Vec<_> = on_b.iter().map(|client| scope.spawn(|| client.wait(LIMIT))).collect();
            self.publish(&[], &[c], || Ok(()))?;
            for thread in waiting {
                match thread.join().expect("waiting does not panic") {
                    Err(error) if error.kind() == ErrorKind::ConnectionAborted => {}
                    other => bail!("{other:?}"),
                }
            }
            Ok(())
        })?;
        for client in &mut on_c {
            let answer = client.ask()?;
            ensure!(answer.server == "c", "answered by {}", answer.server);
        }
        moved.ask().context("one that is connected to something else")?;
        Ok(())
    }

    /// Where pods' datagrams are left to packets, these say whose they are: the first connection is given its backend.
    fn known_by_datagrams(&mut self) -> Result<()> {
        let pods = [self.node().pod("new4")?, self.node().pod("new6")?];
        self.daemon.set_sockets("auto");
        self.daemon.restart()?;
        for (family, pod) in Family::ALL.into_iter().zip(&pods) {
            let to = addr::cluster_ips(9).at(family, PORT);
            pod.netns().run(|| Socket::UdpConnected.call(to))?;
            let before = connected(&self.daemon)?;
            let mut connection = pod.connect(to)?;
            connection.ping()?;
            ensure!(connected(&self.daemon)? == before + 1, "{family}: the connection goes by packets");
        }
        Ok(())
    }

    fn modes(&mut self, a: &Pod) -> Result<()> {
        let to = |family| addr::cluster_ips(9).at(family, PORT);
        let node = self.node().clone();
        let mut connections: Vec<(&str, Connection)> = Vec::new();
        let mut datagrams: Vec<(&str, UdpClient)> = Vec::new();
        for mode in ["all", "auto", "host", "auto", "off"] {
            self.daemon.set_sockets(mode);
            self.daemon.restart()?;
            for (since, connection) in &mut connections {
                connection.ping().with_context(|| format!("a connection since {since}, in {mode}"))?;
            }
            // Where no programs are attached nobody shows what was dialled.
            for (since, client) in datagrams.iter_mut().filter(|(since, _)| mode != "off" || *since != "all") {
                client.ask().with_context(|| format!("datagrams since {since}, in {mode}"))?;
            }
            for family in Family::ALL {
                connections.push((mode, a.connect(to(family))?));
                let mut client = a.netns().run(|| UdpClient::connected(to(family)))?;
                client.ask()?;
                datagrams.push((mode, client));
                if mode != "off" {
                    connections.push((mode, node.connect(to(family))?));
                }
            }
        }
        Ok(())
    }
}

/// What the kernel says that a connection was to before rules led it elsewhere.
fn original_destination(stream: &TcpStream, family: Family) -> Result<SocketAddr> {
    let fd = stream.as_fd();
    Ok(match family {
        Family::V4 => SocketAddr::V4(SockaddrIn::from(getsockopt(&fd, sockopt::OriginalDst)?).into()),
        Family::V6 => SocketAddr::V6(SockaddrIn6::from(getsockopt(&fd, sockopt::Ip6tOriginalDst)?).into()),
    })
}
