//! What the specification and the laws say of any frame, whatever it is.
//!
//! The tracer knows what becomes of a packet of no known flow. What may be a flow is remembered here: such a packet may be translated, or
//! fare as a new one. Either way the laws hold.

use std::{
    collections::{BTreeSet, HashSet},
    net::{IpAddr, SocketAddr},
};

use packet_laws::{
    refusal::{self, may_be_told},
    translation::{self, Ethernet},
    wire::{self, Wire},
};
use proxy_common::{
    Protocol,
    reason::{Class, Reason},
};
use proxy_daemon::{
    maps::Direction,
    model::FrontendAddr,
    plan::{Backend, BackendSet},
};
use shunt_tests::{
    rows::Cluster,
    test_run::{Ran, Verdict},
    tracer::{Hook, Outcome, Plans, Refusal, Seen, Source, Target, Tracer, Transport},
};

/// Where the ethertype is, and where the kernel's test run takes it from when there is none.
const ETHERTYPE: usize = 12;

/// What a run of a program is judged by.
pub(crate) struct Judge {
    plans: Plans,
    masquerade: Vec<IpAddr>,
    /// By protocol, source and destination.
    flows: HashSet<(u8, SocketAddr, SocketAddr)>,
    /// The same of the answers to what left from a frontend by itself.
    foreign: HashSet<(u8, SocketAddr, SocketAddr)>,
}

/// A frame, where and how it was sent, and what was counted.
pub(crate) struct Case<'a> {
    pub(crate) hook: Hook,
    pub(crate) sent: &'a [u8],
    /// Where its network header begins.
    pub(crate) l3: usize,
    pub(crate) ran: &'a Ran,
    pub(crate) reasons: &'a [Reason],
    /// The kernel's test run has the room for an ICMP error made in the right place.
    pub(crate) has_room: bool,
}

/// What the laws know of: every backend is here, and nobody is refused what his ClusterIP does not define.
pub(crate) fn plans(cluster: &Cluster) -> Plans {
    let mut plans = cluster.plans();
    for plan in plans.values_mut() {
        plan.cluster_ips.clear();
        for frontend in plan.frontends.values_mut() {
            if let BackendSet::Backends(backends) = &frontend.external {
                let here: Vec<_> = backends.iter().map(|backend| Backend { is_elsewhere: false, ..*backend }).collect();
                frontend.external = BackendSet::Backends(here.into());
            }
        }
    }
    plans
}

// === impl Judge ===

impl Judge {
    pub(crate) fn new(cluster: &Cluster) -> Self {
        Self { plans: plans(cluster), masquerade: cluster.node_ips().to_vec(), flows: HashSet::new(), foreign: HashSet::new() }
    }

    /// Judges a run; says what is wrong with it.
    pub(crate) fn check(&mut self, case: &Case<'_>) -> Result<(), String> {
        // Not a pod's frames: the node's end may have any address.
        let is_other_hosts = case.hook == uplink(Direction::Ingress) && case.l3 != 0 && case.sent[..6] != [0; 6];
        let fates: Vec<_> = case.reasons.iter().map(|reason| reason.class()).filter(|class| *class != Class::Note).collect();
        if is_other_hosts {
            return case.untouched(&fates);
        }
        let Some(sent) = read(case.sent, case.l3) else {
            return if is_rare(case.sent, case.l3) { Ok(()) } else { case.untouched(&fates) };
        };
        let expected = Tracer::new(&self.plans, &self.masquerade).trace(case.hook, seen(case.sent, &sent));
        let is_known = self.flows.contains(&(sent.protocol, sent.src, sent.dst));
        match (case.ran.verdict, &fates[..]) {
            (Verdict::Next | Verdict::Redirect, []) => {
                let to = case.translated()?;
                let is_right = is_known || self.makes_way(case, &sent, &to);
                self.remember(&sent, &to);
                if is_right { Ok(()) } else { case.expect_target(&expected, &to, &self.masquerade) }
            }
            (Verdict::Next, [Class::Pass]) if case.reasons.contains(&Reason::Foreign) => {
                case.untouched(&fates)?;
                self.foreign(case.hook, &sent)
            }
            (Verdict::Next, [Class::Pass]) => {
                case.untouched(&fates)?;
                let cut_off = case.reasons.contains(&Reason::Malformed) && !refusal::is_whole_tcp(case.sent, &sent);
                expect(&expected, |expected| *expected == Outcome::Pass(Reason::NoService) || cut_off)
            }
            (Verdict::Shot, [Class::Drop]) => expect(&expected, |expected| case.may_be_dropped(expected, &sent)),
            (Verdict::Redirect, [Class::Reject]) => {
                let refusal = case.refused()?;
                expect(&expected, |expected| refusal.is_none_or(|refusal| *expected == Outcome::Reject(refusal)))
            }
            _ => Err(format!("{:?} does not go with {:?}", case.ran.verdict, case.reasons)),
        }
    }

