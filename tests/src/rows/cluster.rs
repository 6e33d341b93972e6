//! A cluster in memory: API objects, and what a node's control path plans for them.

use std::{net::IpAddr, sync::Arc};

use k8s_openapi::api::{core::v1 as core, discovery::v1 as discovery};
use proxy_daemon::{
    model::{Change, Event, Model, ObjectName, convert},
    plan::{Machine, NodeFacts, Settings, plan_all},
};
use serde_json::Value;

use crate::tracer::Plans;

/// What one node knows of its cluster.
#[derive(Debug)]
pub struct Cluster {
    model: Model,
    facts: NodeFacts,
}

impl Cluster {
    /// A cluster without objects, seen from this node.
    pub fn of_node(name: &str, addrs: &[IpAddr]) -> Self {
        Self::served(name, addrs, Settings::default())
    }

    /// The same for an operator who has said how Services are served.
    pub fn served(name: &str, addrs: &[IpAddr], settings: Settings) -> Self {
        Self { model: Model::default(), facts: NodeFacts::new(&Arc::new(settings), name, None, &Machine::with(addrs)) }
    }

    /// Adds or replaces Services and `EndpointSlices`.
    ///
    /// # Panics
    /// When an object is of another kind or malformed: tests of the packet path have only good ones.
    pub fn apply(&mut self, objects: impl IntoIterator<Item = Value>) {
        for object in objects {
            let change = if object["kind"] == "Service" {
                let service: core::Service = serde_json::from_value(object).expect("a well-formed Service");
                Change::Service(Event::Applied(convert::service(&service).object.expect("a Service to be served")))
            } else {
                let slice: discovery::EndpointSlice = serde_json::from_value(object).expect("a well-formed EndpointSlice");
                Change::Slice(Event::Applied(convert::endpoint_slice(&slice).object.expect("an EndpointSlice of a Service")))
            };
            self.model.apply(change);
        }
    }

    /// Removes a Service of the namespace `default`.
    pub fn delete_service(&mut self, name: &str) {
        self.model.apply(Change::Service(Event::Deleted(ObjectName::new("default", name))));
    }

    /// What the node has to do.
    pub fn plans(&self) -> Plans {
        plan_all(&self.model, &self.facts)
    }

    /// The node's own addresses.
    pub fn node_ips(&self) -> &[IpAddr] {
        &self.facts.node_ips
    }
}
