//! Which endpoints of a service port may be used, in one family.
//!
//! The rule, in kube-proxy's words (its `CategorizeEndpoints`; KEP-1669, 2086, 2433, 3015). *Ready* endpoints take new flows.
//! *Serving terminating* ones take them only where no ready one is in scope. All others take none.
//!
//! 1. Traffic with the `Cluster` policy goes to the **cluster** list: the ready endpoints that topology hints admit, or, if there is no
//!    ready one, all that are serving and terminating, whatever their hints.
//! 2. Traffic with the `Local` policy goes to the **local** list: the ready endpoints of this node, or, if there is none, those of this
//!    node that are serving and terminating. Hints do not count here, and there is no way out to other nodes.
//! 3. Hints are all or nothing: they count only when every ready endpoint has one and some ready one admits this node. Node hints come
//!    before zone hints. So hints never leave a service without endpoints.
//! 4. When nobody can serve anywhere, new flows are rejected. When somebody could, but not under the policy, they are dropped.

#[cfg(test)]
pub(super) mod tests;

use std::net::SocketAddr;

use crate::model::Endpoint;

/// An endpoint, seen from this node.
#[derive(Clone, Copy, Debug)]
pub(super) struct Candidate<'a> {
    pub(super) addr: SocketAddr,
    pub(super) endpoint: &'a Endpoint,
    /// Runs on this node.
    pub(super) is_local: bool,
}

/// Where this node is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place<'a> {
    pub(super) node: &'a str,
    /// Unknown, or not empty.
    pub(super) zone: Option<&'a str>,
}

/// Which lists the policies of a service port ask for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted {
    pub(super) cluster: bool,
    pub(super) local: bool,
}

/// The endpoints to use. A list that is not wanted is empty.
#[derive(Debug)]
pub(super) struct Selection<'a> {
    pub(super) cluster: Vec<Candidate<'a>>,
    pub(super) local: Vec<Candidate<'a>>,
    /// Somebody can serve, here or elsewhere.
    pub(super) any: bool,
}

/// Which hints count.
#[derive(Clone, Copy, Debug)]
enum Topology<'a> {
    SameNode(&'a str),
    SameZone(&'a str),
    None,
}

/// Selects among the endpoints of one service port and family.
pub(super) fn select<'a>(candidates: &[Candidate<'a>], wanted: Wanted, place: Place<'_>) -> Selection<'a> {
    let cluster = if wanted.cluster { cluster_list(candidates, place) } else { Vec::new() };
    let local = if wanted.local { local_list(candidates) } else { Vec::new() };
    let usable = |candidate: &Candidate<'_>| candidate.endpoint.may_take_flows();
    let any = !cluster.is_empty() || (wanted.local && candidates.iter().any(usable));
    Selection { cluster, local, any }
}

fn cluster_list<'a>(candidates: &[Candidate<'a>], place: Place<'_>) -> Vec<Candidate<'a>> {
    let topology = topology(candidates, place);
    let admitted = |candidate: &&Candidate<'_>| candidate.endpoint.ready && topology.admits(candidate.endpoint);
    let ready: Vec<_> = candidates.iter().filter(admitted).copied().collect();
    if ready.is_empty() { serving_terminating(candidates) } else { ready }
}

fn local_list<'a>(candidates: &[Candidate<'a>]) -> Vec<Candidate<'a>> {
    let local: Vec<_> = candidates.iter().filter(|candidate| candidate.is_local).copied().collect();
    let ready: Vec<_> = local.iter().filter(|candidate| candidate.endpoint.ready).copied().collect();
    if ready.is_empty() { serving_terminating(&local) } else { ready }
}

fn serving_terminating<'a>(candidates: &[Candidate<'a>]) -> Vec<Candidate<'a>> {
    candidates.iter().filter(|candidate| candidate.endpoint.is_serving_terminating()).copied().collect()
}

/// Decides by the ready endpoints which hints count.
fn topology<'a>(candidates: &[Candidate<'_>], place: Place<'a>) -> Topology<'a> {
    let modes = [Some(Topology::SameNode(place.node)), place.zone.map(Topology::SameZone)];
    let ready = || candidates.iter().map(|candidate| candidate.endpoint).filter(|endpoint| endpoint.ready);
    let counts = |mode: &Topology<'a>| ready().all(|endpoint| mode.has_hint(endpoint)) && ready().any(|endpoint| mode.admits(endpoint));
    modes.into_iter().flatten().find(counts).unwrap_or(Topology::None)
}

// === impl Topology ===

impl Topology<'_> {
    fn has_hint(self, endpoint: &Endpoint) -> bool {
        match self {
            Self::SameNode(_) => !endpoint.node_hints.is_empty(),
            Self::SameZone(_) => !endpoint.zone_hints.is_empty(),
            Self::None => true,
        }
    }

    fn admits(self, endpoint: &Endpoint) -> bool {
        match self {
            Self::SameNode(node) => endpoint.node_hints.iter().any(|hint| **hint == *node),
            Self::SameZone(zone) => endpoint.zone_hints.iter().any(|hint| **hint == *zone),
            Self::None => true,
        }
    }
}
