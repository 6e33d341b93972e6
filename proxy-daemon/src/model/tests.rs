//! What a change makes dirty, who has what is claimed twice, and what is told of it.

use proxy_common::Protocol;

use super::*;

fn service(name: &str, cluster_ip: &str, external_ips: &[&str], created: i64) -> Service {
    Service {
        name: ObjectName::new("default", name),
        created: Some(created),
        is_ours: true,
        kind: ServiceKind::ClusterIp,
        cluster_ips: vec![cluster_ip.parse().unwrap()],
        external_ips: external_ips.iter().map(|ip| ip.parse().unwrap()).collect(),
        load_balancer_ips: Vec::new(),
        source_ranges: Vec::new(),
        internal_policy: TrafficPolicy::Cluster,
        external_policy: TrafficPolicy::Cluster,
        affinity: None,
        health_check_port: None,
        ports: [("", 80), ("metrics", 90)].map(|(name, port)| service_port(name, port)).into(),
    }
}

fn service_port(name: &str, port: u16) -> ServicePort {
    ServicePort { name: name.into(), protocol: Protocol::Tcp, port, node_port: 0 }
}

fn slice(name: &str, service: &str, endpoints: &[&str]) -> Slice {
    let endpoint = |addr: &&str| Endpoint {
        addr: addr.parse().unwrap(),
        ready: true,
        serving: true,
        terminating: false,
        node: None,
        zone_hints: Box::default(),
        node_hints: Box::default(),
    };
    Slice {
        name: ObjectName::new("default", name),
        service: service.into(),
        family: IpFamily::V4,
        ports: vec![SlicePort { name: "".into(), protocol: Protocol::Tcp, port: 8080 }],
        endpoints: endpoints.iter().map(endpoint).collect(),
        triggered: None,
    }
}

fn apply(model: &mut Model, service: Service) -> String {
    model.apply(Change::Service(Event::Applied(service)));
    dirty(model)
}

fn apply_slice(model: &mut Model, slice: Slice) -> String {
    model.apply(Change::Slice(Event::Applied(slice)));
    dirty(model)
}

fn dirty(model: &mut Model) -> String {
    let names: Vec<_> = model.take_dirty().iter().map(ToString::to_string).collect();
    names.join(" ")
}

fn notices(model: &mut Model) -> Vec<String> {
    model.take_notices().iter().map(ToString::to_string).collect()
}

fn orphans(model: &mut Model) -> Vec<String> {
    model.take_orphans().iter().map(ToString::to_string).collect()
}

#[test]
fn only_what_a_change_concerns_is_dirty() {
    let mut model = Model::default();
    let web = service("web", "10.0.0.1", &[], 1);
    assert_eq!(apply(&mut model, web.clone()), "default/web/TCP default/web:metrics/TCP");
    assert_eq!(apply(&mut model, web.clone()), "", "nothing has changed");
    apply(&mut model, service("other", "10.0.0.2", &[], 1));

    let mut renumbered = web.clone();
    renumbered.ports[1].port = 91;
    assert_eq!(apply(&mut model, renumbered), "default/web:metrics/TCP");
    assert_eq!(apply_slice(&mut model, slice("web-1", "web", &["10.1.0.1"])), "default/web/TCP");
    assert_eq!(apply_slice(&mut model, slice("web-1", "web", &["10.1.0.1"])), "", "nothing has changed");
    assert_eq!(
        apply_slice(&mut model, slice("web-1", "other", &["10.1.0.1"])),
        "default/other/TCP default/web/TCP",
        "a slice that changes hands concerns both"
    );
    model.apply(Change::Service(Event::Reset(vec![web])));
    assert_eq!(dirty(&mut model), "default/other/TCP default/other:metrics/TCP default/web:metrics/TCP");
}

#[test]
fn nothing_is_synced_before_every_kind_has_been_listed() {
    let mut model = Model::default();
    for change in [Change::Service(Event::Reset(vec![])), Change::Slice(Event::Reset(vec![])), Change::Node(Event::Reset(vec![]))] {
        assert!(!model.has_synced());
        model.apply(change);
    }
    assert!(model.has_synced());
}

#[test]
fn networks_of_services_are_those_of_all_objects_and_make_nothing_dirty() {
    let mut model = Model::default();
    apply(&mut model, service("web", "10.0.0.1", &[], 1));
    let cidr = |name: &str, network: &str| ServiceCidr { name: ObjectName::new("", name), networks: vec![network.parse().unwrap()] };
    let networks = |model: &Model| model.service_networks().iter().map(ToString::to_string).collect::<Vec<_>>();
    model.apply(Change::ServiceCidr(Event::Reset(vec![cidr("kubernetes", "10.96.0.0/12"), cidr("old", "10.0.0.0/24")])));
    model.apply(Change::ServiceCidr(Event::Applied(cidr("new", "10.1.0.0/24"))));
    model.apply(Change::ServiceCidr(Event::Deleted(ObjectName::new("", "old"))));
    assert_eq!(networks(&model), ["10.1.0.0/24", "10.96.0.0/12"]);
    assert_eq!(dirty(&mut model), "");
    model.apply(Change::ServiceCidr(Event::Reset(vec![])));
    assert_eq!(networks(&model), [""; 0]);
}

