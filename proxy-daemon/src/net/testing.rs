//! Short names for the objects of this module's tests.

use std::net::IpAddr;

use super::message::{Address, Kind, Link, NextHop, Peer, Route, RouteKey};

/// A device called `dev` and its index.
pub(super) fn link(ifindex: u32, kind: Kind) -> Link {
    Link { ifindex, name: format!("dev{ifindex}"), kind, ethernet: true, mtu: 1500, mac: [0; 6], master: None, peer: Peer::None }
}

pub(super) fn pair(ifindex: u32, peer: Peer) -> Link {
    Link { peer, ..link(ifindex, Kind::Pair) }
}

pub(super) fn address(ifindex: u32, text: &str) -> Address {
    let ip: IpAddr = text.parse().expect("an address");
    let global = !text.starts_with("fe80") && !ip.is_loopback();
    Address { ifindex, ip, prefix_len: if ip.is_ipv4() { 24 } else { 64 }, global, ready: true, primary: true }
}

/// A route of the main table: its hops are an ifindex and a gateway each.
pub(super) fn route(destination: &str, hops: &[(u32, Option<&str>)]) -> Route {
    let destination = destination.parse().expect("a prefix");
    let hop = |&(ifindex, gateway): &(u32, Option<&str>)| NextHop {
        ifindex,
        gateway: gateway.map(|gateway| gateway.parse().expect("an address")),
        source: None,
    };
    let key = RouteKey { table: 254, destination, metric: 0, tos: 0 };
    Route { key, next_hops: hops.iter().map(hop).collect() }
}
