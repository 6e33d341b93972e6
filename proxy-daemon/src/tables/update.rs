//! Brings one service port to its plan: first what can fail, then the changes.
//!
//! The order of the changes makes every prefix valid: the name of the id; new lives; fresh slot ranges; clients that are let in; ClusterIPs that
//! refuse no more; new frontends, each with a row that is complete; then one store for each word that differs; then the removal of frontends that
//! are gone; then clients that are let in no longer, and new frontends that were not for them either; then the end of lives, which no published
//! range names any more; then the name of an id that is gone. ClusterIPs that refuse what is for no frontend come when the other ports of their
//! Service are there, too: [`Tables::write_claims`].

use std::{mem, net::SocketAddr, time::Instant};

use ipnet::IpNet;
use proxy_common::{BackendRef, FrontendRef, RowIndex, ServiceId, ServiceRow};

use super::{
    Error, Tables,
    change::Change,
    cluster_ips::Said,
    name::name_row,
    pools::{Need, Owner},
    service::{Frontend, LoadedSet, Service},
    sources,
    wanted::Wanted,
};
use crate::{
    model::{FrontendAddr, IpFamily, ServicePortName},
    plan::{FrontendPlan, ServicePlan},
};

impl Tables {
    /// Brings a service port to its plan.
    pub(super) fn bring(&mut self, name: &ServicePortName, plan: &ServicePlan, now: Instant) -> Result<Vec<Change>, Error> {
        let wanted = Wanted::new(name, plan)?;
        let old = self.names.get(name).and_then(|id| self.services.get(id));
        let row = if old.is_none() { Some(name_row(name)?) } else { None };
        self.pools.check(&self.need(old, plan, &wanted), (&self.owners, &self.sources, &self.cluster_ips), self.sizes, now)?;
        let fresh = self.pools.take_sets(old.map_or(&[], |service| &service.sets), &wanted, now)?;

        let mut changes = Vec::new();
        let mut service = self.open(name, row, now, &mut changes);
        let ended = self.renew_backends(&mut service, &wanted.backends, now, &mut changes);
        changes.extend(fresh.iter().map(|set| service.fill(set)));
        self.renew_sets(&mut service, &wanted, fresh, now);
        let shut_out = self.sources.renew(service.id, &mut service.sources, &plan.sources, &mut changes);
        let said = mem::replace(&mut service.cluster_ips, plan.cluster_ips.clone());
        self.cluster_ips.renew(service.id, &said, &plan.cluster_ips, &mut changes);
        self.insert_frontends(&mut service, plan, |frontend| !frontend.has_source_ranges, now, &mut changes);
        self.renew_frontends(&mut service, plan, now, &mut changes);
        changes.extend(plan.cluster_ips.keys().filter_map(|addr| self.networks.cover(*addr)));
        self.sources.remove(service.id, &shut_out, &mut changes);
        self.insert_frontends(&mut service, plan, |frontend| frontend.has_source_ranges, now, &mut changes);
        self.end_lives(ended, now, &mut changes);
        self.services.insert(service.id, service);
        Ok(changes)
    }

    /// Removes all that there is of a service port.
    pub(super) fn drop_service(&mut self, name: &ServicePortName, now: Instant) -> Vec<Change> {
        let mut changes = Vec::new();
        let Some(id) = self.names.remove(name) else { return changes };
        let Some(service) = self.services.remove(&id) else { return changes };
        self.cluster_ips.renew(id, &service.cluster_ips, &Said::new(), &mut changes);
        self.remove_frontends(service.frontends, now, &mut changes);
        self.sources.remove(id, &service.sources, &mut changes);
        self.end_lives(service.backends.into_iter().map(|(_, reference)| reference), now, &mut changes);
        for set in &service.sets {
            self.pools.retire(set, now);
        }
        self.pools.ids.give(id.0, now);
        changes.push(Change::Service { id, row: None });
        changes
    }

    /// What an update needs beside slots. Frontends that are taken over from another service port need no entry.
    fn need(&self, old: Option<&Service>, plan: &ServicePlan, wanted: &Wanted) -> Need {
        let is_loaded = |addr: &FrontendAddr| old.is_some_and(|service| service.frontends.contains_key(addr));
        let lives = |addr: &SocketAddr| old.is_some_and(|service| service.reference(*addr).is_some());
        let mut need = Need { ids: usize::from(old.is_none()), ..Need::default() };
        need.lives = wanted.backends.iter().filter(|addr| !lives(addr)).count();
        for addr in plan.frontends.keys().filter(|addr| !is_loaded(addr)) {
            need.rows += 1;
            if self.owners.get(addr).is_none() {
                *need.frontends.of_mut(IpFamily::of(addr.addr)) += 1;
            }
        }
        let is_let_in = |network: &IpNet| old.is_some_and(|service| service.sources.contains(network));
        for network in plan.sources.iter().filter(|network| !is_let_in(network)) {
            *need.sources.of_mut(sources::family(network)) += 1;
        }
        for addr in plan.cluster_ips.keys().filter(|addr| !self.cluster_ips.has(addr)) {
            *need.cluster_ips.of_mut(IpFamily::of(*addr)) += 1;
        }
        need
    }

