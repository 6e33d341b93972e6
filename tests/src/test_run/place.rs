//! The network around a node's programs: a namespace with the routes that they ask the kernel for.
//!
//! Packets of a test run come by the namespace's loopback device, whatever program they are for.

use std::fmt::Write as _;

use anyhow::{Context as _, Result};
use nix::net::if_::if_nametoindex;

use crate::{addr, name::BedName, netns::Netns};

/// What the way to other nodes' pods takes: less than the way to clients.
pub const TUNNEL_MTU: u16 = 1400;

/// Makes the namespace of a node `n1`: a device to the world, one to its own pods, and one to those of the node `n2`.
pub(super) fn build(name: &BedName) -> Result<Netns> {
    let netns = Netns::create(&name.part("place"))?;
    netns.sysctl(&[("ipv4/conf/all/forwarding", "1"), ("ipv6/conf/all/forwarding", "1")])?;
    let mut lines = String::new();
    for device in ["world", "pods", "tunnel"] {
        write!(lines, "link add {device} type veth peer name {device}-end\nlink set {device} up\nlink set {device}-end up\n")?;
    }
    writeln!(lines, "link set tunnel mtu {TUNNEL_MTU}")?;
    for (family, bits) in [(addr::Family::V4, 24), (addr::Family::V6, 64)] {
        let (node, router) = (addr::node(1).of(family), addr::router().of(family));
        write!(lines, "addr add {node}/{bits} dev world nodad\nroute add default via {router} dev world\n")?;
        // Nobody is there. Who dials shall wait for an answer, and not hear that there is no such router.
        writeln!(lines, "neigh add {router} lladdr 02:00:00:00:00:01 dev world nud permanent")?;
    }
    for (node, device) in [(1, "pods"), (2, "tunnel")] {
        for network in addr::pod_cidrs(node) {
            writeln!(lines, "route add {network} dev {device}")?;
        }
    }
    netns.ip(&lines)?;
    Ok(netns)
}

/// The number of the device to other nodes' pods.
pub(super) fn tunnel(place: &Netns) -> Result<u32> {
    place.run(|| if_nametoindex("tunnel")).context("asking for the tunnel's number")
}
