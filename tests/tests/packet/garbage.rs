//! Frames of no sense: no program does anything to them but pass, drop, refuse or translate, and all of it correctly.

use std::{collections::BTreeMap, env, net::SocketAddr};

use proxy_common::{Protocol, reason::Reason};
use proxy_daemon::{datapath::Checksums, maps::Direction};
use shunt_tests::{
    Family, addr, gate,
    gate::Need,
    objects::Endpoint,
    rows::{self, Cluster},
    test_run::{NEEDS, NEEDS_SUM, Ran, TestNode, Verdict},
    tracer::Hook,
};

use crate::{
    judge::{Case, Judge, plans, uplink},
    no_ethernet::{ETHERNET, marked},
    noise::{Garbage, SHORTEST},
};

/// How many frames all tests here share, unless the environment says otherwise.
const FRAMES: u32 = 40_000;
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

/// A fourth of them: each test sends its frames through two sets of programs.
fn frames() -> u32 {
    let wanted = env::var("SHUNT_GARBAGE").map(|frames| frames.parse().expect("SHUNT_GARBAGE is a number"));
    wanted.unwrap_or(FRAMES).div_ceil(4)
}

#[test]
fn programs_with_ethernet_take_any_frame() {
    if gate::skip(NEEDS) {
        return;
    }
    for (seed, way) in (1..).zip(Checksums::ALL) {
        let mut garbage = Garbage::new(seed, rows::all().into_iter().map(|row| row.frame).collect());
        let mut run = Run::new(way);
        for _ in 0..frames() {
            let frame = garbage.frame();
            if is_taken(&frame) {
                run.xdp(&frame);
                for hook in Hook::ALL {
                    run.tc(hook, &frame);
                }
            }
        }
        run.finish(&[Reason::Hairpin, Reason::XdpTranslated]);
    }
}

#[test]
fn programs_without_ethernet_take_any_packet() {
    if gate::skip(NEEDS) {
        return;
    }
    for (seed, way) in (3..).zip(Checksums::ALL) {
        let mut garbage = Garbage::new(seed, marked_frames());
        let mut run = Run::new(way);
        for _ in 0..frames() {
            let frame = garbage.frame();
            for packet in [&frame[..], &frame[ETHERNET..]].into_iter().filter(|packet| is_taken(packet)) {
                run.tc_without_ethernet(Direction::Ingress, packet);
                run.tc_without_ethernet(Direction::Egress, packet);
            }
        }
        assert!(run.translated.iter().all(|n| *n >= 20), "{:?} packets were translated in the two directions", run.translated);
        run.finish(&[]);
    }
}

/// One set of programs, and what they have done.
struct Run {
    node: TestNode,
    judge: Judge,
    rows: Control,
    counted: Counted,
    translated: [u32; 2],
}

type Control = (proxy_daemon::tables::Snapshot, proxy_common::NodeRow);

impl Run {
    fn new(checksums: Checksums) -> Self {
        let cluster = cluster();
        let mut node = TestNode::with_checksums(cluster.node_ips(), checksums).unwrap();
        node.apply(&plans(&cluster)).unwrap();
        let rows = node.control_rows().unwrap();
        Self { node, judge: Judge::new(&cluster), rows, counted: Counted::default(), translated: [0; 2] }
    }

    fn tc(&mut self, hook: Hook, sent: &[u8]) {
        // An error is a frame that the test run itself refuses, or a verdict that is none.
        let ran = self.node.run(hook, sent).unwrap();
        let reasons = self.counted.take(&mut self.node);
        let case = Case { hook, sent, l3: ETHERNET, ran: &ran, reasons: &reasons, has_room: true };
        let outcome = self.judge.check(&case);
        assert!(outcome.is_ok(), "{outcome:?}, {}", show(&case));
        if ran.verdict == Verdict::Next && ran.frame != sent && NEEDS_SUM.iter().all(|need: &Need| need.is_met()) {
            let with_sum = self.node.run_with_sum(hook, sent);
            assert!(matches!(with_sum, Ok(Verdict::Next)), "{with_sum:?} with a sum, {}", show(&case));
            self.counted.take(&mut self.node);
        }
    }

    fn xdp(&mut self, sent: &[u8]) {
        let ran = Ran { verdict: Verdict::Next, frame: self.node.run_xdp(sent).unwrap() };
        let reasons = self.counted.take(&mut self.node);
        let case = Case { hook: uplink(Direction::Ingress), sent, l3: ETHERNET, ran: &ran, reasons: &reasons, has_room: true };
        let outcome = self.judge.check_early(&case);
        assert!(outcome.is_ok(), "XDP: {outcome:?}, {}", show(&case));
    }

    fn tc_without_ethernet(&mut self, direction: Direction, sent: &[u8]) {
        let ran = self.node.run_without_ethernet(direction, sent).unwrap();
        let reasons = self.counted.take(&mut self.node);
        let case = Case { hook: uplink(direction), sent, l3: 0, ran: &ran, reasons: &reasons, has_room: false };
        let outcome = self.judge.check(&case);
        assert!(outcome.is_ok(), "{outcome:?}, {}", show(&case));
        check_length(&case);
        self.translated[direction as usize] += u32::from(ran.verdict == Verdict::Next && ran.frame != sent);
    }

    /// Nothing that the daemon has written was changed, and everything has happened.
    fn finish(self, more: &[Reason]) {
        assert_eq!(self.node.control_rows().unwrap(), self.rows);
        self.counted.assert_all_ways_were_gone(more);
    }
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

fn cluster() -> Cluster {
    let mut cluster = rows::cluster();
    cluster.apply(rows::service(MARKED).with_endpoints(&[Endpoint::at(marked(5), "n1")]));
    cluster
}

fn show(case: &Case<'_>) -> String {
    format!("{:?} {:?} {:?}\n{:02x?}\n{:02x?}", case.hook, case.reasons, case.ran.verdict, case.sent, case.ran.frame)
}

/// A refusal has the length of its headers, and quotes no more than it must.
fn check_length(case: &Case<'_>) {
    let header = if case.sent[0] >> 4 == 4 { 20 } else { 40 };
    let lengths: &[usize] = match case.reasons {
        [Reason::RejectReset] => &[header + 20],
        [Reason::RejectUnreachable] => &[2 * header + 8 + 8, 2 * header + 8 + 20],
        _ => return,
    };
    assert!(lengths.contains(&case.ran.frame.len()), "the wrong length, {}", show(case));
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
