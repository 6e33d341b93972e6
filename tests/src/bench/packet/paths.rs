//! The paths: which program, which packets, what must become of them, and which floor they are held against.

use proxy_common::reason::Reason;
use proxy_daemon::datapath::Checksums;

use super::sample::{End, Sample, Transport};
use crate::addr::Family;

/// The numbers of flows that are measured. One flow stays in the CPU's first cache, a thousand in its second, 65,536 in none.
pub(super) const KNOWN: &[u32] = &[1, 1024, 65_536];
/// Programs that look nothing up do not know how many there are.
const ANY: &[u32] = &[1];
/// Where memory decides, a multiple of what the driver costs says nothing.
const NEAR: &[u32] = &[1, 1024];
/// How many flows the table has room for where each packet is of a new one.
const NEW: &[u32] = &[1024, 65_536];

/// The kind of a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Tc,
    Xdp,
}

/// A program and where it comes from.
#[derive(Clone, Copy, Debug)]
pub(super) enum Program {
    /// One that is shipped, by its name.
    Shipped(&'static str),
    /// One of the floors.
    Floor(Floor),
}

/// The least that a program can cost which does so much.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Floor {
    /// Nothing: what is left is the driver's.
    Empty,
    /// Reads the headers.
    Parse,
    /// Reads the headers, finds the flow or records it, and rewrites.
    Nat,
}

