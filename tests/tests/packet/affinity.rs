//! Session affinity: a client of a service port goes where it went last, by whichever address it dials.

use std::{collections::BTreeSet, net::SocketAddr};

use proxy_common::{V4, V6};
use serde_json::json;
use shunt_tests::{
    Family, addr, gate,
    objects::{Endpoint, Service},
    packet::Packet,
    rows::Cluster,
    test_run::{NEEDS, TestNode},
};

use crate::expect::{PORT, Setup, TARGET, datagram, pod_at, service_at, syn};

const CLIENT: u8 = 3;
const PODS: [u8; 5] = [10, 11, 12, 13, 14];
const TIMEOUT: u32 = 60;

/// A Service with affinity, a ClusterIP and an external IP, and these pods.
fn serve(setup: &mut Setup, number: u8, affinity: &str, pods: &[u8]) {
    serve_at(setup, number, affinity, pods, TARGET);
}

/// The same, with a port of the pods.
fn serve_at(setup: &mut Setup, number: u8, affinity: &str, pods: &[u8], target: u16) {
    let service = Service::named(&format!("s{number}"))
        .cluster_ips(addr::cluster_ips(number))
        .external_ips(addr::external_ips(number))
        .with("sessionAffinity", json!(affinity))
        .with("sessionAffinityConfig", json!({"clientIP": {"timeoutSeconds": TIMEOUT}}))
        .port(PORT, target);
    let endpoints: Vec<_> = pods.iter().map(|pod| Endpoint::at(addr::pod(1, *pod), "n1")).collect();
    setup.cluster.apply(service.with_endpoints(&endpoints));
    let plans = Cluster::plans(&setup.cluster);
    setup.node.apply(&plans).unwrap();
}

fn with_affinity() -> Setup {
    let mut setup = Setup::new();
    serve(&mut setup, 1, "ClientIP", &PODS);
    setup
}

type Opening = fn(SocketAddr, SocketAddr) -> Packet;
const OPENINGS: [Opening; 2] = [syn, datagram];

/// The backends that a client's flows from fresh ports go to.
fn backends(setup: &mut Setup, client: u8, service: SocketAddr, opening: Opening) -> BTreeSet<SocketAddr> {
    let family = if service.is_ipv4() { Family::V4 } else { Family::V6 };
    let found = (40_000..40_040).map(|port| setup.backend(&opening(pod_at(family, client, port), service)));
    let found = found.collect();
    setup.node.forget_flows().unwrap();
    found
}

#[track_caller]
fn one(found: &BTreeSet<SocketAddr>) -> SocketAddr {
    assert_eq!(found.len(), 1, "{found:?}");
    *found.first().unwrap()
}

fn age(node: &mut TestNode, secs: u32) {
    node.age_affinity::<V4>(secs).unwrap();
    node.age_affinity::<V6>(secs).unwrap();
}

#[test]
fn a_client_stays_and_clients_spread() {
    if gate::skip(NEEDS) {
        return;
    }
    let mut setup = with_affinity();
    for (family, opening) in Family::ALL.into_iter().flat_map(|family| OPENINGS.map(|opening| (family, opening))) {
        let chosen: BTreeSet<_> = (100..140).map(|client| one(&backends(&mut setup, client, service_at(family, 1), opening))).collect();
        assert!(chosen.len() > 2, "forty clients go to more than two of five backends: {chosen:?}");
    }
}

#[test]
fn all_addresses_of_a_service_port_share_it() {
    if gate::skip(NEEDS) {
        return;
    }
    let mut setup = with_affinity();
    for (family, opening) in Family::ALL.into_iter().flat_map(|family| OPENINGS.map(|opening| (family, opening))) {
        let by_cluster_ip = one(&backends(&mut setup, CLIENT, service_at(family, 1), opening));
        let by_external_ip = one(&backends(&mut setup, CLIENT, addr::external_ips(1).at(family, PORT), opening));
        assert_eq!(by_cluster_ip, by_external_ip);
    }
}

