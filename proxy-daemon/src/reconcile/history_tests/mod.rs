//! Random histories of API objects, some of their fields garbage: nothing panics, what is planned change by change is what is planned from
//! scratch and what the maps lead to, and the same objects give the same plans in whatever order they come.
//!
//! `SHUNT_HISTORY` says how many changes there are in all.

mod objects;

use std::{collections::BTreeMap, env, net::IpAddr};

use objects::{Chance, node, service, slice, spoil};
use proxy_common::Undefined;
use serde_json::Value;

use super::{tests::Fake, *};
use crate::{
    model::{
        Event, convert,
        testing::{Objects, empty_lists, model_of},
    },
    plan::{BackendSet, ServicePlan, plan_all},
    tables::{Scope, tests::kernel::Outcome},
};

/// How many changes there are unless the environment says otherwise, and after how many of them there is a new cluster.
const CHANGES: u64 = 600;
const HISTORY: u64 = 200;
/// Nothing has rested for long enough to be used again, so there is room for all that ever was.
const SIZES: Sizes =
    Sizes { frontends: 1024, rows: 1 << 16, backends: 1 << 18, live: 1 << 18, services: 1 << 14, sources: 1 << 14, cluster_ips: 1024 };

#[test]
fn any_history_of_any_objects_is_followed() {
    let changes = env::var("SHUNT_HISTORY").map_or(CHANGES, |changes| changes.parse().expect("SHUNT_HISTORY is a number"));
    let mut served = 0;
    for seed in 0..changes.div_ceil(HISTORY) {
        let mut history = History::new(seed);
        for _ in 0..HISTORY {
            history.step();
            served += history.check();
        }
    }
    assert!(served > changes, "{served} frontends were served after {changes} changes, one after the other");
}

/// A cluster that changes, and the daemon that follows it.
struct History {
    chance: Chance,
    objects: Objects,
    reconciler: Reconciler<Fake>,
}

// === impl History ===

impl History {
    fn new(seed: u64) -> Self {
        let mut reconciler = Reconciler::new("n1".to_owned(), Settings::default(), SIZES, Fake::default());
        reconciler.set_machine(Machine::with(&["192.0.2.9".parse().unwrap()]));
        for change in empty_lists() {
            reconciler.change(change);
        }
        Self { chance: Chance(seed), objects: Objects::default(), reconciler }
    }

    /// One change, and the round that follows it. The machine changes, too: its addresses are endpoints and ClusterIPs at times.
    fn step(&mut self) {
        if self.chance.below(8) == 0 {
            let own = self.chance.some_of(["192.0.2.9", "10.1.0.1", "10.96.0.3", "fd00::2", "203.0.113.1"].iter());
            let own: Vec<IpAddr> = own.iter().map(|addr| addr.parse().unwrap()).collect();
            self.reconciler
                .set_machine(Machine { preferred: vec!["192.0.2.9".parse().unwrap()], own: Arc::new(own.into_iter().collect()) });
        }
        let change = match self.chance.below(16) {
            0 => lists(&self.objects, &mut self.chance),
            1..6 => self.change_of(service, |object| convert::service(&object), Change::Service),
            6..15 => self.change_of(slice, |object| convert::endpoint_slice(&object), Change::Slice),
            _ => self.change_of(node, |object| convert::node(&object), Change::Node),
        };
        self.objects.take(&change);
        self.reconciler.change(change);
        self.reconciler.maps.refuse_in = (self.chance.below(8) == 0).then(|| self.chance.below(12));
        while self.reconciler.round().retry {
            self.reconciler.retry();
        }
        self.reconciler.maps.refuse_in = None;
        self.reconciler.sweep(Instant::now()).unwrap();
    }

    /// What a source makes of an object that is new, has changed or is gone. One that cannot be read changes nothing.
    fn change_of<K: serde::de::DeserializeOwned, T>(
        &mut self,
        make: fn(&mut Chance) -> Value,
        convert: fn(K) -> convert::Converted<T>,
        change: fn(Event<T>) -> Change,
    ) -> Change {
        loop {
            let mut object = make(&mut self.chance);
            for _ in 0..self.chance.below(3) {
                spoil(&mut object, &mut self.chance);
            }
            let Ok(object) = serde_json::from_value(object) else { continue };
            let converted = convert(object);
            let is_gone = self.chance.below(6) == 0;
            return change(match converted.object.filter(|_| !is_gone) {
                Some(object) => Event::Applied(object),
                None => Event::Deleted(converted.name),
            });
        }
    }

