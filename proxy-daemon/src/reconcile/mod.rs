//! From changes to maps: model, plan, tables, maps, in this order, and nothing else.
//!
//! A round takes the service ports that a change has made dirty, plans each and applies what differs. Nothing is written before the first
//! complete lists are in. A service port that does not fit is tried again when room may have come; what was loaded of it before stays. When
//! the kernel refuses a change, the mirror is read back from the maps and everything is compared again, but for the service port itself:
//! it waits until it changes or is told to be tried again, and comes last then, so that it keeps no other from being served.

#[cfg(test)]
mod history_tests;
mod lacking;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use ipnet::IpNet;

use self::lacking::Lacking;
use crate::{
    fullness::Fullness,
    maps::{self, Maps},
    model::{Change, IpFamily, Model, ObjectName, ServicePortName},
    plan::{Clients, HealthCheck, Machine, NodeFacts, ServicePlan, Settings, health_check, plan},
    tables::{self, Fill, Sizes, Tables, Usage},
};

/// How many more service ports a round may learn of whose changes the kernel refuses: the maps are read back after each.
const FAILURES_AT_ONCE: usize = 16;

/// What a round has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Round {
    /// Service ports that were planned.
    pub planned: usize,
    /// Changes that were applied.
    pub changes: usize,
    /// Something could not be applied: [`Reconciler::retry`] and another round are due soon.
    pub retry: bool,
    /// Where the time went.
    pub phases: Phases,
}

/// How long a round took, step by step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Phases {
    /// From the model to plans.
    pub plan: Duration,
    /// From plans to what differs in the tables.
    pub tables: Duration,
    /// From there to the kernel.
    pub maps: Duration,
}

/// Owns the state of the control path. One task drives it.
pub struct Reconciler<M> {
    settings: Arc<Settings>,
    node_name: String,
    machine: Machine,
    facts: NodeFacts,
    model: Model,
    sizes: Sizes,
    /// Nothing until the first round: what is in the maps is adopted then.
    tables: Option<Tables>,
    maps: M,
    pending: BTreeSet<ServicePortName>,
    /// What does not fit, with the message that was logged.
    refused: BTreeMap<ServicePortName, String>,
    /// Those with a change that the kernel refused, the last to fail last, with the message that was logged.
    failed: Vec<(ServicePortName, String)>,
    fullness: BTreeMap<&'static str, Fullness>,
    /// The networks of Services that there was no room for when that was said last.
    overflow: Vec<IpNet>,
    /// What load balancers are to hear of Services that were brought to their plans.
    health_news: BTreeMap<ObjectName, Option<HealthCheck>>,
    lacking: Lacking,
}

impl<M: Maps> Reconciler<M> {
    /// A reconciler that has heard of nothing yet.
    pub fn new(node_name: String, settings: Settings, sizes: Sizes, maps: M) -> Self {
        let settings = Arc::new(settings);
        let facts = NodeFacts::new(&settings, &node_name, None, &Machine::default());
        Self {
            settings,
            node_name,
            machine: Machine::default(),
            facts,
            model: Model::default(),
            sizes,
            tables: None,
            maps,
            pending: BTreeSet::new(),
            refused: BTreeMap::new(),
            failed: Vec::new(),
            fullness: BTreeMap::new(),
            overflow: Vec::new(),
            health_news: BTreeMap::new(),
            lacking: Lacking::default(),
        }
    }

    /// Takes in what a source tells.
    pub fn change(&mut self, change: Change) {
        self.model.apply(change);
        self.refresh_facts();
    }

    /// Takes in what the machine says of itself.
    pub fn set_machine(&mut self, machine: Machine) {
        self.machine = machine;
        self.refresh_facts();
    }

    /// The addresses that the Node object has, none where there is no such object; nothing as long as that is not known.
    pub fn node_object_ips(&self) -> Option<&[IpAddr]> {
        let node = self.model.node().map(|node| &node.node_ips[..]);
        node.or_else(|| self.is_synced().then_some(&[]))
    }

