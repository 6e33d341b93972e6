//! The ways CNI plugins connect pods, as far as a service proxy can tell them apart.

use anyhow::Result;

use crate::{
    addr::{self, Family},
    node::Node,
    pod::Pod,
};

mod bridge;
mod ipip;
mod routed;
mod vxlan;

/// How pods are connected to their node, and nodes' pods to each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cni {
    /// One route per pod and no bridge, as Calico does it; other nodes' pods by routes over the underlay.
    Routed,
    /// Pods on a bridge that has the gateway's address; other nodes' pods by routes over the underlay.
    Bridge,
    /// Pods on a bridge; other nodes' pods through VXLAN, the rest masqueraded, as flannel does it.
    Vxlan,
    /// One route per pod; other nodes' pods through a tunnel without Ethernet headers, the rest masqueraded, as Calico's IPIP mode does it. Not every kernel has it: [`Need::Ipip`](crate::gate::Need).
    Ipip,
}

impl Cni {
    /// Whether pods' own addresses are routable outside the cluster's nodes.
    pub fn pods_are_routed(self) -> bool {
        !matches!(self, Self::Vxlan | Self::Ipip)
    }

    /// What the plugin calls the node's end of a pod's veth pair.
    pub(crate) fn device_prefix(self) -> &'static str {
        match self {
            Self::Routed | Self::Ipip => "cali",
            Self::Bridge | Self::Vxlan => "veth",
        }
    }

    pub(crate) fn set_up_node(self, node: &Node) -> Result<()> {
        match self {
            Self::Routed => routed::set_up_node(node),
            Self::Bridge => bridge::set_up_node(node),
            Self::Vxlan => vxlan::set_up_node(node),
            Self::Ipip => ipip::set_up_node(node),
        }
    }

    pub(crate) fn attach_pod(self, pod: &Pod) -> Result<()> {
        match self {
            Self::Routed => routed::attach_pod(pod, routed::MTU),
            Self::Ipip => routed::attach_pod(pod, ipip::MTU),
            Self::Bridge => bridge::attach_pod(pod, bridge::MTU),
            Self::Vxlan => bridge::attach_pod(pod, vxlan::MTU),
        }
    }
}

/// Routes to other nodes' pods by their nodes, and by a device of each family.
fn routes_to_peers(node: &Node, by: impl Fn(Family) -> &'static str + Copy) -> String {
    let routes = node.peers().flat_map(|peer| {
        let networks = Family::ALL.into_iter().zip(addr::pod_cidrs(peer));
        networks.map(move |(family, network)| {
            let (via, by) = (addr::node(peer).of(family), by(family));
            format!("route add {network} via {via} {by}\n")
        })
    });
    routes.collect::<Vec<_>>().concat()
}

/// The underlay's device.
fn underlay(_: Family) -> &'static str {
    "dev eth0"
}

/// The rules of a plugin that hides pods from the world: they talk to pods as themselves, to all others as their node.
fn masquerade(node: u8) -> String {
    let [own4, own6] = addr::pod_cidrs(node);
    let rules = |ip: &str, pods: &str, own: &str, multicast: &str| {
        format!(
            "{ip} saddr {pods} {ip} daddr {pods} return\n\
             {ip} saddr {pods} {ip} daddr != {multicast} masquerade fully-random\n\
             {ip} saddr != {pods} {ip} daddr {own} return\n\
             {ip} saddr != {pods} {ip} daddr {pods} masquerade fully-random\n"
        )
    };
    let (pods4, pods6) = addr::CLUSTER_CIDR.split_once(',').expect("one network a family");
    format!(
        "table inet cni {{\nchain postrouting {{\ntype nat hook postrouting priority srcnat;\n{}{}}}\n}}\n",
        rules("ip", pods4, &own4, "224.0.0.0/4"),
        rules("ip6", pods6, &own6, "ff00::/8"),
    )
}
