//! The three ways CNI plugins connect pods, as far as a service proxy can tell them apart.

use anyhow::Result;

use crate::{node::Node, pod::Pod};

mod bridge;
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
}

impl Cni {
    pub const ALL: [Self; 3] = [Self::Routed, Self::Bridge, Self::Vxlan];

    /// Whether pods' own addresses are routable outside the cluster's nodes.
    pub(crate) fn pods_are_routed(self) -> bool {
        self != Self::Vxlan
    }

    /// What the plugin calls the node's end of a pod's veth pair.
    pub(crate) fn device_prefix(self) -> &'static str {
        match self {
            Self::Routed => "cali",
            Self::Bridge | Self::Vxlan => "veth",
        }
    }

    pub(crate) fn set_up_node(self, node: &Node) -> Result<()> {
        match self {
            Self::Routed => routed::set_up_node(node),
            Self::Bridge => bridge::set_up_node(node),
            Self::Vxlan => vxlan::set_up_node(node),
        }
    }

    pub(crate) fn attach_pod(self, pod: &Pod) -> Result<()> {
        match self {
            Self::Routed => routed::attach_pod(pod),
            Self::Bridge => bridge::attach_pod(pod, bridge::MTU),
            Self::Vxlan => bridge::attach_pod(pod, vxlan::MTU),
        }
    }
}

/// Routes to other nodes' pods over the underlay.
fn routes_to_peers(node: &Node) -> String {
    let routes = node.peers().flat_map(|peer| {
        let via = crate::addr::node(peer).both();
        let networks = crate::addr::pod_cidrs(peer);
        networks.into_iter().zip(via).map(|(network, via)| format!("route add {network} via {via}\n"))
    });
    routes.collect()
}