    /// Whether a complete state of the cluster has been written.
    pub fn is_synced(&self) -> bool {
        self.tables.is_some()
    }

    /// How full the tables are.
    pub fn usage(&self) -> Option<Usage> {
        self.tables.as_ref().map(Tables::usage)
    }

    /// How many service ports are not served as they should be: they do not fit, or the kernel refuses a change.
    pub fn unserved(&self) -> usize {
        self.refused.len() + self.failed.len()
    }

    /// What load balancers are to hear of the Services that were brought to their plans since the last call; nothing where nobody is to ask.
    pub fn take_health_news(&mut self) -> BTreeMap<ObjectName, Option<HealthCheck>> {
        mem::take(&mut self.health_news)
    }

    /// How many service ports have endpoints, but for these clients none on this node, as their policy asks.
    pub fn lacking(&self, family: IpFamily, clients: Clients) -> usize {
        self.lacking.count(family, clients)
    }

    /// Whether load balancers may send to this node.
    pub fn is_node_eligible(&self) -> bool {
        self.model.is_node_eligible()
    }

    /// The addresses at which node ports are served.
    pub fn node_port_addresses(&self) -> &[IpAddr] {
        &self.facts.node_port_addresses
    }

    /// When what has been taken in since the last call was triggered.
    pub fn take_triggers(&mut self) -> Vec<(IpFamily, SystemTime)> {
        self.model.take_triggers()
    }

    /// The maps.
    pub fn maps_mut(&mut self) -> &mut M {
        &mut self.maps
    }

    fn refresh_facts(&mut self) {
        let facts = NodeFacts::new(&self.settings, &self.node_name, self.model.node(), &self.machine);
        if facts != self.facts {
            if (&facts.zone, &facts.node_ips) != (&self.facts.zone, &self.facts.node_ips) {
                tracing::info!(node = %facts.name, zone = ?facts.zone, ips = ?facts.node_ips, "node");
            }
            self.facts = facts;
            self.model.mark_all_dirty();
        }
    }

    /// Applies everything that is pending.
    pub fn round(&mut self) -> Round {
        let mut round = Round::default();
        if !self.model.has_synced() {
            return round;
        }
        for notice in self.model.take_notices() {
            tracing::warn!("{notice}");
        }
        self.pending.append(&mut self.model.take_dirty());
        for _ in 0..FAILURES_AT_ONCE {
            if let Err(error) = self.adopt() {
                tracing::warn!(error = &error as &dyn std::error::Error, "reading the maps back failed, to be tried again");
                return Round { retry: true, ..round };
            }
            let failed_before = self.failed.len();
            let [due, failed] = self.due();
            let passed = self.pass(&due, &mut round).and_then(|()| if failed.is_empty() { Ok(()) } else { self.pass(&failed, &mut round) });
            if passed.is_ok() {
                round.retry = !self.failed.is_empty();
                self.note_fullness();
                return round;
            }
            self.start_over();
            if self.failed.len() <= failed_before {
                break;
            }
            // One more is known to fail, and waits: it keeps the others from nothing.
        }
        Round { retry: true, ..round }
    }

    /// Brings service ports to their plans, and then what concerns them all. Ends when the kernel refuses a change.
    fn pass(&mut self, names: &[ServicePortName], round: &mut Round) -> Result<(), Refused> {
        let left = self.left_alone();
        let gone: Vec<_> = names.iter().filter(|name| !self.model.has_service(&name.service())).cloned().collect();
        round.changes += self.apply_to_all(|tables| [tables.leave(&left), tables.release(&gone)].concat())?;
        for name in names {
            round.planned += 1;
            match self.bring(name, &mut round.phases) {
                Ok(changes) => round.changes += changes,
                Err(Failure::Tables(error)) => self.note_refusal(name, &error),
                Err(Failure::Maps(error)) => {
                    self.note_failure(name.clone(), error);
                    return Err(Refused);
                }
            }
            self.failed.retain(|(failed, _)| failed != name);
        }
        // After the ClusterIPs: what is in the networks and is none of them is dropped.
        round.changes += self.apply_to_all(|tables| [tables.write_claims(), tables.leave_only(&left)].concat())?;
        round.changes += self.bring_networks()?;
        self.note_health(names);
        Ok(())
    }