/// Its address alone does not make it the one that the client had.
#[test]
fn a_pod_at_another_port_is_another_backend() {
    if gate::skip(NEEDS) {
        return;
    }
    let mut setup = Setup::new();
    for family in Family::ALL {
        serve_at(&mut setup, 1, "ClientIP", &PODS, TARGET + 1);
        let pods = |setup: &mut Setup, port| -> Vec<_> {
            (100..140).map(|client| setup.backend(&syn(pod_at(family, client, port), service_at(family, 1))).ip()).collect()
        };
        let before = pods(&mut setup, 40_000);
        assert_eq!(pods(&mut setup, 40_001), before);
        serve(&mut setup, 1, "ClientIP", &PODS);
        assert_ne!(pods(&mut setup, 40_002), before, "forty clients choose anew");
        setup.node.forget_flows().unwrap();
    }
}

#[test]
fn it_ends_when_no_flow_has_begun_for_a_while() {
    if gate::skip(NEEDS) {
        return;
    }
    let mut setup = with_affinity();
    for family in Family::ALL {
        let service = service_at(family, 1);
        let mut seen = BTreeSet::new();
        for port in 30_000..30_030 {
            // Each flow begins the time anew.
            let stayed = one(&backends(&mut setup, CLIENT, service, syn));
            age(&mut setup.node, TIMEOUT - 10);
            assert_eq!(one(&backends(&mut setup, CLIENT, service, syn)), stayed);
            age(&mut setup.node, TIMEOUT - 10);
            age(&mut setup.node, TIMEOUT);
            seen.insert(setup.backend(&syn(pod_at(family, CLIENT, port), service)));
            setup.node.forget_flows().unwrap();
        }
        assert!(seen.len() > 1, "after the time another backend may be chosen");
    }
}

#[test]
fn a_client_moves_when_its_backend_leaves_and_not_when_another_does() {
    if gate::skip(NEEDS) {
        return;
    }
    let mut setup = with_affinity();
    for (family, opening) in Family::ALL.into_iter().flat_map(|family| OPENINGS.map(|opening| (family, opening))) {
        let service = service_at(family, 1);
        let first = one(&backends(&mut setup, CLIENT, service, opening));
        let is_first = |pod: &u8| pod_at(family, *pod, TARGET) == first;
        // Others leave, so that its slot is another one.
        let fewer: Vec<u8> = PODS.into_iter().filter(|pod| is_first(pod) || pod % 2 == 0).collect();
        serve(&mut setup, 1, "ClientIP", &fewer);
        assert_eq!(one(&backends(&mut setup, CLIENT, service, opening)), first);
        let others: Vec<u8> = PODS.into_iter().filter(|pod| !is_first(pod)).collect();
        serve(&mut setup, 1, "ClientIP", &others);
        let second = one(&backends(&mut setup, CLIENT, service, opening));
        assert_ne!(second, first);
        serve(&mut setup, 1, "ClientIP", &PODS);
        assert_eq!(one(&backends(&mut setup, CLIENT, service, opening)), second, "it stays where it is now");
    }
}

#[test]
fn it_is_switched_on_and_off_while_the_service_is_served() {
    if gate::skip(NEEDS) {
        return;
    }
    let mut setup = with_affinity();
    for family in Family::ALL {
        let service = service_at(family, 1);
        one(&backends(&mut setup, CLIENT, service, syn));
        serve(&mut setup, 1, "None", &PODS);
        assert!(backends(&mut setup, CLIENT, service, syn).len() > 1);
        serve(&mut setup, 1, "ClientIP", &PODS);
        one(&backends(&mut setup, CLIENT, service, syn));
    }
}

#[test]
fn ports_and_services_do_not_share_it() {
    if gate::skip(NEEDS) {
        return;
    }
    let mut setup = with_affinity();
    serve(&mut setup, 2, "ClientIP", &PODS);
    for family in Family::ALL {
        let chosen = |setup: &mut Setup, service, opening| -> Vec<SocketAddr> {
            (100..130).map(|client| one(&backends(setup, client, service_at(family, service), opening))).collect()
        };
        let first = chosen(&mut setup, 1, syn);
        assert_ne!(first, chosen(&mut setup, 2, syn), "another service");
        assert_ne!(first, chosen(&mut setup, 1, datagram), "another port");
    }
}
