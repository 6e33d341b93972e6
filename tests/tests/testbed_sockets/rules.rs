//! The rules of a Service, for processes of the node.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::CString,
    io::{self, ErrorKind},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    os::fd::{FromRawFd as _, OwnedFd},
    thread,
};

use anyhow::{Context as _, Result, bail, ensure};
use proxy_daemon::maps::Pins;
use serde_json::{Value, json};
use shunt_tests::{
    Cases, Cni, Daemon, Family, Host, Node, Pod, Testbed, addr, gate,
    objects::{Endpoint, Service},
    traffic::{EchoServer, Load, Pinger, UdpClient},
    wait,
};

use crate::scene::{Dialled, LIMIT, NEEDS, PORT, Place, Socket, TARGET, entries, is_refused};

/// A service whose fields a test chooses, with backends on both nodes.
pub(crate) struct Rules {
    servers: Vec<EchoServer>,
    pub(crate) pods: [Pod; 2],
    pub(crate) daemon: Daemon,
    pub(crate) bed: Testbed,
}

impl Rules {
    pub(crate) fn start(sockets: &'static str) -> Self {
        let bed = Testbed::builder().style(Cni::Bridge).build().unwrap();
        let pods = [bed.node(0).pod("b").unwrap(), bed.node(1).pod("c").unwrap()];
        let servers = pods.iter().map(|pod| EchoServer::start(pod, TARGET).unwrap()).collect();
        let daemon = Daemon::on(bed.node(0), &bed).sockets(sockets).start().unwrap();
        Self { servers, pods, daemon, bed }
    }

    pub(crate) fn node(&self) -> &Node {
        self.bed.node(0)
    }

    /// Publishes it and waits until a look shows that.
    pub(crate) fn publish(&self, fields: &[(&str, Value)], pods: &[&Pod], look: impl Fn() -> Result<()>) -> Result<()> {
        let service = fields.iter().fold(Service::open("web", 9, PORT, TARGET), |service, (name, value)| service.with(name, value.clone()));
        let endpoints: Vec<_> = pods.iter().map(|pod| Endpoint::pod(pod)).collect();
        self.bed.manifests().write("web", &service.with_endpoints(&endpoints))?;
        wait::until("the endpoints", LIMIT, || {
            let shown = self.daemon.show("backends")?;
            let rows = shown.as_array().into_iter().flatten();
            let shown: BTreeSet<IpAddr> = rows.filter_map(|row| row["address"].as_str()?.parse().ok()).collect();
            let expected: BTreeSet<IpAddr> = pods.iter().flat_map(|pod| pod.addrs().both()).collect();
            ensure!(shown == expected, "there are {shown:?}");
            Ok(())
        })?;
        wait::until("the service", LIMIT, look)
    }

    fn call(&self, dialled: Dialled, socket: Socket, family: Family) -> Result<String> {
        self.called_by(self.node(), dialled, socket, family)
    }

    pub(crate) fn called_by(&self, caller: &dyn Host, dialled: Dialled, socket: Socket, family: Family) -> Result<String> {
        let to = dialled.at(self.node(), family, 9);
        caller.netns().run(|| socket.call(to)).with_context(|| format!("dialled {to}"))
    }

    fn is(&self, dialled: Dialled, socket: Socket, family: Family, server: &str) -> Result<()> {
        let answered = self.call(dialled, socket, family)?;
        ensure!(answered == server, "answered by {answered}, not {server}");
        Ok(())
    }
}

#[test]
fn the_rules_of_a_service_hold_for_processes_of_the_node() {
    if gate::skip(gate::DAEMON) || gate::skip(NEEDS) {
        return;
    }
    let mut rules = Rules::start("host");
    let mut cases = Cases::new();
    cases.run("a local policy leaves the backends of this node, and none where there are none", || rules.local_policy());
    cases.run("source ranges are those of the node's address", || rules.source_ranges());
    cases.run("a client with affinity stays", || rules.affinity());
    cases.run("a port that a ClusterIP does not have is refused", || rules.undefined_port());
    cases.run("a socket of IPv6 that speaks IPv4", || rules.mapped());
    cases.run("all of loopback", || rules.loopback());
    cases.run("a sender moves when its backend has gone, and only then", || rules.sender_moves());
    cases.run("a sender to two addresses of a service", || rules.two_addresses());
    cases.run("who is connected to a backend that has gone learns of it, and nobody else", || rules.orphans());
    cases.run("a socket that is closed leaves nothing behind", || rules.closed());
    cases.run("an address of the node itself is left to it", || rules.own_address());
    cases.run("a program that somebody detaches is attached again", || rules.detached());
    cases.run("restarts under load", || rules.restarts());
    cases.finish();
}