    /// Brings what load balancers hear to what is in effect for these.
    fn note_health(&mut self, names: &[ServicePortName]) {
        let services: BTreeSet<_> = names.iter().map(ServicePortName::service).collect();
        for name in services {
            let check = health_check(&self.model, &self.facts, &name);
            self.health_news.insert(name, check);
        }
    }

    /// The addresses of which nothing is refused or dropped, although Services have theirs there: the node's own, and those of other proxies'
    /// Services.
    fn left_alone(&self) -> BTreeSet<IpAddr> {
        let networks = self.model.service_networks();
        let own = self.facts.own.iter().filter(|addr| networks.iter().any(|network| network.contains(*addr)));
        own.copied().chain(self.model.others_addresses()).collect()
    }

    /// Applies what concerns no single service port.
    fn apply_to_all(&mut self, changes: impl FnOnce(&mut Tables) -> Vec<tables::Change>) -> Result<usize, Refused> {
        let Some(tables) = &mut self.tables else { return Ok(0) };
        let changes = changes(tables);
        for change in &changes {
            self.maps.apply(change).map_err(|error| {
                tracing::warn!(error = &error as &dyn std::error::Error, "the kernel refused a change for all Services, to be tried again");
                Refused
            })?;
        }
        Ok(changes.len())
    }

    /// Brings the networks that Services have their addresses from to what is known of them.
    fn bring_networks(&mut self) -> Result<usize, Refused> {
        let networks = if self.settings.drop_unallocated { self.model.service_networks() } else { BTreeSet::new() };
        let changes = self.apply_to_all(|tables| tables.set_networks(&networks))?;
        let overflow = tables::overflow(&networks);
        if overflow != self.overflow {
            if !overflow.is_empty() {
                tracing::warn!(networks = ?overflow, "more ServiceCIDRs than fit: packets to addresses there that no Service has are not dropped");
            }
            self.overflow = overflow;
        }
        Ok(changes)
    }

    /// Warns of a map that is nearly full while there is room in it.
    fn note_fullness(&mut self) {
        let fills = self.usage().map(|usage| usage.fills());
        for (map, flag, Fill { used, max }) in fills.into_iter().flatten() {
            if self.fullness.entry(map).or_default().is_news(used.into(), max.into()) {
                tracing::warn!(map, used, max, "a map is nearly full: services that do not fit will not be served; {flag} makes it larger");
            }
        }
    }

    /// Lets the next round try again what the kernel has refused.
    pub fn retry(&mut self) {
        self.pending.extend(self.failed.iter().map(|(name, _)| name.clone()));
    }

    /// What there is to bring to its plan. Room comes from what leaves: service ports that are gone come first, then what did not fit before. What
    /// failed comes by itself after everything else, since nothing comes after what fails again.
    fn due(&mut self) -> [Vec<ServicePortName>; 2] {
        let mut pending = mem::take(&mut self.pending);
        let failed: Vec<_> = self.failed.iter().filter(|(name, _)| pending.remove(name)).map(|(name, _)| name.clone()).collect();
        let refused = self.refused.keys().filter(|name| !self.has_failed(name)).cloned();
        let (alive, gone): (BTreeSet<_>, BTreeSet<_>) =
            pending.into_iter().chain(refused).partition(|name| self.model.service_port(name).is_some());
        let due = gone.into_iter().chain(alive).collect();
        let due = match &self.tables {
            Some(tables) => tables.takers_first(due, |addr| self.model.server(addr)),
            None => due,
        };
        [due, failed]
    }

