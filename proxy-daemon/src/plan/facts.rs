//! What is known about this node.

use std::{net::IpAddr, sync::Arc};

use crate::model::{IpFamily, NodeInfo};

/// The facts about this node that planning depends on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeFacts {
    /// The node's name, which endpoints of this node carry.
    pub name: Arc<str>,
    /// The node's zone, if it is known.
    pub zone: Option<Arc<str>>,
    /// The node's addresses, the primary one first.
    pub node_ips: Vec<IpAddr>,
    /// The addresses at which node ports are served.
    pub node_port_addresses: Vec<IpAddr>,
}

impl NodeFacts {
    /// The facts by the Node object. Where there is none, as in a manifest directory, or it has no address, the machine's own stand in:
    /// the first of each family. Node ports are served at the node's addresses.
    pub fn new(name: &str, node: Option<&NodeInfo>, machine: &[IpAddr]) -> Self {
        let mut node_ips = node.map(|node| node.node_ips.clone()).unwrap_or_default();
        if node_ips.is_empty() {
            node_ips = IpFamily::ALL.into_iter().filter_map(|family| first_of(machine, family)).collect();
        }
        Self { name: name.into(), zone: node.and_then(|node| node.zone.clone()), node_port_addresses: node_ips.clone(), node_ips }
    }
}

fn first_of(addrs: &[IpAddr], family: IpFamily) -> Option<IpAddr> {
    addrs.iter().copied().find(|addr| IpFamily::of(*addr) == family)
}
