//! Whatever happens in whatever order: planning what is dirty, change by change, gives what planning everything from scratch gives.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use proptest::{collection::vec, prelude::*, sample::subsequence};
use proxy_common::Protocol;

use super::*;
use crate::model::{
    Change, Endpoint, Event, NodeInfo, ObjectName, ServiceKind, Slice, SlicePort, TrafficPolicy,
    testing::{Objects, model_of},
};

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn planning_what_is_dirty_equals_planning_everything(changes in vec(change(), 1..24)) {
        let mut objects = Objects::default();
        let mut model = Model::default();
        let mut plans = BTreeMap::new();
        for change in changes {
            objects.take(&change);
            model.apply(change);
            let facts = NodeFacts::new(&Arc::default(), "n1", model.node(), &Machine::with(&["192.0.2.1", "10.0.0.2"].map(|addr| addr.parse().unwrap())));
            for name in model.take_dirty() {
                plans.remove(&name);
                plans.extend(plan(&model, &facts, &name).map(|plan| (name, plan)));
            }
            let fresh = model_of(objects.changes());
            prop_assert_eq!(&plans, &plan_all(&fresh, &facts));
            prop_assert_eq!(model.lost_claims(), fresh.lost_claims());
            for (name, plan) in &plans {
                prop_assert_eq!(whats_wrong(name, plan, &plans), None);
            }
        }
    }
}

/// Laws that hold of every plan.
fn whats_wrong(name: &ServicePortName, plan: &ServicePlan, all: &BTreeMap<ServicePortName, ServicePlan>) -> Option<&'static str> {
    for (addr, frontend) in &plan.frontends {
        for set in [&frontend.internal, &frontend.external] {
            let BackendSet::Backends(backends) = set else { continue };
            let unique: BTreeSet<_> = backends.iter().map(|backend| backend.addr).collect();
            if backends.is_empty() || !backends.iter().is_sorted() || unique.len() != backends.len() {
                return Some("backends are sorted, distinct and at least one");
            }
            if !unique.is_subset(&plan.live) {
                return Some("what takes new flows keeps those it has");
            }
            if unique.iter().any(|backend| backend.is_ipv4() != addr.addr.is_ipv4()) {
                return Some("a frontend leads to its own family");
            }
        }
        if (frontend.internal == BackendSet::Reject) != (frontend.external == BackendSet::Reject) {
            return Some("nobody serves inside if and only if nobody serves outside");
        }
        let has_family = |source: &IpNet| source.network().is_ipv4() == addr.addr.is_ipv4();
        if frontend.kind == FrontendKind::ClusterIp && plan.cluster_ips.get(&addr.addr) != Some(&Undefined::REFUSE) {
            return Some("what a ClusterIP does not serve is refused there");
        }
        if frontend.has_source_ranges && (frontend.kind != FrontendKind::LoadBalancerIp || !plan.sources.iter().any(has_family)) {
            return Some("a load balancer address that is limited lets somebody in");
        }
        if all.iter().any(|(other, plan)| other != name && plan.frontends.contains_key(addr)) {
            return Some("a frontend has one owner");
        }
    }
    if !plan.sources.is_empty() && !plan.frontends.values().any(|frontend| frontend.has_source_ranges) {
        return Some("there are sources only where something is limited");
    }
    None
}

// Few names and addresses, so that histories meet the same ones again and services claim each other's.

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        4 => service().prop_map(|service| Change::Service(Event::Applied(service))),
        1 => service_name().prop_map(|name| Change::Service(Event::Deleted(name))),
        1 => vec(service(), 0..3).prop_map(|all| Change::Service(Event::Reset(distinct(all, |service| &service.name)))),
        6 => slice().prop_map(|slice| Change::Slice(Event::Applied(slice))),
        2 => slice_name().prop_map(|name| Change::Slice(Event::Deleted(name))),
        1 => vec(slice(), 0..4).prop_map(|all| Change::Slice(Event::Reset(distinct(all, |slice| &slice.name)))),
        1 => node().prop_map(|node| Change::Node(Event::Applied(node))),
        1 => Just(Change::Node(Event::Deleted(ObjectName::new("", "n1")))),
    ]
}

/// A list never has two objects of one name.
fn distinct<T>(all: Vec<T>, name: fn(&T) -> &ObjectName) -> Vec<T> {
    let by_name: BTreeMap<_, _> = all.into_iter().map(|object| (name(&object).clone(), object)).collect();
    by_name.into_values().collect()
}

fn service_name() -> impl Strategy<Value = ObjectName> {
    (0..3).prop_map(|n| ObjectName::new("default", &format!("service-{n}")))
}

fn slice_name() -> impl Strategy<Value = ObjectName> {
    (0..4).prop_map(|n| ObjectName::new("default", &format!("slice-{n}")))
}

