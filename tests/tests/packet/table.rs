//! The table of packets through the real programs: the same rows as in the test `trace`.

use std::{collections::BTreeSet, net::SocketAddr};

use proxy_common::{FlowState, ServiceCounters, Side, reason::Reason};
use proxy_daemon::{
    datapath::{Checksums, Options},
    model::ServicePortName,
};
use shunt_tests::{
    Family, gate,
    packet::{L4, Packet, flags, verify_checksums},
    rows::{self, Row},
    test_run::{NEEDS, NEEDS_SUM, OPTIONS, Ran, SNAT_PORTS, TestNode, Verdict},
    tracer::{Hook, Outcome, Plans, Refusal, Seen, Source, Target, Transport},
};

use crate::expect::{Entry, POD_INGRESS, Setup, entries, pod_at, service_at};

#[test]
fn every_row_through_the_programs() {
    if gate::skip(NEEDS) {
        return;
    }
    let cluster = rows::cluster();
    let plans = cluster.plans();
    for way in Checksums::ALL {
        let options = Options { checksums: way, ..OPTIONS };
        let mut node = TestNode::in_a_place(cluster.node_ips(), SNAT_PORTS, options).unwrap();
        node.apply(&plans).unwrap();
        for row in rows::all() {
            // What panics below says what; this says where.
            let shown = ShownOnPanic(&row);
            check(&mut node, &plans, &row);
            node.forget_flows().unwrap();
            drop(node.take_counted().unwrap());
            std::mem::forget(shown);
        }
    }
}

/// Zero would say that there is none. The checksum is what is missing in the sum of all words: a payload that adds just this leaves
/// nothing missing.
#[test]
fn a_datagrams_checksum_never_becomes_none() {
    if gate::skip(NEEDS) {
        return;
    }
    let mut setup = Setup::new();
    setup.serve(1, &[10]);
    for family in Family::ALL {
        let mut checksum = |payload: [u8; 2]| {
            let packet = Packet::udp(pod_at(family, 3, 40_000), service_at(family, 1)).payload(payload);
            let ran = setup.node.run(POD_INGRESS, &packet.build()).unwrap();
            verify_checksums(&ran.frame).unwrap();
            let at = rows::frames::transport(&packet) + 6;
            [ran.frame[at], ran.frame[at + 1]]
        };
        let missing = checksum([0, 0]);
        assert_eq!(checksum(missing), [0xff, 0xff]);
    }
}

/// What goes on into the stack keeps the sum that a device has computed over it. What is sent back has no use for it.
#[test]
fn what_goes_on_keeps_the_sum_of_its_device() {
    if gate::skip(NEEDS_SUM) {
        return;
    }
    let cluster = rows::cluster();
    for way in Checksums::ALL {
        let mut node = TestNode::with_checksums(cluster.node_ips(), way).unwrap();
        node.apply(&cluster.plans()).unwrap();
        keeps_the_sum(&mut node);
    }
}

fn keeps_the_sum(node: &mut TestNode) {
    let goes_on = |row: &Row| match &row.expected {
        Outcome::Pass(_) => true,
        Outcome::Translate(targets) => targets.iter().all(|target| target.source == Source::Client),
        Outcome::Drop(_) | Outcome::Reject(_) => false,
    };
    for row in rows::all().into_iter().filter(goes_on) {
        let shown = ShownOnPanic(&row);
        assert_eq!(node.run_with_sum(row.hook, &row.frame).unwrap(), Verdict::Next);
        if matches!(row.expected, Outcome::Translate(_)) {
            let there = node.run(row.hook, &row.frame).unwrap().frame;
            let answer = Packet::decode(&there).unwrap().reversed().build();
            assert_eq!(node.run_with_sum(row.hook.opposite(), &answer).unwrap(), Verdict::Next);
        }
        node.forget_flows().unwrap();
        std::mem::forget(shown);
    }
}

/// Prints a row when its test fails.
struct ShownOnPanic<'a>(&'a Row);

impl Drop for ShownOnPanic<'_> {
    fn drop(&mut self) {
        let Row { name, hook, seen, frame, expected, .. } = self.0;
        eprintln!("{name}\n  {hook}: {seen:?}\n  {:?}\n  expected: {expected:?}", Packet::decode(frame).ok());
    }
}

