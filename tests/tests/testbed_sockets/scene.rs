//! Two nodes with a backend in each place, what is dialled there, and how.

use std::{
    fmt,
    io::{self, ErrorKind},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use anyhow::{Result, bail, ensure};
use proxy_common::{Protocol, SocketKey, SocketPeer};
use proxy_daemon::maps::{KernelMaps, Pins};
use shunt_tests::{
    Addrs, Cni, Daemon, Family, Host, Netns, Node, Pod, Testbed, addr,
    gate::Need,
    objects::{Endpoint, Service},
    traffic::{Connection, EchoServer, UdpClient},
};

pub(crate) const PORT: u16 = 80;
pub(crate) const TARGET: u16 = 8080;
pub(crate) const LIMIT: Duration = Duration::from_mins(1);
/// A network namespace's cookie is told, and a call may fail for a reason (6.1).
pub(crate) const NEEDS: &[Need] = &[Need::Kernel(6, 1)];

/// Where the backend of a service is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Backend {
    Local,
    Remote,
    Host,
    None,
}

/// What a process dials.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Dialled {
    ClusterIp,
    NodePort,
    Localhost,
    LoadBalancer,
    External,
}

/// How.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Socket {
    Tcp,
    UdpConnected,
    Udp,
}

impl Backend {
    pub(crate) const ALL: [Self; 4] = [Self::Local, Self::Remote, Self::Host, Self::None];

    /// The number of its service.
    pub(crate) fn number(self) -> u8 {
        self as u8 + 1
    }
}

impl Dialled {
    pub(crate) const ALL: [Self; 5] = [Self::ClusterIp, Self::NodePort, Self::Localhost, Self::LoadBalancer, Self::External];

    pub(crate) fn at(self, node: &Node, family: Family, service: u8) -> SocketAddr {
        let node_port = addr::node_port(service);
        match self {
            Self::ClusterIp => addr::cluster_ips(service).at(family, PORT),
            Self::NodePort => node.addrs().at(family, node_port),
            Self::Localhost => SocketAddr::new(loopback(family), node_port),
            Self::LoadBalancer => addr::load_balancer_ips(service).at(family, PORT),
            Self::External => addr::external_ips(service).at(family, PORT),
        }
    }
}

impl Socket {
    pub(crate) const ALL: [Self; 3] = [Self::Tcp, Self::UdpConnected, Self::Udp];

    /// Calls from this thread's namespace. Yields who answers; the kernel must show what was dialled.
    pub(crate) fn call(self, to: SocketAddr) -> Result<String> {
        match self {
            Self::Tcp => {
                let mut connection = Connection::open(to)?;
                shows(connection.peer()?, to)?;
                connection.ping()?;
                Ok(connection.server)
            }
            Self::UdpConnected => {
                let mut client = UdpClient::connected(to)?;
                shows(client.peer()?, to)?;
                Ok(client.ask()?.server)
            }
            // That the answer comes from where the question went is part of asking.
            Self::Udp => Ok(UdpClient::unconnected(to)?.ask()?.server),
        }
    }
}

pub(crate) fn shows(peer: SocketAddr, dialled: SocketAddr) -> Result<()> {
    ensure!(peer == dialled, "the peer of {dialled} is shown as {peer}");
    Ok(())
}

pub(crate) fn loopback(family: Family) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::LOCALHOST.into(),
        Family::V6 => Ipv6Addr::LOCALHOST.into(),
    }
}

/// A service with each kind of address for each place of a backend: b is on the node, c on the other one, the node itself serves as well.
pub(crate) struct Scene {
    _servers: Vec<EchoServer>,
    _pods: [Pod; 2],
    pub(crate) bed: Testbed,
}

impl Scene {
    pub(crate) fn build(cni: Cni) -> Self {
        let bed = Testbed::builder().style(cni).build().unwrap();
        let (n1, n2) = (bed.node(0).clone(), bed.node(1).clone());
        let (b, c) = (n1.pod("b").unwrap(), n2.pod("c").unwrap());
        let servers =
            vec![EchoServer::start(&b, TARGET).unwrap(), EchoServer::start(&c, TARGET).unwrap(), EchoServer::start(&n1, TARGET).unwrap()];
        for backend in Backend::ALL {
            let endpoints = match backend {
                Backend::Local => vec![Endpoint::pod(&b)],
                Backend::Remote => vec![Endpoint::pod(&c)],
                Backend::Host => vec![Endpoint::of(&n1, &n1)],
                Backend::None => Vec::new(),
            };
            let service = Service::open(&format!("s{}", backend.number()), backend.number(), PORT, TARGET);
            bed.manifests().write(service.name(), &service.with_endpoints(&endpoints)).unwrap();
        }
        Self { _servers: servers, _pods: [b, c], bed }
    }
}

pub(crate) fn is_refused(called: Result<impl fmt::Debug>) -> Result<()> {
    match called {
        Ok(answer) => bail!("answered: {answer:?}"),
        Err(error) => {
            let kind = error.downcast_ref::<io::Error>().map(io::Error::kind);
            ensure!(kind == Some(ErrorKind::ConnectionRefused), "{error:#}");
            Ok(())
        }
    }
}

/// How many entries sockets have.
pub(crate) fn entries(daemon: &Daemon) -> Result<usize> {
    let maps = KernelMaps::open(&Pins::new(daemon.bpffs()))?;
    Ok(maps.sockets4.entries()?.len() + maps.sockets6.entries()?.len())
}

/// How many of them are those of TCP.
pub(crate) fn connected(daemon: &Daemon) -> Result<usize> {
    fn count<F: proxy_common::Family>(entries: &[(SocketKey<F>, SocketPeer<F>)]) -> usize {
        entries.iter().filter(|(key, _)| key.protocol == Protocol::Tcp.to_wire()).count()
    }
    let maps = KernelMaps::open(&Pins::new(daemon.bpffs()))?;
    Ok(count(&maps.sockets4.entries()?) + count(&maps.sockets6.entries()?))
}

/// How many entries flows have that packets have begun.
pub(crate) fn flows(daemon: &Daemon) -> Result<usize> {
    let maps = KernelMaps::open(&Pins::new(daemon.bpffs()))?;
    Ok(maps.flows4.entries()?.len() + maps.flows6.entries()?.len())
}

/// Addresses in a network namespace.
pub(crate) struct Place {
    pub(crate) netns: Netns,
    pub(crate) addrs: Addrs,
}

impl Host for Place {
    fn name(&self) -> &'static str {
        "place"
    }

    fn netns(&self) -> &Netns {
        &self.netns
    }

    fn addrs(&self) -> Addrs {
        self.addrs
    }
}
