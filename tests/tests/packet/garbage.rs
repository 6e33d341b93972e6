//! Frames of no sense: no program does anything to them but pass, drop, refuse or translate, and all of it correctly.

use std::{collections::BTreeMap, net::SocketAddr};

use proxy_common::{
    Protocol,
    reason::{Class, Reason},
};
use proxy_daemon::maps::Direction;
use shunt_tests::{
    Family, addr, gate,
    objects::Endpoint,
    packet::verify_checksums,
    rows,
    test_run::{NEEDS, Ran, TestNode, Verdict},
    tracer::Hook,
};

use crate::{
    no_ethernet::{ETHERNET, marked},
    noise::{Garbage, SHORTEST},
};

const FRAMES: u32 = 20_000;
/// A Service whose backend has an address that the test run takes for an ethertype.
const MARKED: u8 = 20;

/// Whether the kernel's test run takes a frame: newer kernels want a whole network header where the ethertype promises one.
fn is_taken(frame: &[u8]) -> bool {
    let shortest = match frame {
        [_, _, _, _, _, _, _, _, _, _, _, _, 0x08, 0x00, ..] => 14 + 20,
        [_, _, _, _, _, _, _, _, _, _, _, _, 0x86, 0xdd, ..] => 14 + 40,
        _ => SHORTEST,
    };
    frame.len() >= shortest
}

#[test]
fn programs_with_ethernet_take_any_frame() {
    if gate::skip(NEEDS) {
        return;
    }
    let mut garbage = Garbage::new(1, rows::all().into_iter().map(|row| row.frame).collect());
    let mut node = node();
    let before = node.control_rows().unwrap();
    let mut counted = Counted::default();
    for _ in 0..FRAMES {
        let frame = garbage.frame();
        for hook in Hook::ALL.into_iter().filter(|_| is_taken(&frame)) {
            // An error is a frame that the test run itself refuses, or a verdict that is none.
            let ran = node.run(hook, &frame).unwrap();
            let reasons = counted.take(&mut node);
            check_fate(&frame, &ran, &reasons);
            check_ethernet(&frame, &ran);
        }
    }
    assert_eq!(node.control_rows().unwrap(), before);
    counted.assert_all_ways_were_gone(&[Reason::Hairpin]);
}

#[test]
fn programs_without_ethernet_take_any_packet() {
    if gate::skip(NEEDS) {
        return;
    }
    let mut garbage = Garbage::new(2, marked_frames());
    let mut node = node();
    let before = node.control_rows().unwrap();
    let mut counted = Counted::default();
    let mut translated = [0; 2];
    for _ in 0..FRAMES {
        let frame = garbage.frame();
        for (direction, translated) in Direction::ALL.into_iter().zip(&mut translated) {
            for packet in [&frame[..], &frame[ETHERNET..]].into_iter().filter(|packet| is_taken(packet)) {
                let ran = node.run_without_ethernet(direction, packet).unwrap();
                let reasons = counted.take(&mut node);
                check_fate(packet, &ran, &reasons);
                check_length(packet, &ran, &reasons);
                *translated += u32::from(ran.verdict == Verdict::Next && ran.frame != packet);
                if packet.len() < frame.len() && !reasons.contains(&Reason::RejectUnreachable) {
                    // The kernel's test run has the room for an ICMP error made in the wrong place.
                    check_checksums(&frame, &[&frame[..ETHERNET], &ran.frame].concat(), ran.verdict);
                }
            }
        }
    }
    assert_eq!(node.control_rows().unwrap(), before);
    counted.assert_all_ways_were_gone(&[]);
    assert!(translated.iter().all(|n| *n >= 20), "{translated:?} packets were translated in the two directions");
}

/// Frames whose packets have an ethertype where the kernel's test run looks for it in a packet without an Ethernet header.
fn marked_frames() -> Vec<Vec<u8>> {
    let rows = rows::all().into_iter().map(|row| row.frame);
    let mut frames: Vec<_> = rows.filter(|frame| frame[12..14] == frame[ETHERNET + 12..ETHERNET + 14]).collect();
    for family in Family::ALL {
        let client = |n: u8| marked(10).at(family, 40_000 + u16::from(n));
        let (service, backend) = (addr::external_ips(MARKED).at(family, 80), marked(5).at(family, 8080));
        // More of these: an answer is one to a flow only where nothing has been changed.
        let ways = |n| [(client(n), service), (backend, client(n))];
        let openings = |(src, dst): (SocketAddr, SocketAddr)| [Protocol::Tcp, Protocol::Udp].map(|it| rows::opening(it, src, dst).build());
        frames.extend((0..8).flat_map(ways).flat_map(openings));
    }
    frames
}