impl Rules {
    fn local_policy(&self) -> Result<()> {
        let local = [("internalTrafficPolicy", json!("Local")), ("externalTrafficPolicy", json!("Local"))];
        let [b, c] = &self.pods;
        let is_b = || (0..10).try_for_each(|_| self.is(Dialled::ClusterIp, Socket::Tcp, Family::V4, "b"));
        self.publish(&local, &[b, c], is_b)?;
        let is_denied = || match self.call(Dialled::ClusterIp, Socket::Tcp, Family::V4) {
            Ok(server) => bail!("answered by {server}"),
            Err(error) => {
                let kind = error.downcast_ref::<io::Error>().map(io::Error::kind);
                ensure!(kind == Some(ErrorKind::PermissionDenied), "{error:#}");
                Ok(())
            }
        };
        self.publish(&local, &[c], is_denied)?;
        // The external policy is for who is outside.
        self.is(Dialled::LoadBalancer, Socket::Tcp, Family::V6, "c")
    }

    fn source_ranges(&self) -> Result<()> {
        let [b, _] = &self.pods;
        let ranges = |ranges: &[&str]| [("loadBalancerSourceRanges", json!(ranges))];
        let call = |family| self.call(Dialled::LoadBalancer, Socket::Tcp, family);
        let others = ["198.51.100.0/24", "2001:db8:9::/64"];
        self.publish(&ranges(&others), &[b], || if call(Family::V4).is_ok() { bail!("not denied") } else { Ok(()) })?;
        ensure!(call(Family::V6).is_err(), "IPv6 is not denied");
        self.is(Dialled::ClusterIp, Socket::Tcp, Family::V4, "b")?;
        let own = self.node().addrs().both().map(|addr| addr.to_string());
        let own = [format!("{}/32", own[0]), format!("{}/128", own[1])];
        self.publish(&ranges(&[&own[0], &own[1]]), &[b], || call(Family::V4).map(drop))?;
        call(Family::V6).map(drop)
    }

    fn affinity(&self) -> Result<()> {
        let [b, c] = &self.pods;
        let mut servers = BTreeSet::new();
        self.publish(&[], &[b, c], || {
            let both: BTreeSet<String> = (0..20).map(|_| self.call(Dialled::ClusterIp, Socket::Tcp, Family::V6)).collect::<Result<_>>()?;
            ensure!(both.len() == 2, "answered by {both:?}");
            Ok(())
        })?;
        self.publish(&[("sessionAffinity", json!("ClientIP"))], &[b, c], || {
            let one: BTreeSet<String> = (0..20).map(|_| self.call(Dialled::ClusterIp, Socket::Tcp, Family::V6)).collect::<Result<_>>()?;
            ensure!(one.len() == 1, "answered by {one:?}");
            Ok(())
        })?;
        for dialled in [Dialled::ClusterIp, Dialled::Localhost, Dialled::External] {
            servers.insert(self.call(dialled, Socket::Tcp, Family::V6)?);
        }
        ensure!(servers.len() == 1, "answered by {servers:?}");
        Ok(())
    }

    fn undefined_port(&self) -> Result<()> {
        for family in Family::ALL {
            let to = addr::cluster_ips(9).at(family, 81);
            is_refused(self.node().netns().run(|| Socket::Tcp.call(to)))?;
            is_refused(self.node().netns().run(|| Socket::UdpConnected.call(to)))?;
        }
        Ok(())
    }

    fn mapped(&self) -> Result<()> {
        let [b, _] = &self.pods;
        self.publish(&[], &[b], || (0..10).try_for_each(|_| self.is(Dialled::ClusterIp, Socket::Tcp, Family::V4, "b")))?;
        let SocketAddr::V4(v4) = addr::cluster_ips(9).at(Family::V4, PORT) else { bail!("not of IPv4") };
        let mapped = SocketAddr::new(v4.ip().to_ipv6_mapped().into(), PORT);
        for socket in Socket::ALL {
            let server = self.node().netns().run(|| socket.call(mapped)).with_context(|| format!("{socket:?} to {mapped}"))?;
            ensure!(server == "b", "{socket:?} is answered by {server}");
        }
        Ok(())
    }

    fn loopback(&self) -> Result<()> {
        for addr in [Ipv4Addr::new(127, 8, 7, 6), Ipv4Addr::LOCALHOST] {
            let to = SocketAddr::new(addr.into(), addr::node_port(9));
            for socket in Socket::ALL {
                let server = self.node().netns().run(|| socket.call(to)).with_context(|| format!("{socket:?} to {to}"))?;
                ensure!(server == "b", "{socket:?} is answered by {server}");
            }
        }
        Ok(())
    }