fn addrs(texts: &[&str], least: usize) -> impl Strategy<Value = Vec<IpAddr>> + use<> {
    let addrs: Vec<IpAddr> = texts.iter().map(|text| text.parse().unwrap()).collect();
    let n = addrs.len();
    subsequence(addrs, least..=n)
}

fn policy() -> impl Strategy<Value = TrafficPolicy> {
    prop_oneof![Just(TrafficPolicy::Cluster), Just(TrafficPolicy::Local)]
}

fn service() -> impl Strategy<Value = Service> {
    let kinds = prop_oneof![Just(ServiceKind::ClusterIp), Just(ServiceKind::NodePort), Just(ServiceKind::LoadBalancer)];
    let addresses = (
        addrs(&["10.0.0.1", "10.0.0.2", "fd00::1"], 1),
        addrs(&["198.51.100.1", "192.0.2.1", "fd00::2"], 0),
        addrs(&["198.51.100.1", "10.0.0.2", "fd00::2"], 0),
        subsequence(["192.0.2.0/24", "10.0.0.0/8", "fd00::/8"].map(|text| text.parse().unwrap()).to_vec(), 0..=3),
    );
    let rest = (kinds, policy(), policy(), prop::option::of(0_i64..2), any::<bool>());
    (service_name(), addresses, rest, service_ports()).prop_map(|(name, addresses, rest, ports)| {
        let (cluster_ips, external_ips, load_balancer_ips, source_ranges) = addresses;
        let (kind, internal_policy, external_policy, created, has_affinity) = rest;
        Service {
            name,
            created,
            is_ours: true,
            kind,
            cluster_ips,
            external_ips,
            load_balancer_ips,
            source_ranges,
            internal_policy,
            external_policy,
            affinity: has_affinity.then_some(Duration::from_mins(1)),
            health_check_port: None,
            ports,
        }
    })
}

fn service_ports() -> impl Strategy<Value = Vec<ServicePort>> {
    let numbers = || (prop_oneof![Just(80_u16), Just(30000)], prop_oneof![Just(0_u16), Just(30000), Just(30001)]);
    let port = |name: &'static str, protocol| {
        prop::option::of(numbers())
            .prop_map(move |numbers| numbers.map(|(port, node_port)| ServicePort { name: name.into(), protocol, port, node_port }))
    };
    (port("", Protocol::Tcp), port("other", Protocol::Tcp), port("", Protocol::Udp))
        .prop_map(|(one, two, three)| [one, two, three].into_iter().flatten().collect())
}

fn slice() -> impl Strategy<Value = Slice> {
    let ports = subsequence(vec![("", Protocol::Tcp), ("other", Protocol::Tcp), ("", Protocol::Udp)], 0..=3);
    let family = prop_oneof![Just(IpFamily::V4), Just(IpFamily::V6)];
    let parts = (slice_name(), service_name(), family, ports, prop_oneof![Just(8080_u16), Just(9090)]);
    (parts, vec(endpoint(), 0..4)).prop_map(|((name, service, family, ports, number), endpoints)| Slice {
        name,
        service: service.name,
        family,
        ports: ports.into_iter().map(|(name, protocol)| SlicePort { name: name.into(), protocol, port: number }).collect(),
        endpoints: endpoints.into_iter().map(|(host, endpoint)| in_family(family, host, endpoint)).collect(),
        triggered: None,
    })
}

fn endpoint() -> impl Strategy<Value = (u8, Endpoint)> {
    let names = |names: [&'static str; 2]| prop::option::of(prop_oneof![Just(names[0]), Just(names[1])]);
    let conditions = (any::<bool>(), any::<bool>(), any::<bool>());
    (0_u8..4, conditions, names(["n1", "n2"]), names(["a", "b"]), names(["n1", "n2"])).prop_map(
        |(host, (ready, serving, terminating), node, zone, node_hint)| {
            let hints = |hint: Option<&str>| hint.into_iter().map(Arc::from).collect();
            let endpoint = Endpoint {
                addr: IpAddr::from([0; 4]),
                ready,
                serving,
                terminating,
                node: node.map(Arc::from),
                zone_hints: hints(zone),
                node_hints: hints(node_hint),
            };
            (host, endpoint)
        },
    )
}

fn in_family(family: IpFamily, host: u8, endpoint: Endpoint) -> Endpoint {
    let addr = match family {
        IpFamily::V4 => IpAddr::from([10, 244, 0, host]),
        IpFamily::V6 => IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, u16::from(host)]),
    };
    Endpoint { addr, ..endpoint }
}

fn node() -> impl Strategy<Value = NodeInfo> {
    let zone = prop::option::of(prop_oneof![Just("a"), Just("b")]);
    (zone, addrs(&["192.0.2.1", "2001:db8::1"], 1)).prop_map(|(zone, node_ips)| NodeInfo {
        name: "n1".into(),
        zone: zone.map(Arc::from),
        node_ips,
        is_leaving: false,
    })
}
