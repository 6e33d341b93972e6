//! From changes to maps: model, plan, tables, maps, in this order, and nothing else.
//!
//! A round takes the service ports that a change has made dirty, plans each and applies what differs. Nothing is written before the first
//! complete lists are in. A service port that does not fit is tried again when room may have come; what was loaded of it before stays. When
//! the kernel refuses a change, the mirror is read back from the maps and everything is compared again.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Instant,
};

use crate::{
    maps::{self, Maps},
    model::{Change, Model, ServicePortName},
    plan::{NodeFacts, plan},
    tables::{self, Sizes, Tables, Usage},
};

/// What a round has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Round {
    /// Service ports that were planned.
    pub planned: usize,
    /// Changes that were applied.
    pub changes: usize,
    /// Something could not be applied: another round is due soon.
    pub retry: bool,
}

/// Owns the state of the control path. One task drives it.
pub struct Reconciler<M> {
    node_name: String,
    machine: Vec<IpAddr>,
    facts: NodeFacts,
    model: Model,
    sizes: Sizes,
    /// Nothing until the first round: what is in the maps is adopted then.
    tables: Option<Tables>,
    maps: M,
    pending: BTreeSet<ServicePortName>,
    /// What does not fit, with the message that was logged.
    refused: BTreeMap<ServicePortName, String>,
    noticed: BTreeSet<ServicePortName>,
}

impl<M: Maps> Reconciler<M> {
    /// A reconciler that has heard of nothing yet.
    pub fn new(node_name: String, sizes: Sizes, maps: M) -> Self {
        let facts = NodeFacts::new(&node_name, None, &[]);
        Self {
            node_name,
            machine: Vec::new(),
            facts,
            model: Model::default(),
            sizes,
            tables: None,
            maps,
            pending: BTreeSet::new(),
            refused: BTreeMap::new(),
            noticed: BTreeSet::new(),
        }
    }

    /// Takes in what a source tells.
    pub fn change(&mut self, change: Change) {
        self.model.apply(change);
        self.refresh_facts();
    }

    /// Takes in the machine's own addresses, the best first: they stand in where the Node object has none.
    pub fn set_machine(&mut self, addresses: Vec<IpAddr>) {
        self.machine = addresses;
        self.refresh_facts();
    }

    /// The addresses that the Node object has, if there is one.
    pub fn node_object_ips(&self) -> &[IpAddr] {
        self.model.node().map_or(&[], |node| &node.node_ips)
    }

    /// Whether a complete state of the cluster has been written.
    pub fn is_synced(&self) -> bool {
        self.tables.is_some()
    }

    /// How full the tables are.
    pub fn usage(&self) -> Option<Usage> {
        self.tables.as_ref().map(Tables::usage)
    }

    /// The maps.
    pub fn maps_mut(&mut self) -> &mut M {
        &mut self.maps
    }

