//! What can run out: ids, rows, slots, lives and entries of the frontend maps.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use proxy_common::{RowIndex, ServiceId};

use super::{
    Error, Fill, Sizes,
    by_family::ByFamily,
    cluster_ips::ClusterIps,
    free::{Indices, Rest},
    lives::Lives,
    service::{LoadedSet, family},
    slots::Slots,
    sources::Sources,
    wanted::Wanted,
};
use crate::{
    model::{FrontendAddr, IpFamily},
    plan::Backend,
};

/// How long something rests that a program may have begun to read just before it was taken away: long enough for a virtual CPU that
/// stands still.
pub(super) const READERS_REST: Duration = Duration::from_secs(2);

pub(super) const ROWS_REST: Rest = Rest { least: READERS_REST, wanted: READERS_REST };

/// Flows name the service they belong to, and packets of closing and forgotten flows are counted in its name for some minutes. Only
/// counters are wrong when an id is used again earlier; what leads to backends has been read within [`READERS_REST`].
pub(super) const IDS_REST: Rest = Rest { least: READERS_REST, wanted: Duration::from_mins(10) };

const FRONTENDS_FLAG: &str = "--frontends";
const BACKENDS_FLAG: &str = "--backends";
const SERVICES_FLAG: &str = "--services";
const SOURCES_FLAG: &str = "--source-ranges";

/// The free part of each map.
#[derive(Clone, Debug)]
pub(super) struct Pools {
    pub(super) ids: Indices,
    pub(super) rows: Indices,
    pub(super) lives: Lives,
    pub(super) slots4: Slots,
    pub(super) slots6: Slots,
}

/// Who has which frontend, and how many there are.
#[derive(Clone, Debug, Default)]
pub(super) struct Owners {
    by_frontend: BTreeMap<FrontendAddr, Owner>,
    count: ByFamily<u32>,
}

/// Who has a frontend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Owner {
    /// A service port.
    Service(ServiceId),
    /// Nobody: it was found at the start and makes no sense. Its row is blocked, unless another frontend has it as well.
    Stray(Option<RowIndex>),
}

/// How much an update needs at most at the same time, slots aside.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Need {
    pub(super) ids: usize,
    pub(super) lives: usize,
    pub(super) rows: usize,
    pub(super) frontends: ByFamily<u32>,
    pub(super) sources: ByFamily<u32>,
    pub(super) cluster_ips: ByFamily<u32>,
}

// === impl Pools ===

impl Pools {
    pub(super) fn new(sizes: Sizes) -> Self {
        Self {
            ids: Indices::new(1..sizes.services.max(1), IDS_REST),
            rows: Indices::new(0..sizes.rows, ROWS_REST),
            lives: Lives::new(sizes.live),
            slots4: Slots::new(sizes.backends, READERS_REST),
            slots6: Slots::new(sizes.backends, READERS_REST),
        }
    }

    /// Whether there is enough of all that is taken one by one.
    pub(super) fn check(
        &self,
        need: &Need,
        (owners, sources, cluster_ips): (&Owners, &Sources, &ClusterIps),
        sizes: Sizes,
        now: Instant,
    ) -> Result<(), Error> {
        let enough = |what, enough: bool, max, flag| if enough { Ok(()) } else { Err(Error::Full { what, max, flag }) };
        enough("services", need.ids <= self.ids.available(now), sizes.services.saturating_sub(1), SERVICES_FLAG)?;
        enough("backends", need.lives <= self.lives.available(now), self.lives.size(), BACKENDS_FLAG)?;
        for (family, [frontends, networks, addresses]) in [
            (IpFamily::V4, ["IPv4 frontends", "IPv4 source ranges", "IPv4 ClusterIPs"]),
            (IpFamily::V6, ["IPv6 frontends", "IPv6 source ranges", "IPv6 ClusterIPs"]),
        ] {
            let fits = |used: u32, more: &ByFamily<u32>, max: u32| used.saturating_add(*more.of(family)) <= max;
            let Sizes { sources: max_sources, cluster_ips: max_ips, .. } = sizes;
            let Fill { used, max } = owners.fill(family, sizes);
            enough(frontends, fits(used, &need.frontends, max), max, FRONTENDS_FLAG)?;
            enough(networks, fits(sources.used(family), &need.sources, max_sources), max_sources, SOURCES_FLAG)?;
            enough(addresses, fits(cluster_ips.used(family), &need.cluster_ips, max_ips), max_ips, FRONTENDS_FLAG)?;
        }
        enough("frontend rows", need.rows <= self.rows.available(now), sizes.rows, FRONTENDS_FLAG)
    }

