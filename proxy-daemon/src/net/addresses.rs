//! The node's own addresses, and the one it uses where it stands in for a client.
//!
//! In: the table, the Node's `InternalIP`s. Out: [`LocalAddresses`], a complete picture each time, and the ports that the node's own sockets use.

use std::{
    collections::BTreeSet,
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    ops::RangeInclusive,
};

use proxy_common::{Address as _, Family};

use super::{
    Error,
    classify::{self, Classifier},
    devices::Role,
    message::{Address, NextHop, RouteKey},
    table::Table,
};

const PORT_RANGE: &str = "/proc/sys/net/ipv4/ip_local_port_range";

/// Above what needs privilege, below node ports.
const MASQUERADE_PORTS: RangeInclusive<u16> = 1024..=29_999;

/// The routing table that packets without a rule of their own follow.
const TABLE_MAIN: u32 = 254;

/// The addresses of all devices in the daemon's namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LocalAddresses {
    all: BTreeSet<LocalAddress>,
    masquerade_v4: Option<Ipv4Addr>,
    masquerade_v6: Option<Ipv6Addr>,
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
        let ready = || table.addresses().filter(|address| address.ready);
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
        }
    }

    /// All addresses, in order.
    pub fn iter(&self) -> impl Iterator<Item = &LocalAddress> {
        self.all.iter()
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
}

/// Usable sources of both families, the best first.
fn masquerade_candidates(table: &Table, classifier: &Classifier<'_>, node_ips: &[IpAddr]) -> impl Iterator<Item = IpAddr> {
    let usable: Vec<&Address> = table.addresses().filter(|address| address.ready && address.global).collect();
    let of_device = |ifindex: u32| {
        // Stable: the order of the table among equals.
        let mut own: Vec<&Address> = usable.iter().copied().filter(|address| address.ifindex == ifindex).collect();
        own.sort_by_key(|address| !address.primary);
        own.into_iter().map(|address| address.ip)
    };

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

/// Source ports that stand in for a client's: none that the kernel gives to sockets of this node that ask for none.
pub fn masquerade_ports() -> Result<RangeInclusive<u16>, Error> {
    let text = fs::read_to_string(PORT_RANGE).map_err(|source| Error::Read { path: PORT_RANGE, source })?;
    let local = parse_port_range(&text).ok_or(Error::PortRange { path: PORT_RANGE, text })?;
    Ok(outside(MASQUERADE_PORTS, &local))
}

/// The larger part of `ports` that `local` leaves over; all of them where it leaves none.
fn outside(ports: RangeInclusive<u16>, local: &RangeInclusive<u16>) -> RangeInclusive<u16> {
    let (first, last) = (*ports.start(), *ports.end());
    let below = first..=last.min(local.start().saturating_sub(1));
    let above = first.max(local.end().saturating_add(1))..=last;
    let larger = if above.len() > below.len() { above } else { below };
    if larger.is_empty() { ports } else { larger }
}

fn parse_port_range(text: &str) -> Option<RangeInclusive<u16>> {
    let mut ports = text.split_whitespace().map(str::parse);
    match (ports.next()?, ports.next()?, ports.next()) {
        (Ok(first), Ok(last), None) if first <= last => Some(first..=last),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proxy_common::{Addr4, Addr6, V4, V6};

    use super::*;
    use crate::net::{
        classify::Rules,
        message::{Change, Kind},
        testing::{address, link, route},
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
    fn ports_of_the_nodes_own_sockets_are_left_to_them() {
        for (local, expected) in [
            (32_768..=60_999, 1024..=29_999),
            (20_000..=60_999, 1024..=19_999),
            (1024..=9999, 10_000..=29_999),
            (10_000..=15_000, 15_001..=29_999),
            (1024..=65_535, 1024..=29_999),
            (1..=1, 1024..=29_999),
            (0..=u16::MAX, 1024..=29_999),
        ] {
            assert_eq!(outside(MASQUERADE_PORTS, &local), expected, "{local:?}");
        }
    }

    #[test]
    fn port_ranges_are_two_numbers_in_order() {
        assert_eq!(parse_port_range("32768\t60999\n"), Some(32768..=60999));
        for text in ["", "32768", "60999 32768", "1 2 3", "1 70000"] {
            assert_eq!(parse_port_range(text), None, "{text:?}");
        }
    }
}
