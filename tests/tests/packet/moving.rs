//! Which backend the packets of a known flow get when the set of backends changes, and those whose flow was lost.

use std::net::SocketAddr;

use proxy_common::{Protocol, Side, reason::Reason};
use serde_json::json;
use shunt_tests::{
    Family, addr, gate,
    objects::{Endpoint, Service},
    packet::{Packet, flags},
    test_run::{NEEDS, Verdict},
};

use crate::expect::{
    POD_EGRESS, POD_INGRESS, PORT, Setup, TARGET, data, datagram, dialled, entries, evict, forward, pod_at, port_name, service_at, syn,
};

const CLIENT: u8 = 3;

/// A Service of two pods, and for each family a client's port whose flow goes to the first of them.
fn two_backends(opening: impl Fn(SocketAddr, SocketAddr) -> Packet) -> (Setup, [Packet; 2]) {
    let mut setup = Setup::new();
    setup.serve(1, &[10, 11]);
    let packets = Family::ALL.map(|family| {
        let mut ports = 40_000_u16..;
        ports
            .find_map(|port| {
                let packet = opening(pod_at(family, CLIENT, port), service_at(family, 1));
                (setup.backend(&packet) == pod_at(family, 10, 8080)).then_some(packet)
            })
            .expect("half of all flows go to either")
    });
    setup.node.forget_flows().unwrap();
    for packet in &packets {
        setup.backend(packet);
    }
    setup.ignore_counted();
    (setup, packets)
}

fn family(packet: &Packet) -> Family {
    if packet.src.is_ipv4() { Family::V4 } else { Family::V6 }
}

#[test]
fn a_packet_whose_flow_was_lost_finds_the_same_backend() {
    if gate::skip(NEEDS) {
        return;
    }
    let mut setup = Setup::new();
    setup.serve(1, &[10, 11, 12, 13, 14]);
    for family in Family::ALL {
        for port in 40_000..40_050 {
            let (src, dst) = (pod_at(family, CLIENT, port), service_at(family, 1));
            let first = setup.backend(&syn(src, dst));
            setup.assert_counted(&[Reason::NewFlow]);
            setup.node.forget_flows().unwrap();
            assert_eq!(setup.backend(&data(src, dst)), first);
            setup.assert_counted(&[Reason::Midstream, Reason::NewFlow]);
            assert_eq!(setup.backend(&data(src, dst)), first, "from then on it is a flow like others");
            setup.assert_counted(&[]);
        }
    }
}

#[test]
fn a_reset_in_mid_stream_reaches_its_backend_and_leaves_no_record() {
    if gate::skip(NEEDS) {
        return;
    }
    let (mut setup, packets) = two_backends(syn);
    setup.node.forget_flows().unwrap();
    for packet in packets {
        let reset = Packet::tcp(packet.src, packet.dst, flags::RST);
        assert_eq!(setup.backend(&reset), pod_at(family(&packet), 10, 8080));
        setup.assert_counted(&[Reason::Midstream]);
        assert_eq!(entries(&setup.node), []);
    }
}

#[test]
fn a_repeated_syn_stays_with_a_backend_that_takes_nothing_new() {
    if gate::skip(NEEDS) {
        return;
    }
    let (mut setup, packets) = two_backends(syn);
    setup.serve_draining(1, &[11], &[10]);
    for packet in packets {
        let family = family(&packet);
        assert_eq!(setup.backend(&packet), pod_at(family, 10, 8080));
        assert_eq!(setup.backend(&data(packet.src, packet.dst)), pod_at(family, 10, 8080));
        setup.assert_counted(&[]);
        let another = syn(pod_at(family, CLIENT, 39_999), packet.dst);
        assert_eq!(setup.backend(&another), pod_at(family, 11, 8080), "new flows go to the one that is ready");
        setup.assert_counted(&[Reason::NewFlow]);
    }
}

#[test]
fn a_syn_leaves_a_backend_that_is_gone() {
    if gate::skip(NEEDS) {
        return;
    }
    leaves_a_backend_that_is_gone(syn, Protocol::Tcp);
}

#[test]
fn a_datagram_leaves_a_backend_that_is_gone() {
    if gate::skip(NEEDS) {
        return;
    }
    leaves_a_backend_that_is_gone(datagram, Protocol::Udp);
}

/// It takes nothing new, but is not gone either.
#[test]
fn a_datagram_stays_with_a_backend_that_serves() {
    if gate::skip(NEEDS) {
        return;
    }
    for conditions in [json!({"ready": false}), json!({"ready": false, "serving": true, "terminating": true})] {
        let (mut setup, packets) = two_backends(datagram);
        setup.serve_as(1, &[(11, json!({})), (10, conditions)]);
        for packet in packets {
            assert_eq!(setup.backend(&packet), pod_at(family(&packet), 10, 8080));
            setup.assert_counted(&[]);
            let another = datagram(pod_at(family(&packet), CLIENT, 39_999), packet.dst);
            assert_eq!(setup.backend(&another), pod_at(family(&packet), 11, 8080));
            setup.assert_counted(&[Reason::NewFlow]);
        }
    }
}

/// A backend is an address and a port: the pod is the same.
#[test]
fn a_datagram_leaves_a_port_that_is_gone() {
    if gate::skip(NEEDS) {
        return;
    }
    let (mut setup, packets) = two_backends(datagram);
    let service = Service::plain("s1", 1, PORT, 9090);
    setup.cluster.apply(service.with_endpoints(&[Endpoint::at(addr::pod(1, 10), "n1")]));
    setup.node.apply(&setup.cluster.plans()).unwrap();
    for packet in packets {
        assert_eq!(setup.backend(&packet), pod_at(family(&packet), 10, 9090));
        setup.assert_counted(&[Reason::BackendGone, Reason::NewFlow]);
    }
}

