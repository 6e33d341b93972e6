//! What this node has to do for a service port: which frontends exist, and which backends each may use for whom.
//!
//! In: the model and the facts of this node. Out: a [`ServicePlan`] per service port. Everything here is a pure function; the rules are
//! kube-proxy's, written down where they are applied.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

pub use crate::model::FrontendAddr;

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
