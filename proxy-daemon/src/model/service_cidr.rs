//! Where Services have their ClusterIPs from.

use ipnet::IpNet;

use super::ObjectName;

/// A `ServiceCIDR` of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceCidr {
    /// Its name; it lives in no namespace.
    pub name: ObjectName,
    /// `spec.cidrs`.
    pub networks: Vec<IpNet>,
}
