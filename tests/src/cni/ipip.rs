//! Routed pods behind IPIP, as Calico does it: one tunnel a node without a fixed other end, and routes that say which node that is.
//!
//! IPv4 only; other nodes' pods have their IPv6 addresses by routes over the underlay. The device has no Ethernet headers. What leaves the pods'
//! networks is masqueraded: other nodes have the tunnel for the way back, and would not take a pod's packet from the underlay.

use anyhow::Result;

use crate::{
    addr::{self, Family},
    host::Host as _,
    node::Node,
};

/// 20 bytes less than the underlay's.
pub(super) const MTU: u16 = 1480;

pub(super) fn set_up_node(node: &Node) -> Result<()> {
    let (local, own) = (node.addrs().v4, addr::pod(node.index(), 0).v4);
    let device = format!(
        "link add ipip1 type ipip local {local}\n\
         link set ipip1 mtu {MTU} up\n\
         addr add {own}/32 dev ipip1\n"
    );
    let routes = super::routes_to_peers(node, |family| if family == Family::V4 { "dev ipip1 onlink" } else { "dev eth0" });
    node.netns().ip(&(device + &routes + &super::routed::holes(node)))?;
    node.netns().nft(&super::masquerade(node.index()))
}
