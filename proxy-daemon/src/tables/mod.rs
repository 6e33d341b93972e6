//! What is in the kernel's maps, and the changes that bring it to a plan.
//!
//! In: a plan for one service port at a time, or nothing when it is gone. Out: [`Change`]s, whose cost follows what changed. No I/O:
//! whoever applies them does it in their order, and [`Tables`] is from then on what the maps hold.
//!
//! The law: applying the changes to the old state gives the new one, and *every prefix of them is a valid state*: each frontend
//! leads to its old backends or to its new ones, never to a mixture and never to slots of another service. With slot ranges
//! that means: fill a fresh range, publish it with one word, then retire the old range, which rests before it is used again because
//! a program may still be reading it.

mod by_family;
mod change;
mod cluster_ips;
mod dump;
mod free;
mod lives;
mod name;
mod networks;
mod pools;
mod restore;
mod service;
mod slots;
mod sources;
#[cfg(test)]
pub(crate) mod tests;
mod update;
mod wanted;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Instant,
};

use bytemuck::Zeroable as _;
use ipnet::IpNet;
use proxy_common::{BackendRef, FrontendRow, RowIndex, ServiceId, SlotRange, maps};

pub use self::{
    change::{Change, Scope, Snapshot},
    name::name_of,
    networks::{no_networks, overflow},
};
use self::{
    cluster_ips::ClusterIps,
    networks::ServiceNetworks,
    pools::{Owner, Owners, Pools},
    service::Service,
    sources::Sources,
};
use crate::{
    model::{FrontendAddr, IpFamily, ServicePortName},
    plan::ServicePlan,
};

/// The mirror of the kernel's maps. The task that writes to the maps owns it.
#[derive(Clone, Debug)]
pub struct Tables {
    sizes: Sizes,
    names: BTreeMap<ServicePortName, ServiceId>,
    services: BTreeMap<ServiceId, Service>,
    owners: Owners,
    pools: Pools,
    sources: Sources,
    cluster_ips: ClusterIps,
    networks: ServiceNetworks,
    leftovers: Leftovers,
}

/// The sizes of the maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Frontends of each family.
    pub frontends: u32,
    /// Rows, for the frontends of both families.
    pub rows: u32,
    /// Backend slots of each family.
    pub backends: u32,
    /// Indices of `BACKEND_LIVE`, for both families.
    pub live: u32,
    /// Rows of `SERVICE_STATS`: ids are smaller than this.
    pub services: u32,
    /// Networks of each family that limited frontends let in.
    pub sources: u32,
    /// ClusterIPs of each family.
    pub cluster_ips: u32,
}

/// How much of a map is in use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fill {
    /// What is in use. What rests is not.
    pub used: u32,
    /// What there is.
    pub max: u32,
}

/// How full the maps are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Frontends of IPv4.
    pub frontends4: Fill,
    /// Frontends of IPv6.
    pub frontends6: Fill,
    /// Frontend rows.
    pub rows: Fill,
    /// Backend slots of IPv4.
    pub slots4: Fill,
    /// Backend slots of IPv6.
    pub slots6: Fill,
    /// Backends that live.
    pub live: Fill,
    /// Service ids.
    pub services: Fill,
    /// Networks of IPv4 that limited frontends let in.
    pub sources4: Fill,
    /// Networks of IPv6 that limited frontends let in.
    pub sources6: Fill,
    /// ClusterIPs of IPv4.
    pub cluster_ips4: Fill,
    /// ClusterIPs of IPv6.
    pub cluster_ips6: Fill,
}

impl Usage {
    /// Each map's fill, with its name and the flag that makes it larger.
    pub const fn fills(&self) -> [(&'static str, &'static str, Fill); 11] {
        [
            (maps::FRONTENDS_V4, "--frontends", self.frontends4),
            (maps::FRONTENDS_V6, "--frontends", self.frontends6),
            (maps::FRONTEND_ROWS, "--frontends", self.rows),
            (maps::BACKENDS_V4, "--backends", self.slots4),
            (maps::BACKENDS_V6, "--backends", self.slots6),
            (maps::BACKEND_LIVE, "--backends", self.live),
            (maps::SERVICES, "--services", self.services),
            (maps::SOURCES_V4, "--source-ranges", self.sources4),
            (maps::SOURCES_V6, "--source-ranges", self.sources6),
            (maps::CLUSTER_IPS_V4, "--frontends", self.cluster_ips4),
            (maps::CLUSTER_IPS_V6, "--frontends", self.cluster_ips6),
        ]
    }
}

