//! Fragments follow the first one of their datagram.

use std::net::SocketAddr;

use proxy_common::{V4, V6, reason::Reason};
use shunt_tests::{
    Family, gate,
    packet::{Packet, verify_checksums},
    rows::frames,
    test_run::{NEEDS, Ran, TestNode, Verdict},
    tracer::Hook,
};

use crate::expect::{POD_EGRESS, POD_INGRESS, Setup, pod_at, service_at};

const CLIENT: u8 = 3;
const BACKEND: u8 = 10;
/// Bytes of a fragment behind the network header: a multiple of eight.
const PIECE: usize = 1400;

fn large(src: SocketAddr, dst: SocketAddr) -> Packet {
    let payload: Vec<u8> = (0..4000_u32).map(|n| (n % 251) as u8).collect();
    Packet::udp(src, dst).payload(payload)
}

#[track_caller]
fn run(node: &mut TestNode, hook: Hook, frame: &[u8]) -> Vec<u8> {
    let Ran { verdict, frame } = node.run(hook, frame).unwrap();
    assert_eq!(verdict, Verdict::Next);
    verify_checksums(&frame).unwrap();
    frame
}

fn age(node: &mut TestNode, secs: u32) {
    node.age_fragments::<V4>(secs).unwrap();
    node.age_fragments::<V6>(secs).unwrap();
}

/// Runs the fragments of a datagram in this order: the datagram that they make.
#[track_caller]
fn run_all(node: &mut TestNode, hook: Hook, fragments: &[Vec<u8>], order: &[usize]) -> Packet {
    let mut ran = vec![Vec::new(); fragments.len()];
    for &index in order {
        ran[index] = run(node, hook, &fragments[index]);
    }
    let whole = frames::joined(&ran);
    verify_checksums(&whole).unwrap();
    Packet::decode(&whole).unwrap()
}

#[test]
fn a_large_datagram_reaches_its_backend_and_its_answer_the_client() {
    if gate::skip(NEEDS) {
        return;
    }
    let mut setup = Setup::new();
    setup.serve(1, &[BACKEND]);
    for family in Family::ALL {
        let (client, service) = (pod_at(family, CLIENT, 40_000), service_at(family, 1));
        let sent = large(client, service);
        let fragments = frames::fragments(&sent, PIECE, 77);
        assert_eq!(fragments.len(), 3);
        for order in [[0, 1, 2], [0, 2, 1]] {
            let there = run_all(&mut setup.node, POD_INGRESS, &fragments, &order);
            assert_eq!(there, sent.clone().to(there.dst));
            assert_eq!(there.dst.ip(), pod_at(family, BACKEND, 0).ip());
            let answer = large(there.dst, client);
            let back = run_all(&mut setup.node, POD_EGRESS, &frames::fragments(&answer, PIECE, 78), &order);
            assert_eq!(back, answer.clone().from(service));
        }
        setup.assert_counted(&[Reason::NewFlow]);
        setup.node.forget_flows().unwrap();
    }
}

#[test]
fn two_datagrams_are_told_apart() {
    if gate::skip(NEEDS) {
        return;
    }
    let mut setup = Setup::new();
    setup.serve(1, &[BACKEND]);
    setup.serve(2, &[BACKEND + 1]);
    for family in Family::ALL {
        let client = pod_at(family, CLIENT, 40_000);
        let sent = [1, 2].map(|service| large(client, service_at(family, service)));
        let [one, two] = [0, 1].map(|n| frames::fragments(&sent[n], PIECE, 77));
        let mut ran: [Vec<Vec<u8>>; 2] = Default::default();
        for piece in 0..one.len() {
            ran[0].push(run(&mut setup.node, POD_INGRESS, &one[piece]));
            ran[1].push(run(&mut setup.node, POD_INGRESS, &two[piece]));
        }
        for (n, ran) in (0..).zip(&ran) {
            let whole = frames::joined(ran);
            verify_checksums(&whole).unwrap();
            let there = Packet::decode(&whole).unwrap();
            assert_eq!(there.dst.ip(), pod_at(family, BACKEND + n, 0).ip());
            assert_eq!(there, sent[usize::from(n)].clone().to(there.dst));
        }
        setup.node.forget_flows().unwrap();
    }
}

/// The identification may be another datagram's by then.
#[test]
fn a_fragment_that_comes_too_late_has_no_first_one() {
    if gate::skip(NEEDS) {
        return;
    }
    let mut setup = Setup::new();
    setup.serve(1, &[BACKEND]);
    for family in Family::ALL {
        let fragments = frames::fragments(&large(pod_at(family, CLIENT, 40_000), service_at(family, 1)), PIECE, 77);
        run(&mut setup.node, POD_INGRESS, &fragments[0]);
        age(&mut setup.node, 20);
        run(&mut setup.node, POD_INGRESS, &fragments[1]);
        age(&mut setup.node, 12);
        setup.ignore_counted();
        assert_eq!(setup.node.run(POD_INGRESS, &fragments[2]).unwrap().verdict, Verdict::Shot);
        setup.assert_counted(&[Reason::FragmentLost]);
        setup.node.forget_flows().unwrap();
    }
}

#[test]
fn fragments_of_no_service_pass_untouched() {
    if gate::skip(NEEDS) {
        return;
    }
    let mut setup = Setup::new();
    setup.serve(1, &[BACKEND]);
    for family in Family::ALL {
        let sent = large(pod_at(family, CLIENT, 40_000), pod_at(family, 77, 9000));
        for (n, frame) in frames::fragments(&sent, PIECE, 77).into_iter().enumerate() {
            for hook in [POD_INGRESS, POD_EGRESS] {
                let ran = setup.node.run(hook, &frame).unwrap();
                assert_eq!(ran, Ran { verdict: Verdict::Next, frame: frame.clone() });
                setup.assert_counted(&[if n == 0 { Reason::NoService } else { Reason::Fragment }]);
            }
        }
    }
}