/// A packet and the shipped program that it goes through.
#[derive(Clone, Copy, Debug)]
pub(super) struct Step(pub(super) Kind, pub(super) &'static str, pub(super) Sample);

/// A way through a program.
pub(super) struct Path {
    name: &'static str,
    pub(super) kind: Kind,
    pub(super) program: Program,
    pub(super) floor: Floor,
    /// What has to have happened, for each flow, for the path to be what its name says.
    pub(super) before: &'static [Step],
    pub(super) packet: Sample,
    /// The packet's ends afterwards.
    pub(super) becomes: (End, End),
    /// What is counted for each packet, and nothing else.
    pub(super) counted: &'static [Reason],
    /// Whether every packet is of a flow that was not seen before.
    pub(super) is_new: bool,
    /// How checksums are changed, although the machine may offer more.
    pub(super) checksums: Checksums,
}

/// What floors are run on.
pub(super) const FLOOR_SAMPLE: Sample = TO_SERVICE;
const TO_SERVICE: Sample = Sample(End::Client, End::Service, Transport::Ack);
const TO_NODE: Sample = Sample(End::Client, End::Node, Transport::Ack);
const FROM_BACKEND: Sample = Sample(End::Backend, End::Client, Transport::Ack);
const SYN: Sample = Sample(End::Client, End::Service, Transport::Syn);
const SYN_TO_NODE: Sample = Sample(End::Client, End::Node, Transport::Syn);
const SYN_ACK: Sample = Sample(End::Backend, End::Client, Transport::SynAck);
const DATAGRAM: Sample = Sample(End::Client, End::Service, Transport::Datagram);
const TO_STRANGER: Sample = Sample(End::Client, End::Stranger, Transport::Ack);

const WORKLOAD_INGRESS: (Kind, &str) = (Kind::Tc, "workload_ingress");
const WORKLOAD_EGRESS: (Kind, &str) = (Kind::Tc, "workload_egress");
const UPLINK_EGRESS: (Kind, &str) = (Kind::Tc, "uplink_egress");
const UPLINK_XDP: (Kind, &str) = (Kind::Xdp, "uplink_xdp");

/// A pod's connections to the Service.
const CONNECTED: &[Step] = &[Step::at(WORKLOAD_INGRESS, SYN), Step::at(WORKLOAD_EGRESS, SYN_ACK), Step::at(WORKLOAD_INGRESS, TO_SERVICE)];
/// Connections from outside.
const CONNECTED_FROM_OUTSIDE: &[Step] =
    &[Step::at(UPLINK_XDP, SYN_TO_NODE), Step::at(UPLINK_EGRESS, SYN_ACK), Step::at(UPLINK_XDP, TO_NODE)];
/// A pod's first datagrams.
const ASKED: &[Step] = &[Step::at(WORKLOAD_INGRESS, DATAGRAM)];

const TO_BACKEND: (End, End) = (End::Client, End::Backend);
const TO_CLIENT: (End, End) = (End::Service, End::Client);
const AS_BEFORE: (End, End) = (End::Client, End::Stranger);

/// Every path.
pub(super) const PATHS: &[Path] = &[
    Path::floor("tc-floor-empty", Kind::Tc, Floor::Empty, (End::Client, End::Service)),
    Path::floor("tc-floor-parse", Kind::Tc, Floor::Parse, (End::Client, End::Service)),
    Path::floor("tc-floor-nat", Kind::Tc, Floor::Nat, TO_BACKEND),
    Path::at(WORKLOAD_INGRESS, "tc-clusterip-known", TO_SERVICE, TO_BACKEND).after(CONNECTED),
    Path::at(WORKLOAD_INGRESS, "tc-clusterip-known-read", TO_SERVICE, TO_BACKEND).after(CONNECTED).by(Checksums::Read),
    Path::at(WORKLOAD_INGRESS, "tc-clusterip-known-helpers", TO_SERVICE, TO_BACKEND).after(CONNECTED).by(Checksums::Helpers),
    Path::at(WORKLOAD_EGRESS, "tc-reply-known", FROM_BACKEND, TO_CLIENT).after(CONNECTED),
    Path::at(WORKLOAD_INGRESS, "tc-udp-known", DATAGRAM, TO_BACKEND).after(ASKED),
    Path::at(WORKLOAD_INGRESS, "tc-new-flow", SYN, TO_BACKEND).new_flows().counting(&[Reason::NewFlow]),
    Path::at(WORKLOAD_INGRESS, "tc-other", TO_STRANGER, AS_BEFORE).parsing().counting(&[Reason::NoService]),
    Path::at(WORKLOAD_EGRESS, "tc-other-egress", TO_STRANGER, AS_BEFORE).parsing().counting(&[Reason::NoService]),
    Path::floor("xdp-floor-empty", Kind::Xdp, Floor::Empty, (End::Client, End::Service)),
    Path::floor("xdp-floor-parse", Kind::Xdp, Floor::Parse, (End::Client, End::Service)),
    Path::floor("xdp-floor-nat", Kind::Xdp, Floor::Nat, TO_BACKEND),
    Path::at(UPLINK_XDP, "xdp-nodeport-known", TO_NODE, TO_BACKEND).after(CONNECTED_FROM_OUTSIDE).counting(&[Reason::XdpTranslated]),
    Path::at(UPLINK_XDP, "xdp-other", TO_STRANGER, AS_BEFORE).parsing(),
];

impl Path {
    /// A shipped program that translates packets of known flows, and counts nothing but the Service's packets.
    const fn at((kind, program): (Kind, &'static str), name: &'static str, packet: Sample, becomes: (End, End)) -> Self {
        let program = Program::Shipped(program);
        Self {
            name,
            kind,
            program,
            floor: Floor::Nat,
            before: &[],
            packet,
            becomes,
            counted: &[],
            is_new: false,
            checksums: Checksums::Cast,
        }
    }

    /// A floor stands on what the driver costs.
    const fn floor(name: &'static str, kind: Kind, floor: Floor, becomes: (End, End)) -> Self {
        let program = Program::Floor(floor);
        Self {
            name,
            kind,
            program,
            floor: Floor::Empty,
            before: &[],
            packet: TO_SERVICE,
            becomes,
            counted: &[],
            is_new: false,
            checksums: Checksums::Cast,
        }
    }

    const fn after(self, before: &'static [Step]) -> Self {
        Self { before, ..self }
    }

    /// Nothing is translated.
    const fn parsing(self) -> Self {
        Self { floor: Floor::Parse, ..self }
    }

    const fn counting(self, counted: &'static [Reason]) -> Self {
        Self { counted, ..self }
    }

    const fn by(self, checksums: Checksums) -> Self {
        Self { checksums, ..self }
    }

    const fn new_flows(self) -> Self {
        Self { is_new: true, ..self }
    }

    pub(super) fn name(&self, family: Family) -> String {
        let suffix = if family == Family::V6 { "-v6" } else { "" };
        format!("{}{suffix}", self.name)
    }

    /// The numbers of flows that it is measured with.
    pub(super) fn flows(&self) -> &'static [u32] {
        match self.program {
            Program::Floor(Floor::Empty | Floor::Parse) => ANY,
            Program::Shipped(_) if self.is_new => NEW,
            Program::Floor(Floor::Nat) => NEAR,
            Program::Shipped(_) => KNOWN,
        }
    }
}

impl Floor {
    /// What the program is called.
    pub(super) fn program(self, kind: Kind, family: Family) -> String {
        let kind = if kind == Kind::Tc { "tc" } else { "xdp" };
        let family = if family == Family::V4 { "v4" } else { "v6" };
        match self {
            Self::Empty => format!("empty_{kind}"),
            Self::Parse => format!("parse_{kind}_{family}"),
            Self::Nat => format!("nat_{kind}_{family}"),
        }
    }
}

impl Step {
    const fn at((kind, program): (Kind, &'static str), sample: Sample) -> Self {
        Self(kind, program, sample)
    }
}