    fn sender_moves(&self) -> Result<()> {
        let [b, c] = &self.pods;
        let to = Family::ALL.map(|family| addr::cluster_ips(9).at(family, PORT));
        let clients = to.map(|to| self.node().netns().run(|| UdpClient::unconnected(to)));
        let [mut v4, mut v6] = clients.map(|client| client.unwrap());
        let mut all_are = |server: &str| {
            for client in [&mut v4, &mut v6] {
                let answer = client.ask()?;
                ensure!(answer.server == server, "answered by {}, not {server}", answer.server);
            }
            Ok(())
        };
        all_are("b")?;
        let some_are_c = || (0..20).any(|_| self.is(Dialled::ClusterIp, Socket::Tcp, Family::V4, "c").is_ok());
        self.publish(&[], &[b, c], || if some_are_c() { Ok(()) } else { bail!("c is not there yet") })?;
        (0..20).try_for_each(|_| all_are("b"))?;
        self.publish(&[], &[c], || (0..10).try_for_each(|_| self.is(Dialled::ClusterIp, Socket::Tcp, Family::V4, "c")))?;
        all_are("c")
    }

    /// Each address has a backend of its own. Where that is the same one, nothing tells of which address an answer is.
    fn two_addresses(&self) -> Result<()> {
        let [b, c] = &self.pods;
        self.publish(&[], &[b, c], || Ok(()))?;
        let ask = |client: &mut UdpClient, to| {
            client.ask_other(to);
            anyhow::Ok(client.ask()?.server)
        };
        wait::until("a socket whose addresses have different backends", LIMIT, || {
            let [one, other] = [addr::cluster_ips(9), addr::external_ips(9)].map(|addrs| addrs.at(Family::V4, PORT));
            let mut client = self.node().netns().run(|| UdpClient::unconnected(one))?;
            let servers = [ask(&mut client, one)?, ask(&mut client, other)?];
            ensure!(servers[0] != servers[1], "both are {}", servers[0]);
            for _ in 0..3 {
                let again = [ask(&mut client, one)?, ask(&mut client, other)?];
                assert_eq!(again, servers);
            }
            Ok(())
        })
    }

    fn orphans(&self) -> Result<()> {
        const EACH: usize = 100;
        let [b, c] = &self.pods;
        let two = || {
            let some: BTreeSet<String> = (0..20).map(|_| self.call(Dialled::ClusterIp, Socket::Tcp, Family::V4)).collect::<Result<_>>()?;
            ensure!(some.len() == 2, "answered by {some:?}");
            Ok(())
        };
        self.publish(&[], &[b, c], two)?;
        let mut clients: BTreeMap<String, Vec<UdpClient>> = BTreeMap::new();
        for n in 0..2 * EACH {
            let to = addr::cluster_ips(9).at(Family::ALL[n % 2], PORT);
            let mut client = self.node().netns().run(|| UdpClient::connected(to))?;
            clients.entry(client.ask()?.server).or_default().push(client);
        }
        // A socket that has the backend's own address is none that we gave it, nor is one that is not connected.
        let mut innocent = self.node().netns().run(|| UdpClient::connected(b.addrs().at(Family::V4, TARGET)))?;
        let mut sender = self.node().netns().run(|| UdpClient::unconnected(addr::cluster_ips(9).at(Family::V6, PORT)))?;
        sender.ask()?;
        let (mut on_b, mut on_c) = (clients.remove("b").unwrap_or_default(), clients.remove("c").unwrap_or_default());
        ensure!(on_b.len() > EACH / 2 && on_c.len() > EACH / 2, "{} and {}", on_b.len(), on_c.len());
        // All of those on b wait for something when it goes.
        let waiting = thread::scope(|scope| {
            let waiting: Vec<_> = on_b.iter().map(|client| scope.spawn(|| client.wait(LIMIT))).collect();
            let published = self.publish(&[], &[c], || Ok(()));
            let learnt: Vec<io::Error> = waiting.into_iter().filter_map(|thread| thread.join().ok()?.err()).collect();
            published.map(|()| learnt)
        })?;
        ensure!(waiting.len() == on_b.len(), "{} of {} have learnt of it", waiting.len(), on_b.len());
        let aborted = waiting.iter().all(|error| error.kind() == ErrorKind::ConnectionAborted);
        ensure!(aborted, "{:?}", waiting.iter().find(|error| error.kind() != ErrorKind::ConnectionAborted));
        for client in &mut on_c {
            let answer = client.ask()?;
            ensure!(answer.server == "c", "answered by {}", answer.server);
        }
        // Who has heard of it may connect the same socket again, and is known by that.
        for client in &mut on_b {
            let to = client.to();
            client.reconnect(to)?;
            let answer = client.ask()?;
            ensure!(answer.server == "c" && client.peer()? == to, "answered by {}", answer.server);
        }
        on_b.clear();
        innocent.ask()?;
        sender.ask()?;
        Ok(())
    }

