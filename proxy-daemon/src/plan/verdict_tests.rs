//! The table of verdicts for new flows that any service proxy has to reach: from policies and endpoints to what each frontend does, for clients
//! inside and outside.
//!
//! Endpoints are written as in the table of `endpoints`. What becomes of a flow is the endpoints that it may go to, `DROP` or `REJECT`.

use std::net::IpAddr;

use proxy_common::Protocol;

use super::{endpoints::tests::endpoint, *};
use crate::model::{
    Change, Event, ObjectName, ServiceKind, Slice, SlicePort,
    TrafficPolicy::{self, Cluster, Local},
    testing::model_of,
};

struct Row {
    id: &'static str,
    /// `internalTrafficPolicy` and `externalTrafficPolicy`.
    policies: [TrafficPolicy; 2],
    endpoints: &'static str,
    /// At the ClusterIP, for clients inside and outside.
    cluster_ip: [&'static str; 2],
    /// At a node port, an external address and a load balancer's, likewise.
    others: [&'static str; 2],
}

const fn row(
    id: &'static str,
    policies: [TrafficPolicy; 2],
    endpoints: &'static str,
    cluster_ip: [&'static str; 2],
    others: [&'static str; 2],
) -> Row {
    Row { id, policies, endpoints, cluster_ip, others }
}

const REJECT: [&str; 2] = ["REJECT"; 2];
const DROP: [&str; 2] = ["DROP"; 2];
const ONE: [&str; 2] = ["e1"; 2];
const BOTH: [&str; 2] = ["e1,e2"; 2];

const MIXED: &str = "e1 r@l, e2 r@r";
const FAR: &str = "e1 r@r, e2 r@r";

const TABLE: &[Row] = &[
    row("V1", [Cluster, Cluster], "", REJECT, REJECT),
    row("V1 under local policies", [Local, Local], "e1 nt@l, e2 u@r", REJECT, REJECT),
    row("V2 and V5", [Cluster, Cluster], MIXED, BOTH, BOTH),
    row("V2 and V5, all elsewhere", [Cluster, Cluster], FAR, BOTH, BOTH),
    row("V3", [Local, Cluster], MIXED, ONE, BOTH),
    row("V4", [Local, Cluster], FAR, DROP, BOTH),
    row("V6 and V8", [Cluster, Local], MIXED, BOTH, ["e1,e2", "e1"]),
    row("V6 and V9", [Cluster, Local], FAR, BOTH, ["e1,e2", "DROP"]),
    row("V4 and V9", [Local, Local], FAR, DROP, ["e1,e2", "DROP"]),
    row("P1", [Cluster, Local], "e1 r@l, e2 r@l, e3 st@l, e4 nt@l, e5 r@r", ["e1,e2,e5"; 2], ["e1,e2,e5", "e1,e2"]),
    row("P2", [Cluster, Local], "e1 st@l, e2 st@l, e3 nt@l, e5 r@r", ["e5"; 2], ["e5", "e1,e2"]),
    row("P3", [Cluster, Local], "e5 st@r", ["e5"; 2], ["e5", "DROP"]),
    row("P4", [Cluster, Local], "e1 nt@l, e2 nt@r", REJECT, REJECT),
    row("P5", [Cluster, Cluster], "e1 r@l, e2 st@l, e5 r@r", ["e1,e5"; 2], ["e1,e5"; 2]),
    row("P6", [Cluster, Cluster], "e1 st@l, e2 nt@l, e5 st@r", ["e1,e5"; 2], ["e1,e5"; 2]),
    row("P7", [Cluster, Local], "", REJECT, REJECT),
    row("P8", [Local, Cluster], MIXED, ONE, BOTH),
    row("P9", [Local, Cluster], "e1 r@r", DROP, ONE),
    row("P10", [Local, Cluster], "", REJECT, REJECT),
    row("P11 and P12", [Cluster, Local], "e1 r@r", ONE, ["e1", "DROP"]),
];

#[test]
fn every_frontend_does_what_kube_proxy_does() {
    for row in TABLE {
        let plan = planned(row);
        assert_eq!(plan.frontends.len(), 4);
        for frontend in plan.frontends.values() {
            let expected = if frontend.kind == FrontendKind::ClusterIp { row.cluster_ip } else { row.others };
            assert_eq!([&frontend.internal, &frontend.external].map(text), expected, "{} at {}: {}", row.id, frontend.kind, row.endpoints);
        }
    }
}

/// The address names the endpoint.
fn text(set: &BackendSet) -> String {
    let name = |backend: &Backend| match backend.addr.ip() {
        IpAddr::V4(ip) => format!("e{}", ip.octets()[3]),
        IpAddr::V6(ip) => ip.to_string(),
    };
    match set {
        BackendSet::Backends(backends) => backends.iter().map(name).collect::<Vec<_>>().join(","),
        BackendSet::Reject => "REJECT".to_owned(),
        BackendSet::Drop => "DROP".to_owned(),
    }
}

fn planned(row: &Row) -> ServicePlan {
    let [internal_policy, external_policy] = row.policies;
    let addr = |text: &str| vec![text.parse().unwrap()];
    let service = Service {
        name: ObjectName::new("default", "web"),
        created: None,
        is_ours: true,
        kind: ServiceKind::LoadBalancer,
        cluster_ips: addr("10.96.0.1"),
        external_ips: addr("198.51.100.1"),
        load_balancer_ips: addr("203.0.113.1"),
        source_ranges: Vec::new(),
        internal_policy,
        external_policy,
        affinity: None,
        health_check_port: None,
        ports: vec![ServicePort { name: "".into(), protocol: Protocol::Tcp, port: 80, node_port: 30_080 }],
    };
    let endpoints = row.endpoints.split(", ").filter_map(endpoint).map(|(_, is_local, mut endpoint)| {
        endpoint.node = Some(if is_local { "n1" } else { "n2" }.into());
        endpoint
    });
    let slice = Slice {
        name: ObjectName::new("default", "web-1"),
        service: "web".into(),
        family: IpFamily::V4,
        ports: vec![SlicePort { name: "".into(), protocol: Protocol::Tcp, port: 8080 }],
        endpoints: endpoints.collect(),
        triggered: None,
    };
    let model = model_of([Change::Service(Event::Applied(service)), Change::Slice(Event::Applied(slice))]);
    let facts = NodeFacts::new(&Arc::default(), "n1", None, &Machine::with(&["192.0.2.1".parse().unwrap()]));
    plan(&model, &facts, &ServicePortName::new("default", "web", "", Protocol::Tcp)).unwrap()
}
