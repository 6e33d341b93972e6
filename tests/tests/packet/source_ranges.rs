//! Load balancer addresses that only some clients may use.

use std::net::SocketAddr;

use proxy_common::{Protocol, reason::Reason};
use serde_json::json;
use shunt_tests::{
    Family, addr, gate,
    objects::{Endpoint, Service},
    packet::{Packet, verify_checksums},
    rows::opening,
    test_run::{NEEDS, Verdict},
};

use crate::expect::{PORT, Setup, TARGET, UPLINK_INGRESS};

const NODE_PORT: u16 = 30_080;
const BACKEND: u8 = 10;

/// Gives the Service these ranges, and one backend on the node.
fn limit(setup: &mut Setup, ranges: &[&str]) {
    let service = Service::named("s1")
        .cluster_ips(addr::cluster_ips(1))
        .load_balancer_ips(addr::load_balancer_ips(1))
        .node_port(PORT, TARGET, NODE_PORT);
    let service = service.with("loadBalancerSourceRanges", json!(ranges));
    setup.cluster.apply(service.with_endpoints(&[Endpoint::at(addr::pod(1, BACKEND), "n1")]));
    setup.node.apply(&setup.cluster.plans()).unwrap();
}

/// Whether a packet from outside reaches the backend; if not, it is dropped for the ranges.
#[track_caller]
fn is_served(setup: &mut Setup, packet: &Packet) -> bool {
    setup.ignore_counted();
    let ran = setup.node.run(UPLINK_INGRESS, &packet.build()).unwrap();
    if ran.verdict == Verdict::Shot {
        setup.assert_counted(&[Reason::SourceRange]);
        return false;
    }
    assert_eq!(ran.verdict, Verdict::Next);
    verify_checksums(&ran.frame).unwrap();
    let there = Packet::decode(&ran.frame).unwrap();
    assert_eq!(
        (there.src, there.dst.ip()),
        (packet.src, addr::pod(1, BACKEND).of(if packet.src.is_ipv4() { Family::V4 } else { Family::V6 }))
    );
    true
}

fn openings(family: Family, port: u16, dst: SocketAddr) -> [Packet; 2] {
    [Protocol::Tcp, Protocol::Udp].map(|protocol| opening(protocol, addr::client().at(family, port), dst))
}

#[test]
fn only_clients_in_a_range_use_the_load_balancers_address() {
    if gate::skip(NEEDS) {
        return;
    }
    let client = addr::client();
    let [v4, v6] = Family::ALL.map(|family| format!("{}/{}", client.of(family), if family == Family::V4 { 32 } else { 128 }));
    let elsewhere = ["198.18.0.0/15", "2001:db8:ffff::/48"];
    // No range at all is for everybody, and so is one of the other family. One of IPv4-mapped addresses is of IPv4.
    let cases: [(&[&str], [bool; 2]); 8] = [
        (&[], [true, true]),
        (&elsewhere, [false, false]),
        (&[&v4, &v6], [true, true]),
        (&[elsewhere[0], &v6], [false, true]),
        (&["0.0.0.0/0", "::/0"], [true, true]),
        (&[elsewhere[0]], [false, true]),
        (&[elsewhere[1]], [true, false]),
        (&["::ffff:198.18.0.0/111"], [false, true]),
    ];
    let mut setup = Setup::new();
    for (ranges, served) in cases {
        limit(&mut setup, ranges);
        for (family, served) in Family::ALL.into_iter().zip(served) {
            for packet in openings(family, 50_000, addr::load_balancer_ips(1).at(family, PORT)) {
                assert_eq!(is_served(&mut setup, &packet), served, "{ranges:?}, {packet:?}");
            }
            for packet in openings(family, 50_001, addr::node(1).at(family, NODE_PORT)) {
                assert!(is_served(&mut setup, &packet), "a node port has no ranges: {ranges:?}");
            }
        }
        setup.node.forget_flows().unwrap();
    }
}

#[test]
fn known_flows_go_on_when_the_ranges_change() {
    if gate::skip(NEEDS) {
        return;
    }
    let mut setup = Setup::new();
    for family in Family::ALL {
        let frontend = addr::load_balancer_ips(1).at(family, PORT);
        limit(&mut setup, &[]);
        for packet in openings(family, 50_000, frontend) {
            assert!(is_served(&mut setup, &packet));
        }
        limit(&mut setup, &["198.18.0.0/15", "2001:db8:ffff::/48"]);
        for (known, new) in openings(family, 50_000, frontend).into_iter().zip(openings(family, 50_001, frontend)) {
            assert!(is_served(&mut setup, &known));
            assert!(!is_served(&mut setup, &new));
        }
        setup.node.forget_flows().unwrap();
    }
}