    fn refresh_facts(&mut self) {
        let facts = NodeFacts::new(&self.node_name, self.model.node(), &self.machine);
        if facts != self.facts {
            tracing::info!(node = %facts.name, zone = ?facts.zone, ips = ?facts.node_ips, "node");
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
        if let Err(error) = self.adopt(Instant::now()) {
            tracing::warn!(error = &error as &dyn std::error::Error, "reading the maps back failed, to be tried again");
            return Round { retry: true, ..round };
        }
        // Room comes from what leaves: services that are gone first, then what did not fit before.
        let pending = std::mem::take(&mut self.pending);
        let refused: Vec<_> = self.refused.keys().cloned().collect();
        let (alive, gone): (BTreeSet<_>, BTreeSet<_>) =
            pending.into_iter().chain(refused).partition(|name| self.model.service_port(name).is_some());
        for name in gone.iter().chain(&alive) {
            round.planned += 1;
            // The time of each by itself: what it takes away rests from then on, however long the round is.
            match self.bring(name, Instant::now()) {
                Ok(changes) => round.changes += changes,
                Err(Failure::Tables(error)) => self.note_refusal(name, &error),
                Err(Failure::Maps(error)) => {
                    tracing::warn!(service = %name, error = &error as &dyn std::error::Error, "the kernel refused a change, to be tried again");
                    self.start_over();
                    return Round { retry: true, ..round };
                }
            }
        }
        round
    }

    /// Clears what has rested, and what a run left that ended half-way. Now and again is often enough.
    pub fn sweep(&mut self, now: Instant) -> Result<(), maps::Error> {
        let Some(tables) = &mut self.tables else { return Ok(()) };
        for change in tables.sweep(now) {
            if let Err(error) = self.maps.apply(&change) {
                self.start_over();
                return Err(error);
            }
        }
        Ok(())
    }

    /// Reads back what a previous run, or a round that failed, has left in the maps. What it serves and the cluster does not know any more
    /// becomes pending, as everything else.
    fn adopt(&mut self, now: Instant) -> Result<(), maps::Error> {
        if self.tables.is_some() {
            return Ok(());
        }
        let tables = Tables::restore(self.sizes, &self.maps.snapshot()?, now);
        self.pending.extend(tables.names().cloned());
        self.pending.extend(self.model.service_port_names());
        self.tables = Some(tables);
        Ok(())
    }

    /// Forgets the mirror: the next round reads the maps and compares everything.
    fn start_over(&mut self) {
        self.tables = None;
    }

    /// Brings one service port to its plan.
    fn bring(&mut self, name: &ServicePortName, now: Instant) -> Result<usize, Failure> {
        let plan = plan(&self.model, &self.facts, name);
        let Some(tables) = &mut self.tables else { return Ok(0) };
        let changes = tables.set(name, plan.as_ref(), now).map_err(Failure::Tables)?;
        for change in &changes {
            self.maps.apply(change).map_err(Failure::Maps)?;
        }
        if self.refused.remove(name).is_some() {
            tracing::info!(service = %name, "the service is served now");
        }
        match plan {
            // Once for each service, however often its endpoints come and go.
            Some(plan) if plan.remote_only_notice && self.noticed.insert(name.clone()) => {
                tracing::warn!(service = %name, "outside clients reach the backends on this node only: those on other nodes are not used for them yet");
            }
            Some(_) => {}
            None => _ = self.noticed.remove(name),
        }
        Ok(changes.len())
    }

    /// Says once why a service port is not served as it should be.
    fn note_refusal(&mut self, name: &ServicePortName, error: &tables::Error) {
        let message = error.to_string();
        if self.refused.get(name) != Some(&message) {
            tracing::warn!(service = %name, error = message, "the service cannot be served as it is now; what was loaded of it before stays");
            self.refused.insert(name.clone(), message);
        }
    }

    /// How many service ports are not served as they should be.
    pub fn refused(&self) -> usize {
        self.refused.len()
    }
}

/// Why a service port was not brought to its plan.
enum Failure {
    /// It does not fit; nothing was changed.
    Tables(tables::Error),
    /// The kernel refused a change in the middle.
    Maps(maps::Error),
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use aya::maps::MapError;

    use super::*;
    use crate::{
        model::{Event, convert},
        tables::{
            Snapshot,
            tests::kernel::{Kernel, Outcome},
        },
    };

    const SIZES: Sizes = Sizes { frontends: 64, rows: 128, backends: 1024, live: 1024, services: 64 };

    /// Maps that refuse the n-th change from now, once.
    #[derive(Clone, Default)]
    struct Fake {
        kernel: Kernel,
        refuse_in: Option<usize>,
        applied: usize,
    }

    impl Maps for Fake {
        fn apply(&mut self, change: &tables::Change) -> Result<(), maps::Error> {
            if self.refuse_in == Some(0) {
                self.refuse_in = None;
                return Err(maps::Error::Write { map: "TEST", source: MapError::KeyNotFound });
            }
            self.refuse_in = self.refuse_in.map(|left| left - 1);
            self.applied += 1;
            self.kernel.apply(change, Instant::now());
            Ok(())
        }

        fn snapshot(&self) -> Result<Snapshot, maps::Error> {
            Ok(self.kernel.snapshot())
        }
    }

    fn yaml<T: serde::de::DeserializeOwned>(text: &str) -> T {
        serde_yaml_ng::from_str(text).unwrap()
    }