    /// Takes the service port out of the mirror to be changed, with a name and an id if it has none.
    fn open(&mut self, name: &ServicePortName, row: Option<Box<ServiceRow>>, now: Instant, changes: &mut Vec<Change>) -> Service {
        if let Some(service) = self.names.get(name).and_then(|id| self.services.remove(id)) {
            return service;
        }
        let id = ServiceId(self.pools.ids.take(now).expect("room for the id was checked"));
        self.names.insert(name.clone(), id);
        changes.push(Change::Service { id, row });
        Service { sources: self.sources.adopt(id), ..Service::new(id, name.clone()) }
    }

    /// Begins the lives of new backends. Yields those that are to end. Both lists of backends are sorted.
    fn renew_backends(&mut self, service: &mut Service, wanted: &[SocketAddr], now: Instant, changes: &mut Vec<Change>) -> Vec<BackendRef> {
        let mut ended = Vec::new();
        let mut old = mem::take(&mut service.backends).into_iter().peekable();
        for addr in wanted {
            while let Some((_, reference)) = old.next_if(|(other, _)| other < addr) {
                ended.push(reference);
            }
            let reference = old.next_if(|(other, _)| other == addr).map_or_else(
                || {
                    let reference = self.pools.lives.begin(now).expect("room for the lives was checked");
                    changes.push(Change::Live { index: reference.index(), reference });
                    reference
                },
                |(_, reference)| reference,
            );
            service.backends.push((*addr, reference));
        }
        ended.extend(old.map(|(_, reference)| reference));
        ended
    }

    /// Adds the sets that are new and retires those that are not wanted any more. The changes that follow do away with their readers.
    fn renew_sets(&mut self, service: &mut Service, wanted: &Wanted, fresh: Vec<LoadedSet>, now: Instant) {
        for set in mem::replace(&mut service.sets, fresh) {
            let is_wanted = wanted.sets.contains(&set.backends) || wanted.parked.contains(&set.backends);
            if is_wanted && service.slots(&set.backends).is_none() {
                service.sets.push(set);
            } else {
                self.pools.retire(&set, now);
            }
        }
    }

    /// Those of the new frontends that are meant.
    fn insert_frontends(
        &mut self,
        service: &mut Service,
        plan: &ServicePlan,
        is_meant: fn(&FrontendPlan) -> bool,
        now: Instant,
        changes: &mut Vec<Change>,
    ) {
        for (addr, frontend) in plan.frontends.iter().filter(|(_, frontend)| is_meant(frontend)) {
            if service.frontends.contains_key(addr) {
                continue;
            }
            let content = service.content(frontend);
            let row = RowIndex(self.pools.rows.take(now).expect("room for the rows was checked"));
            let frontend = Frontend::new(row, service.id, &content);
            changes.push(Change::Row { row, value: frontend.value });
            self.take_over(addr, now);
            changes.push(Change::SetFrontend { addr: *addr, value: FrontendRef { service: service.id, row } });
            self.owners.insert(*addr, Owner::Service(service.id));
            service.frontends.insert(*addr, frontend);
        }
    }

    /// What differs in the rows of the frontends that stay, then those that are gone.
    fn renew_frontends(&mut self, service: &mut Service, plan: &ServicePlan, now: Instant, changes: &mut Vec<Change>) {
        for (addr, frontend) in &plan.frontends {
            let content = service.content(frontend);
            if let Some(frontend) = service.frontends.get_mut(addr) {
                frontend.bring(&content, changes);
            }
        }
        let gone = service.frontends.extract_if(.., |addr, _| !plan.frontends.contains_key(addr));
        self.remove_frontends(gone, now, changes);
    }

    /// Takes a frontend from whoever has it, if anybody has.
    pub(super) fn take_over(&mut self, addr: &FrontendAddr, now: Instant) {
        let row = self.owners.remove(addr).and_then(|owner| match owner {
            Owner::Service(id) => self.services.get_mut(&id).and_then(|loser| loser.frontends.remove(addr)).map(|frontend| frontend.row),
            Owner::Stray(row) => row,
        });
        if let Some(row) = row {
            self.pools.rows.give(row.0, now);
        }
    }

    fn remove_frontends(&mut self, frontends: impl IntoIterator<Item = (FrontendAddr, Frontend)>, now: Instant, changes: &mut Vec<Change>) {
        for (addr, frontend) in frontends {
            self.owners.remove(&addr);
            self.pools.rows.give(frontend.row.0, now);
            changes.push(Change::RemoveFrontend { addr });
        }
    }

    fn end_lives(&mut self, ended: impl IntoIterator<Item = BackendRef>, now: Instant, changes: &mut Vec<Change>) {
        for reference in ended {
            self.pools.lives.end(reference, now);
            changes.push(Change::Live { index: reference.index(), reference: BackendRef::NONE });
        }
    }
}
