//! What this node has to do for a service port: which frontends exist, and which backends each may use for whom.
//!
//! In: the model and the facts of this node. Out: a [`ServicePlan`] per service port. Everything here is a pure function; the rules are
//! kube-proxy's, written down where they are applied.

mod backend;
mod dump;
mod endpoints;
mod facts;
mod frontends;
mod health;
#[cfg(test)]
mod history_tests;
mod node_ports;
mod settings;
mod sources;
#[cfg(test)]
mod verdict_tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use endpoints::{Candidate, Place, Selection, Wanted};
use ipnet::IpNet;
use proxy_common::Undefined;

pub use self::{
    backend::Backend,
    dump::dump,
    facts::{Machine, NodeFacts},
    health::{HealthCheck, health_check},
    node_ports::NodePortAddresses,
    settings::{Masquerade, Settings},
};
pub use crate::model::FrontendAddr;
use crate::model::{IpFamily, Model, Service, ServicePort, ServicePortName};

/// Where a frontend's address comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FrontendKind {
    /// `spec.clusterIPs`.
    ClusterIp,
    /// `spec.ports[].nodePort` on an address of this node.
    NodePort,
    /// `spec.externalIPs`.
    ExternalIp,
    /// `status.loadBalancer.ingress[].ip`.
    LoadBalancerIp,
}

/// Who dials, as policies tell clients apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Clients {
    /// Inside the cluster.
    Inside,
    /// Outside of it.
    Outside,
}

/// Who serves a new flow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BackendSet {
    /// One of these: sorted, without duplicates, never empty.
    Backends(Arc<[Backend]>),
    /// Nobody can serve it anywhere: the client is told at once.
    Reject,
    /// Somebody could, but not from here: the client, or its load balancer, is left to try another node.
    Drop,
}

/// What happens to new flows to one frontend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FrontendPlan {
    /// Where the address comes from.
    pub kind: FrontendKind,
    /// For clients inside the cluster, seen on workload devices.
    pub internal: BackendSet,
    /// For clients outside, seen on uplinks.
    pub external: BackendSet,
    /// How long a client stays with its backend, counted from its last new flow.
    pub affinity: Option<Duration>,
    /// For whom the node stands in, beyond where it has to.
    pub masquerade: Masquerade,
    /// Only clients in one of the service port's [`ServicePlan::sources`] may begin flows.
    pub has_source_ranges: bool,
}

/// What this node does for one service port.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServicePlan {
    /// The frontends, which may be none.
    pub frontends: BTreeMap<FrontendAddr, FrontendPlan>,
    /// Every endpoint that still serves what it has, ready or terminating, policies aside: known flows stay on these.
    pub live: BTreeSet<SocketAddr>,
    /// The networks of those who may use the frontends with source ranges, of both families.
    pub sources: BTreeSet<IpNet>,
    /// The ClusterIPs, and what becomes of packets there that are for no frontend.
    pub cluster_ips: BTreeMap<IpAddr, Undefined>,
}

/// Plans one service port. Nothing if it does not exist.
pub fn plan(model: &Model, facts: &NodeFacts, name: &ServicePortName) -> Option<ServicePlan> {
    let (service, port) = model.service_port(name)?;
    let mut plan = ServicePlan::default();
    for family in IpFamily::ALL.into_iter().filter(|family| service.has_family(*family)) {
        plan.add_family(model, facts, (service, port), family);
    }
    Some(plan)
}

/// Plans every service port there is.
pub fn plan_all(model: &Model, facts: &NodeFacts) -> BTreeMap<ServicePortName, ServicePlan> {
    model.service_port_names().filter_map(|name| Some((name.clone(), plan(model, facts, &name)?))).collect()
}

/// The backend sets that the frontends of one service port and family share.
struct Sets {
    cluster: BackendSet,
    local: BackendSet,
}

// === impl ServicePlan ===

impl ServicePlan {
    /// For which clients there are endpoints, but none that they may have from here.
    pub fn without_local(&self) -> BTreeSet<(IpFamily, Clients)> {
        let lacks = |(frontend, plan): (&FrontendAddr, &FrontendPlan)| {
            let sets = [(Clients::Inside, &plan.internal), (Clients::Outside, &plan.external)];
            let family = IpFamily::of(frontend.addr);
            sets.into_iter().filter(|(_, set)| **set == BackendSet::Drop).map(move |(clients, _)| (family, clients)).collect::<Vec<_>>()
        };
        self.frontends.iter().flat_map(lacks).collect()
    }