    fn closed(&self) -> Result<()> {
        let before = entries(&self.daemon)?;
        for family in Family::ALL {
            for socket in [Socket::Tcp, Socket::UdpConnected] {
                for _ in 0..50 {
                    self.is(Dialled::ClusterIp, socket, family, "c")?;
                }
            }
        }
        wait::until("no entries of sockets that are closed", LIMIT, || {
            let after = entries(&self.daemon)?;
            ensure!(after <= before, "{before} entries became {after}");
            Ok(())
        })
    }

    /// As where each node has a DNS cache under the address of the cluster's DNS.
    fn own_address(&self) -> Result<()> {
        let addrs = addr::cluster_ips(9);
        let node = self.node();
        let [v4, v6] = addrs.both();
        node.netns().ip(&format!("addr add {v4}/32 dev lo\naddr add {v6}/128 dev lo nodad\n"))?;
        let cache = Place { netns: node.netns().clone(), addrs };
        let _server = EchoServer::named(&cache, "cache", PORT)?;
        let is_left = || {
            Family::ALL
                .into_iter()
                .try_for_each(|family| Socket::ALL.into_iter().try_for_each(|socket| self.is(Dialled::ClusterIp, socket, family, "cache")))
        };
        wait::until("the node's own server", LIMIT, is_left)?;
        self.is(Dialled::NodePort, Socket::Tcp, Family::V4, "c")?;
        node.netns().ip(&format!("addr del {v4}/32 dev lo\naddr del {v6}/128 dev lo\n"))?;
        wait::until("the service again", LIMIT, || self.is(Dialled::ClusterIp, Socket::Tcp, Family::V6, "c"))
    }

    /// As `bpftool link detach` does: the pin stays, and the program is on nothing.
    fn detached(&self) -> Result<()> {
        const OBJ_GET: libc::c_int = 7;
        const LINK_DETACH: libc::c_int = 34;
        let pin = CString::new(Pins::new(self.daemon.bpffs()).socket_link("connect_v4").into_os_string().into_encoded_bytes())?;
        // SAFETY: the path of a pin and zeros, which are this command's arguments, and outlive the call.
        let link = unsafe { libc::syscall(libc::SYS_bpf, OBJ_GET, &[pin.as_ptr() as u64, 0], 16) };
        ensure!(link >= 0, "opening the link: {}", io::Error::last_os_error());
        // SAFETY: the link, which is this command's argument.
        let detached = unsafe { libc::syscall(libc::SYS_bpf, LINK_DETACH, &[u32::try_from(link)?], 4) };
        ensure!(detached == 0, "detaching the link: {}", io::Error::last_os_error());
        // SAFETY: nobody else has this descriptor.
        drop(unsafe { OwnedFd::from_raw_fd(i32::try_from(link)?) });
        let is_served = || self.is(Dialled::ClusterIp, Socket::Tcp, Family::V4, "c");
        ensure!(is_served().is_err(), "the program is still there");
        wait::until("the program again", LIMIT, is_served)
    }

    fn restarts(&mut self) -> Result<()> {
        let to = Family::ALL.map(|family| addr::cluster_ips(9).at(family, PORT));
        let node = self.node().clone();
        let (load, pinger) = (Load::start(&node, &to, 200), Pinger::start(&node, &to, 10)?);
        let wait_for = |n: u64| {
            let goal = load.so_far().ok + n;
            wait::until("more connections", LIMIT, || {
                ensure!(load.so_far().ok >= goal, "too few");
                Ok(())
            })
        };
        wait_for(100)?;
        self.daemon.kill9()?;
        wait_for(100)?;
        for _ in 0..2 {
            self.daemon.restart()?;
            wait_for(100)?;
        }
        self.daemon.debug_log(true)?;
        wait_for(100)?;
        self.daemon.debug_log(false)?;
        wait_for(100)?;
        load.finish().check(500)?;
        pinger.finish().check()?;
        ensure!(!self.servers.is_empty(), "the servers serve");
        Ok(())
    }
}
