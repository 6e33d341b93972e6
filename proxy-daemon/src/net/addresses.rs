//! The node's own addresses, and those it uses where it stands in for a client.
//!
//! In: the table, the Node's `InternalIP`s. Out: [`LocalAddresses`], a complete picture each time.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnet::IpNet;
use proxy_common::{Address as _, Family};

use super::{
    classify::{self, Classifier},
    devices::Role,
    message::{Address, Kind, Link, NextHop, RouteKey},
    table::Table,
};

/// Where kube-proxy puts the addresses of all Services when it uses ipvs. They stay there when it goes, and are not the node's.
const IPVS_DEVICE: &str = "kube-ipvs0";

/// The routing table that packets without a rule of their own follow.
const TABLE_MAIN: u32 = 254;

/// The addresses of all devices in the daemon's namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LocalAddresses {
    all: BTreeSet<LocalAddress>,
    masquerade_v4: Option<Ipv4Addr>,
    masquerade_v6: Option<Ipv6Addr>,
    /// What the kernel would choose as source on each device, at most one of each family.
    sources: Vec<DeviceSource<IpAddr>>,
}

/// What packets have as their source that leave by a device in somebody's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceSource<A> {
    pub ifindex: u32,
    pub address: A,
    /// The largest packet that the device takes.
    pub mtu: u32,
    /// Whether packets leave the device with an Ethernet header.
    pub ethernet: bool,
}

/// One address of the node.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LocalAddress {
    pub address: IpAddr,
    pub prefix_len: u8,
    pub ifindex: u32,
    /// Valid beyond its link: neither loopback nor link-local.
    pub global: bool,
}

impl LocalAddresses {
    pub(super) fn new(table: &Table, classifier: &Classifier<'_>, node_ips: &[IpAddr]) -> Self {
        let ready = || table.addresses().filter(|address| address.ready && !is_of_ipvs(table, address.ifindex));
        let local = |address: &Address| LocalAddress {
            address: address.ip,
            prefix_len: address.prefix_len,
            ifindex: address.ifindex,
            global: address.global,
        };
        let candidates: Vec<IpAddr> = masquerade_candidates(table, classifier, node_ips).collect();
        Self {
            all: ready().map(local).collect(),
            masquerade_v4: candidates.iter().find_map(|ip| if let IpAddr::V4(v4) = ip { Some(*v4) } else { None }),
            masquerade_v6: candidates.iter().find_map(|ip| if let IpAddr::V6(v6) = ip { Some(*v6) } else { None }),
            sources: sources(table, classifier, &candidates),
        }
    }

    /// All addresses, in order.
    pub fn iter(&self) -> impl Iterator<Item = &LocalAddress> {
        self.all.iter()
    }

    /// The addresses that more than a link knows, in order. Each pair has an IPv6 address for its link alone, which would make every new pod
    /// news, and neither a Service nor an endpoint can have such an address.
    pub fn beyond_links(&self) -> impl Iterator<Item = IpAddr> {
        let is_link_local = |addr: &IpAddr| if let IpAddr::V6(addr) = addr { addr.is_unicast_link_local() } else { false };
        self.all.iter().map(|local| local.address).filter(move |addr| !addr.is_loopback() && !is_link_local(addr))
    }

    /// Whether packets to `address` are for this node. The kernel takes all of 127.0.0.0/8 as its own.
    pub fn contains(&self, address: IpAddr) -> bool {
        address.is_loopback() || self.all.iter().any(|local| local.address == address)
    }

    /// The source for packets that must come back through this node: the Node's `InternalIP`, if a device has it; else the address
    /// of the device with the default route; else of any uplink; else any global address.
    pub fn masquerade_source<F: Family>(&self) -> Option<F::Addr> {
        let sources = [self.masquerade_v4.map(IpAddr::from), self.masquerade_v6.map(IpAddr::from)];
        sources.into_iter().flatten().find_map(F::Addr::from_ip)
    }

    /// The source that the kernel would choose on each device that has a global address of the family, and on those without Ethernet headers
    /// that have none; uplinks first.
    pub fn sources<F: Family>(&self) -> impl Iterator<Item = DeviceSource<F::Addr>> {
        let of_family = |source: &DeviceSource<IpAddr>| {
            let DeviceSource { ifindex, address, mtu, ethernet } = *source;
            Some(DeviceSource { ifindex, address: F::Addr::from_ip(address)?, mtu, ethernet })
        };
        self.sources.iter().filter_map(of_family)
    }
}