    /// Takes slots for those of the wanted sets that are not loaded: for all of them, or none.
    ///
    /// Parked sets are left out when there is no room for them. They count only after a restart.
    pub(super) fn take_sets(&mut self, loaded: &[LoadedSet], wanted: &Wanted, now: Instant) -> Result<Vec<LoadedSet>, Error> {
        let is_missing = |set: &&_| !loaded.iter().any(|known| known.backends == **set);
        let mut taken = Vec::new();
        for backends in wanted.sets.iter().filter(is_missing) {
            match self.take_set(backends, now) {
                Ok(set) => taken.push(set),
                Err(error) => {
                    for set in taken {
                        self.slots(set.family()).give_back(set.slots);
                    }
                    return Err(error);
                }
            }
        }
        taken.extend(wanted.parked.iter().filter(is_missing).filter_map(|backends| self.take_set(backends, now).ok()));
        Ok(taken)
    }

    /// Frees an id that was blocked.
    pub(super) fn unblock_id(&mut self, id: ServiceId, sizes: Sizes, now: Instant) {
        if (1..sizes.services).contains(&id.0) {
            self.ids.give(id.0, now);
        }
    }

    /// Retires the slots of a set.
    pub(super) fn retire(&mut self, set: &LoadedSet, now: Instant) {
        self.slots(set.family()).retire(set.slots, now);
    }

    pub(super) fn slots(&mut self, family: IpFamily) -> &mut Slots {
        match family {
            IpFamily::V4 => &mut self.slots4,
            IpFamily::V6 => &mut self.slots6,
        }
    }

    fn take_set(&mut self, backends: &Arc<[Backend]>, now: Instant) -> Result<LoadedSet, Error> {
        let (what, slots) = match family(backends) {
            IpFamily::V4 => ("IPv4 backends", &mut self.slots4),
            IpFamily::V6 => ("IPv6 backends", &mut self.slots6),
        };
        let range = u32::try_from(backends.len()).ok().and_then(|count| slots.take(count, now));
        let slots = range.ok_or(Error::Full { what, max: slots.size(), flag: BACKENDS_FLAG })?;
        Ok(LoadedSet { backends: Arc::clone(backends), slots })
    }
}

// === impl Owners ===

impl Owners {
    pub(super) fn get(&self, addr: &FrontendAddr) -> Option<Owner> {
        self.by_frontend.get(addr).copied()
    }

    /// Notes who has a frontend that nobody had.
    pub(super) fn insert(&mut self, addr: FrontendAddr, owner: Owner) {
        if self.by_frontend.insert(addr, owner).is_none() {
            *self.count(&addr) += 1;
        }
    }

    pub(super) fn remove(&mut self, addr: &FrontendAddr) -> Option<Owner> {
        let owner = self.by_frontend.remove(addr)?;
        *self.count(addr) -= 1;
        Some(owner)
    }

    /// How full the map of a family is.
    pub(super) fn fill(&self, family: IpFamily, sizes: Sizes) -> Fill {
        Fill { used: *self.count.of(family), max: sizes.frontends }
    }

    fn count(&mut self, addr: &FrontendAddr) -> &mut u32 {
        self.count.of_mut(IpFamily::of(addr.addr))
    }
}
