//! The own Node.

use std::{net::IpAddr, sync::Arc};

/// What the Node object says about this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeInfo {
    /// `metadata.name`.
    pub name: Arc<str>,
    /// The label `topology.kubernetes.io/zone`, if it is there and not empty.
    pub zone: Option<Arc<str>>,
    /// The node's addresses, the primary one first and at most one of each family: internal ones before external ones.
    pub node_ips: Vec<IpAddr>,
    /// Whether it is on its way out: it is being deleted, or the cluster's autoscaler says that it will be (KEP-3836).
    pub is_leaving: bool,
}
