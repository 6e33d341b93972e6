//! Which devices are uplinks and which are workload devices. The rules, in order; the first that fits decides:
//!
//! 1. Loopback and devices that lead nowhere (dummy, ifb) are neither, and neither are ports of a bond: a packet that enters a port
//!    passes the bond's hook as well, and the bond has the addresses.
//! 2. A device named by `--uplinks` is an uplink, one named by `--workload-devices` a workload device. Where a flag is
//!    given, the guess that follows no longer finds devices of that role.
//! 3. A device is an *uplink* if it has one of the Node's `InternalIP`s, if a default route leaves through it, or if a route to other
//!    nodes' pods does: to a network within `--cluster-cidr` by a gateway or over a tunnel (without `--cluster-cidr`: any network over
//!    a tunnel). That holds for pairs as well, since a node's `eth0` is a veth in kind. A route to a single address by a gateway
//!    does not make a pair an uplink: that is one pod behind another.
//! 4. A *workload device* is an end of a pair (veth, netkit) whose other end is in another namespace, be it a port of a bridge, a
//!    routed device or one with the pods' gateway address.
//! 5. Of the rest, a NIC, bond, vlan, macvlan, ipvlan or tunnel with a global address of its own is an *uplink*: clients of a second
//!    network dial node ports there.
//!
//! A bridge is an uplink by rule 3 only, so the pods' `cni0` and `docker0` are neither: their packets are seen at the ports. If the
//! node's own address is on a bridge with `eth0` as port, the bridge is attached to and the port is not: what comes
//! from outside enters the bridge device next. A node whose uplink is both a veth and such a port needs `--uplinks`.

use std::{collections::BTreeSet, net::IpAddr};

use ipnet::IpNet;

use super::{
    devices::Role,
    glob::Glob,
    message::{Change, Kind, Link, NextHop, Peer, RouteKey},
    table::Table,
};

/// What an operator says about the node's devices.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    /// `--uplinks`; empty: guessed.
    pub uplinks: Vec<Glob>,
    /// `--workload-devices`; empty: guessed.
    pub workload_devices: Vec<Glob>,
    /// `--cluster-cidr`: the networks of all nodes' pods.
    pub cluster_cidrs: Vec<IpNet>,
}

impl Rules {
    /// Whether a change can matter. Routes that cannot are not even kept: a node that speaks BGP may have a million.
    pub(super) fn are_concerned_by(&self, change: &Change) -> bool {
        match change {
            Change::Route { route, .. } | Change::RouteGone(route) => {
                is_default(&route.key) || self.cluster_cidrs.is_empty() || self.leads_to_pods(&route.key)
            }
            Change::Link(_) | Change::LinkGone(_) | Change::Address(_) | Change::AddressGone(_) | Change::Lost => true,
        }
    }

    fn leads_to_pods(&self, route: &RouteKey) -> bool {
        let destination = &route.destination;
        self.cluster_cidrs.iter().any(|cidr| cidr.contains(destination) || destination.contains(cidr))
    }
}

pub(super) fn is_default(route: &RouteKey) -> bool {
    route.destination.prefix_len() == 0
}

/// All devices of the namespace, judged together.
#[derive(Debug)]
pub(super) struct Classifier<'a> {
    rules: &'a Rules,
    table: &'a Table,
    /// Uplinks by rule 3.
    leading_out: BTreeSet<u32>,
    /// Devices with a global address.
    addressed: BTreeSet<u32>,
}

impl<'a> Classifier<'a> {
    pub(super) fn new(rules: &'a Rules, node_ips: &[IpAddr], table: &'a Table) -> Self {
        let own = table.addresses().filter(|address| node_ips.contains(&address.ip)).map(|address| address.ifindex);
        let routed = table.routes().filter(|(route, hop)| leads_out(rules, table, route, hop)).map(|(_, hop)| hop.ifindex);
        let addressed = table.addresses().filter(|address| address.global).map(|address| address.ifindex);
        Self { rules, table, leading_out: own.chain(routed).collect(), addressed: addressed.collect() }
    }