fn check(node: &mut TestNode, plans: &Plans, row: &Row) {
    let before = service(node, plans, row);
    let ran = node.run(row.hook, &row.frame).unwrap();
    let counted = if is_masqueraded(row, &ran) { [&row.counted[..], &[Reason::Masqueraded]].concat() } else { row.counted.clone() };
    assert_counted(node, &counted);
    match &row.expected {
        Outcome::Pass(_) => assert_eq!(ran, Ran { verdict: Verdict::Next, frame: row.frame.clone() }),
        Outcome::Drop(_) => assert_eq!(ran.verdict, Verdict::Shot),
        Outcome::Reject(refusal) => {
            assert_eq!(ran.verdict, Verdict::Redirect);
            assert_refused(row, *refusal, &ran.frame);
        }
        Outcome::Translate(targets) => {
            let lengths = assert_translated(node, row, targets, &ran);
            let ((_, before), (_, after)) = (before.unwrap(), service(node, plans, row).unwrap());
            assert_eq!(after.packets - before.packets, lengths.len() as u64);
            assert_eq!(after.bytes - before.bytes, lengths.iter().sum::<usize>() as u64);
            assert_eq!(after.flows - before.flows, u64::from(row.counted.contains(&Reason::NewFlow)));
            return;
        }
    }
    assert_eq!(entries(node), [], "only what is translated leaves a record");
    assert_eq!(service(node, plans, row), before, "only what is translated is counted for a service");
}

/// Whether the packet went to a backend for which the node stands in for the client.
fn is_masqueraded(row: &Row, ran: &Ran) -> bool {
    let Outcome::Translate(targets) = &row.expected else { return false };
    let dst = Packet::decode(&ran.frame).unwrap().dst;
    targets.iter().any(|target| target.backend == dst && target.source == Source::Masqueraded)
}

/// The service port that a row's packet is for, and its counters.
fn service<'a>(node: &TestNode, plans: &'a Plans, row: &Row) -> Option<(&'a ServicePortName, ServiceCounters)> {
    let Seen::Datagram { dst, transport, .. } = row.seen else { return None };
    let is_dialled =
        |addr: &proxy_daemon::model::FrontendAddr| (addr.addr, addr.port, addr.protocol) == (dst.ip(), dst.port(), transport.protocol());
    let (name, _) = plans.iter().find(|(_, plan)| plan.frontends.keys().any(is_dialled))?;
    Some((name, node.service_counters(name).unwrap()))
}

fn assert_counted(node: &mut TestNode, reasons: &[Reason]) {
    let mut expected: Vec<_> = reasons.iter().map(|reason| (*reason, 1)).collect();
    expected.sort_unstable();
    assert_eq!(node.take_counted().unwrap(), expected);
}

/// The answer comes from the service, by the way the packet came, and says what it must.
fn assert_refused(row: &Row, refusal: Refusal, answer: &[u8]) {
    verify_checksums(answer).unwrap();
    let packet = Packet::decode(&row.frame).unwrap();
    let answer = Packet::decode(answer).unwrap();
    let expected = match refusal {
        Refusal::Reset => {
            let L4::Tcp { seq, .. } = packet.l4 else { unreachable!("only TCP is reset") };
            let l4 = L4::Tcp { flags: flags::RST | flags::ACK, seq: 0, ack: seq + 1, window: 0, options: Vec::new() };
            Packet { l4, ..packet.reversed() }
        }
        Refusal::Unreachable => {
            let [header, kind, code] = if packet.src.is_ipv4() { [20, 3, 3] } else { [40, 1, 4] };
            let transport = if matches!(packet.l4, L4::Tcp { .. }) { 20 } else { 8 };
            let quoted = row.frame[14..][..usize::from(header) + transport].to_vec();
            let mut expected = Packet { l4: L4::Icmp { kind, code, rest: [0; 4] }, payload: quoted, ttl: 64, ..packet.reversed() };
            expected.src.set_port(0);
            expected.dst.set_port(0);
            expected
        }
    };
    assert_eq!(answer, expected);
}

