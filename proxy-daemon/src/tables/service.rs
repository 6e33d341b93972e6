//! What is loaded of one service port.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use ipnet::IpNet;
use proxy_common::{
    Address as _, Backend as Slot, BackendFlags, BackendRef, Family, FrontendRow, Port, Range, RangeWord, RowFlags, RowIndex, ServiceId,
    SlotRange,
};

use super::{
    change::{Change, Scope},
    cluster_ips::Said,
};
use crate::{
    model::{FrontendAddr, IpFamily, ServicePortName},
    plan::{Backend, BackendSet, FrontendKind, FrontendPlan},
};

/// The mirror of all rows of one service port.
#[derive(Clone, Debug)]
pub(super) struct Service {
    pub(super) id: ServiceId,
    pub(super) name: ServicePortName,
    /// The backends that live, sorted by address.
    pub(super) backends: Vec<(SocketAddr, BackendRef)>,
    /// The sets that are in slots: those that rows name and, so that they are known after a restart, the backends that are in none.
    pub(super) sets: Vec<LoadedSet>,
    pub(super) frontends: BTreeMap<FrontendAddr, Frontend>,
    /// The networks that limited frontends let in.
    pub(super) sources: BTreeSet<IpNet>,
    /// What was said of ClusterIPs.
    pub(super) cluster_ips: Said,
}

/// A backend set and its slots, which hold it in its order.
#[derive(Clone, Debug)]
pub(super) struct LoadedSet {
    /// Sorted, of one family, never empty.
    pub(super) backends: Arc<[Backend]>,
    pub(super) slots: SlotRange,
}

/// A frontend and its row.
#[derive(Clone, Copy, Debug)]
pub(super) struct Frontend {
    pub(super) row: RowIndex,
    pub(super) value: FrontendRow,
}

/// What a row says, save how often it was published and whose it is.
pub(super) struct Content {
    internal: Range,
    external: Range,
    flags: RowFlags,
    affinity_secs: u32,
}

// === impl Service ===

impl Service {
    /// A service port of which nothing is loaded.
    pub(super) fn new(id: ServiceId, name: ServicePortName) -> Self {
        let (frontends, sources, cluster_ips) = (BTreeMap::new(), BTreeSet::new(), Said::new());
        Self { id, name, backends: Vec::new(), sets: Vec::new(), frontends, sources, cluster_ips }
    }

    /// The ClusterIPs at which there are frontends.
    pub(super) fn served_cluster_ips(&self) -> impl Iterator<Item = IpAddr> {
        let frontends = self.frontends.iter().filter(|(_, frontend)| frontend.value.flags.kind() == RowFlags::CLUSTER_IP);
        frontends.map(|(addr, _)| addr.addr)
    }

    /// This life of a backend, if it is one of ours.
    pub(super) fn reference(&self, backend: SocketAddr) -> Option<BackendRef> {
        let at = self.backends.binary_search_by_key(&backend, |(addr, _)| *addr).ok()?;
        self.backends.get(at).map(|(_, reference)| *reference)
    }

    /// The slots that hold a set.
    pub(super) fn slots(&self, backends: &Arc<[Backend]>) -> Option<SlotRange> {
        self.sets.iter().find(|set| set.backends == *backends).map(|set| set.slots)
    }

    /// The set that slots of a family hold.
    pub(super) fn set_at(&self, family: IpFamily, slots: SlotRange) -> Option<&Arc<[Backend]>> {
        self.sets.iter().find(|set| set.family() == family && set.slots == slots).map(|set| &set.backends)
    }

    /// Fills the slots of a set, whose backends live.
    pub(super) fn fill(&self, set: &LoadedSet) -> Change {
        let base = set.slots.base();
        match set.family() {
            IpFamily::V4 => Change::Backends4 { base, slots: self.rows(set) },
            IpFamily::V6 => Change::Backends6 { base, slots: self.rows(set) },
        }
    }

    fn rows<F: Family>(&self, set: &LoadedSet) -> Vec<Slot<F>> {
        let row = |backend: &Backend| {
            let (ip, port) = (F::Addr::from_ip(backend.addr.ip())?, Port::from_host(backend.addr.port()));
            Some(Slot::new(ip, port, flags(*backend), self.reference(backend.addr)?, self.id))
        };
        set.backends.iter().map(|backend| row(backend).expect("backends of a set live and are of one family")).collect()
    }

