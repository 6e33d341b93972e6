//! What of a plan needs slots and lives.

use std::{net::SocketAddr, sync::Arc};

use proxy_common::SlotRange;

use super::Error;
use crate::{
    model::ServicePortName,
    plan::{Backend, BackendSet, ServicePlan},
};

/// The sets and backends of a plan.
pub(super) struct Wanted {
    /// The sets that frontends use, each once.
    pub(super) sets: Vec<Arc<[Backend]>>,
    /// The backends that live but that no frontend uses. They are kept in slots that no row names: there a restarted daemon finds
    /// which backend a reference stands for.
    pub(super) parked: Vec<Arc<[Backend]>>,
    /// Every backend that is to live, sorted.
    pub(super) backends: Vec<SocketAddr>,
}

impl Wanted {
    pub(super) fn new(name: &ServicePortName, plan: &ServicePlan) -> Result<Self, Error> {
        let sets = distinct_sets(plan);
        if let Some(set) = sets.iter().find(|set| set.len() > SlotRange::MAX_COUNT as usize) {
            return Err(Error::TooManyBackends { name: name.clone(), count: set.len() });
        }
        let mut backends: Vec<SocketAddr> = sets.iter().flat_map(|set| set.iter().map(|backend| backend.addr)).collect();
        backends.sort();
        backends.dedup();
        let unused: Vec<SocketAddr> = plan.live.iter().copied().filter(|addr| backends.binary_search(addr).is_err()).collect();
        let (unused4, unused6): (Vec<_>, Vec<_>) = unused.iter().partition(|addr| addr.is_ipv4());
        let parked = parked_sets(&unused4).chain(parked_sets(&unused6)).collect();
        backends.extend(unused);
        backends.sort();
        Ok(Self { sets, parked, backends })
    }
}

/// Backends of one family that no frontend uses, in pieces that fit into ranges. Where they are counts for new flows only.
pub(super) fn parked_sets(backends: &[SocketAddr]) -> impl Iterator<Item = Arc<[Backend]>> {
    let parked = |addr: &SocketAddr| Backend { addr: *addr, is_elsewhere: false };
    backends.chunks(SlotRange::MAX_COUNT as usize).map(move |piece| piece.iter().map(parked).collect())
}

fn distinct_sets(plan: &ServicePlan) -> Vec<Arc<[Backend]>> {
    let mut sets: Vec<Arc<[Backend]>> = Vec::new();
    for set in plan.frontends.values().flat_map(|frontend| [&frontend.internal, &frontend.external]) {
        if let BackendSet::Backends(backends) = set
            && !sets.contains(backends)
        {
            sets.push(Arc::clone(backends));
        }
    }
    sets
}