/// The packet, the same once more and the answer to it are translated there and back, and both entries of the flow say so. Yields the
/// lengths of all packets that were translated.
fn assert_translated(node: &mut TestNode, row: &Row, targets: &BTreeSet<Target>, ran: &Ran) -> Vec<usize> {
    let packet = Packet::decode(&row.frame).unwrap();
    let to = translated(row.frame.len(), ran);
    let target = *targets.iter().find(|target| target.backend == to.dst).expect("one of the backends of the row");
    let source = target.source;
    let expected = packet.clone().from(to.src).to(target.backend);
    if source != Source::Client {
        assert_eq!(ran.verdict, Verdict::Redirect);
        assert!(SNAT_PORTS.contains(&to.src.port()));
        assert_ne!(to.src.ip(), packet.src.ip());
    }
    match source {
        Source::Node => {
            assert_eq!((to.eth_src, to.eth_dst), (packet.eth_dst, packet.eth_src), "what reaches itself goes back to where it came from");
            assert_eq!(to, Packet { eth_src: packet.eth_dst, eth_dst: packet.eth_src, ..expected });
        }
        Source::Masqueraded => {
            // The kernel writes the next hop's hardware address.
            let expected = Packet { ttl: expected.ttl - 1, eth_src: to.eth_src, eth_dst: to.eth_dst, ..expected };
            assert_eq!(to, expected, "the node is a router");
        }
        Source::Client => {
            assert_eq!((ran.verdict, to.src), (Verdict::Next, packet.src), "the client's address is kept");
            assert_eq!(to, expected);
        }
    }
    assert_entries(node, row, (packet.src, packet.dst), (to.src, to.dst), source);

    let again = node.run(row.hook, &row.frame).unwrap();
    assert_eq!(&again, ran, "the same packet is translated in the same way");
    let mut lengths = vec![row.frame.len(); 2];
    if row.counted.contains(&Reason::NewFlow) {
        assert_counted(node, &[]);
        lengths.push(answer(node, row.hook, &packet, &to, source));
    } else {
        assert_counted(node, &row.counted);
    }
    lengths
}

fn translated(len: usize, ran: &Ran) -> Packet {
    verify_checksums(&ran.frame).unwrap();
    assert_eq!(ran.frame.len(), len);
    Packet::decode(&ran.frame).unwrap()
}

type Ends = (SocketAddr, SocketAddr);

fn assert_entries(node: &TestNode, row: &Row, from: Ends, to: Ends, source: Source) {
    if !row.counted.contains(&Reason::NewFlow) {
        assert_eq!(entries(node), []);
        return;
    }
    let Seen::Datagram { transport, .. } = row.seen else { unreachable!("only datagrams are translated") };
    let state = match transport {
        Transport::Tcp { flags, .. } if flags & flags::FIN != 0 => FlowState::ESTABLISHED.with(FlowState::FIN),
        Transport::Tcp { flags, .. } if flags & (flags::SYN | flags::ACK) != flags::SYN => FlowState::ESTABLISHED,
        Transport::Tcp { .. } | Transport::Udp => FlowState::NEW,
    };
    let (protocol, masqueraded) =
        (transport.protocol(), if source == Source::Masqueraded { FlowState::MASQUERADED } else { FlowState::NEW });
    let state = state.with(masqueraded);
    let forward = Entry { side: Side::Ingress, protocol, from, to, state };
    let reply = Entry {
        side: if source == Source::Client { Side::Egress } else { Side::Ingress },
        protocol,
        from: (to.1, to.0),
        to: (from.1, from.0),
        state: FlowState::REPLY.with(masqueraded),
    };
    let found = entries(node);
    assert!(found.len() == 2 && found.contains(&forward) && found.contains(&reply), "{found:#?}");
}

/// The backend's answer reaches the client as one of the service. Yields its length.
fn answer(node: &mut TestNode, hook: Hook, packet: &Packet, translated: &Packet, source: Source) -> usize {
    let (hook, verdict) = if source == Source::Client { (hook.opposite(), Verdict::Next) } else { (hook, Verdict::Redirect) };
    let mut answer = translated.clone().reversed();
    let mut expected = packet.clone().reversed();
    match source {
        // All packets enter the node by the same pair of hardware addresses.
        Source::Node => (answer.eth_src, answer.eth_dst) = (packet.eth_src, packet.eth_dst),
        Source::Client => (expected.eth_src, expected.eth_dst) = (answer.eth_src, answer.eth_dst),
        Source::Masqueraded => {
            (answer.eth_src, answer.eth_dst) = (packet.eth_src, packet.eth_dst);
            expected.ttl = answer.ttl - 1;
        }
    }
    let ran = node.run(hook, &answer.build()).unwrap();
    assert_eq!(ran.verdict, verdict);
    verify_checksums(&ran.frame).unwrap();
    let answered = Packet::decode(&ran.frame).unwrap();
    if source == Source::Masqueraded {
        (expected.eth_src, expected.eth_dst) = (answered.eth_src, answered.eth_dst);
    }
    assert_eq!(answered, expected);
    assert_counted(node, &[]);
    ran.frame.len()
}
