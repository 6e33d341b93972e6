//! Random histories of API objects, some of their fields garbage: nothing panics, what is planned change by change is what is planned from
//! scratch and what the maps lead to, and the same objects give the same plans in whatever order they come.
//!
//! `SHUNT_HISTORY` says how many changes there are in all.

mod objects;

use std::{collections::BTreeMap, env};

use objects::{Chance, node, service, slice, spoil};
use serde_json::Value;

use super::{tests::Fake, *};
use crate::{
    model::{Event, NodeInfo, ObjectName, Service, Slice, convert},
    plan::{BackendSet, ServicePlan, plan_all},
    tables::{Scope, tests::kernel::Outcome},
};

/// How many changes there are unless the environment says otherwise, and after how many of them there is a new cluster.
const CHANGES: u64 = 600;
const HISTORY: u64 = 200;
/// Nothing has rested for long enough to be used again, so there is room for all that ever was.
const SIZES: Sizes = Sizes { frontends: 1024, rows: 1 << 16, backends: 1 << 18, live: 1 << 18, services: 1 << 14 };

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

/// The objects as they are now, as far as they are to be served.
#[derive(Default)]
struct Objects {
    services: BTreeMap<ObjectName, Service>,
    slices: BTreeMap<ObjectName, Slice>,
    node: Option<NodeInfo>,
}

// === impl History ===

impl History {
    fn new(seed: u64) -> Self {
        let mut reconciler = Reconciler::new("n1".to_owned(), SIZES, Fake::default());
        reconciler.set_machine(vec!["192.0.2.9".parse().unwrap()]);
        for change in empty_lists() {
            reconciler.change(change);
        }
        Self { chance: Chance(seed), objects: Objects::default(), reconciler }
    }

    /// One change, and the round that follows it.
    fn step(&mut self) {
        let change = match self.chance.below(16) {
            0 => self.objects.lists(&mut self.chance),
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
        let plans = plan_all(&self.reconciler.model, facts);
        for _ in 0..2 {
            let fresh = self.objects.model(&mut self.chance);
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
        assert_eq!(kernel.snapshot().frontends.len(), planned, "a frontend that nobody planned");
        planned as u64
    }
}

fn empty_lists() -> [Change; 3] {
    [Change::Service(Event::Reset(vec![])), Change::Slice(Event::Reset(vec![])), Change::Node(Event::Reset(vec![]))]
}

// === impl Objects ===

impl Objects {
    fn take(&mut self, change: &Change) {
        match change {
            Change::Service(event) => take(&mut self.services, event, |service| &service.name),
            Change::Slice(event) => take(&mut self.slices, event, |slice| &slice.name),
            Change::Node(Event::Applied(node)) => self.node = Some(node.clone()),
            Change::Node(Event::Deleted(_)) => self.node = None,
            Change::Node(Event::Reset(nodes)) => self.node = nodes.first().cloned(),
        }
    }

    /// A list of all objects of a kind that are left, as after a connection was lost: their order and some of them are gone.
    fn lists(&self, chance: &mut Chance) -> Change {
        if chance.below(2) == 0 {
            Change::Service(Event::Reset(chance.some_of(self.services.values())))
        } else {
            Change::Slice(Event::Reset(chance.some_of(self.slices.values())))
        }
    }

    /// A model that has heard of these objects in some order.
    fn model(&self, chance: &mut Chance) -> Model {
        let services = self.services.values().cloned().map(|service| Change::Service(Event::Applied(service)));
        let slices = self.slices.values().cloned().map(|slice| Change::Slice(Event::Applied(slice)));
        let node = self.node.iter().cloned().map(|node| Change::Node(Event::Applied(node)));
        let mut changes: Vec<_> = services.chain(slices).chain(node).collect();
        chance.shuffle(&mut changes);
        let mut model = Model::default();
        for change in empty_lists().into_iter().chain(changes) {
            model.apply(change);
        }
        model
    }
}

fn take<T: Clone>(objects: &mut BTreeMap<ObjectName, T>, event: &Event<T>, name: fn(&T) -> &ObjectName) {
    match event {
        Event::Applied(object) => drop(objects.insert(name(object).clone(), object.clone())),
        Event::Deleted(gone) => drop(objects.remove(gone)),
        Event::Reset(all) => *objects = all.iter().map(|object| (name(object).clone(), object.clone())).collect(),
    }
}
