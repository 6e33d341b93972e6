//! Tests of the mirror against a simulated kernel.

pub(crate) mod kernel;
mod laws;
mod rules;

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use proxy_common::Protocol;

use super::*;
use crate::plan::{Backend, BackendSet, FrontendKind, FrontendPlan, Masquerade};

const ROOMY: Sizes = Sizes { frontends: 64, rows: 128, backends: 4096, live: 4096, services: 64, sources: 64, cluster_ips: 64 };

fn name(service: &str) -> ServicePortName {
    ServicePortName::new("default", service, "http", Protocol::Tcp)
}

/// `10.96.0.1:80`
fn frontend(text: &str) -> FrontendAddr {
    let addr: SocketAddr = text.parse().unwrap();
    FrontendAddr { addr: addr.ip(), port: addr.port(), protocol: Protocol::Tcp }
}

/// Backends `10.1.0.N:8080`, sorted.
fn addrs(last: impl IntoIterator<Item = u8>) -> Vec<SocketAddr> {
    last.into_iter().map(|last| SocketAddr::new(IpAddr::from([10, 1, 0, last]), 8080)).collect()
}

/// Backends of this node.
fn here(addrs: &[SocketAddr]) -> Vec<Backend> {
    addrs.iter().map(|addr| Backend { addr: *addr, is_elsewhere: false }).collect()
}

fn set(backends: Vec<Backend>) -> BackendSet {
    if backends.is_empty() { BackendSet::Reject } else { BackendSet::Backends(backends.into()) }
}

fn cluster_ip(internal: BackendSet, external: BackendSet) -> FrontendPlan {
    FrontendPlan {
        kind: FrontendKind::ClusterIp,
        internal,
        external,
        affinity: None,
        masquerade: Masquerade::default(),
        has_source_ranges: false,
    }
}

/// A plan in which every frontend has these backends for everybody.
fn plan(frontends: &[&str], backends: impl IntoIterator<Item = u8>) -> ServicePlan {
    let backends = addrs(backends);
    let of = |text: &&str| (frontend(text), cluster_ip(set(here(&backends)), set(here(&backends))));
    ServicePlan {
        frontends: frontends.iter().map(of).collect::<BTreeMap<_, _>>(),
        live: backends.iter().copied().collect(),
        ..ServicePlan::default()
    }
}

fn after(start: Instant, millis: u64) -> Instant {
    start + Duration::from_millis(millis)
}
