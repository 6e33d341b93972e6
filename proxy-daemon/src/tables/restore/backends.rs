//! Finds out which backend each live reference stands for, and which slots hold a set.
//!
//! Published sets come first. Backends that no frontend uses are found in slots that no row names: their own, where they were parked,
//! or those of a set that was retired.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
};

use proxy_common::{BackendFlags, BackendRef, Range, ServiceId, SlotRange};

use super::found::{Found, Slot};
use crate::{
    model::IpFamily,
    plan::Backend,
    tables::{
        pools::Pools,
        service::{self, LoadedSet, Service},
        wanted::parked_sets,
    },
};

/// A backend of a service port.
type Name = (ServiceId, SocketAddr);

/// The first address in the order of addresses.
const LEAST: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);

/// The backends that are known so far.
pub(super) struct Backends<'a> {
    found: &'a Found,
    references: BTreeMap<Name, BackendRef>,
    names: BTreeMap<BackendRef, Name>,
    /// Backends that no published set holds, with the slots where they may have been parked, sorted.
    unpublished: BTreeMap<Name, Vec<u32>>,
}

impl<'a> Backends<'a> {
    pub(super) fn new(found: &'a Found) -> Self {
        Self { found, references: BTreeMap::new(), names: BTreeMap::new(), unpublished: BTreeMap::new() }
    }

    /// Fills in sets and backends of all service ports. Yields the references that live.
    pub(super) fn adopt(mut self, services: &mut BTreeMap<ServiceId, Service>, pools: &mut Pools) -> BTreeSet<BackendRef> {
        for service in services.values_mut() {
            self.adopt_published(service, pools);
        }
        self.find_unpublished(services, pools);
        for service in services.values_mut() {
            self.adopt_parked(service, pools);
        }
        for (&(id, addr), &reference) in &self.references {
            if let Some(service) = services.get_mut(&id) {
                service.backends.push((addr, reference));
            }
        }
        self.names.into_keys().collect()
    }

    fn adopt_published(&mut self, service: &mut Service, pools: &mut Pools) {
        let ranges = service.frontends.iter().flat_map(|(addr, frontend)| {
            let family = IpFamily::of(addr.addr);
            [frontend.value.internal, frontend.value.external].map(|word| (family, word.range()))
        });
        for (family, range) in ranges.collect::<Vec<_>>() {
            if let Range::Slots(slots) = range
                && service.set_at(family, slots).is_none()
                && let Some(backends) = self.read_set(service.id, family, slots)
                && pools.slots(family).reserve(slots)
            {
                service.sets.push(LoadedSet { backends, slots });
            }
        }
    }

    /// The set that a range holds, if it is a proper one: all of it this service port's, in order and alive.
    fn read_set(&mut self, id: ServiceId, family: IpFamily, slots: SlotRange) -> Option<Arc<[Backend]>> {
        let indices = slots.base()..slots.base() + slots.count();
        let set: Vec<Slot> = indices.map(|index| self.found.slots(family).get(&index).copied()).collect::<Option<_>>()?;
        let is_proper = set.is_sorted_by(|a, b| a.addr < b.addr) && set.iter().all(|slot| slot.owner == id && self.learn(slot));
        if !is_proper {
            return None;
        }
        set.iter().map(|slot| service::backend(slot.addr, slot.flags)).collect()
    }

    /// Takes in what a slot tells, unless it is out of date or contradicts what is known.
    fn learn(&mut self, slot: &Slot) -> bool {
        let Slot { addr, reference, owner, .. } = *slot;
        let name = (owner, addr);
        match (self.references.get(&name), self.names.get(&reference)) {
            (None, None) if self.found.lives(reference) => {
                self.references.insert(name, reference);
                self.names.insert(reference, name);
                true
            }
            (Some(known), _) => *known == reference,
            (None, _) => false,
        }
    }

    fn find_unpublished(&mut self, services: &BTreeMap<ServiceId, Service>, pools: &mut Pools) {
        let sets = services.values().flat_map(|service| service.sets.iter().map(move |set| (service.id, set)));
        let published: BTreeSet<Name> = sets.flat_map(|(id, set)| set.backends.iter().map(move |backend| (id, backend.addr))).collect();
        for family in IpFamily::ALL {
            let found = self.found;
            for (index, slot) in found.slots(family) {
                let name = (slot.owner, slot.addr);
                let is_free = !published.contains(&name) && pools.slots(family).is_free(*index);
                if is_free && services.contains_key(&slot.owner) && self.learn(slot) {
                    let slots = self.unpublished.entry(name).or_default();
                    // Others are traces of a published set.
                    if slot.flags == BackendFlags::NONE {
                        slots.push(*index);
                    }
                }
            }
        }
    }

    /// Finds the slots where an earlier run has parked backends that no frontend uses.
    fn adopt_parked(&self, service: &mut Service, pools: &mut Pools) {
        for family in IpFamily::ALL {
            let ours = self.unpublished.range((service.id, LEAST)..).take_while(|((id, _), _)| *id == service.id);
            let unused: Vec<SocketAddr> = ours.map(|((_, addr), _)| *addr).filter(|addr| IpFamily::of(addr.ip()) == family).collect();
            for backends in parked_sets(&unused) {
                if let Some(slots) = self.parked_at(service.id, family, &backends, pools) {
                    service.sets.push(LoadedSet { backends, slots });
                }
            }
        }
    }

    fn parked_at(&self, id: ServiceId, family: IpFamily, backends: &[Backend], pools: &mut Pools) -> Option<SlotRange> {
        let count = u32::try_from(backends.len()).ok()?;
        let starts = self.unpublished.get(&(id, backends.first()?.addr))?;
        let ranges = starts.iter().filter_map(|start| SlotRange::new(*start, count));
        ranges.into_iter().find(|range| {
            let mut expected = (range.base()..).zip(backends);
            let holds = |(index, backend): (u32, &Backend)| {
                self.unpublished.get(&(id, backend.addr)).is_some_and(|at| at.binary_search(&index).is_ok())
            };
            expected.all(holds) && pools.slots(family).reserve(*range)
        })
    }
}