    /// Judges a frame that XDP let pass, which is always right to leave it to tc.
    pub(crate) fn check_early(&mut self, case: &Case<'_>) -> Result<(), String> {
        if case.ran.frame == case.sent {
            return Ok(());
        }
        let sent = read(case.sent, case.l3).ok_or("XDP changed what is none of ours")?;
        let to = case.translated()?;
        let expected = Tracer::new(&self.plans, &self.masquerade).trace(case.hook, seen(case.sent, &sent));
        let is_right = self.flows.contains(&(sent.protocol, sent.src, sent.dst)) || self.makes_way(case, &sent, &to);
        self.remember(&sent, &to);
        if is_right { Ok(()) } else { case.expect_target(&expected, &to, &self.masquerade) }
    }

    /// Whether the packet is none of a Service's and keeps all but its port, by which it would be answered in a flow's name.
    fn makes_way(&self, case: &Case<'_>, sent: &Wire, to: &Wire) -> bool {
        let is_taken = self.flows.contains(&(sent.protocol, sent.dst, sent.src));
        is_taken && case.reasons.contains(&Reason::PortCollision) && (to.src.ip(), to.dst) == (sent.src.ip(), sent.dst)
    }

    /// Judges a packet of a foreign flow: it leaves as an answer of a frontend's would, or answers one that did; or as an answer of a flow's, whose
    /// port it had first.
    fn foreign(&mut self, hook: Hook, sent: &Wire) -> Result<(), String> {
        let Direction::Egress = hook.direction else {
            let is_answer = self.foreign.contains(&(sent.protocol, sent.src, sent.dst));
            return if is_answer { Ok(()) } else { Err("it answers nobody".to_owned()) };
        };
        if self.flows.contains(&(sent.protocol, sent.src, sent.dst)) {
            return Ok(());
        }
        self.foreign.insert((sent.protocol, sent.dst, sent.src));
        let protocol = Protocol::from_wire(sent.protocol).ok_or("no service has such a protocol")?;
        let frontend = FrontendAddr { addr: sent.src.ip(), port: sent.src.port(), protocol };
        if self.plans.values().any(|plan| plan.frontends.contains_key(&frontend)) {
            Ok(())
        } else {
            Err("it leaves from no frontend".to_owned())
        }
    }

    fn remember(&mut self, from: &Wire, to: &Wire) {
        self.flows.insert((from.protocol, from.src, from.dst));
        self.flows.insert((to.protocol, to.dst, to.src));
    }
}

// === impl Case ===