/// Why a service port cannot be brought to its plan. What was loaded of it before stays as it is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A map has no room. Some of it may only rest: it is worth trying again after a few seconds.
    #[error("no room for more {what}: there is room for {max}, {flag} makes more")]
    Full {
        /// What there is no room for.
        what: &'static str,
        /// How many fit.
        max: u32,
        /// The flag that sets the size.
        flag: &'static str,
    },
    /// A backend set that no range can hold.
    #[error("{name} has {count} endpoints for one frontend, more than the {} that fit", SlotRange::MAX_COUNT)]
    TooManyBackends {
        /// The service port.
        name: ServicePortName,
        /// The number of backends.
        count: usize,
    },
    /// A name that does not fit into its row.
    #[error("the name {name} is too long")]
    Name {
        /// The service port.
        name: ServicePortName,
    },
}

/// What was found at the start and belongs to nothing: traces of a run that ended half-way through its changes.
#[derive(Clone, Debug, Default)]
struct Leftovers {
    frontends: Vec<FrontendAddr>,
    lives: Vec<u32>,
    ids: Vec<ServiceId>,
}

impl Tables {
    /// The mirror of empty maps.
    pub fn new(sizes: Sizes) -> Self {
        Self {
            sizes,
            names: BTreeMap::new(),
            services: BTreeMap::new(),
            owners: Owners::default(),
            pools: Pools::new(sizes),
            sources: Sources::default(),
            cluster_ips: ClusterIps::default(),
            networks: ServiceNetworks::default(),
            leftovers: Leftovers::default(),
        }
    }

    /// Brings one service port to its plan, or removes it when there is none: yields the changes, and takes them as done. They are to
    /// be applied before the next call; if they cannot, [`Tables::restore`] finds out what the maps hold instead.
    ///
    /// Two calls belong to those of a Service's ports: [`Tables::release`] before, if the Service is gone, and [`Tables::write_claims`] afterwards.
    ///
    /// `now` never goes back. On an error nothing has changed: what was loaded stays.
    pub fn set(&mut self, name: &ServicePortName, plan: Option<&ServicePlan>, now: Instant) -> Result<Vec<Change>, Error> {
        match plan {
            Some(plan) => self.bring(name, plan, now),
            None => Ok(self.drop_service(name, now)),
        }
    }

    /// Has the ClusterIPs of Services that are gone refuse nothing any more, whose service ports these are. To be called before the first of them is
    /// removed: none is refused while there is another. The changes are taken as done, as those of [`Tables::set`] are.
    pub fn release(&mut self, names: &[ServicePortName]) -> Vec<Change> {
        let mut changes = Vec::new();
        for name in names {
            let Some(service) = self.names.get(name).and_then(|id| self.services.get_mut(id)) else { continue };
            // What was adopted has said nothing yet.
            let said = std::mem::take(&mut service.cluster_ips).into_keys();
            for addr in said.chain(service.served_cluster_ips()).collect::<BTreeSet<_>>() {
                self.cluster_ips.release(service.id, addr, &mut changes);
            }
        }
        changes
    }

    /// Has ClusterIPs refuse what is for no frontend, as service ports have said since the last time. To be called when all ports of their Services
    /// are there: none is refused before its frontends come. The changes are taken as done, as those of [`Tables::set`] are.
    pub fn write_claims(&mut self) -> Vec<Change> {
        let mut changes = Vec::new();
        self.cluster_ips.write(&mut changes);
        changes
    }

    /// Says where Services have their addresses from: packets to an address there that is no ClusterIP are dropped. So every ClusterIP is to be
    /// there before. The changes are taken as done, as those of [`Tables::set`] are.
    pub fn set_networks(&mut self, networks: &BTreeSet<IpNet>) -> Vec<Change> {
        self.networks.set(networks)
    }

    /// Says which addresses are to be left alone although Services have their addresses there: those of the node itself, and those of other
    /// proxies' Services. To be called before their service ports go.
    pub fn leave(&mut self, addrs: &BTreeSet<IpAddr>) -> Vec<Change> {
        let mut changes = Vec::new();
        self.cluster_ips.leave(addrs, self.sizes.cluster_ips, &mut changes);
        changes
    }

