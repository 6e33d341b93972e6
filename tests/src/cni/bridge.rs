//! Bridged pods: `cni0` with the gateway's addresses, a port per pod.

use anyhow::Result;

use crate::{
    addr::{self, Addrs},
    host::Host as _,
    node::Node,
    pod::Pod,
};

pub(super) const MTU: u16 = 1500;

pub(super) fn set_up_node(node: &Node) -> Result<()> {
    add_bridge(node, MTU)?;
    node.netns().ip(&super::routes_to_peers(node, super::underlay))
}

/// Makes the bridge. Its hardware address is fixed, for a bridge's own changes with its ports.
pub(super) fn add_bridge(node: &Node, mtu: u16) -> Result<()> {
    let index = node.index();
    let Addrs { v4, v6 } = addr::pod(index, 1);
    node.netns().ip(&format!(
        "link add cni0 address 0a:58:0a:f4:{index:02x}:01 mtu {mtu} type bridge\n\
         link set cni0 up\n\
         addr add {v4}/24 dev cni0\n\
         addr add {v6}/64 dev cni0 nodad\n"
    ))
}

pub(super) fn attach_pod(pod: &Pod, mtu: u16) -> Result<()> {
    let (node, device, inside) = (pod.node(), pod.host_device(), pod.netns());
    let (peer, hairpin) = (inside.name(), if node.plan().hairpin { "on" } else { "off" });
    node.netns().ip(&format!(
        "link add {device} mtu {mtu} type veth peer name eth0 mtu {mtu} netns {peer}\n\
         link set {device} master cni0 up\n\
         link set {device} type bridge_slave hairpin {hairpin}\n"
    ))?;
    let (own, gateway) = (pod.addrs(), addr::pod(node.index(), 1));
    inside.ip(&format!(
        "link set eth0 up\n\
         addr add {}/24 dev eth0\n\
         addr add {}/64 dev eth0 nodad\n\
         route add default via {}\n\
         route add default via {}\n",
        own.v4, own.v6, gateway.v4, gateway.v6
    ))
}
