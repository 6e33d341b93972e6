//! Adopts what an earlier run left in the maps.
//!
//! Every state between two changes can be adopted. What makes no sense is left alone until it is taken over or swept. What is not in
//! use may have been a moment ago, so it rests.

mod backends;
mod found;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Instant,
};

use ipnet::IpNet;
use proxy_common::{BackendRef, FrontendRef, RowIndex, ServiceId, ServiceRow};

use self::{
    backends::Backends,
    found::{Found, Slot},
};
use super::{
    Sizes, Tables,
    change::Snapshot,
    free::Indices,
    lives::Lives,
    name::name_of,
    networks::ServiceNetworks,
    pools::{IDS_REST, Owner, ROWS_REST},
    service::{Frontend, Service},
    slots::Slots,
};
use crate::model::FrontendAddr;

impl Tables {
    /// The mirror of maps that an earlier run has filled. `now` is the time at which they were read, or later.
    pub fn restore(sizes: Sizes, snapshot: &Snapshot, now: Instant) -> Self {
        let found = Found::new(snapshot);
        let mut tables = Self::new(sizes);
        tables.adopt_names(&snapshot.services);
        tables.adopt_frontends(&snapshot.frontends, &found);
        tables.adopt_sources(&snapshot.sources);
        for (addr, undefined) in &snapshot.cluster_ips {
            tables.cluster_ips.find(*addr, *undefined);
        }
        tables.networks = ServiceNetworks::find(snapshot.networks4, snapshot.networks6);
        let living = Backends::new(&found).adopt(&mut tables.services, &mut tables.pools);
        tables.restore_ids(now);
        tables.restore_rows(&found, now);
        tables.restore_lives(&found, &living, now);
        rest_stale(&mut tables.pools.slots4, &found.slots4, now);
        rest_stale(&mut tables.pools.slots6, &found.slots6, now);
        tables
    }

    fn adopt_names(&mut self, rows: &[(ServiceId, ServiceRow)]) {
        for (id, row) in rows.iter().copied().collect::<BTreeMap<_, _>>() {
            match name_of(&row) {
                Some(name) if (1..self.sizes.services).contains(&id.0) && !self.names.contains_key(&name) => {
                    self.services.insert(id, Service::new(id, name.clone()));
                    self.names.insert(name, id);
                }
                _ => self.leftovers.ids.push(id),
            }
        }
    }

    fn adopt_frontends(&mut self, frontends: &[(FrontendAddr, FrontendRef)], found: &Found) {
        let mut claimed = BTreeSet::new();
        for (addr, FrontendRef { service: id, row }) in frontends.iter().copied().collect::<BTreeMap<_, _>>() {
            let is_first = row.0 < self.sizes.rows && claimed.insert(row);
            let value = found.rows.get(&row).filter(|value| is_first && value.owner == id);
            if let (Some(value), Some(service)) = (value, self.services.get_mut(&id)) {
                service.frontends.insert(addr, Frontend { row, value: *value });
                self.owners.insert(addr, Owner::Service(id));
            } else {
                self.owners.insert(addr, Owner::Stray(is_first.then_some(row)));
                self.leftovers.frontends.push(addr);
            }
        }
    }

    fn adopt_sources(&mut self, sources: &[(ServiceId, IpNet)]) {
        for (id, network) in sources {
            let owner = self.services.get_mut(id).map(|service| &mut service.sources);
            self.sources.find(*id, network.trunc(), owner);
        }
    }

    fn restore_ids(&mut self, now: Instant) {
        let taken = self.services.keys().chain(&self.leftovers.ids).map(|id| id.0).collect();
        self.pools.ids = Indices::restore(1..self.sizes.services.max(1), IDS_REST, &taken, now);
    }

    fn restore_rows(&mut self, found: &Found, now: Instant) {
        let frontends = self.services.values().flat_map(|service| service.frontends.values());
        let mut used: BTreeSet<RowIndex> = frontends.map(|frontend| frontend.row).collect();
        used.extend(self.leftovers.frontends.iter().filter_map(|addr| match self.owners.get(addr)? {
            Owner::Stray(row) => row,
            Owner::Service(_) => None,
        }));
        let is_stale = |row: &RowIndex| row.0 < self.sizes.rows && !used.contains(row);
        let stale: BTreeSet<RowIndex> = found.rows.keys().copied().filter(is_stale).collect();
        let taken = used.union(&stale).map(|row| row.0).collect();
        self.pools.rows = Indices::restore(0..self.sizes.rows, ROWS_REST, &taken, now);
        for row in stale {
            self.pools.rows.give(row.0, now);
        }
    }

    fn restore_lives(&mut self, found: &Found, living: &BTreeSet<BackendRef>, now: Instant) {
        let unknown = found.live.iter().filter(|(_, reference)| !living.contains(reference)).map(|(index, _)| *index);
        let blocked: BTreeSet<u32> = unknown.collect();
        self.pools.lives = Lives::restore(self.sizes.live, living, &blocked, found.highest_generation(), now);
        self.leftovers.lives.extend(blocked);
    }
}

/// Lets slots rest that were filled once and are not in use now.
fn rest_stale(slots: &mut Slots, found: &BTreeMap<u32, Slot>, now: Instant) {
    let stale: Vec<u32> = found.keys().copied().filter(|slot| slots.is_free(*slot)).collect();
    for run in stale.chunk_by(|a, b| a + 1 == *b) {
        slots.rest(run, now);
    }
}
