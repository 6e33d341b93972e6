//! Which addresses a service port is dialled at on this node, in one family: the Service's own, and the node's with its node port.
//!
//! A ClusterIP that a device of the node has is no frontend: a DNS cache on each node takes the address of the cluster's DNS for itself, and asks
//! the cluster at another one. Load balancer and external addresses are served also where the node has them.

use std::{collections::BTreeMap, net::IpAddr};

use super::{FrontendAddr, FrontendKind, NodeFacts};
use crate::model::{Claim, IpFamily, Model, Service, ServicePort, ServicePortName};

/// The frontends of a service port that no other service port has a better claim to.
pub(super) fn frontends(
    model: &Model,
    facts: &NodeFacts,
    (service, port): (&Service, &ServicePort),
    family: IpFamily,
) -> BTreeMap<FrontendAddr, FrontendKind> {
    let name = service.name.port(&port.name, port.protocol);
    let protocol = port.protocol;
    let mut frontends = BTreeMap::new();
    let mut add = |addrs: &[IpAddr], port: u16, kind: FrontendKind| {
        for addr in addrs.iter().filter(|addr| IpFamily::of(**addr) == family) {
            let frontend = FrontendAddr { addr: *addr, port, protocol };
            if kind.is_won(model, frontend, &name) {
                // An address that the Service has in two ways is what it was first.
                frontends.entry(frontend).or_insert(kind);
            }
        }
    };
    let cluster_ips: Vec<IpAddr> = service.cluster_ips.iter().copied().filter(|addr| !facts.has_address(*addr)).collect();
    add(&cluster_ips, port.port, FrontendKind::ClusterIp);
    add(&service.load_balancer_ips, port.port, FrontendKind::LoadBalancerIp);
    add(&service.external_ips, port.port, FrontendKind::ExternalIp);
    if port.node_port != 0 {
        add(&facts.node_port_addresses, port.node_port, FrontendKind::NodePort);
    }
    frontends
}

impl FrontendKind {
    /// Whether the service port has the frontend. A node port yields to whoever has the node's address itself as a frontend.
    fn is_won(self, model: &Model, frontend: FrontendAddr, name: &ServicePortName) -> bool {
        let exact = model.winner(Claim::Address(frontend));
        if self != Self::NodePort {
            return exact == Some(name);
        }
        let FrontendAddr { addr, port, protocol } = frontend;
        let claim = Claim::NodePort { family: IpFamily::of(addr), port, protocol };
        exact.is_none() && model.winner(claim) == Some(name)
    }
}
