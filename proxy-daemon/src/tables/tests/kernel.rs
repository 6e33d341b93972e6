//! Maps as the kernel has them, with a reader that follows them as the programs do, and that checks at every step what must never be.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
};

use ipnet::IpNet;
use proxy_common::{
    Address as _, Backend as Slot, Family, FrontendRef, Networks, Range, RangeWord, RowFlags, ServiceRow, Undefined, V4, V6,
};

use super::*;
use crate::tables::pools::READERS_REST;

/// The maps, and when a program may last have begun to read what has been taken away.
#[derive(Clone, Default)]
pub(crate) struct Kernel {
    pub(super) services: BTreeMap<ServiceId, ServiceRow>,
    pub(super) frontends: BTreeMap<FrontendAddr, FrontendRef>,
    pub(super) rows: BTreeMap<RowIndex, FrontendRow>,
    pub(super) slots4: BTreeMap<u32, Slot<V4>>,
    pub(super) slots6: BTreeMap<u32, Slot<V6>>,
    pub(super) live: BTreeMap<u32, BackendRef>,
    pub(super) sources: BTreeSet<(ServiceId, IpNet)>,
    pub(crate) cluster_ips: BTreeMap<IpAddr, Undefined>,
    pub(crate) networks4: Option<Networks<V4>>,
    pub(crate) networks6: Option<Networks<V6>>,
    rows_read: BTreeMap<RowIndex, Instant>,
    slots_read: BTreeMap<(IpFamily, u32), Instant>,
}

/// What a client meets at a frontend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    NoService,
    Reject,
    Drop,
    Backends(ServiceId, Vec<Backend>),
}

pub(super) const SCOPES: [Scope; 2] = [Scope::Internal, Scope::External];

impl Kernel {
    pub(crate) fn apply(&mut self, change: &Change, now: Instant) {
        self.note_readers(now);
        match change {
            Change::Service { id, row: Some(row) } => assert_eq!(self.services.insert(*id, **row), None),
            Change::Service { id, row: None } => assert!(self.services.remove(id).is_some()),
            Change::Live { index, reference } => self.set_live(*index, *reference),
            Change::Backends4 { base, slots } => {
                self.check_unread(IpFamily::V4, *base, slots.len(), now);
                self.slots4.extend((*base..).zip(slots.iter().copied()));
            }
            Change::Backends6 { base, slots } => {
                self.check_unread(IpFamily::V6, *base, slots.len(), now);
                self.slots6.extend((*base..).zip(slots.iter().copied()));
            }
            Change::Row { row, value } => {
                assert!(self.rows_read.get(row).is_none_or(|read| now - *read >= READERS_REST), "row {row:?} may still be read");
                self.rows.insert(*row, *value);
            }
            Change::Publish { row, scope, word } => *self.word_mut(*row, *scope) = *word,
            Change::RowFlags { row, flags } => self.rows.get_mut(row).unwrap().flags = *flags,
            Change::Affinity { row, secs } => self.rows.get_mut(row).unwrap().affinity_secs = *secs,
            Change::InsertSource { id, network } => assert!(self.sources.insert((*id, *network))),
            Change::RemoveSource { id, network } => assert!(self.sources.remove(&(*id, *network))),
            Change::ClusterIp { addr, undefined: Some(undefined) } => {
                assert_ne!(self.cluster_ips.insert(*addr, *undefined), Some(*undefined), "an entry was written in vain");
            }
            Change::ClusterIp { addr, undefined: None } => assert!(self.cluster_ips.remove(addr).is_some()),
            Change::Networks4(networks) => self.networks4 = Some(*networks),
            Change::Networks6(networks) => self.networks6 = Some(*networks),
            Change::SetFrontend { addr, value } => {
                let before = self.frontends.insert(*addr, *value);
                assert!(before.is_none_or(|before| before.service != value.service), "an entry was rewritten for nothing");
            }
            Change::RemoveFrontend { addr } => assert!(self.frontends.remove(addr).is_some()),
        }
    }

    /// What a client meets. Everything that a program relies on must hold.
    pub(crate) fn resolve(&self, addr: &FrontendAddr, scope: Scope) -> Outcome {
        let Some(FrontendRef { service, row }) = self.frontends.get(addr) else { return Outcome::NoService };
        assert!(self.services.contains_key(service), "{service:?} has no name");
        let row = self.rows[row];
        assert_eq!(row.owner, *service);
        let word = match scope {
            Scope::Internal => row.internal,
            Scope::External => row.external,
        };
        match word.range() {
            Range::Reject => Outcome::Reject,
            Range::Drop => Outcome::Drop,
            Range::Slots(slots) => {
                let indices = slots.base()..slots.base() + slots.count();
                let backends = match IpFamily::of(addr.addr) {
                    IpFamily::V4 => indices.map(|index| self.backend(self.slots4[&index], *service)).collect(),
                    IpFamily::V6 => indices.map(|index| self.backend(self.slots6[&index], *service)).collect(),
                };
                Outcome::Backends(*service, backends)
            }
        }
    }

    /// Which service port has a frontend.
    pub(crate) fn owner(&self, addr: &FrontendAddr) -> Option<ServiceId> {
        self.frontends.get(addr).map(|frontend| frontend.service)
    }