impl Case<'_> {
    /// The packet goes on as it came, for one reason.
    fn untouched(&self, fates: &[Class]) -> Result<(), String> {
        let untouched = self.ran.verdict == Verdict::Next && self.ran.frame == self.sent && fates == [Class::Pass];
        if untouched { Ok(()) } else { Err("it does not pass untouched".to_owned()) }
    }

    /// How the packet reads after its translation, which keeps the laws.
    fn translated(&self) -> Result<Wire, String> {
        let ethernet = if self.ran.verdict == Verdict::Redirect { Ethernet::Turned } else { Ethernet::Kept };
        translation::check(self.sent, &self.ran.frame, self.l3, ethernet).map_err(str::to_owned)
    }

    /// The refusal, as far as it can be looked at.
    fn refused(&self) -> Result<Option<Refusal>, String> {
        if !self.has_room && self.reasons.contains(&Reason::RejectUnreachable) {
            return Ok(None);
        }
        Ok(Some(match refusal::check(self.sent, &self.ran.frame, self.l3)? {
            refusal::Refusal::Reset => Refusal::Reset,
            refusal::Refusal::Unreachable => Refusal::Unreachable,
        }))
    }

    /// Whether the packet may end here.
    fn may_be_dropped(&self, expected: &Outcome, sent: &Wire) -> bool {
        let [reason] = self.reasons.iter().filter(|reason| reason.class() == Class::Drop).collect::<Vec<_>>()[..] else { return false };
        match expected {
            Outcome::Drop(expected) => reason == expected,
            Outcome::Reject(refusal) => {
                let limited = *reason == Reason::RefusalsLimited && *refusal == Refusal::Unreachable;
                limited || *reason == Reason::Unanswered && !may_be_told(self.sent, sent)
            }
            Outcome::Translate(_) => *reason == Reason::PortsExhausted,
            Outcome::Pass(_) => false,
        }
    }

    /// The packet has got to where it was to go.
    fn expect_target(&self, expected: &Outcome, to: &Wire, masquerade: &[IpAddr]) -> Result<(), String> {
        let sent = read(self.sent, self.l3).ok_or("it cannot be read")?;
        let from_node = masquerade.contains(&to.src.ip()) && to.dst.ip() == sent.src.ip();
        let source = if from_node { Source::Node } else { Source::Client };
        let has_other_port = self.reasons.contains(&Reason::PortCollision);
        let keeps_source = to.src == sent.src || has_other_port && to.src.ip() == sent.src.ip();
        let target = Target { backend: to.dst, source };
        let reaches = |targets: &BTreeSet<Target>| targets.contains(&target) && (from_node || keeps_source);
        expect(expected, |expected| matches!(expected, Outcome::Translate(targets) if reaches(targets)))
    }
}

fn expect(expected: &Outcome, holds: impl FnOnce(&Outcome) -> bool) -> Result<(), String> {
    if holds(expected) { Ok(()) } else { Err(format!("the specification says {expected:?}")) }
}

/// Whether a frame is none that the laws read, but may be a Service's all the same: a fragment, SCTP, or an ICMP error.
fn is_rare(frame: &[u8], l3: usize) -> bool {
    let packet = &frame[l3..];
    match packet.first().map(|byte| byte >> 4) {
        Some(4) => packet.len() > 9 && (matches!(packet[9], 1 | 132) || packet[6] & 0x3f != 0 || packet[7] != 0),
        // An extension header may be followed by one for fragments.
        Some(6) => packet.len() > 6 && matches!(packet[6], 0 | 43 | 44 | 51 | 58 | 60 | 132),
        _ => false,
    }
}

/// Reads a packet, unless the ethertype says that it is something else.
fn read(frame: &[u8], l3: usize) -> Option<Wire> {
    let is_v4 = match frame.get(ETHERTYPE..ETHERTYPE + 2)? {
        [0x08, 0x00] => true,
        [0x86, 0xdd] => false,
        _ => return None,
    };
    // What the tracer says of SCTP is not asked here.
    wire::read(frame, l3).filter(|wire| wire.src.is_ipv4() == is_v4 && !wire.is_sctp())
}

/// A packet in words.
fn seen(frame: &[u8], wire: &Wire) -> Seen {
    let header = || usize::from(frame[wire.l4 + 12] >> 4) * 4;
    let transport = if wire.is_udp() {
        Transport::Udp
    } else {
        Transport::Tcp { flags: frame[wire.l4 + 13], has_data: wire.end != wire.l4 + header() }
    };
    Seen::Datagram { src: wire.src, dst: wire.dst, transport }
}

/// The hook that a device without Ethernet headers has.
pub(crate) const fn uplink(direction: Direction) -> Hook {
    Hook { role: proxy_daemon::net::Role::Uplink, direction }
}