fn node() -> TestNode {
    let mut cluster = rows::cluster();
    cluster.apply(rows::service(MARKED).with_endpoints(&[Endpoint::at(marked(5), "n1")]));
    let mut node = TestNode::new(cluster.node_ips()).unwrap();
    node.apply(&cluster.plans()).unwrap();
    node
}

fn show(sent: &[u8], ran: &Ran) -> String {
    format!("{:?}\n{sent:02x?}\n{:02x?}", ran.verdict, ran.frame)
}

/// The verdict is the one of what was counted, once and no more, and what passes is as it was.
fn check_fate(sent: &[u8], ran: &Ran, reasons: &[Reason]) {
    let fates: Vec<_> = reasons.iter().map(|reason| reason.class()).filter(|class| *class != Class::Note).collect();
    let holds = match (ran.verdict, &fates[..]) {
        (Verdict::Next | Verdict::Redirect, []) => ran.frame.len() == sent.len(),
        (Verdict::Next, [Class::Pass]) => ran.frame == sent,
        (Verdict::Shot, [Class::Drop]) | (Verdict::Redirect, [Class::Reject]) => true,
        _ => false,
    };
    assert!(holds, "{reasons:?} and {}", show(sent, ran));
}

fn check_ethernet(frame: &[u8], ran: &Ran) {
    check_checksums(frame, &ran.frame, ran.verdict);
    match ran.verdict {
        Verdict::Next => assert_eq!(ran.frame[..ETHERNET], frame[..ETHERNET], "{}", show(frame, ran)),
        Verdict::Redirect => {
            assert_eq!((&ran.frame[..6], &ran.frame[6..12]), (&frame[6..12], &frame[..6]), "{}", show(frame, ran));
        }
        Verdict::Shot => {}
    }
}

/// Where the checksums held before they do so afterwards.
fn check_checksums(before: &[u8], after: &[u8], verdict: Verdict) {
    if verdict != Verdict::Shot && verify_checksums(before).is_ok() {
        verify_checksums(after).unwrap_or_else(|error| panic!("{error:#} after {verdict:?}\n{before:02x?}\n{after:02x?}"));
    }
}

/// A refusal has the length of its headers, and quotes no more than it must.
fn check_length(packet: &[u8], ran: &Ran, reasons: &[Reason]) {
    let header = if packet[0] >> 4 == 4 { 20 } else { 40 };
    let lengths: &[usize] = match reasons {
        [Reason::RejectReset] => &[header + 20],
        [Reason::RejectUnreachable] => &[2 * header + 8 + 8, 2 * header + 8 + 20],
        _ => return,
    };
    assert!(lengths.contains(&ran.frame.len()), "{reasons:?} and {}", show(packet, ran));
}

/// What all runs together have counted.
#[derive(Default)]
struct Counted(BTreeMap<Reason, u64>);

impl Counted {
    /// What the last run has counted, each of it once.
    fn take(&mut self, node: &mut TestNode) -> Vec<Reason> {
        let counted = node.take_counted().unwrap();
        for (reason, n) in &counted {
            assert_eq!(*n, 1, "{counted:?}");
            *self.0.entry(*reason).or_default() += 1;
        }
        counted.into_iter().map(|(reason, _)| reason).collect()
    }

    /// Garbage that all of it passed untouched would show nothing.
    fn assert_all_ways_were_gone(&self, more: &[Reason]) {
        const WAYS: [Reason; 10] = [
            Reason::NotIp,
            Reason::OtherProtocol,
            Reason::Fragment,
            Reason::Malformed,
            Reason::NoService,
            Reason::PolicyDrop,
            Reason::RejectReset,
            Reason::RejectUnreachable,
            Reason::NewFlow,
            Reason::Midstream,
        ];
        let seen = |reason| self.0.get(reason).is_some_and(|n| *n >= 20);
        let missing: Vec<_> = WAYS.iter().chain(more).filter(|reason| !seen(reason)).collect();
        assert!(missing.is_empty(), "{missing:?} are missing in {:?}", self.0);
    }
}
