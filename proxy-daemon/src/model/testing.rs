//! The objects of a cluster as they are, without any cleverness: what a model must amount to, however it came about.

use std::collections::BTreeMap;

use super::{Change, Event, Model, NodeInfo, ObjectName, Service, Slice};

/// What there is now of the kinds that plans are made of.
#[derive(Default)]
pub(crate) struct Objects {
    pub(crate) services: BTreeMap<ObjectName, Service>,
    pub(crate) slices: BTreeMap<ObjectName, Slice>,
    pub(crate) node: Option<NodeInfo>,
}

impl Objects {
    /// Takes a change in.
    pub(crate) fn take(&mut self, change: &Change) {
        match change {
            Change::Service(event) => take(&mut self.services, event, |service| &service.name),
            Change::Slice(event) => take(&mut self.slices, event, |slice| &slice.name),
            Change::Node(Event::Applied(node)) => self.node = Some(node.clone()),
            Change::Node(Event::Deleted(_)) => self.node = None,
            Change::Node(Event::Reset(nodes)) => self.node = nodes.first().cloned(),
            Change::ServiceCidr(_) => {}
        }
    }

    /// Each object as if it were new.
    pub(crate) fn changes(&self) -> Vec<Change> {
        let services = self.services.values().cloned().map(|service| Change::Service(Event::Applied(service)));
        let slices = self.slices.values().cloned().map(|slice| Change::Slice(Event::Applied(slice)));
        let node = self.node.iter().cloned().map(|node| Change::Node(Event::Applied(node)));
        services.chain(slices).chain(node).collect()
    }
}

/// Complete lists in which nothing is.
pub(crate) fn empty_lists() -> [Change; 3] {
    [Change::Service(Event::Reset(vec![])), Change::Slice(Event::Reset(vec![])), Change::Node(Event::Reset(vec![]))]
}

/// A model that has heard of these changes after empty lists.
pub(crate) fn model_of(changes: impl IntoIterator<Item = Change>) -> Model {
    let mut model = Model::default();
    for change in empty_lists().into_iter().chain(changes) {
        model.apply(change);
    }
    model
}

fn take<T: Clone>(objects: &mut BTreeMap<ObjectName, T>, event: &Event<T>, name: fn(&T) -> &ObjectName) {
    match event {
        Event::Applied(object) => drop(objects.insert(name(object).clone(), object.clone())),
        Event::Deleted(gone) => drop(objects.remove(gone)),
        Event::Reset(all) => *objects = all.iter().map(|object| (name(object).clone(), object.clone())).collect(),
    }
}