    /// What a frontend's row is to say. Its sets are in slots.
    pub(super) fn content(&self, plan: &FrontendPlan) -> Content {
        let range = |set: &BackendSet| match set {
            BackendSet::Backends(backends) => Range::Slots(self.slots(backends).expect("wanted sets are loaded before rows are written")),
            BackendSet::Reject => Range::Reject,
            BackendSet::Drop => Range::Drop,
        };
        Content {
            internal: range(&plan.internal),
            external: range(&plan.external),
            flags: row_flags(plan),
            affinity_secs: plan.affinity.map_or(0, |timeout| u32::try_from(timeout.as_secs()).unwrap_or(u32::MAX)),
        }
    }
}

// === impl LoadedSet ===

impl LoadedSet {
    pub(super) fn family(&self) -> IpFamily {
        family(&self.backends)
    }
}

/// What kind of frontend it is, and what else holds for its new flows.
fn row_flags(plan: &FrontendPlan) -> RowFlags {
    let kind = match plan.kind {
        FrontendKind::ClusterIp => RowFlags::CLUSTER_IP,
        FrontendKind::NodePort => RowFlags::NODE_PORT,
        FrontendKind::ExternalIp => RowFlags::EXTERNAL_IP,
        FrontendKind::LoadBalancerIp => RowFlags::LOAD_BALANCER_IP,
    };
    let rest = [
        (plan.has_source_ranges, RowFlags::SOURCE_RANGES),
        (plan.masquerade.internal, RowFlags::MASQUERADE_INTERNAL),
        (plan.masquerade.external, RowFlags::MASQUERADE_EXTERNAL),
    ];
    rest.into_iter().filter(|(holds, _)| *holds).fold(kind, |flags, (_, flag)| flags.with(flag))
}

/// The family of a set.
pub(super) fn family(backends: &[Backend]) -> IpFamily {
    backends.first().map_or(IpFamily::V4, |backend| IpFamily::of(backend.addr.ip()))
}

/// What a slot says of a backend beside its address.
fn flags(backend: Backend) -> BackendFlags {
    if backend.is_elsewhere { BackendFlags::ELSEWHERE } else { BackendFlags::NONE }
}

/// The backend that a slot with these flags holds, unless it has one that is not known.
pub(super) fn backend(addr: SocketAddr, flags: BackendFlags) -> Option<Backend> {
    match flags {
        BackendFlags::NONE => Some(Backend { addr, is_elsewhere: false }),
        BackendFlags::ELSEWHERE => Some(Backend { addr, is_elsewhere: true }),
        _ => None,
    }
}

// === impl Frontend ===

impl Frontend {
    /// A frontend with a fresh row.
    pub(super) fn new(row: RowIndex, owner: ServiceId, content: &Content) -> Self {
        let Content { internal, external, flags, affinity_secs } = *content;
        let (internal, external) = (RangeWord::new(internal, 0), RangeWord::new(external, 0));
        Self { row, value: FrontendRow { internal, external, flags, affinity_secs, owner, pad: 0 } }
    }

    /// Brings the row to its content, word by word.
    pub(super) fn bring(&mut self, content: &Content, changes: &mut Vec<Change>) {
        let Self { row, ref mut value } = *self;
        for (scope, range) in [(Scope::Internal, content.internal), (Scope::External, content.external)] {
            let generation = latest(value).wrapping_add(1);
            let word = match scope {
                Scope::Internal => &mut value.internal,
                Scope::External => &mut value.external,
            };
            if word.range() != range {
                *word = RangeWord::new(range, generation);
                changes.push(Change::Publish { row, scope, word: *word });
            }
        }
        if value.flags != content.flags {
            value.flags = content.flags;
            changes.push(Change::RowFlags { row, flags: content.flags });
        }
        if value.affinity_secs != content.affinity_secs {
            value.affinity_secs = content.affinity_secs;
            changes.push(Change::Affinity { row, secs: content.affinity_secs });
        }
    }
}

/// The generation of the word of a row that was published last, which is the larger one, modulo 2^16.
fn latest(row: &FrontendRow) -> u16 {
    let (a, b) = (row.internal.generation(), row.external.generation());
    if a.wrapping_sub(b) < 1 << 15 { a } else { b }
}
