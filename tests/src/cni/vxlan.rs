//! Pods behind VXLAN: a bridge per node, `flannel.1` between the nodes with everything it knows written by hand.
//!
//! One device over the IPv4 underlay carries both families. What leaves the pods' networks is masqueraded by
//! nftables, so conntrack is at work on these nodes, as it is on most clusters.

use anyhow::Result;

use crate::{addr, host::Host as _, node::Node};

/// 50 bytes less than the underlay's.
pub(super) const MTU: u16 = 1450;

pub(super) fn set_up_node(node: &Node) -> Result<()> {
    super::bridge::add_bridge(node, MTU)?;
    let netns = node.netns();
    netns.ip(&device(node))?;
    let entries = node.peers().map(|peer| {
        let (mac, underlay) = (mac(peer), addr::node(peer).v4);
        format!("fdb add {mac} dev flannel.1 dst {underlay} self permanent\n")
    });
    netns.bridge(&entries.collect::<String>())?;
    netns.nft(&super::masquerade(node.index()))
}

/// The VXLAN device with a neighbour and a route per peer.
fn device(node: &Node) -> String {
    let (index, local) = (node.index(), node.addrs().v4);
    let own = addr::pod(index, 0);
    let mut lines = format!(
        "link add flannel.1 address {} mtu {MTU} type vxlan id 1 dev eth0 local {local} dstport 8472 nolearning\n\
         link set flannel.1 up\n\
         addr add {}/32 dev flannel.1\n\
         addr add {}/128 dev flannel.1 nodad\n",
        mac(index),
        own.v4,
        own.v6
    );
    for peer in node.peers() {
        for (via, network) in addr::pod(peer, 0).both().into_iter().zip(addr::pod_cidrs(peer)) {
            let mac = mac(peer);
            lines.extend([
                format!("neigh add {via} lladdr {mac} dev flannel.1 nud permanent\n"),
                format!("route add {network} via {via} dev flannel.1 onlink\n"),
            ]);
        }
    }
    lines
}

fn mac(node: u8) -> String {
    format!("02:f1:00:00:00:{node:02x}")
}