    /// Whether a client may use a frontend that is there.
    pub(crate) fn lets_in(&self, addr: &FrontendAddr, client: IpAddr) -> bool {
        let Some(FrontendRef { service, row }) = self.frontends.get(addr) else { return true };
        let is_limited = self.rows[row].flags.has(RowFlags::SOURCE_RANGES);
        !is_limited || self.sources.iter().any(|(id, network)| id == service && network.contains(&client))
    }

    pub(crate) fn snapshot(&self) -> Snapshot {
        fn pairs<K: Copy, V: Copy>(map: &BTreeMap<K, V>) -> Vec<(K, V)> {
            map.iter().map(|(key, value)| (*key, *value)).collect()
        }
        Snapshot {
            services: pairs(&self.services),
            frontends: pairs(&self.frontends),
            rows: pairs(&self.rows),
            backends4: pairs(&self.slots4),
            backends6: pairs(&self.slots6),
            live: pairs(&self.live),
            sources: self.sources.iter().copied().collect(),
            cluster_ips: pairs(&self.cluster_ips),
            networks4: self.networks4,
            networks6: self.networks6,
        }
    }

    fn backend<F: Family>(&self, slot: Slot<F>, service: ServiceId) -> Backend {
        assert_eq!(slot.owner, service, "a slot of another service");
        assert_eq!(self.live.get(&slot.reference.index()), Some(&slot.reference), "a published backend does not live");
        service::backend(SocketAddr::new(slot.addr.to_ip(), slot.port.to_host()), slot.flags).expect("flags that are known")
    }

    fn set_live(&mut self, index: u32, reference: BackendRef) {
        let old = self.live.remove(&index);
        if reference == BackendRef::NONE {
            assert!(old.is_some(), "{index} had no life to end");
        } else {
            assert_eq!((old, reference.index()), (None, index));
            self.live.insert(index, reference);
        }
    }

    fn word_mut(&mut self, row: RowIndex, scope: Scope) -> &mut RangeWord {
        let row = self.rows.get_mut(&row).unwrap();
        match scope {
            Scope::Internal => &mut row.internal,
            Scope::External => &mut row.external,
        }
    }

    /// Programs may begin now to read everything that can be reached.
    fn note_readers(&mut self, now: Instant) {
        for (addr, FrontendRef { row, .. }) in &self.frontends {
            self.rows_read.insert(*row, now);
            for word in [self.rows[row].internal, self.rows[row].external] {
                if let Range::Slots(slots) = word.range() {
                    let indices = slots.base()..slots.base() + slots.count();
                    self.slots_read.extend(indices.map(|index| ((IpFamily::of(addr.addr), index), now)));
                }
            }
        }
    }

    fn check_unread(&self, family: IpFamily, base: u32, count: usize, now: Instant) {
        for index in (base..).take(count) {
            let read = self.slots_read.get(&(family, index));
            assert!(read.is_none_or(|read| now - *read >= READERS_REST), "slot {index} may still be read");
        }
    }
}

/// The mirror says of everything that is in use what the kernel has.
pub(super) fn assert_mirrors(tables: &Tables, kernel: &Kernel) {
    let mut expected = Kernel::default();
    for service in tables.services.values() {
        expected.services.insert(service.id, *name::name_row(&service.name).unwrap());
        for (addr, frontend) in &service.frontends {
            expected.frontends.insert(*addr, FrontendRef { service: service.id, row: frontend.row });
            assert_eq!(kernel.rows.get(&frontend.row), Some(&frontend.value));
        }
        expected.sources.extend(service.sources.iter().map(|network| (service.id, *network)));
        expected.live.extend(service.backends.iter().map(|(_, reference)| (reference.index(), *reference)));
        for set in &service.sets {
            let filled = service.fill(set);
            if let Change::Backends4 { base, slots } = filled {
                expected.slots4.extend((base..).zip(slots));
            } else if let Change::Backends6 { base, slots } = filled {
                expected.slots6.extend((base..).zip(slots));
            }
        }
    }
    assert_eq!(kernel.services, expected.services);
    assert_eq!(kernel.frontends, expected.frontends);
    assert_eq!(kernel.live, expected.live);
    assert_eq!(kernel.sources, expected.sources);
    assert!(expected.slots4.iter().all(|(index, slot)| kernel.slots4.get(index) == Some(slot)));
    assert!(expected.slots6.iter().all(|(index, slot)| kernel.slots6.get(index) == Some(slot)));
    let usage = tables.usage();
    let len = |len: usize| u32::try_from(len).unwrap();
    assert_eq!(usage.rows.used, len(expected.frontends.len()));
    assert_eq!((usage.slots4.used, usage.slots6.used), (len(expected.slots4.len()), len(expected.slots6.len())));
    assert_eq!(usage.cluster_ips4.used + usage.cluster_ips6.used, len(kernel.cluster_ips.len()));
    assert_eq!(usage.sources4.used + usage.sources6.used, len(expected.sources.len()));
    assert_eq!((usage.live.used, usage.services.used), (len(expected.live.len()), len(expected.services.len())));
}
