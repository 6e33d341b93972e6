//! What is known of the namespace: its links, addresses and routes.
//!
//! In: [`Change`]s in the order the kernel reported them. Out: facts to classify devices by.
//!
//! Two things are not reported and are made up for here. When one end of a pair leaves the namespace, only that end is reported;
//! the end that stays is set to [`Peer::Unknown`] and listed in [`Table::take_unpaired`], so that the kernel is asked about it. And when
//! a device vanishes or goes down, the kernel drops its IPv4 routes in silence: those of vanished devices are dropped here too, those of
//! a device that is down are kept until the next full list, since a role need not change with a cable.

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
    net::IpAddr,
};

use super::message::{Address, Change, Kind, Link, NextHop, Peer, Route, RouteKey};

#[derive(Debug, Default)]
pub(super) struct Table {
    links: BTreeMap<u32, Link>,
    /// With the order in which they came.
    addresses: BTreeMap<(u32, IpAddr, u8), (u64, Address)>,
    next: u64,
    routes: BTreeMap<RouteKey, BTreeSet<NextHop>>,
    unpaired: BTreeSet<u32>,
    vanished: BTreeSet<u32>,
}

impl Table {
    pub(super) fn links(&self) -> impl Iterator<Item = &Link> {
        self.links.values()
    }

    pub(super) fn link(&self, ifindex: u32) -> Option<&Link> {
        self.links.get(&ifindex)
    }

    pub(super) fn addresses(&self) -> impl Iterator<Item = &Address> {
        self.addresses.values().map(|(_, address)| address)
    }

    /// The addresses of a device in the order in which the kernel keeps them: of IPv4 the oldest first, of IPv6 the newest.
    pub(super) fn addresses_of(&self, ifindex: u32) -> Vec<&Address> {
        let mut own: Vec<&(u64, Address)> = self.addresses.values().filter(|(_, address)| address.ifindex == ifindex).collect();
        own.sort_by_key(|(since, address)| if address.ip.is_ipv4() { (0, *since) } else { (1, u64::MAX - since) });
        own.into_iter().map(|(_, address)| address).collect()
    }

    pub(super) fn routes(&self) -> impl Iterator<Item = (&RouteKey, &NextHop)> {
        self.routes.iter().flat_map(|(key, hops)| hops.iter().map(move |hop| (key, hop)))
    }

    /// The devices that are known here and not there.
    pub(super) fn links_not_in(&self, other: &Self) -> Vec<u32> {
        self.links.keys().filter(|ifindex| !other.links.contains_key(ifindex)).copied().collect()
    }

    /// The pairs whose peer the kernel has to be asked about, once.
    pub(super) fn take_unpaired(&mut self) -> BTreeSet<u32> {
        mem::take(&mut self.unpaired)
    }

    /// The devices that have gone since the last call, even if their index is in use again.
    pub(super) fn take_vanished(&mut self) -> BTreeSet<u32> {
        mem::take(&mut self.vanished)
    }

    /// Takes a full list in place of all that was known. An index that stands for another device now counts as vanished: the
    /// messages in between may have been lost.
    pub(super) fn replace(&mut self, fresh: Self) {
        let old = mem::replace(self, fresh);
        self.vanished.extend(old.vanished);
        for link in old.links.values() {
            if self.links.get(&link.ifindex).is_none_or(|now| is_another(link, now)) {
                self.vanished.insert(link.ifindex);
            }
        }
    }

    pub(super) fn apply_all(&mut self, changes: impl IntoIterator<Item = Change>) {
        changes.into_iter().for_each(|change| self.apply(change));
    }

    pub(super) fn apply(&mut self, change: Change) {
        match change {
            Change::Link(link) => self.add_link(link),
            Change::LinkGone(ifindex) => self.remove_link(ifindex),
            Change::Address(address) => self.add_address(address),
            Change::AddressGone(address) => {
                self.addresses.remove(&address_key(&address));
            }
            Change::Route { route, replace } => self.add_route(route, replace),
            Change::RouteGone(route) => self.remove_route(&route),
            Change::Lost => {}
        }
    }

    fn add_link(&mut self, mut link: Link) {
        match link.peer {
            // The last words of a pair that is being removed: its peer has gone already, and it follows.
            Peer::Unknown if self.link(link.ifindex).is_some_and(|old| old.peer == Peer::Elsewhere) => link.peer = Peer::Elsewhere,
            Peer::Unknown => {
                self.unpaired.insert(link.ifindex);
            }
            Peer::Here(peer) => {
                if let Some(peer) = self.links.get_mut(&peer).filter(|peer| peer.kind == Kind::Pair) {
                    peer.peer = Peer::Here(link.ifindex);
                    self.unpaired.remove(&peer.ifindex);
                }
            }
            Peer::None | Peer::Elsewhere => {}
        }
        self.links.insert(link.ifindex, link);
    }