    /// Compares what is planned and what the maps lead to; yields how many frontends there are.
    fn check(&mut self) -> u64 {
        let facts = &self.reconciler.facts;
        let fresh = NodeFacts::new(&self.reconciler.settings, "n1", self.objects.node.as_ref(), &self.reconciler.machine);
        assert_eq!(*facts, fresh, "the node is not what it was");
        let plans = plan_all(&self.reconciler.model, facts);
        for _ in 0..2 {
            let mut changes = self.objects.changes();
            self.chance.shuffle(&mut changes);
            let fresh = model_of(changes);
            assert_eq!(plan_all(&fresh, facts), plans, "the same objects in another order");
            assert_eq!(fresh.lost_claims(), self.reconciler.model.lost_claims());
        }
        self.check_maps(&plans)
    }

    /// The maps lead every client where the plans say.
    fn check_maps(&self, plans: &BTreeMap<ServicePortName, ServicePlan>) -> u64 {
        assert!(self.reconciler.failed.is_empty());
        let kernel = &self.reconciler.maps.kernel;
        // A name that is too long for its row is not served; what else does not fit would be a test with too little room.
        let served = plans.iter().filter(|(name, _)| !self.reconciler.refused.contains_key(*name));
        assert!(self.reconciler.refused.values().all(|message| message.ends_with("is too long")), "{:?}", self.reconciler.refused);
        let mut planned = 0;
        for (addr, frontend) in served.flat_map(|(_, plan)| &plan.frontends) {
            planned += 1;
            for (scope, set) in [(Scope::Internal, &frontend.internal), (Scope::External, &frontend.external)] {
                let found = match kernel.resolve(addr, scope) {
                    Outcome::Backends(_, backends) => BackendSet::Backends(backends.into()),
                    Outcome::Reject => BackendSet::Reject,
                    Outcome::Drop => BackendSet::Drop,
                    Outcome::NoService => panic!("{addr} is no frontend"),
                };
                assert_eq!(&found, set, "{addr} {scope:?}");
            }
        }
        self.check_cluster_ips(plans);
        self.check_sources(plans);
        assert_eq!(kernel.snapshot().frontends.len(), planned, "a frontend that nobody planned");
        planned as u64
    }
}

impl History {
    /// Every ClusterIP is there, and is left alone if the node has the address or the Service is another proxy's.
    fn check_cluster_ips(&self, plans: &BTreeMap<ServicePortName, ServicePlan>) {
        let served = plans.iter().filter(|(name, _)| !self.reconciler.refused.contains_key(*name));
        let mut planned: BTreeMap<IpAddr, Undefined> = served.flat_map(|(_, plan)| plan.cluster_ips.clone()).collect();
        let others = self.objects.services.values().filter(|service| !service.is_ours).flat_map(|service| &service.cluster_ips);
        planned.extend(others.map(|addr| (*addr, Undefined::LEAVE)));
        assert_eq!(self.reconciler.maps.kernel.cluster_ips.clone(), planned);
    }

    /// Every limited frontend lets in whom it must, and nobody else.
    fn check_sources(&self, plans: &BTreeMap<ServicePortName, ServicePlan>) {
        let served = plans.iter().filter(|(name, _)| !self.reconciler.refused.contains_key(*name));
        for (plan, addr, frontend) in served.flat_map(|(_, plan)| plan.frontends.iter().map(move |(addr, frontend)| (plan, addr, frontend)))
        {
            for client in ["10.1.2.3", "192.0.2.1", "198.51.100.7", "fd00::7", "2001:db8::7"].map(|client| client.parse().unwrap()) {
                let is_let_in = !frontend.has_source_ranges || plan.sources.iter().any(|source| source.contains(&client));
                assert_eq!(self.reconciler.maps.kernel.lets_in(addr, client), is_let_in, "{addr} {client}");
            }
        }
    }
}

/// A list of all objects of a kind that are left, as after a connection was lost: their order and some of them are gone.
fn lists(objects: &Objects, chance: &mut Chance) -> Change {
    if chance.below(2) == 0 {
        Change::Service(Event::Reset(chance.some_of(objects.services.values())))
    } else {
        Change::Slice(Event::Reset(chance.some_of(objects.slices.values())))
    }
}