    /// Says that no others are to be left alone. To be called after their service ports are there.
    pub fn leave_only(&mut self, addrs: &BTreeSet<IpAddr>) -> Vec<Change> {
        let mut changes = Vec::new();
        self.cluster_ips.leave_only(addrs, &mut changes);
        changes
    }

    /// Clears rows of removed frontends that have rested, and what a run left that ended half-way. Nothing depends on when that is
    /// done: once after the start, when every plan is in place, and then now and again.
    pub fn sweep(&mut self, now: Instant) -> Vec<Change> {
        let Leftovers { frontends, lives, ids } = std::mem::take(&mut self.leftovers);
        let mut changes = Vec::new();
        for addr in frontends.iter().filter(|addr| matches!(self.owners.get(addr), Some(Owner::Stray(_)))).collect::<Vec<_>>() {
            self.take_over(addr, now);
            changes.push(Change::RemoveFrontend { addr: *addr });
        }
        for index in lives {
            self.pools.lives.unblock(index, now);
            changes.push(Change::Live { index, reference: BackendRef::NONE });
        }
        for id in ids {
            self.pools.unblock_id(id, self.sizes, now);
            changes.push(Change::Service { id, row: None });
        }
        self.sources.sweep(&mut changes);
        self.cluster_ips.sweep(&mut changes);
        let rows = self.pools.rows.sweep(now);
        changes.extend(rows.into_iter().map(|row| Change::Row { row: RowIndex(row), value: FrontendRow::zeroed() }));
        changes
    }

    /// Every service port that has rows, in order.
    pub fn names(&self) -> impl Iterator<Item = &ServicePortName> {
        self.names.keys()
    }

    /// The frontends of a service port that has rows.
    fn frontends(&self, name: &ServicePortName) -> impl Iterator<Item = &FrontendAddr> {
        self.names.get(name).and_then(|id| self.services.get(id)).into_iter().flat_map(|service| service.frontends.keys())
    }

    /// Puts whoever is to have a frontend (its `server`) before whoever has it, as far as that can be: the frontend changes hands in one step then.
    pub fn takers_first<'a>(
        &self,
        names: Vec<ServicePortName>,
        server: impl Fn(&FrontendAddr) -> Option<&'a ServicePortName>,
    ) -> Vec<ServicePortName> {
        let mut left: BTreeSet<_> = names.iter().cloned().collect();
        let mut ordered = Vec::with_capacity(names.len());
        let mut stack: Vec<_> = names.into_iter().rev().map(|name| (name, false)).collect();
        while let Some((name, are_takers_done)) = stack.pop() {
            if are_takers_done {
                ordered.push(name);
            } else if left.remove(&name) {
                let takers = self.frontends(&name).filter_map(&server).filter(|taker| left.contains(*taker));
                let takers: Vec<_> = takers.map(|taker| (taker.clone(), false)).collect();
                stack.push((name, true));
                stack.extend(takers);
            }
        }
        ordered
    }

    /// The id of a service port that has rows.
    pub fn id(&self, name: &ServicePortName) -> Option<ServiceId> {
        self.names.get(name).copied()
    }

    /// How full the maps are.
    pub fn usage(&self) -> Usage {
        let Pools { lives, slots4, slots6, .. } = &self.pools;
        let [frontends4, frontends6] = IpFamily::ALL.map(|family| self.owners.fill(family, self.sizes));
        let [sources4, sources6] = IpFamily::ALL.map(|family| Fill { used: self.sources.used(family), max: self.sizes.sources });
        let [cluster_ips4, cluster_ips6] =
            IpFamily::ALL.map(|family| Fill { used: self.cluster_ips.used(family), max: self.sizes.cluster_ips });
        let services = u32::try_from(self.services.len()).unwrap_or(u32::MAX);
        Usage {
            frontends4,
            frontends6,
            rows: Fill { used: frontends4.used + frontends6.used, max: self.sizes.rows },
            slots4: Fill { used: slots4.used(), max: slots4.size() },
            slots6: Fill { used: slots6.used(), max: slots6.size() },
            live: Fill { used: lives.used(), max: lives.size() },
            services: Fill { used: services, max: self.sizes.services.saturating_sub(1) },
            sources4,
            sources6,
            cluster_ips4,
            cluster_ips6,
        }
    }
}