    fn has_failed(&self, name: &ServicePortName) -> bool {
        self.failed.iter().any(|(failed, _)| failed == name)
    }

    /// Clears what has rested, and what a run left that ended half-way. Now and again is often enough.
    pub fn sweep(&mut self, now: Instant) -> Result<(), maps::Error> {
        let Some(tables) = &mut self.tables else { return Ok(()) };
        for orphan in self.model.take_orphans() {
            tracing::warn!("{orphan}");
        }
        for change in tables.sweep(now) {
            if let Err(error) = self.maps.apply(&change) {
                self.start_over();
                return Err(error);
            }
        }
        Ok(())
    }

    /// Reads back what a previous run, or a round that failed, has left in the maps. What it serves and the cluster does not know any more
    /// becomes pending, as everything else but what has failed.
    fn adopt(&mut self) -> Result<(), maps::Error> {
        if self.tables.is_some() {
            return Ok(());
        }
        let snapshot = self.maps.snapshot()?;
        // Not before: what is free rests from when it was seen to be free.
        let tables = Tables::restore(self.sizes, &snapshot, Instant::now());
        let names = tables.names().cloned().chain(self.model.service_port_names()).filter(|name| !self.has_failed(name));
        let names: Vec<_> = names.collect();
        self.pending.extend(names);
        self.tables = Some(tables);
        Ok(())
    }

    /// Forgets the mirror: the next round reads the maps and compares everything.
    fn start_over(&mut self) {
        self.tables = None;
    }

    /// Brings one service port to its plan.
    fn bring(&mut self, name: &ServicePortName, phases: &mut Phases) -> Result<usize, Failure> {
        let begin = Instant::now();
        let plan = plan(&self.model, &self.facts, name);
        let Some(tables) = &mut self.tables else { return Ok(0) };
        // The time of each by itself: what it takes away rests from then on, however long the round is.
        let planned = Instant::now();
        phases.plan += planned - begin;
        let changes = tables.set(name, plan.as_ref(), planned).map_err(Failure::Tables)?;
        let compared = Instant::now();
        phases.tables += compared - planned;
        for change in &changes {
            self.maps.apply(change).map_err(Failure::Maps)?;
        }
        phases.maps += compared.elapsed();
        self.lacking.set(name, plan.as_ref().map(ServicePlan::without_local).unwrap_or_default());
        if self.refused.remove(name).is_some() && plan.is_some() {
            tracing::info!(service = %name, "the service is served now");
        }
        Ok(changes.len())
    }

    /// Says once why a service port is not served as it should be: as a warning, unless others share the reason.
    fn note_refusal(&mut self, name: &ServicePortName, error: &tables::Error) {
        let message = error.to_string();
        if self.refused.get(name) == Some(&message) {
            return;
        }
        if self.refused.values().any(|known| *known == message) {
            tracing::info!(service = %name, "the service cannot be served either");
        } else {
            tracing::warn!(service = %name, error = message, "the service cannot be served as it is now; what was loaded of it before stays");
        }
        self.refused.insert(name.clone(), message);
    }

    /// Says why the kernel refused a change of a service port, once while it is the same, and puts the service port last.
    fn note_failure(&mut self, name: ServicePortName, error: maps::Error) {
        let message = format!("{:#}", anyhow::Error::from(error));
        let before = self.failed.iter().position(|(failed, _)| *failed == name).map(|at| self.failed.remove(at).1);
        if before.as_ref() != Some(&message) {
            tracing::warn!(service = %name, error = message, "the kernel refused a change, to be tried again");
        }
        self.failed.push((name, message));
    }
}

/// Why a service port was not brought to its plan.
enum Failure {
    /// It does not fit; nothing was changed.
    Tables(tables::Error),
    /// The kernel refused a change in the middle.
    Maps(maps::Error),
}

/// The kernel refused a change, which has been warned of.
struct Refused;
