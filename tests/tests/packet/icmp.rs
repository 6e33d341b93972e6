//! ICMP errors about packets of known flows: who gets them understands what they quote.

use std::net::SocketAddr;

use proxy_common::reason::Reason;
use shunt_tests::{
    Family, addr, gate,
    packet::{L4, Packet, verify_checksums},
    rows::frames,
    test_run::{NEEDS, Ran, TestNode, Verdict},
    tracer::Hook,
};

use crate::expect::{POD_EGRESS, POD_INGRESS, Setup, data, datagram, pod_at, service_at, syn};

const CLIENT: u8 = 3;
const BACKEND: u8 = 10;
/// Somebody on the way.
const ROUTER: u8 = 200;

/// Kinds and codes of errors: unreachable, too big and time exceeded.
fn kinds(family: Family) -> [(u8, u8); 3] {
    match family {
        Family::V4 => [(3, 3), (3, 4), (11, 0)],
        Family::V6 => [(1, 4), (2, 0), (3, 0)],
    }
}

/// An ICMP error that quotes so many bytes of a packet behind its network header.
fn error(from: SocketAddr, quoted: &Packet, (kind, code): (u8, u8), bytes: usize) -> Packet {
    let header = if from.is_ipv4() { 20 } else { 40 };
    let frame = quoted.build();
    let quotation = &frame[14..][..(header + bytes).min(frame.len() - 14)];
    let l4 = L4::Icmp { kind, code, rest: [0, 0, 5, 0x78] };
    let mut error = Packet { l4, payload: quotation.to_vec(), ..quoted.clone().reversed() };
    error.src = SocketAddr::new(from.ip(), 0);
    error.dst.set_port(0);
    error
}

/// Runs an error, which must go on translated: as it is then.
#[track_caller]
fn run(node: &mut TestNode, hook: Hook, error: &Packet) -> Packet {
    let Ran { verdict, frame } = node.run(hook, &error.build()).unwrap();
    assert_eq!(verdict, Verdict::Next);
    verify_checksums(&frame).unwrap();
    Packet::decode(&frame).unwrap()
}

/// An error goes on as another one, but for the Ethernet header, and is counted.
#[track_caller]
fn assert_becomes(setup: &mut Setup, hook: Hook, told: &Packet, expected: Packet) {
    let heard = run(&mut setup.node, hook, told);
    assert_eq!(heard, Packet { eth_src: heard.eth_src, eth_dst: heard.eth_dst, ..expected });
    setup.assert_counted(&[Reason::IcmpError]);
}

/// How many bytes of the transport header are quoted: too few for TCP's checksum, with it, and more than there are.
const QUOTED: [usize; 3] = [8, 20, 200];

#[test]
fn a_client_hears_of_its_own_packets() {
    if gate::skip(NEEDS) {
        return;
    }
    let mut setup = Setup::new();
    setup.serve(1, &[BACKEND]);
    for family in Family::ALL {
        let (client, service) = (pod_at(family, CLIENT, 40_000), service_at(family, 1));
        for (opening, quoted) in [(syn(client, service), data(client, service)), (datagram(client, service), datagram(client, service))] {
            let backend = setup.backend(&opening);
            setup.ignore_counted();
            let there = quoted.clone().to(backend);
            for (kind, bytes) in kinds(family).into_iter().flat_map(|kind| QUOTED.map(|bytes| (kind, bytes))) {
                // A router on the way stays what it is; the backend is the service.
                for (from, seen) in [(pod_at(family, ROUTER, 0), pod_at(family, ROUTER, 0)), (backend, service)] {
                    let [told, expected] = [error(from, &there, kind, bytes), error(seen, &quoted, kind, bytes)];
                    assert_becomes(&mut setup, POD_EGRESS, &told, expected);
                }
            }
        }
        setup.node.forget_flows().unwrap();
    }
}