/// Whether a device is the one where kube-proxy puts addresses that are not the node's.
fn is_of_ipvs(table: &Table, ifindex: u32) -> bool {
    table.link(ifindex).is_some_and(|link| link.name == IPVS_DEVICE)
}

fn is_usable(address: &Address) -> bool {
    address.ready && address.global
}

/// The addresses of a device that are good beyond its link, in the order in which the kernel prefers them as source.
fn of_device(table: &Table, ifindex: u32) -> Vec<&Address> {
    let mut own: Vec<&Address> = table.addresses_of(ifindex).into_iter().filter(|address| is_usable(address)).collect();
    // Stable: the kernel's own order among equals.
    own.sort_by_key(|address| !address.primary);
    own
}

/// What stands in on each device that has an address, uplinks first: packets leave by a bridge to pods as well. Tunnels may have none, and packets
/// leave them in another way than an Ethernet all the same: there it is the `preferred` one. And so it is on devices that have no program: nobody
/// would translate the answers that come by them to their own address.
fn sources(table: &Table, classifier: &Classifier<'_>, preferred: &[IpAddr]) -> Vec<DeviceSource<IpAddr>> {
    let leads_somewhere = |link: &&Link| !matches!(link.kind, Kind::Loopback | Kind::Dead);
    let mut links: Vec<&Link> = table.links().filter(leads_somewhere).collect();
    links.sort_by_key(|link| classifier.role(link) != Some(Role::Uplink));
    let families: [fn(&IpAddr) -> bool; 2] = [IpAddr::is_ipv4, IpAddr::is_ipv6];
    let of_link = |link: &Link| {
        let &Link { ifindex, mtu, ethernet, .. } = link;
        let preferred = |is_family: fn(&IpAddr) -> bool| preferred.iter().copied().find(is_family);
        // By a bridge answers come from its ports.
        let is_heard = classifier.role(link).is_some() || link.kind == Kind::Bridge;
        families.map(|is_family| {
            let address = match source(table, ifindex, is_family) {
                Some(own) if is_heard => own,
                None if ethernet => return None,
                _ => preferred(is_family)?,
            };
            Some(DeviceSource { ifindex, address, mtu, ethernet })
        })
    };
    links.into_iter().flat_map(of_link).flatten().collect()
}

/// The source that the kernel would choose on a device, for what goes beyond its link: that of the default route; else the first address in the
/// network of that route's gateway; else the first.
fn source(table: &Table, ifindex: u32, is_family: fn(&IpAddr) -> bool) -> Option<IpAddr> {
    let own: Vec<&Address> = of_device(table, ifindex).into_iter().filter(|address| is_family(&address.ip)).collect();
    let hops: Vec<&NextHop> = default_routes(table).into_iter().map(|(_, hop)| hop).filter(|hop| hop.ifindex == ifindex).collect();
    let by_route = hops.iter().filter_map(|hop| hop.source).find(|ip| own.iter().any(|address| address.ip == *ip));
    let is_near = |address: &&&Address| {
        let network = IpNet::new(address.ip, address.prefix_len);
        address.primary && network.is_ok_and(|network| hops.iter().filter_map(|hop| hop.gateway).any(|gateway| network.contains(&gateway)))
    };
    by_route.or_else(|| own.iter().find(is_near).or(own.first()).map(|address| address.ip))
}

/// Usable sources of both families, the best first.
fn masquerade_candidates(table: &Table, classifier: &Classifier<'_>, node_ips: &[IpAddr]) -> impl Iterator<Item = IpAddr> {
    let usable: Vec<&Address> = table.addresses().filter(|address| is_usable(address) && !is_of_ipvs(table, address.ifindex)).collect();
    let of_device = |ifindex: u32| of_device(table, ifindex).into_iter().map(|address| address.ip);

    let is_usable = |ip: &IpAddr| usable.iter().any(|address| address.ip == *ip);
    let mut candidates: Vec<IpAddr> = node_ips.iter().copied().filter(is_usable).collect();
    for (_, hop) in default_routes(table) {
        candidates.extend(hop.source.into_iter().filter(is_usable).chain(of_device(hop.ifindex)));
    }
    let is_uplink = |ifindex| table.link(ifindex).and_then(|link| classifier.role(link)) == Some(Role::Uplink);
    for device in table.links().filter(|link| is_uplink(link.ifindex)) {
        candidates.extend(of_device(device.ifindex));
    }
    candidates.extend(usable.iter().map(|address| address.ip));
    candidates.into_iter()
}

