//! Routed pods: a host route per pod to its veth, and a gateway that exists on no device.
//!
//! The pod resolves 169.254.1.1, which the node answers for every address it has a route to; over IPv6 the gateway is
//! a link-local address that each of the node's ends carries.

use anyhow::Result;

use crate::{addr::Addrs, host::Host as _, node::Node, pod::Pod};

pub(super) const MTU: u16 = 1500;

pub(super) fn set_up_node(node: &Node) -> Result<()> {
    node.netns().ip(&(super::routes_to_peers(node, super::underlay) + &holes(node)))
}

/// What is routed to the node but belongs to no pod must not go out by the default route again.
pub(super) fn holes(node: &Node) -> String {
    node.pod_cidrs().map(|network| format!("route add blackhole {network}\n")).concat()
}

pub(super) fn attach_pod(pod: &Pod, mtu: u16) -> Result<()> {
    let (node, device, inside) = (pod.node().netns(), pod.host_device(), pod.netns());
    let Addrs { v4, v6 } = pod.addrs();
    let peer = inside.name();
    node.ip(&format!(
        "link add {device} address ee:ee:ee:ee:ee:ee mtu {mtu} type veth peer name eth0 mtu {mtu} netns {peer}\n\
         link set {device} addrgenmode none\n\
         link set {device} up\n\
         addr add fe80::1/64 dev {device} nodad\n\
         route add {v4}/32 dev {device} scope link\n\
         route add {v6}/128 dev {device}\n"
    ))?;
    node.sysctl(&[(&format!("ipv4/conf/{device}/proxy_arp"), "1"), (&format!("ipv4/neigh/{device}/proxy_delay"), "0")])?;
    inside.ip(&format!(
        "link set eth0 up\n\
         addr add {v4}/32 dev eth0\n\
         addr add {v6}/128 dev eth0 nodad\n\
         route add 169.254.1.1 dev eth0 scope link\n\
         route add default via 169.254.1.1 dev eth0\n\
         route add default via fe80::1 dev eth0\n"
    ))
}