fn leaves_a_backend_that_is_gone(opening: impl Fn(SocketAddr, SocketAddr) -> Packet, protocol: Protocol) {
    let (mut setup, packets) = two_backends(opening);
    setup.serve(1, &[11]);
    let before = setup.node.service_counters(&port_name(1, protocol)).unwrap().flows;
    for packet in packets {
        let moved_to = pod_at(family(&packet), 11, 8080);
        assert_eq!(setup.backend(&packet), moved_to);
        setup.assert_counted(&[Reason::BackendGone, Reason::NewFlow]);
        assert_eq!(forward(&setup.node, packet.src, packet.dst).to.1, moved_to);
        let left = entries(&setup.node).into_iter().filter(|entry| entry.from.0.is_ipv4() == packet.src.is_ipv4());
        assert_eq!(left.count(), 2, "the old flow's entry for replies is gone as well");
        assert_eq!(setup.backend(&packet), moved_to);
        setup.assert_counted(&[]);
    }
    assert_eq!(setup.node.service_counters(&port_name(1, protocol)).unwrap().flows - before, 2);
}

#[test]
fn data_of_a_connection_stays_with_a_backend_that_is_gone() {
    if gate::skip(NEEDS) {
        return;
    }
    let (mut setup, packets) = two_backends(syn);
    setup.serve(1, &[11]);
    for packet in packets {
        assert_eq!(setup.backend(&data(packet.src, packet.dst)), pod_at(family(&packet), 10, 8080));
        setup.assert_counted(&[]);
    }
}

/// The answer of a UDP backend that has just gone is still translated: to the client it comes from where it asked.
#[test]
fn late_answers_of_a_gone_backend_are_translated() {
    if gate::skip(NEEDS) {
        return;
    }
    let (mut setup, packets) = two_backends(datagram);
    setup.serve(1, &[11]);
    for packet in packets {
        let late = packet.clone().to(pod_at(family(&packet), 10, 8080)).reversed();
        let answer = setup.translated(POD_EGRESS, &late);
        assert_eq!((answer.src, answer.dst), (packet.dst, packet.src));
        setup.assert_counted(&[]);
    }
}

#[test]
fn a_backend_that_comes_back_is_another_life() {
    if gate::skip(NEEDS) {
        return;
    }
    let (mut setup, packets) = two_backends(datagram);
    setup.serve(1, &[11]);
    setup.serve(1, &[10]);
    for packet in packets {
        assert_eq!(setup.backend(&packet), pod_at(family(&packet), 10, 8080));
        setup.assert_counted(&[Reason::BackendGone, Reason::NewFlow]);
    }
}

/// The only backend is elsewhere, and clients may not go there any more.
#[test]
fn known_flows_go_on_when_the_policy_changes() {
    if gate::skip(NEEDS) {
        return;
    }
    let serve = |setup: &mut Setup, policy: &str| {
        let service = dialled(1).with("internalTrafficPolicy", json!(policy));
        setup.cluster.apply(service.with_endpoints(&[Endpoint::at(addr::pod(2, 10), "n2")]));
        setup.node.apply(&setup.cluster.plans()).unwrap();
    };
    let mut setup = Setup::new();
    for (family, opening) in Family::ALL.into_iter().flat_map(|family| [(family, syn as fn(_, _) -> _), (family, datagram)]) {
        serve(&mut setup, "Cluster");
        let opening = |port| opening(pod_at(family, CLIENT, port), service_at(family, 1));
        let backend = addr::pod(2, 10).at(family, TARGET);
        assert_eq!(setup.backend(&opening(40_000)), backend);
        serve(&mut setup, "Local");
        setup.ignore_counted();
        assert_eq!(setup.backend(&opening(40_000)), backend);
        setup.assert_counted(&[]);
        let ran = setup.node.run(POD_INGRESS, &opening(40_001).build()).unwrap();
        assert_eq!(ran.verdict, Verdict::Shot);
        setup.assert_counted(&[Reason::PolicyDrop]);
        setup.node.forget_flows().unwrap();
    }
}

/// The last backend goes: what is new is refused, and a flow that may move with it.
#[test]
fn a_flow_whose_service_has_nobody_left_is_refused() {
    if gate::skip(NEEDS) {
        return;
    }
    let (mut setup, packets) = two_backends(datagram);
    setup.serve(1, &[]);
    for packet in packets {
        let ran = setup.node.run(POD_INGRESS, &packet.build()).unwrap();
        assert_eq!(ran.verdict, Verdict::Redirect);
        setup.assert_counted(&[Reason::BackendGone, Reason::RejectUnreachable]);
    }
    assert_eq!(entries(&setup.node), []);
}

#[test]
fn a_service_that_is_gone_still_has_its_connections() {
    if gate::skip(NEEDS) {
        return;
    }
    let (mut setup, packets) = two_backends(syn);
    setup.cluster.delete_service("s1");
    setup.node.apply(&setup.cluster.plans()).unwrap();
    for packet in packets {
        let data = data(packet.src, packet.dst);
        assert_eq!(setup.backend(&data), pod_at(family(&packet), 10, 8080));
        evict(&mut setup.node, Side::Ingress, Protocol::Tcp, packet.src, packet.dst);
        let ran = setup.node.run(POD_INGRESS, &data.build()).unwrap();
        assert_eq!(ran.frame, data.build(), "what has no flow any more is no service's");
    }
}