/// The default routes of the main table, the preferred first.
fn default_routes(table: &Table) -> Vec<(&RouteKey, &NextHop)> {
    let mut routes: Vec<_> = table.routes().filter(|(key, _)| key.table == TABLE_MAIN && classify::is_default(key)).collect();
    routes.sort_by_key(|(key, _)| key.metric);
    routes
}

#[cfg(test)]
mod tests {
    use proxy_common::{Addr4, Addr6, V4, V6};

    use super::*;
    use crate::net::{
        classify::Rules,
        message::{Change, Peer},
        testing::{address, link, pair, route},
    };

    fn addresses(node_ips: &[&str], changes: Vec<Change>) -> LocalAddresses {
        let mut table = Table::default();
        table.apply_all(changes);
        let node_ips: Vec<IpAddr> = node_ips.iter().map(|ip| ip.parse().expect("an address")).collect();
        let rules = Rules::default();
        let classifier = Classifier::new(&rules, &node_ips, &table);
        LocalAddresses::new(&table, &classifier, &node_ips)
    }

    fn node() -> Vec<Change> {
        vec![
            Change::Link(link(1, Kind::Loopback)),
            Change::Link(link(2, Kind::Bridge)),
            Change::Link(link(3, Kind::Physical)),
            Change::Address(address(1, "127.0.0.1")),
            Change::Address(address(2, "172.17.0.1")),
            Change::Address(address(3, "192.0.2.10")),
            Change::Address(address(3, "192.0.2.11")),
            Change::Address(address(3, "2001:db8::10")),
            Change::Address(address(3, "fe80::10")),
        ]
    }

    fn default_route() -> Change {
        Change::Route { route: route("0.0.0.0/0", &[(3, Some("192.0.2.1"))]), replace: false }
    }

    fn v4(local: &LocalAddresses) -> Option<String> {
        local.masquerade_source::<V4>().map(|addr: Addr4| addr.to_ip().to_string())
    }

    fn v6(local: &LocalAddresses) -> Option<String> {
        local.masquerade_source::<V6>().map(|addr: Addr6| addr.to_ip().to_string())
    }

    #[test]
    fn the_nodes_own_address_stands_in_for_clients() {
        let local = addresses(&["192.0.2.11"], node());
        assert_eq!(v4(&local).as_deref(), Some("192.0.2.11"));
        assert_eq!(v6(&local).as_deref(), Some("2001:db8::10"));
    }

    /// As Cilium's `cilium_host`, a pair of which both ends are here, by which the way to other nodes' pods leads.
    #[test]
    fn on_a_device_without_a_program_the_nodes_own_address_stands_in() {
        let inner = vec![
            Change::Link(pair(4, Peer::Here(5))),
            Change::Link(pair(5, Peer::Here(4))),
            Change::Address(address(4, "10.0.0.147")),
            Change::Link(link(6, Kind::Other)),
        ];
        let local = addresses(&["192.0.2.10"], [node(), inner].concat());
        let of = |ifindex| local.sources::<V4>().find(|source| source.ifindex == ifindex).map(|source| source.address.to_ip().to_string());
        assert_eq!([3, 2, 4].map(of), ["192.0.2.10", "172.17.0.1", "192.0.2.10"].map(|ip| Some(ip.to_owned())));
        assert_eq!(of(6), None, "one without an address is as any other");
    }

    #[test]
    fn an_internal_ip_that_no_device_has_is_no_source() {
        let local = addresses(&["203.0.113.5"], [node(), vec![default_route()]].concat());
        assert_eq!(v4(&local).as_deref(), Some("192.0.2.10"));
    }

    #[test]
    fn a_secondary_address_comes_second() {
        let mut secondary = address(3, "192.0.2.9");
        secondary.primary = false;
        let local = addresses(&[], [node(), vec![Change::Address(secondary), default_route()]].concat());
        assert_eq!(v4(&local).as_deref(), Some("192.0.2.10"));
    }

    #[test]
    fn an_address_on_probation_is_not_ours_yet() {
        let mut tentative = address(3, "2001:db8::10");
        tentative.ready = false;
        let local = addresses(&["2001:db8::10"], [node(), vec![Change::Address(tentative)]].concat());
        assert_eq!(v6(&local), None);
        assert!(!local.contains("2001:db8::10".parse().expect("an address")));
    }