    pub(super) fn role(&self, link: &Link) -> Option<Role> {
        if matches!(link.kind, Kind::Loopback | Kind::Dead) || self.is_bond_port(link) {
            return None;
        }
        let named = |globs: &[Glob]| globs.iter().any(|glob| glob.matches(&link.name));
        if named(&self.rules.uplinks) {
            return Some(Role::Uplink);
        }
        if named(&self.rules.workload_devices) {
            return Some(Role::Workload);
        }
        self.guess(link).filter(|role| match role {
            Role::Uplink => self.rules.uplinks.is_empty(),
            Role::Workload => self.rules.workload_devices.is_empty(),
        })
    }

    fn guess(&self, link: &Link) -> Option<Role> {
        if self.leading_out.contains(&link.ifindex) {
            return Some(Role::Uplink);
        }
        match link.kind {
            Kind::Pair => (link.peer == Peer::Elsewhere).then_some(Role::Workload),
            Kind::Physical | Kind::Bond | Kind::Stacked | Kind::Tunnel => self.addressed.contains(&link.ifindex).then_some(Role::Uplink),
            Kind::Bridge | Kind::Loopback | Kind::Dead | Kind::Other => None,
        }
    }

    fn is_bond_port(&self, link: &Link) -> bool {
        link.master.and_then(|master| self.table.link(master)).is_some_and(|master| master.kind == Kind::Bond)
    }
}

