//! A cluster's network as namespaces: nodes on one segment, and a client behind a router.
//!
//! ```text
//!   client ---- router ---- switch ---- n1 --- pods
//!                              \------- n2 --- pods
//! ```
//!
//! Every line is a veth pair with its offloads on, unless a test wants otherwise. The nodes forward, filter reverse paths strictly, and have the
//! router as their default route. Traffic to external and load balancer IPs is routed to the first node.

use std::{path::Path, sync::Once};

use anyhow::{Context as _, Result, ensure};

use crate::{
    addr::{self, Addrs},
    cni::Cni,
    host::Host,
    leftovers,
    manifests::Manifests,
    name::BedName,
    netns::Netns,
    node::{self, Node},
    scratch::{Kind, Scratch},
    underlay::Underlay,
};

/// What a testbed will look like.
#[derive(Clone, Copy, Debug)]
#[must_use]
pub struct Builder {
    cni: Cni,
    nodes: u8,
    hairpin: bool,
    checksums: bool,
}

/// The running testbed. Dropping it removes all of it.
#[derive(Debug)]
pub struct Testbed {
    nodes: Vec<Node>,
    client: Client,
    underlay: Underlay,
    manifests: Manifests,
    files: Scratch,
}

/// A client outside the cluster.
#[derive(Debug)]
pub struct Client {
    netns: Netns,
}

// === impl Builder ===

impl Builder {
    pub fn style(mut self, cni: Cni) -> Self {
        self.cni = cni;
        self
    }

    pub fn nodes(mut self, nodes: u8) -> Self {
        self.nodes = nodes;
        self
    }

    /// Whether bridge ports may send a frame back where it came from; most CNI plugins leave that off.
    pub fn hairpin(mut self, hairpin: bool) -> Self {
        self.hairpin = hairpin;
        self
    }

    /// Whether the nodes' and the client's devices finish checksums themselves, as most do; where they do not, the kernel does it for them.
    pub fn checksums(mut self, checksums: bool) -> Self {
        self.checksums = checksums;
        self
    }

    /// Builds it, after sweeping what killed processes have left.
    pub fn build(self) -> Result<Testbed> {
        static SWEEP: Once = Once::new();
        SWEEP.call_once(|| drop(leftovers::sweep()));
        ensure!((1..=200).contains(&self.nodes), "a testbed has 1 to 200 nodes");
        let name = BedName::next();
        let files = Scratch::create(Kind::Files, &name, "files")?;
        let manifests = Manifests::create(&files.path().join("manifests"))?;
        let underlay = Underlay::create(&name)?;
        let client = Client { netns: Netns::create(&name.part("client"))? };
        underlay.attach_client(&client.netns)?;
        if !self.checksums {
            client.netns.exec("ethtool -K eth0 tx off")?;
        }
        let plan = node::Plan { cni: self.cni, hairpin: self.hairpin, checksums: self.checksums, of: self.nodes };
        let nodes = (1..=self.nodes)
            .map(|index| Node::create(&name, index, plan, &underlay))
            .collect::<Result<Vec<_>>>()
            .with_context(|| format!("building {self:?}"))?;
        let bed = Testbed { nodes, client, underlay, manifests, files };
        bed.announce(self.cni)?;
        Ok(bed)
    }
}

// === impl Testbed ===

impl Testbed {
    pub fn builder() -> Builder {
        Builder { cni: Cni::Bridge, nodes: 2, hairpin: false, checksums: true }
    }

    /// A node, counted from 0: `node(0)` is called n1.
    pub fn node(&self, index: usize) -> &Node {
        &self.nodes[index]
    }

    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    pub fn client(&self) -> &Client {
        &self.client
    }

    pub fn router(&self) -> &Netns {
        self.underlay.router()
    }

    /// The manifest directory, which holds the nodes from the start.
    pub fn manifests(&self) -> &Manifests {
        &self.manifests
    }

    /// A directory for the test's files.
    pub fn files(&self) -> &Path {
        self.files.path()
    }

    /// Adds a host to the nodes' segment that is no node.
    pub(crate) fn host(&self, name: &str, addrs: Addrs) -> Result<Netns> {
        let netns = Netns::create(&self.nodes[0].bed().part(name))?;
        self.underlay.attach(name, &netns, addrs)?;
        let Addrs { v4, v6 } = addr::router();
        netns.ip(&format!("route add default via {v4}\nroute add default via {v6}\n"))?;
        Ok(netns)
    }

    /// Makes the router's way to the client narrower than both of their devices, which servers have to find out.
    pub fn narrow_clients_link(&self, mtu: u16) -> Result<()> {
        self.underlay.narrow_clients_link(self.client.netns(), mtu)
    }

    /// Lets the router send a network's traffic to a node.
    pub fn route(&self, network: &str, to: &Node) -> Result<()> {
        self.underlay.route(network, to.addrs())
    }

    /// Tells the router and the manifest directory about the nodes.
    fn announce(&self, cni: Cni) -> Result<()> {
        for network in addr::EXTERNAL_NETS.iter().chain(&addr::LOAD_BALANCER_NETS) {
            self.route(network, &self.nodes[0])?;
        }
        for node in self.nodes.iter().filter(|_| cni.pods_are_routed()) {
            for network in node.pod_cidrs() {
                self.route(&network, node)?;
            }
        }
        let nodes: Vec<_> = self.nodes.iter().map(Node::manifest).collect();
        self.manifests.write("nodes", &nodes)
    }
}

// === impl Client ===

impl Host for Client {
    fn name(&self) -> &'static str {
        "client"
    }

    fn netns(&self) -> &Netns {
        &self.netns
    }

    fn addrs(&self) -> Addrs {
        addr::client()
    }
}