#[test]
fn a_loser_gets_the_frontend_when_the_winner_goes() {
    let mut model = Model::default();
    let shared = ["198.51.100.1"];
    let claim = Claim::Address(FrontendAddr { addr: shared[0].parse().unwrap(), port: 80, protocol: Protocol::Tcp });
    let winner = |model: &Model| model.winner(claim).map(ToString::to_string);

    apply(&mut model, service("young", "10.0.0.1", &shared, 2));
    assert_eq!(winner(&model).as_deref(), Some("default/young/TCP"));
    assert_eq!(
        apply(&mut model, service("old", "10.0.0.2", &shared, 1)),
        "default/old/TCP default/old:metrics/TCP default/young/TCP default/young:metrics/TCP",
        "who loses a frontend is dirty as well"
    );
    assert_eq!(winner(&model).as_deref(), Some("default/old/TCP"));
    assert_eq!(model.lost_claims(), 2);
    assert_eq!(notices(&mut model)[0], "default/young/TCP does not get 198.51.100.1:80/TCP, which default/old/TCP has");
    assert_eq!(notices(&mut model), [""; 0], "said once");

    model.apply(Change::Service(Event::Deleted(ObjectName::new("default", "old"))));
    assert!(dirty(&mut model).contains("default/young/TCP"));
    assert_eq!(winner(&model).as_deref(), Some("default/young/TCP"));
    assert_eq!((model.lost_claims(), notices(&mut model).len()), (0, 0));
}

#[test]
fn of_two_services_the_older_wins_then_the_smaller_name_and_one_without_an_age_last() {
    let shared = ["198.51.100.1"];
    let claim = Claim::Address(FrontendAddr { addr: shared[0].parse().unwrap(), port: 80, protocol: Protocol::Tcp });
    let at = |name, ip, created| service(name, ip, &shared, created);
    let ageless = Service { created: None, ..at("a-ageless", "10.0.0.4", 0) };
    let services = [at("b", "10.0.0.1", 5), at("c", "10.0.0.2", 5), at("z", "10.0.0.3", 4), ageless];
    for order in [[0, 1, 2, 3], [3, 2, 1, 0], [1, 3, 0, 2]] {
        let mut model = Model::default();
        for index in order {
            apply(&mut model, services[index].clone());
        }
        let mut winners = Vec::new();
        while let Some(winner) = model.winner(claim).map(ServicePortName::service) {
            winners.push(winner.name.to_string());
            model.apply(Change::Service(Event::Deleted(winner)));
        }
        assert_eq!(winners, ["z", "b", "c", "a-ageless"]);
    }
}

#[test]
fn a_cluster_ip_comes_before_an_older_claim() {
    let mut model = Model::default();
    apply(&mut model, service("old", "10.0.0.1", &["10.0.0.2"], 1));
    apply(&mut model, service("young", "10.0.0.2", &[], 2));
    let claim = Claim::Address(FrontendAddr { addr: "10.0.0.2".parse().unwrap(), port: 80, protocol: Protocol::Tcp });
    assert_eq!(model.winner(claim).map(ToString::to_string).as_deref(), Some("default/young/TCP"));
}

#[test]
fn endpoints_without_a_service_are_told_of_once() {
    let mut model = Model::default();
    apply_slice(&mut model, slice("early-1", "early", &["10.1.0.1"]));
    apply(&mut model, service("early", "10.0.0.1", &[], 1));
    apply_slice(&mut model, slice("lost-1", "lost", &["10.1.0.1"]));
    apply_slice(&mut model, slice("lost-2", "lost", &["10.1.0.2"]));
    apply_slice(&mut model, slice("empty-1", "empty", &[]));
    apply_slice(&mut model, slice("late-1", "late", &["10.1.0.1"]));
    assert_eq!(orphans(&mut model), [""; 0], "their Service may be on its way");
    apply(&mut model, service("late", "10.0.0.2", &[], 1));
    dirty(&mut model);
    assert_eq!(orphans(&mut model), ["endpoints for default/lost, which is no Service to be served here"]);
    apply_slice(&mut model, slice("lost-1", "lost", &["10.1.0.3"]));
    assert_eq!((orphans(&mut model), orphans(&mut model)), (vec![], vec![]), "said once");
    assert_eq!(notices(&mut model), [""; 0]);
    assert_eq!(dirty(&mut model), "");
}

#[test]
fn endpoints_are_the_union_of_all_slices() {
    let mut model = Model::default();
    apply(&mut model, service("web", "10.0.0.1", &[], 1));
    apply_slice(&mut model, slice("web-2", "web", &["10.1.0.3", "10.1.0.1"]));
    apply_slice(&mut model, slice("web-1", "web", &["10.1.0.2", "10.1.0.1"]));
    let name = ServicePortName::new("default", "web", "", Protocol::Tcp);
    let addrs = |model: &Model, name, family| model.endpoints(name, family).iter().map(|(addr, _)| addr.to_string()).collect::<Vec<_>>();
    assert_eq!(addrs(&model, &name, IpFamily::V4), ["10.1.0.1:8080", "10.1.0.2:8080", "10.1.0.3:8080"]);
    assert_eq!(addrs(&model, &name, IpFamily::V6), [""; 0]);
    model.apply(Change::Slice(Event::Deleted(ObjectName::new("default", "web-2"))));
    assert_eq!(addrs(&model, &name, IpFamily::V4), ["10.1.0.1:8080", "10.1.0.2:8080"], "an address in both slices stays");
}
