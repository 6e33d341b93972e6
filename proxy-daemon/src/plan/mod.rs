//! What this node has to do for a service port: which frontends exist, and which backends each may use for whom.
//!
//! In: the model and the facts of this node. Out: a [`ServicePlan`] per service port. Everything here is a pure function; the rules are
//! kube-proxy's, written down where they are applied.

mod dump;
mod endpoints;
mod facts;
mod frontends;
#[cfg(test)]
mod history_tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use endpoints::{Candidate, Place, Selection, Wanted};

pub use self::{dump::dump, facts::NodeFacts};
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

/// Who serves a new flow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BackendSet {
    /// One of these: sorted, without duplicates, never empty.
    Backends(Arc<[SocketAddr]>),
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
    /// For clients outside, seen on uplinks: backends on this node only.
    pub external: BackendSet,
    /// How long a client stays with its backend, counted from its last new flow.
    pub affinity: Option<Duration>,
}

/// What this node does for one service port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePlan {
    /// The frontends, which may be none.
    pub frontends: BTreeMap<FrontendAddr, FrontendPlan>,
    /// Every endpoint that still serves what it has, ready or terminating, policies aside: known flows stay on these.
    pub live: BTreeSet<SocketAddr>,
    /// Outside clients dial this service and it has backends on other nodes, which are not used for them yet.
    pub remote_only_notice: bool,
}

/// Plans one service port. Nothing if it does not exist.
pub fn plan(model: &Model, facts: &NodeFacts, name: &ServicePortName) -> Option<ServicePlan> {
    let (service, port) = model.service_port(name)?;
    let mut plan = ServicePlan { frontends: BTreeMap::new(), live: BTreeSet::new(), remote_only_notice: false };
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
    /// Those of the cluster list that run on this node.
    cluster_here: BackendSet,
    /// The cluster list has others as well.
    has_remote: bool,
}

// === impl ServicePlan ===

impl ServicePlan {
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
        let sets = Sets::new(&endpoints::select(&candidates, wanted, place));

        for (frontend, kind) in frontends::frontends(model, facts, of, family) {
            let plan = FrontendPlan {
                kind,
                internal: sets.internal(service, kind).clone(),
                external: sets.external(service, kind).clone(),
                affinity: service.affinity,
            };
            self.remote_only_notice |= sets.leaves_out_remote(service, kind);
            self.frontends.insert(frontend, plan);
        }
        let live = candidates.iter().filter(|candidate| candidate.endpoint.keeps_flows());
        self.live.extend(live.map(|candidate| candidate.addr));
    }
}

// === impl Sets ===

impl Sets {
    fn new(selection: &Selection<'_>) -> Self {
        let set = |list: &mut dyn Iterator<Item = &Candidate<'_>>| {
            let addrs: Arc<[SocketAddr]> = list.map(|candidate| candidate.addr).collect();
            match (selection.any, addrs.is_empty()) {
                (false, _) => BackendSet::Reject,
                (true, true) => BackendSet::Drop,
                (true, false) => BackendSet::Backends(addrs),
            }
        };
        Self {
            cluster: set(&mut selection.cluster.iter()),
            local: set(&mut selection.local.iter()),
            cluster_here: set(&mut selection.cluster.iter().filter(|candidate| candidate.is_local)),
            has_remote: selection.cluster.iter().any(|candidate| !candidate.is_local),
        }
    }

    /// For clients inside the cluster. `externalTrafficPolicy: Local` is not about them: they get all endpoints at external addresses.
    fn internal(&self, service: &Service, kind: FrontendKind) -> &BackendSet {
        if kind == FrontendKind::ClusterIp && service.internal_policy_is_local() { &self.local } else { &self.cluster }
    }

    /// For clients outside, which are sent to endpoints of this node only, whatever the policy.
    fn external(&self, service: &Service, kind: FrontendKind) -> &BackendSet {
        if is_local_for_outside(service, kind) { &self.local } else { &self.cluster_here }
    }

    /// Whether clients outside are kept from backends that the policy would give them. That they could dial a ClusterIP is no reason to
    /// say so of every service.
    fn leaves_out_remote(&self, service: &Service, kind: FrontendKind) -> bool {
        self.has_remote && kind != FrontendKind::ClusterIp && !is_local_for_outside(service, kind)
    }
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
