//! `EndpointSlice`s, and how the slices of one service are merged.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::SystemTime,
};

use proxy_common::Protocol;

use super::{IpFamily, ObjectName, ServicePortName};

/// An `EndpointSlice` that belongs to a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slice {
    /// Namespace and name.
    pub name: ObjectName,
    /// The name of the Service, in the slice's namespace.
    pub service: Arc<str>,
    /// The family of all its endpoints.
    pub family: IpFamily,
    /// What its endpoints listen on.
    pub ports: Vec<SlicePort>,
    /// Its endpoints.
    pub endpoints: Vec<Endpoint>,
    /// When what it was changed for has happened, as far as it says so.
    pub triggered: Option<SystemTime>,
}

/// A port that all endpoints of a slice have. It belongs to the service port of the same name and protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlicePort {
    /// The name, which may be empty.
    pub name: Arc<str>,
    /// The protocol.
    pub protocol: Protocol,
    /// Where the endpoints listen, never zero.
    pub port: u16,
}

/// One address that serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// The address.
    pub addr: IpAddr,
    /// Takes new flows.
    pub ready: bool,
    /// Serves the flows it has.
    pub serving: bool,
    /// Is on its way out.
    pub terminating: bool,
    /// The node it runs on. Local is what runs on the own node by this name, never by address.
    pub node: Option<Arc<str>>,
    /// The zones whose clients should use it; empty when there is no hint.
    pub zone_hints: Box<[Arc<str>]>,
    /// The nodes whose clients should use it; empty when there is no hint.
    pub node_hints: Box<[Arc<str>]>,
}

// === impl Slice ===

impl Slice {
    /// The Service this slice belongs to.
    pub fn owner(&self) -> ObjectName {
        ObjectName { namespace: Arc::clone(&self.name.namespace), name: Arc::clone(&self.service) }
    }

    /// Whether two versions say the same, whenever that was triggered.
    pub(super) fn is_like(&self, other: &Self) -> bool {
        let Self { name, service, family, ports, endpoints, triggered: _ } = self;
        (name, service, family, ports, endpoints) == (&other.name, &other.service, &other.family, &other.ports, &other.endpoints)
    }

    /// The port its endpoints have for a service port.
    fn port_for(&self, name: &ServicePortName) -> Option<u16> {
        let port = self.ports.iter().find(|port| port.protocol == name.protocol && port.name == name.port)?;
        Some(port.port)
    }
}

// === impl Endpoint ===

impl Endpoint {
    /// Not ready any more, but fit to serve until it is gone.
    pub fn is_serving_terminating(&self) -> bool {
        self.serving && self.terminating
    }

    /// Whether new flows may be its, at least where no better one is: it is ready, or finishing what it began.
    pub fn may_take_flows(&self) -> bool {
        self.ready || self.is_serving_terminating()
    }

    /// Whether flows it already has may stay. It is not asked whether it is ready, as kube-proxy's clean-up of conntrack does not: an endpoint
    /// that only fails its readiness probe says `serving: false` as well, but one of which just `ready: false` is known serves.
    pub fn keeps_flows(&self) -> bool {
        self.ready || self.serving
    }

    /// Which of two records of one address and port is believed: one that is not terminating before one that is, a ready one before
    /// one that is not.
    fn credibility(&self) -> (bool, bool, bool) {
        (!self.terminating, self.ready, self.serving)
    }
}

/// The endpoints of a service port in one family: the union over all slices of the Service, sorted, one record for each address and
/// port. Of several equally credible records the one in the slice with the smallest name counts, so that the order in which slices
/// arrived does not matter.
pub(super) fn merge<'a>(
    slices: &'a BTreeMap<Arc<str>, Slice>,
    name: &ServicePortName,
    family: IpFamily,
) -> Vec<(SocketAddr, &'a Endpoint)> {
    let mut records: Vec<(SocketAddr, &Endpoint)> = slices
        .values()
        .filter(|slice| slice.family == family)
        .filter_map(|slice| Some((slice, slice.port_for(name)?)))
        .flat_map(|(slice, port)| slice.endpoints.iter().map(move |endpoint| (SocketAddr::new(endpoint.addr, port), endpoint)))
        .collect();
    records.sort_by(|(left_addr, left), (right_addr, right)| {
        left_addr.cmp(right_addr).then_with(|| right.credibility().cmp(&left.credibility()))
    });
    records.dedup_by_key(|(addr, _)| *addr);
    records
}

#[cfg(test)]
mod tests {
    use super::*;

    const READY: [bool; 3] = [true, true, false];
    const UNREADY: [bool; 3] = [false, false, false];
    const TERMINATING: [bool; 3] = [false, true, true];
    const GONE: [bool; 3] = [false, false, true];

    /// A slice with one endpoint, whose conditions are ready, serving and terminating.
    fn slice(name: &str, [ready, serving, terminating]: [bool; 3]) -> (Arc<str>, Slice) {
        let endpoint = Endpoint {
            addr: [10, 0, 0, 1].into(),
            ready,
            serving,
            terminating,
            node: None,
            zone_hints: Box::default(),
            node_hints: Box::default(),
        };
        let ports = vec![SlicePort { name: "".into(), protocol: Protocol::Tcp, port: 80 }];
        let name = ObjectName::new("default", name);
        (
            Arc::clone(&name.name),
            Slice { name, service: "web".into(), family: IpFamily::V4, ports, endpoints: vec![endpoint], triggered: None },
        )
    }

    fn merged(records: &[[bool; 3]]) -> [bool; 3] {
        let slices = records.iter().enumerate().map(|(index, conditions)| slice(&format!("web-{index}"), *conditions)).collect();
        let merged = merge(&slices, &ServicePortName::new("default", "web", "", Protocol::Tcp), IpFamily::V4);
        let [(_, endpoint)] = merged.as_slice() else { panic!("{merged:?}") };
        [endpoint.ready, endpoint.serving, endpoint.terminating]
    }

    #[test]
    fn of_two_records_the_one_that_is_not_terminating_counts_and_of_those_the_ready_one() {
        for (one, other, expected) in [
            (READY, UNREADY, READY),
            (READY, TERMINATING, READY),
            (UNREADY, TERMINATING, UNREADY),
            (UNREADY, GONE, UNREADY),
            (TERMINATING, GONE, TERMINATING),
        ] {
            assert_eq!([merged(&[one, other]), merged(&[other, one])], [expected; 2], "{one:?} {other:?}");
            assert_eq!(merged(&[one, other, one]), expected);
        }
    }
}
