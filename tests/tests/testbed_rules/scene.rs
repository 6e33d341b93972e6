//! Two nodes with two pods each, and what every test here asks of a client.

use std::net::SocketAddr;

use anyhow::{Result, ensure};
use shunt_tests::{
    Addrs, Cases, Client, Cni, Family, Host, Node, Pod, Testbed,
    objects::{Endpoint, Service},
    traffic::EchoServer,
};

pub(crate) const PORT: u16 = 80;
pub(crate) const TARGET: u16 = 8080;

/// The pods a and b are on n1, c and d on n2; each runs a server under its name.
pub(crate) struct Scene {
    pub(crate) a: Pod,
    pub(crate) b: Pod,
    pub(crate) c: Pod,
    pub(crate) d: Pod,
    pub(crate) bed: Testbed,
}

/// Whom the server takes for its client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    Client,
    Node,
}

// === impl Scene ===

impl Scene {
    pub(crate) fn new() -> Self {
        let bed = Testbed::builder().style(Cni::Routed).build().unwrap();
        let [a, b] = ["a", "b"].map(|name| bed.node(0).pod(name).unwrap());
        let [c, d] = ["c", "d"].map(|name| bed.node(1).pod(name).unwrap());
        Self { a, b, c, d, bed }
    }

    pub(crate) fn servers(&self) -> [EchoServer; 4] {
        [&self.a, &self.b, &self.c, &self.d].map(|pod| EchoServer::start(pod, TARGET).unwrap())
    }

    pub(crate) fn n1(&self) -> &Node {
        self.bed.node(0)
    }

    pub(crate) fn n2(&self) -> &Node {
        self.bed.node(1)
    }

    pub(crate) fn client(&self) -> &Client {
        self.bed.client()
    }

    pub(crate) fn write(&self, service: &Service, endpoints: &[Endpoint]) {
        self.bed.manifests().write(service.name(), &service.with_endpoints(endpoints)).unwrap();
    }
}

/// By TCP and by UDP, the server sees the client's own address, or the node's.
pub(crate) fn sees(from: &impl Host, to: SocketAddr, expected: Seen) -> Result<()> {
    let mut connection = from.connect(to)?;
    connection.ping()?;
    let datagram = from.ask(to)?;
    for seen in [connection.seen, datagram.seen] {
        let is_client = from.addrs().contains(seen.ip());
        ensure!(is_client == (expected == Seen::Client), "the server sees {seen}");
    }
    Ok(())
}

pub(crate) fn plain(name: &str, n: u8) -> Service {
    Service::plain(name, n, PORT, TARGET)
}

pub(crate) fn open(name: &str, n: u8) -> Service {
    Service::open(name, n, PORT, TARGET)
}

pub(crate) fn both(cases: &mut Cases, name: &str, addrs: Addrs, port: u16, mut case: impl FnMut(SocketAddr) -> Result<()>) {
    for family in Family::ALL {
        cases.run(format!("{name}, {family}"), || case(addrs.at(family, port)));
    }
}