    /// One that was there before keeps its place.
    fn add_address(&mut self, address: Address) {
        let next = self.next;
        let (_, known) = self.addresses.entry(address_key(&address)).or_insert((next, address.clone()));
        *known = address;
        self.next += 1;
    }

    fn remove_link(&mut self, ifindex: u32) {
        self.links.remove(&ifindex);
        self.vanished.insert(ifindex);
        self.unpaired.remove(&ifindex);
        for left in self.links.values_mut().filter(|link| link.peer == Peer::Here(ifindex)) {
            left.peer = Peer::Unknown;
            self.unpaired.insert(left.ifindex);
        }
        self.addresses.retain(|(device, ..), _| *device != ifindex);
        self.routes.retain(|_, hops| {
            hops.retain(|hop| hop.ifindex != ifindex);
            !hops.is_empty()
        });
    }

    fn add_route(&mut self, route: Route, replace: bool) {
        let hops = self.routes.entry(route.key).or_default();
        if replace {
            hops.clear();
        }
        hops.extend(route.next_hops);
    }

    fn remove_route(&mut self, route: &Route) {
        if let Some(hops) = self.routes.get_mut(&route.key) {
            hops.retain(|hop| !route.next_hops.contains(hop));
            if hops.is_empty() {
                self.routes.remove(&route.key);
            }
        }
    }
}

fn address_key(address: &Address) -> (u32, IpAddr, u8) {
    (address.ifindex, address.ip, address.prefix_len)
}

fn is_another(old: &Link, new: &Link) -> bool {
    old.kind != new.kind || (old.name != new.name && old.mac != new.mac)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::testing::{link, pair, route};

    fn table(changes: impl IntoIterator<Item = Change>) -> Table {
        let mut table = Table::default();
        table.apply_all(changes);
        table
    }

    #[test]
    fn the_end_that_stays_is_asked_about_when_its_peer_leaves() {
        let mut table = table([Change::Link(pair(8, Peer::Unknown)), Change::Link(pair(7, Peer::Here(8)))]);
        assert_eq!(table.link(8).expect("known").peer, Peer::Here(7));
        assert!(table.take_unpaired().is_empty());

        table.apply(Change::LinkGone(8));
        assert_eq!(table.link(7).expect("stays").peer, Peer::Unknown);
        assert_eq!(table.take_unpaired(), BTreeSet::from([7]));
        assert_eq!(table.take_vanished(), BTreeSet::from([8]));
    }

    #[test]
    fn a_peer_that_comes_back_makes_the_pair_local_again() {
        let table = table([Change::Link(pair(7, Peer::Elsewhere)), Change::Link(pair(8, Peer::Here(7)))]);
        assert_eq!(table.link(7).expect("known").peer, Peer::Here(8));
    }

    #[test]
    fn a_pair_that_is_being_removed_stays_what_it_was() {
        let mut table = table([Change::Link(pair(7, Peer::Elsewhere)), Change::Link(pair(7, Peer::Unknown))]);
        assert_eq!(table.link(7).expect("known").peer, Peer::Elsewhere);
        assert!(table.take_unpaired().is_empty());
    }

    #[test]
    fn a_vanished_device_takes_its_routes_along() {
        let table = table([
            Change::Link(link(2, Kind::Physical)),
            Change::Route { route: route("0.0.0.0/0", &[(2, Some("192.0.2.1"))]), replace: false },
            Change::LinkGone(2),
        ]);
        assert_eq!(table.routes().count(), 0);
    }

    #[test]
    fn a_replaced_route_leaves_nothing_of_the_old_one() {
        let table = table([
            Change::Route { route: route("0.0.0.0/0", &[(2, Some("192.0.2.1"))]), replace: false },
            Change::Route { route: route("0.0.0.0/0", &[(3, Some("192.0.2.1"))]), replace: true },
        ]);
        assert_eq!(table.routes().map(|(_, hop)| hop.ifindex).collect::<Vec<_>>(), [3]);
    }

    #[test]
    fn an_index_in_use_again_counts_as_vanished() {
        let mut known = table([Change::Link(pair(7, Peer::Elsewhere)), Change::Link(link(2, Kind::Physical))]);
        let mut other = link(7, Kind::Physical);
        other.mac = [2; 6];
        known.replace(table([Change::Link(other), Change::Link(link(2, Kind::Physical))]));
        assert_eq!(known.take_vanished(), BTreeSet::from([7]));
    }
}