fn leads_out(rules: &Rules, table: &Table, route: &RouteKey, hop: &NextHop) -> bool {
    if is_default(route) {
        return true;
    }
    let kind = table.link(hop.ifindex).map(|link| link.kind);
    if kind == Some(Kind::Tunnel) {
        return rules.cluster_cidrs.is_empty() || rules.leads_to_pods(route);
    }
    let single = route.destination.prefix_len() == route.destination.max_prefix_len();
    hop.gateway.is_some() && rules.leads_to_pods(route) && !(kind == Some(Kind::Pair) && single)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::testing::{address, link, pair, route};

    /// A node of every kind of network at once, then one role a device: `-` neither, `U` uplink, `W` workload device.
    fn roles(rules: &Rules, changes: Vec<Change>) -> String {
        let mut table = Table::default();
        table.apply_all(changes);
        let node_ips = ["192.0.2.10".parse().expect("an address"), "2001:db8::10".parse().expect("an address")];
        let classifier = Classifier::new(rules, &node_ips, &table);
        let letter = |link| match classifier.role(link) {
            None => '-',
            Some(Role::Uplink) => 'U',
            Some(Role::Workload) => 'W',
        };
        table.links().map(letter).collect()
    }

    fn globs(patterns: &str) -> Vec<Glob> {
        patterns.split_whitespace().map(|pattern| pattern.parse().expect("a pattern")).collect()
    }

    fn cluster() -> Rules {
        Rules { cluster_cidrs: vec!["10.244.0.0/16".parse().expect("a prefix")], ..Rules::default() }
    }

    fn port(ifindex: u32, kind: Kind, master: u32) -> Change {
        Change::Link(Link { master: Some(master), ..link(ifindex, kind) })
    }

    fn via(destination: &str, hops: &[(u32, Option<&str>)]) -> Change {
        Change::Route { route: route(destination, hops), replace: false }
    }

    fn has(ifindex: u32, text: &str) -> Change {
        Change::Address(address(ifindex, text))
    }

    fn is(ifindex: u32, kind: Kind) -> Change {
        Change::Link(link(ifindex, kind))
    }

    fn ends(ifindex: u32) -> Change {
        Change::Link(pair(ifindex, Peer::Elsewhere))
    }

    #[test]
    fn roles_follow_from_addresses_routes_and_peers() {
        let gateway = Some("192.0.2.1");
        let rows: Vec<(&str, Vec<Change>, &str)> = vec![
            (
                "loopback and dummies are neither",
                vec![is(1, Kind::Loopback), is(2, Kind::Dead), has(1, "192.0.2.10"), has(2, "2001:db8::10")],
                "--",
            ),
            (
                "the node's address makes an uplink, of a veth too",
                vec![is(2, Kind::Physical), ends(3), has(2, "192.0.2.10"), has(3, "2001:db8::10")],
                "UU",
            ),
            ("the default route makes an uplink, of a veth too", vec![ends(2), via("0.0.0.0/0", &[(2, gateway)])], "U"),
            (
                "every hop of a default route counts",
                vec![is(2, Kind::Physical), is(3, Kind::Physical), via("::/0", &[(2, None), (3, None)])],
                "UU",
            ),
            ("pods of other nodes by a gateway", vec![ends(2), via("10.244.1.0/24", &[(2, gateway)])], "U"),
            ("pods of other nodes by one gateway for all", vec![ends(2), via("10.244.0.0/15", &[(2, gateway)])], "U"),
            ("pods of other nodes over a tunnel without a gateway", vec![is(2, Kind::Tunnel), via("10.244.1.0/24", &[(2, None)])], "U"),
            ("a tunnel to elsewhere without an address", vec![is(2, Kind::Tunnel), via("10.99.0.0/24", &[(2, None)])], "-"),
            (
                "pods of this node are no other node's",
                vec![is(2, Kind::Bridge), via("10.244.1.0/24", &[(2, None)]), has(2, "10.244.1.1")],
                "-",
            ),
            ("one pod behind another leaves the device a pod's", vec![ends(2), via("10.244.1.9/32", &[(2, Some("10.244.1.8"))])], "W"),
            ("a pair that ends elsewhere", vec![ends(2)], "W"),
            ("a pair with the pods' gateway address", vec![ends(2), has(2, "10.244.1.1"), via("10.244.1.9/32", &[(2, None)])], "W"),
            (
                "a pair that is a bridge's port",
                vec![is(2, Kind::Bridge), Change::Link(Link { master: Some(2), ..pair(3, Peer::Elsewhere) })],
                "-W",
            ),
            ("a pair with both ends here", vec![Change::Link(pair(2, Peer::Here(3))), Change::Link(pair(3, Peer::Here(2)))], "--"),
            ("a pair not finished", vec![Change::Link(pair(2, Peer::Unknown))], "-"),
            (
                "the bond and not its ports",
                vec![is(2, Kind::Bond), port(3, Kind::Physical, 2), port(4, Kind::Physical, 2), has(2, "192.0.2.10"), has(3, "192.0.2.10")],
                "U--",
            ),
            (
                "a bridge with the node's address, not its port",
                vec![is(2, Kind::Bridge), port(3, Kind::Physical, 2), has(2, "192.0.2.10")],
                "U-",
            ),
            ("docker0", vec![is(2, Kind::Bridge), has(2, "172.17.0.1")], "-"),
            (
                "a second network's NIC, once it has an address",
                vec![is(2, Kind::Physical), is(3, Kind::Physical), has(3, "198.51.100.7")],
                "-U",
            ),
            ("a link-local address is not enough", vec![is(2, Kind::Physical), has(2, "fe80::1")], "-"),
            ("a vlan with an address", vec![is(2, Kind::Physical), is(3, Kind::Stacked), has(3, "198.51.100.7")], "-U"),
        ];
        for (name, changes, expected) in rows {
            assert_eq!(roles(&cluster(), changes), expected, "{name}");
        }
    }

    #[test]
    fn flags_take_the_place_of_the_guess() {
        let node = || vec![is(1, Kind::Loopback), ends(2), ends(3), is(4, Kind::Bridge), via("0.0.0.0/0", &[(2, None)])];
        for (uplinks, workloads, expected) in
            [("", "", "-UW-"), ("dev3", "", "--U-"), ("", "dev4", "-U-W"), ("dev?", "dev*", "-UUU"), ("dev4", "dev2", "-W-U")]
        {
            let rules = Rules { uplinks: globs(uplinks), workload_devices: globs(workloads), ..cluster() };
            assert_eq!(roles(&rules, node()), expected, "--uplinks={uplinks} --workload-devices={workloads}");
        }
    }

    #[test]
    fn any_tunnel_with_a_route_is_an_uplink_where_the_pods_networks_are_unknown() {
        assert_eq!(roles(&Rules::default(), vec![is(2, Kind::Tunnel), via("10.244.1.0/24", &[(2, None)])]), "U");
    }

    #[test]
    fn routes_to_strangers_are_not_kept() {
        assert!(cluster().are_concerned_by(&via("0.0.0.0/0", &[])));
        assert!(cluster().are_concerned_by(&via("10.244.3.0/24", &[])));
        assert!(!cluster().are_concerned_by(&via("198.51.100.0/24", &[])));
        assert!(Rules::default().are_concerned_by(&via("198.51.100.0/24", &[])));
    }
}
