//! At which of the node's addresses node ports are served (`--nodeport-addresses`, kube-proxy's `nodePortAddresses`).

use std::{collections::BTreeSet, net::IpAddr};

use ipnet::IpNet;

use crate::model::IpFamily;

/// Which addresses the operator has chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodePortAddresses {
    /// Those that the Node object names.
    pub primary: bool,
    /// Those of the node's devices that are in one of these networks.
    pub networks: Vec<IpNet>,
    /// Loopback, where it is served.
    pub loopback: Vec<IpAddr>,
}

/// Those of the Node object, as with nftables.
impl Default for NodePortAddresses {
    fn default() -> Self {
        Self { primary: true, networks: Vec::new(), loopback: Vec::new() }
    }
}

impl NodePortAddresses {
    /// Whether a network of loopback addresses is named.
    pub fn name_loopback(&self) -> bool {
        self.networks.iter().any(|network| network.network().is_loopback())
    }

    /// Whether every address that the node has or will have is meant.
    pub fn are_all(&self) -> bool {
        let is_unlimited = |family| {
            let mut networks = self.networks.iter().filter(|network| IpFamily::of(network.network()) == family).peekable();
            networks.peek().is_none() || networks.any(|network| network.prefix_len() == 0)
        };
        !self.primary && IpFamily::ALL.into_iter().all(is_unlimited)
    }

    /// The addresses that are meant, of those that the Node object names and those that devices have.
    pub(super) fn choose(&self, node_ips: &[IpAddr], own: &BTreeSet<IpAddr>) -> Vec<IpAddr> {
        let mut chosen: Vec<IpAddr> = if self.primary { node_ips.to_vec() } else { Vec::new() };
        let more: Vec<IpAddr> = own.iter().copied().filter(|addr| !chosen.contains(addr) && self.has(*addr)).collect();
        chosen.extend(more.into_iter().chain(self.loopback.iter().copied()));
        chosen
    }

    /// Where networks of the other family only are named, this one has no limits (kube-proxy's rule). `primary` speaks for both families: a node
    /// without an address of one is not meant to serve all that it has there.
    fn has(&self, addr: IpAddr) -> bool {
        let mut networks = self.networks.iter().filter(|network| IpFamily::of(network.network()) == IpFamily::of(addr)).peekable();
        let is_unlimited = !self.primary && networks.peek().is_none();
        is_unlimited || networks.any(|network| network.contains(&addr))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_is_what_has_no_limits_in_either_family() {
        for (primary, networks, expected) in [
            (true, &[][..], false),
            (true, &["0.0.0.0/0", "::/0"], false),
            (false, &["0.0.0.0/0", "::/0"], true),
            (false, &["0.0.0.0/0"], true),
            (false, &["10.0.0.0/8", "::/0"], false),
        ] {
            let networks = networks.iter().map(|network| network.parse().unwrap()).collect();
            assert_eq!(NodePortAddresses { primary, networks, loopback: Vec::new() }.are_all(), expected);
        }
    }

    #[test]
    fn networks_and_the_nodes_own_addresses_add_up() {
        let node_ips = ["192.0.2.1", "2001:db8::1"].map(|addr| addr.parse().unwrap());
        let own = ["10.1.0.1", "172.17.0.1", "192.0.2.1", "192.0.2.2", "2001:db8::1", "2001:db8:1::1"].map(|addr| addr.parse().unwrap());
        for (primary, networks, expected) in [
            (true, &[][..], "192.0.2.1 2001:db8::1"),
            (true, &["10.0.0.0/8"], "192.0.2.1 2001:db8::1 10.1.0.1"),
            (false, &["192.0.2.0/24", "2001:db8:1::/64"], "192.0.2.1 192.0.2.2 2001:db8:1::1"),
            (false, &["192.0.2.2/32"], "192.0.2.2 2001:db8::1 2001:db8:1::1"),
            (false, &["2001:db8::/64"], "10.1.0.1 172.17.0.1 192.0.2.1 192.0.2.2 2001:db8::1"),
            (false, &["0.0.0.0/0", "::/0"], "10.1.0.1 172.17.0.1 192.0.2.1 192.0.2.2 2001:db8::1 2001:db8:1::1"),
            (false, &["127.0.0.0/8", "::1/128"], ""),
            (true, &["127.0.0.0/8", "::1/128"], "192.0.2.1 2001:db8::1"),
        ] {
            let networks: Vec<IpNet> = networks.iter().map(|network| network.parse().unwrap()).collect();
            let addresses = NodePortAddresses { primary, networks, loopback: Vec::new() };
            let chosen: Vec<String> = addresses.choose(&node_ips, &own.into()).iter().map(ToString::to_string).collect();
            let chosen = chosen.join(" ");
            let sorted = |text: &str| text.split_whitespace().map(str::to_owned).collect::<BTreeSet<_>>();
            assert_eq!(sorted(&chosen), sorted(expected), "{addresses:?}");
        }
    }
}
