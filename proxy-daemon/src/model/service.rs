//! Services: their addresses, ports and policies, and the questions kube-proxy asks of them.

use std::{net::IpAddr, sync::Arc, time::Duration};

use ipnet::IpNet;
use proxy_common::Protocol;

use super::{IpFamily, ObjectName};

/// A Service that has a ClusterIP. Headless and `ExternalName` Services never become one.
///
/// Of another proxy's there is nothing but the ClusterIPs, which are not ours to answer for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Namespace and name.
    pub name: ObjectName,
    /// When the object was created, in seconds since 1970. Objects without it count as younger than all others.
    pub created: Option<i64>,
    /// Whether it is served here, and not by another proxy.
    pub is_ours: bool,
    /// `spec.type`.
    pub kind: ServiceKind,
    /// `spec.clusterIPs`.
    pub cluster_ips: Vec<IpAddr>,
    /// `spec.externalIPs`.
    pub external_ips: Vec<IpAddr>,
    /// `status.loadBalancer.ingress[].ip` of those entries whose traffic ends at the node and not at the load balancer.
    pub load_balancer_ips: Vec<IpAddr>,
    /// `spec.loadBalancerSourceRanges`: who may use the load balancer's addresses; everybody, in a family of which none is here.
    pub source_ranges: Vec<IpNet>,
    /// `spec.internalTrafficPolicy`.
    pub internal_policy: TrafficPolicy,
    /// `spec.externalTrafficPolicy`.
    pub external_policy: TrafficPolicy,
    /// How long a client stays with its backend, when `spec.sessionAffinity` is `ClientIP`.
    pub affinity: Option<Duration>,
    /// `spec.healthCheckNodePort`, where it means something: where a load balancer asks whether this node has endpoints of the Service.
    pub health_check_port: Option<u16>,
    /// `spec.ports`: at most one for each pair of name and protocol.
    pub ports: Vec<ServicePort>,
}

/// One entry of `spec.ports`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// The name, which may be empty.
    pub name: Arc<str>,
    /// The protocol.
    pub protocol: Protocol,
    /// The port on the Service's addresses, never zero.
    pub port: u16,
    /// The port on the node's addresses; zero when there is none.
    pub node_port: u16,
}

/// The types of Service that are served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServiceKind {
    /// Reached inside the cluster, and from outside by external IPs only.
    ClusterIp,
    /// Reached on a port of every node as well.
    NodePort,
    /// Reached through a load balancer as well.
    LoadBalancer,
}

/// Which endpoints traffic may go to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TrafficPolicy {
    /// Those of the whole cluster.
    Cluster,
    /// Those of the node the traffic is on.
    Local,
}

// === impl Service ===

impl Service {
    /// What there is to know of another proxy's.
    pub fn of_another_proxy(name: ObjectName, cluster_ips: Vec<IpAddr>) -> Self {
        Self {
            name,
            created: None,
            is_ours: false,
            kind: ServiceKind::ClusterIp,
            cluster_ips,
            external_ips: Vec::new(),
            load_balancer_ips: Vec::new(),
            source_ranges: Vec::new(),
            internal_policy: TrafficPolicy::Cluster,
            external_policy: TrafficPolicy::Cluster,
            affinity: None,
            health_check_port: None,
            ports: Vec::new(),
        }
    }

    /// Whether the Service exists in this family at all: it does when it has a ClusterIP there.
    pub fn has_family(&self, family: IpFamily) -> bool {
        has_family(&self.cluster_ips, family)
    }

    /// The port of this name and protocol.
    pub fn port(&self, name: &str, protocol: Protocol) -> Option<&ServicePort> {
        self.ports.iter().find(|port| port.protocol == protocol && *port.name == *name)
    }

    /// Whether clients outside the cluster may reach the Service by any means.
    pub fn is_externally_accessible(&self) -> bool {
        match self.kind {
            ServiceKind::NodePort | ServiceKind::LoadBalancer => true,
            ServiceKind::ClusterIp => !self.external_ips.is_empty(),
        }
    }

    /// Whether traffic from outside may only go to endpoints of this node.
    pub fn external_policy_is_local(&self) -> bool {
        self.is_externally_accessible() && self.external_policy == TrafficPolicy::Local
    }

    /// Whether traffic to the ClusterIP may only go to endpoints of this node.
    pub fn internal_policy_is_local(&self) -> bool {
        self.internal_policy == TrafficPolicy::Local
    }

    /// Whether this port has an address of this family that clients outside may dial.
    pub fn port_is_externally_accessible(&self, port: &ServicePort, family: IpFamily) -> bool {
        port.node_port != 0 || has_family(&self.load_balancer_ips, family) || has_family(&self.external_ips, family)
    }

    /// Whether anything may be sent to endpoints of the whole cluster. True of every externally accessible port, whatever the
    /// policies: clients inside the cluster that dial its external addresses get all endpoints.
    pub fn uses_cluster_endpoints(&self, port: &ServicePort, family: IpFamily) -> bool {
        !self.internal_policy_is_local() || self.port_is_externally_accessible(port, family)
    }

    /// Whether anything must be sent to endpoints of this node only.
    pub fn uses_local_endpoints(&self, port: &ServicePort, family: IpFamily) -> bool {
        self.internal_policy_is_local() || (self.external_policy_is_local() && self.port_is_externally_accessible(port, family))
    }

    /// Whether two versions differ in anything but their ports, so that every port is concerned.
    pub(super) fn differs_beyond_ports(&self, other: &Self) -> bool {
        let without_ports = |service: &Self| Self { ports: Vec::new(), ..service.clone() };
        without_ports(self) != without_ports(other)
    }
}

fn has_family(addrs: &[IpAddr], family: IpFamily) -> bool {
    addrs.iter().any(|addr| IpFamily::of(*addr) == family)
}
