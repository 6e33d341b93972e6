//! What is known about this node.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use super::Settings;
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
    /// The addresses that devices of the node have.
    pub own: Arc<BTreeSet<IpAddr>>,
    /// What the operator says.
    pub settings: Arc<Settings>,
}

/// What the machine says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Machine {
    /// What stands in where the Node object has no addresses, the best first.
    pub preferred: Vec<IpAddr>,
    /// The addresses that devices have, those aside that only a link knows.
    pub own: Arc<BTreeSet<IpAddr>>,
}

impl NodeFacts {
    /// The facts by the Node object. Where there is none, as in a manifest directory, or it has no address, the machine's own stand in:
    /// the first of each family.
    pub fn new(settings: &Arc<Settings>, name: &str, node: Option<&NodeInfo>, machine: &Machine) -> Self {
        let mut node_ips = node.map(|node| node.node_ips.clone()).unwrap_or_default();
        if node_ips.is_empty() {
            node_ips = IpFamily::ALL.into_iter().filter_map(|family| first_of(&machine.preferred, family)).collect();
        }
        Self {
            name: name.into(),
            zone: node.and_then(|node| node.zone.clone()),
            node_port_addresses: settings.node_ports.choose(&node_ips, &machine.own),
            node_ips,
            own: Arc::clone(&machine.own),
            settings: Arc::clone(settings),
        }
    }

    /// The node's address of a family.
    pub fn node_ip(&self, family: IpFamily) -> Option<IpAddr> {
        first_of(&self.node_ips, family)
    }

    /// Whether packets to an address end at this node.
    pub fn has_address(&self, addr: IpAddr) -> bool {
        self.own.contains(&addr)
    }
}

// === impl Machine ===

impl Machine {
    /// A machine with these addresses, the best first.
    pub fn with(addresses: &[IpAddr]) -> Self {
        Self { preferred: addresses.to_vec(), own: Arc::new(addresses.iter().copied().collect()) }
    }
}

fn first_of(addrs: &[IpAddr], family: IpFamily) -> Option<IpAddr> {
    addrs.iter().copied().find(|addr| IpFamily::of(*addr) == family)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_says_what_the_node_does_not() {
        let [first, second, v6] = ["192.0.2.1", "192.0.2.2", "2001:db8::1"].map(|addr| addr.parse::<IpAddr>().unwrap());
        let facts = NodeFacts::new(&Arc::default(), "n1", None, &Machine::with(&[first, second, v6]));
        assert_eq!(facts.node_ips, [first, v6]);
        assert_eq!((facts.node_ip(IpFamily::V4), facts.node_ip(IpFamily::V6)), (Some(first), Some(v6)));
        assert!(facts.has_address(second) && !facts.has_address("192.0.2.3".parse().unwrap()));
    }
}