    fn service(name: &str, ip: &str) -> Change {
        let text = format!(
            "{{metadata: {{name: {name}, namespace: d}}, spec: {{type: ClusterIP, clusterIP: {ip}, clusterIPs: [{ip}], ports: [{{port: 80}}]}}}}"
        );
        Change::Service(Event::Applied(convert::service(&yaml(&text)).object.unwrap()))
    }

    fn slice(service: &str, backends: &[&str]) -> Change {
        let endpoints: Vec<_> = backends.iter().map(|addr| format!("{{addresses: [{addr}], nodeName: n1}}")).collect();
        let text = format!(
            "{{metadata: {{name: {service}-1, namespace: d, labels: {{kubernetes.io/service-name: {service}}}}}, addressType: IPv4, \
             ports: [{{name: '', port: 8080, protocol: TCP}}], endpoints: [{}]}}",
            endpoints.join(", ")
        );
        Change::Slice(Event::Applied(convert::endpoint_slice(&yaml(&text)).object.unwrap()))
    }

    fn listed() -> [Change; 3] {
        [Change::Service(Event::Reset(vec![])), Change::Slice(Event::Reset(vec![])), Change::Node(Event::Reset(vec![]))]
    }

    fn reconciler(maps: Fake, changes: impl IntoIterator<Item = Change>) -> Reconciler<Fake> {
        let mut reconciler = Reconciler::new("n1".to_owned(), SIZES, maps);
        for change in listed().into_iter().chain(changes) {
            reconciler.change(change);
        }
        reconciler
    }

    fn outcome(kernel: &Kernel, ip: &str) -> Outcome {
        let addr = crate::model::FrontendAddr { addr: ip.parse().unwrap(), port: 80, protocol: proxy_common::Protocol::Tcp };
        kernel.resolve(&addr, tables::Scope::Internal)
    }

    fn backends(kernel: &Kernel, ip: &str) -> Vec<SocketAddr> {
        let Outcome::Backends(_, backends) = outcome(kernel, ip) else { panic!("{ip} leads to no backend") };
        backends
    }

    #[test]
    fn nothing_is_written_before_every_kind_has_listed() {
        let mut reconciler = Reconciler::new("n1".to_owned(), SIZES, Fake::default());
        let [services, slices, node] = listed();
        for change in [service("web", "10.96.0.1"), services, node] {
            reconciler.change(change);
            assert_eq!(reconciler.round(), Round::default());
        }
        assert!(!reconciler.is_synced());
        reconciler.change(slices);
        reconciler.round();
        assert!(reconciler.is_synced());
    }

    #[test]
    fn a_change_that_the_kernel_refuses_anywhere_is_made_good() {
        let mut refused_at = 0;
        loop {
            let maps = Fake { refuse_in: Some(refused_at), ..Fake::default() };
            let mut reconciler = reconciler(maps, [service("web", "10.96.0.1"), slice("web", &["10.0.0.1", "10.0.0.2"])]);
            let first = reconciler.round();
            if first.retry {
                assert!(!reconciler.round().retry);
            }
            assert_eq!(backends(&reconciler.maps.kernel, "10.96.0.1").len(), 2, "refused at {refused_at}");
            if !first.retry {
                break;
            }
            refused_at += 1;
        }
        assert!(refused_at > 3, "there were changes to refuse");
    }

    #[test]
    fn what_went_while_the_daemon_was_down_is_removed_and_the_rest_untouched() {
        let both = [service("web", "10.96.0.1"), slice("web", &["10.0.0.1"]), service("old", "10.96.0.2"), slice("old", &["10.0.0.2"])];
        let mut before = reconciler(Fake::default(), both);
        before.round();
        let maps = Fake { applied: 0, ..before.maps.clone() };
        let [web, web_slice] = [service("web", "10.96.0.1"), slice("web", &["10.0.0.1"])];
        let mut after = reconciler(maps, [web, web_slice]);
        after.round();
        assert_eq!(outcome(&after.maps.kernel, "10.96.0.2"), Outcome::NoService);
        assert_eq!(backends(&after.maps.kernel, "10.96.0.1"), backends(&before.maps.kernel, "10.96.0.1"));
    }
}