/// A router quotes what it could not send on, and over IPv6 that is mostly a fragment: only a sender makes some.
#[test]
fn a_client_hears_of_the_first_fragment_of_what_it_sent() {
    if gate::skip(NEEDS) {
        return;
    }
    let mut setup = Setup::new();
    setup.serve(1, &[BACKEND]);
    for family in Family::ALL {
        let (client, service) = (pod_at(family, CLIENT, 40_000), service_at(family, 1));
        let backend = setup.backend(&datagram(client, service));
        setup.ignore_counted();
        let quoted = |to: SocketAddr| {
            let sent = Packet::udp(client, to).payload(vec![7; 4000]);
            let fragments = frames::fragments(&sent, 1400, 7);
            let (too_big, router) = (kinds(family)[1], pod_at(family, ROUTER, 0));
            [0, 1].map(|n| Packet { payload: fragments[n][14..][..200].to_vec(), ..error(router, &datagram(client, to), too_big, 8) })
        };
        let ([first, later], [expected, _]) = (quoted(backend), quoted(service));
        let heard = run(&mut setup.node, POD_EGRESS, &first);
        // The checksum of the datagram, of which only the beginning is quoted, is corrected by what changes.
        let expected = Packet { eth_src: heard.eth_src, eth_dst: heard.eth_dst, ..expected };
        assert_eq!(heard, expected);
        setup.assert_counted(&[Reason::IcmpError]);
        let frame = later.build();
        assert_eq!(setup.node.run(POD_EGRESS, &frame).unwrap(), Ran { verdict: Verdict::Next, frame });
        setup.assert_counted(&[Reason::OtherProtocol]);
        setup.node.forget_flows().unwrap();
    }
}

#[test]
fn a_backend_hears_of_its_answers() {
    if gate::skip(NEEDS) {
        return;
    }
    let mut setup = Setup::new();
    setup.serve(1, &[BACKEND]);
    for family in Family::ALL {
        let (client, service) = (pod_at(family, CLIENT, 40_000), service_at(family, 1));
        let backend = setup.backend(&datagram(client, service));
        setup.ignore_counted();
        for (kind, bytes) in kinds(family).into_iter().flat_map(|kind| QUOTED.map(|bytes| (kind, bytes))) {
            let [told, expected] = [service, backend].map(|from| error(client, &datagram(from, client), kind, bytes));
            assert_becomes(&mut setup, POD_INGRESS, &told, expected);
        }
        setup.node.forget_flows().unwrap();
    }
}

#[test]
fn errors_of_no_flow_pass_untouched() {
    if gate::skip(NEEDS) {
        return;
    }
    let mut setup = Setup::new();
    setup.serve(1, &[BACKEND]);
    for family in Family::ALL {
        let (client, service) = (pod_at(family, CLIENT, 40_000), service_at(family, 1));
        let backend = setup.backend(&datagram(client, service));
        setup.ignore_counted();
        let other = pod_at(family, CLIENT, 40_001);
        let told = kinds(family)[0];
        let stranger = error(pod_at(family, ROUTER, 0), &datagram(other, backend), told, 8);
        // What goes to somebody else than it is about, and what asks instead of telling.
        let mut astray = error(pod_at(family, ROUTER, 0), &datagram(client, backend), told, 8);
        astray.dst = SocketAddr::new(addr::pod(1, 77).of(family), 0);
        let asked = if family == Family::V4 { (8, 0) } else { (128, 0) };
        let echo = error(pod_at(family, ROUTER, 0), &datagram(client, backend), asked, 8);
        let short = error(pod_at(family, ROUTER, 0), &datagram(client, backend), told, 4);
        for packet in [stranger, astray, echo, short] {
            let frame = packet.build();
            assert_eq!(setup.node.run(POD_EGRESS, &frame).unwrap(), Ran { verdict: Verdict::Next, frame });
            setup.assert_counted(&[Reason::OtherProtocol]);
        }
        setup.node.forget_flows().unwrap();
    }
}

/// It would send the client to the backend for an address that the client does not know.
#[test]
fn a_redirect_of_a_flow_is_dropped_and_any_other_passes() {
    if gate::skip(NEEDS) {
        return;
    }
    let mut setup = Setup::new();
    setup.serve(1, &[BACKEND]);
    let (client, service) = (pod_at(Family::V4, CLIENT, 40_000), service_at(Family::V4, 1));
    let backend = setup.backend(&syn(client, service));
    setup.ignore_counted();
    let redirect = error(pod_at(Family::V4, 1, 0), &syn(client, backend), (5, 1), 8);
    assert_eq!(setup.node.run(POD_EGRESS, &redirect.build()).unwrap().verdict, Verdict::Shot);
    setup.assert_counted(&[Reason::IcmpRedirect]);
    let other = error(pod_at(Family::V4, 1, 0), &syn(pod_at(Family::V4, CLIENT, 40_001), backend), (5, 1), 8);
    assert_eq!(setup.node.run(POD_EGRESS, &other.build()).unwrap().verdict, Verdict::Next);
}
