//! A node: a namespace on the segment that forwards for its pods, with the pins and the cgroup of its daemon.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
};

use anyhow::Result;
use serde_json::{Value, json};

use crate::{
    addr::{self, Addrs},
    cni::Cni,
    host::Host,
    name::BedName,
    netns::Netns,
    pod::Pod,
    scratch::{Kind, Scratch, cgroup_below},
    underlay::Underlay,
};

/// A handle to a node; clones share it.
#[derive(Clone, Debug)]
pub struct Node(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    netns: Netns,
    name: String,
    bed: BedName,
    index: u8,
    plan: Plan,
    next_pod: AtomicU8,
    // Behind the namespace, which ends what runs there.
    cgroup: Scratch,
    pins: Scratch,
}

/// What all nodes of a testbed have in common.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) cni: Cni,
    pub(crate) hairpin: bool,
    /// Whether its devices finish checksums themselves.
    pub(crate) checksums: bool,
    /// How many nodes there are.
    pub(crate) of: u8,
}

/// What a node does that a plain host does not. The reverse path filter is strict, as the strictest distributions
/// have it: a proxy that needs it loose would not work there.
pub(crate) const FORWARDING: [(&str, &str); 4] =
    [("ipv4/ip_forward", "1"), ("ipv6/conf/all/forwarding", "1"), ("ipv4/conf/all/rp_filter", "1"), ("ipv4/conf/default/rp_filter", "1")];

impl Node {
    pub(crate) fn create(bed: &BedName, index: u8, plan: Plan, underlay: &Underlay) -> Result<Self> {
        let name = format!("n{index}");
        let cgroup = Scratch::create(Kind::Cgroup, bed, &name)?;
        let netns = Netns::create_in(&bed.part(&name), cgroup.path())?;
        netns.sysctl(&FORWARDING)?;
        underlay.attach(&name, &netns, addr::node(index))?;
        let Addrs { v4, v6 } = addr::router();
        netns.ip(&format!("route add default via {v4}\nroute add default via {v6}\n"))?;
        let node = Self(Arc::new(Inner {
            pins: Scratch::create(Kind::Pins, bed, &name)?,
            // 1 is the pods' gateway.
            next_pod: AtomicU8::new(2),
            bed: bed.clone(),
            netns,
            cgroup,
            name,
            index,
            plan,
        }));
        node.adjust("eth0")?;
        plan.cni.set_up_node(&node)?;
        Ok(node)
    }

    /// Adds a pod to the node, at any time.
    pub fn pod(&self, name: &str) -> Result<Pod> {
        let host = self.0.next_pod.fetch_add(1, Ordering::Relaxed);
        Pod::create(self, name, host)
    }

    /// Adds a pod that has the node's network and a cgroup of its own.
    pub fn host_network_pod(&self, name: &str) -> Result<HostNetworkPod> {
        let netns = self.netns().in_cgroup(&cgroup_below(self.cgroup(), name)?)?;
        Ok(HostNetworkPod { name: name.to_owned(), addrs: self.addrs(), netns })
    }

    /// Gives a device of the node the offloads that the plan wants.
    pub(crate) fn adjust(&self, device: &str) -> Result<()> {
        if self.0.plan.checksums { Ok(()) } else { self.netns().exec(&format!("ethtool -K {device} tx off")).map(drop) }
    }

    pub fn pod_cidrs(&self) -> [String; 2] {
        addr::pod_cidrs(self.0.index)
    }

    /// The node as the API server would show it.
    pub fn manifest(&self) -> Value {
        let address = |ip: std::net::IpAddr| json!({"type": "InternalIP", "address": ip.to_string()});
        let cidrs = self.pod_cidrs();
        json!({
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": self.name(), "labels": {"kubernetes.io/hostname": self.name()}},
            "spec": {"podCIDR": cidrs[0], "podCIDRs": cidrs},
            "status": {"addresses": self.addrs().both().map(address)},
        })
    }

    /// A directory on bpffs for the node's pins.
    pub fn bpffs(&self) -> &Path {
        self.0.pins.path()
    }

    /// The node's cgroup, which stands for the root of the hierarchy on a machine of its own.
    pub fn cgroup(&self) -> &Path {
        self.0.cgroup.path()
    }

    pub(crate) fn bed(&self) -> &BedName {
        &self.0.bed
    }

    pub(crate) fn index(&self) -> u8 {
        self.0.index
    }

    pub(crate) fn plan(&self) -> Plan {
        self.0.plan
    }

    /// The numbers of all other nodes.
    pub(crate) fn peers(&self) -> impl Iterator<Item = u8> + use<> {
        let own = self.0.index;
        (1..=self.0.plan.of).filter(move |index| *index != own)
    }
}

/// A pod in the node's network namespace.
#[derive(Debug)]
pub struct HostNetworkPod {
    name: String,
    addrs: Addrs,
    netns: Netns,
}

impl Host for HostNetworkPod {
    fn name(&self) -> &str {
        &self.name
    }

    fn netns(&self) -> &Netns {
        &self.netns
    }

    fn addrs(&self) -> Addrs {
        self.addrs
    }
}

impl Host for Node {
    fn name(&self) -> &str {
        &self.0.name
    }

    fn netns(&self) -> &Netns {
        &self.0.netns
    }

    fn addrs(&self) -> Addrs {
        addr::node(self.0.index)
    }
}