    fn add_family(&mut self, model: &Model, facts: &NodeFacts, of: (&Service, &ServicePort), family: IpFamily) {
        let (service, port) = of;
        let name = service.name.port(&port.name, port.protocol);
        let endpoints = model.endpoints(&name, family);
        let candidates: Vec<Candidate<'_>> = endpoints
            .into_iter()
            .map(|(addr, endpoint)| Candidate { addr, endpoint, is_local: endpoint.node.as_deref() == Some(&*facts.name) })
            .collect();
        let wanted = Wanted { cluster: service.uses_cluster_endpoints(port, family), local: service.uses_local_endpoints(port, family) };
        let place = Place { node: &facts.name, zone: facts.zone.as_deref() };
        let sets = Sets::new(&endpoints::select(&candidates, wanted, place), facts);

        let sources = sources::sources(service, facts, family);
        for (frontend, kind) in frontends::frontends(model, facts, of, family) {
            let has_source_ranges = kind == FrontendKind::LoadBalancerIp && !sources.is_empty();
            if has_source_ranges {
                self.sources.extend(&sources);
            }
            let plan = FrontendPlan {
                kind,
                internal: sets.internal(service, kind).clone(),
                external: sets.external(service, kind).clone(),
                affinity: service.affinity,
                masquerade: facts.settings.masquerade(kind, family, is_local_for_outside(service, kind)),
                has_source_ranges,
            };
            self.frontends.insert(frontend, plan);
        }
        self.cluster_ips.extend(cluster_ips(service, facts, family));
        let live = candidates.iter().filter(|candidate| candidate.endpoint.keeps_flows());
        self.live.extend(live.map(|candidate| candidate.addr));
    }
}

// === impl Sets ===

impl Sets {
    fn new(selection: &Selection<'_>, facts: &NodeFacts) -> Self {
        let set = |list: &[Candidate<'_>]| {
            let backends: Arc<[Backend]> = list.iter().map(|candidate| Backend::new(candidate, facts)).collect();
            match (selection.any, backends.is_empty()) {
                (false, _) => BackendSet::Reject,
                (true, true) => BackendSet::Drop,
                (true, false) => BackendSet::Backends(backends),
            }
        };
        Self { cluster: set(&selection.cluster), local: set(&selection.local) }
    }

    /// For clients inside the cluster. `externalTrafficPolicy: Local` is not about them: they get all endpoints at external addresses.
    fn internal(&self, service: &Service, kind: FrontendKind) -> &BackendSet {
        if kind == FrontendKind::ClusterIp && service.internal_policy_is_local() { &self.local } else { &self.cluster }
    }

    /// For clients outside.
    fn external(&self, service: &Service, kind: FrontendKind) -> &BackendSet {
        if is_local_for_outside(service, kind) { &self.local } else { &self.cluster }
    }
}

/// What becomes of packets to ClusterIPs that are for no frontend: they are refused (kube-proxy's way with nftables). An address that the node has
/// itself is left to it, all its ports included: a DNS cache on each node answers at the address of the cluster's DNS.
fn cluster_ips(service: &Service, facts: &NodeFacts, family: IpFamily) -> impl Iterator<Item = (IpAddr, Undefined)> {
    let of_family = service.cluster_ips.iter().filter(move |addr| IpFamily::of(**addr) == family);
    of_family.map(|addr| (*addr, if facts.has_address(*addr) { Undefined::LEAVE } else { Undefined::REFUSE }))
}

fn is_local_for_outside(service: &Service, kind: FrontendKind) -> bool {
    match kind {
        FrontendKind::ClusterIp => service.internal_policy_is_local(),
        FrontendKind::NodePort | FrontendKind::ExternalIp | FrontendKind::LoadBalancerIp => service.external_policy_is_local(),
    }
}

impl fmt::Display for FrontendKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ClusterIp => "ClusterIP",
            Self::NodePort => "NodePort",
            Self::ExternalIp => "ExternalIP",
            Self::LoadBalancerIp => "LoadBalancerIP",
        })
    }
}