    #[test]
    fn link_local_and_loopback_addresses_are_local_but_no_source() {
        let local = addresses(&[], vec![Change::Address(address(1, "127.0.0.1")), Change::Address(address(3, "fe80::10"))]);
        assert_eq!((v4(&local), v6(&local)), (None, None));
        assert!(local.contains("fe80::10".parse().expect("an address")));
        assert!(local.contains("127.3.2.1".parse().expect("an address")));
    }

    #[test]
    fn addresses_of_a_link_alone_are_no_news() {
        let local = addresses(&[], [node(), vec![Change::Address(address(2, "169.254.20.10"))]].concat());
        let beyond: Vec<String> = local.beyond_links().map(|addr| addr.to_string()).collect();
        assert_eq!(beyond, ["169.254.20.10", "172.17.0.1", "192.0.2.10", "192.0.2.11", "2001:db8::10"]);
    }

    #[test]
    fn what_kube_proxy_has_put_on_a_device_of_its_own_is_not_the_nodes() {
        let device = Change::Link(Link { name: IPVS_DEVICE.to_owned(), ..link(4, Kind::Dead) });
        let local = addresses(&[], vec![device, Change::Address(address(4, "10.96.0.10"))]);
        assert_eq!(local.beyond_links().count(), 0);
    }

    fn sources(changes: Vec<Change>) -> Vec<(u32, String)> {
        let local = addresses(&[], changes);
        let v4 = local.sources::<V4>().map(|source| (source.ifindex, source.address.to_ip().to_string()));
        v4.chain(local.sources::<V6>().map(|source| (source.ifindex, source.address.to_ip().to_string()))).collect()
    }

    fn at(found: &[(u32, &str)]) -> Vec<(u32, String)> {
        found.iter().map(|(ifindex, text)| (*ifindex, (*text).to_owned())).collect()
    }

    #[test]
    fn each_device_with_an_address_has_a_source_of_its_own_and_uplinks_come_first() {
        let pod = vec![Change::Link(pair(9, Peer::Elsewhere)), Change::Address(address(9, "10.244.1.1"))];
        let found = sources([node(), pod].concat());
        assert_eq!(found, at(&[(3, "192.0.2.10"), (2, "172.17.0.1"), (9, "10.244.1.1"), (3, "2001:db8::10")]));
    }

    #[test]
    fn the_oldest_ipv4_and_the_newest_ipv6_address_of_a_device_is_its_source() {
        let added = ["192.0.2.20", "192.0.2.10", "2001:db8::20", "2001:db8::10"].map(|text| Change::Address(address(3, text)));
        let mut changes = vec![Change::Link(link(3, Kind::Physical))];
        changes.extend(added);
        assert_eq!(sources(changes.clone()), at(&[(3, "192.0.2.20"), (3, "2001:db8::10")]));
        // The same address once more, as when only its lifetime changes.
        changes.push(Change::Address(address(3, "2001:db8::20")));
        assert_eq!(sources(changes), at(&[(3, "192.0.2.20"), (3, "2001:db8::10")]));
    }

    #[test]
    fn the_default_route_says_which_source_it_has_or_is_near_to() {
        let two = |gateway: Option<&str>| {
            let mut near = route("0.0.0.0/0", &[(3, Some("198.51.100.1"))]);
            near.next_hops[0].source = gateway.map(|source| source.parse().expect("an address"));
            vec![
                Change::Link(link(3, Kind::Physical)),
                Change::Address(address(3, "192.0.2.10")),
                Change::Address(address(3, "198.51.100.10")),
                Change::Address(address(3, "203.0.113.10")),
                Change::Route { route: near, replace: false },
            ]
        };
        assert_eq!(sources(two(None)), at(&[(3, "198.51.100.10")]));
        assert_eq!(sources(two(Some("203.0.113.10"))), at(&[(3, "203.0.113.10")]));
        assert_eq!(sources(two(Some("203.0.113.99"))), at(&[(3, "198.51.100.10")]));
    }

    #[test]
    fn a_tunnel_without_an_address_has_the_nodes_own_as_its_source() {
        let mut tunnel = link(4, Kind::Tunnel);
        tunnel.ethernet = false;
        let found = addresses(&["192.0.2.11"], [node(), vec![Change::Link(tunnel), Change::Link(link(5, Kind::Tunnel))]].concat());
        let of_tunnels: Vec<_> = found.sources::<V4>().filter(|source| source.ifindex > 3).collect();
        let address = Addr4::from_ip([192, 0, 2, 11].into()).expect("an address of IPv4");
        assert_eq!(of_tunnels, [DeviceSource { ifindex: 4, address, mtu: 1500, ethernet: false }]);
    }
}
