//! Why a packet was passed, dropped or answered, and what else is worth counting: each with a stable name and a help text.
//!
//! All of them share one per-CPU array, `REASONS`; the index is the position in [`Reason::ALL`]. Names are part of the command line's
//! and the metrics' interface: new ones are added at the end.

macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $variant:ident = $name:literal, $class:ident, $help:literal;)+) => {
        /// What is counted.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u32)]
        pub enum Reason {
            $($(#[doc = $doc])+ $variant,)+
        }

        impl Reason {
            /// Every reason, in the order of their indices.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The stable name.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),+ }
            }

            /// What the packet's fate is.
            pub const fn class(self) -> Class {
                match self { $(Self::$variant => Class::$class),+ }
            }

            /// What it means, for people.
            pub const fn help(self) -> &'static str {
                match self { $(Self::$variant => $help),+ }
            }
        }
    };
}

/// What a reason says of the packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// The packet went on as it was.
    Pass,
    /// The packet was dropped.
    Drop,
    /// The packet was answered in the service's name.
    Reject,
    /// Something happened on the way; the packet's fate is counted elsewhere.
    Note,
}

impl Class {
    /// The stable name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Drop => "drop",
            Self::Reject => "reject",
            Self::Note => "note",
        }
    }
}

reasons! {
    /// Not IPv4 or IPv6.
    NotIp = "not_ip", Pass, "not an IPv4 or IPv6 packet, or one of a VLAN's, which has a device of its own";
    /// Neither TCP nor UDP.
    OtherProtocol = "other_protocol", Pass, "none of TCP, UDP and SCTP";
    /// A piece of an IP datagram.
    Fragment = "fragment", Pass, "a fragment of an IP datagram: ports are in the first fragment only";
    /// Headers that end too early or contradict each other.
    Malformed = "malformed", Pass, "headers that end too early or contradict each other: left to the kernel to judge";
    /// The destination is no frontend, or the packet belongs to no flow.
    NoService = "no_service", Pass, "the destination is no frontend and the packet belongs to no flow";
    /// Policy forbids every backend from here.
    PolicyDrop = "policy_drop", Drop, "the traffic policy leaves no backend on this node, though there are others elsewhere";
    /// A reply's partner tuple could not be made unique.
    PortsExhausted = "ports_exhausted", Drop, "no free source port was found for a flow that needed another one";
    /// The flow could not be recorded.
    FlowTableFull = "flow_table_full", Drop, "the flow table refused a new entry";
    /// A backend slot held another service's backend.
    StaleSlot = "stale_slot", Drop, "a backend slot was given away while it was being read";
    /// The kernel refused a change to the packet.
    RewriteFailed = "rewrite_failed", Drop, "the kernel refused to rewrite the packet";
    /// A pod reached itself on a node without an address of the family.
    NoSnatSource = "no_snat_source", Drop, "a pod reached itself through a service, but the node has no address of this family to stand in for it";
    /// Answered with a TCP reset.
    RejectReset = "reject_reset", Reject, "a service without endpoints: the connection was refused with a TCP reset";
    /// Answered with an ICMP error.
    RejectUnreachable = "reject_unreachable", Reject, "a service without endpoints: answered with ICMP port unreachable";
    /// A new flow.
    NewFlow = "new_flow", Note, "a flow was started";
    /// A TCP packet of no known flow in the middle of a connection.
    Midstream = "midstream", Note, "a TCP packet in mid-stream had no flow: it was given the backend that its hash picks";
    /// A flow whose backend is gone.
    BackendGone = "backend_gone", Note, "a new attempt or datagram of a flow whose backend is gone: the flow was moved";
    /// A lost half of a flow was made again.
    FlowHealed = "flow_healed", Note, "one direction of a flow had lost its entry: it was made again from the other";
    /// Two flows of a client wanted the same tuple.
    PortCollision = "port_collision", Note, "two flows of one client meet at one backend: the second was given another source port";
    /// A pod reached itself.
    Hairpin = "hairpin", Note, "a pod reached itself through a service: a packet was sent back to it under the node's address";
    /// What a refusal must not answer.
    Unanswered = "unanswered", Drop, "a service without endpoints: a reset, a packet with IP options, or one from no single machine's address, none of which is answered; or a reset of no known connection, where the node would stand in";
    /// Too many ICMP errors.
    RefusalsLimited = "refusals_limited", Drop, "a service without endpoints: more ICMP errors than a CPU sends in a second";
    /// Translated in XDP.
    XdpTranslated = "xdp_translated", Note, "XDP has translated a packet, before the kernel made a socket buffer of it";
    /// Left alone by tc.
    XdpDone = "xdp_done", Pass, "tc left a packet alone that XDP has translated";
    /// Not among those who may use a load balancer address.
    SourceRange = "source_range", Drop, "the client is in none of the service's loadBalancerSourceRanges";
    /// An address that Services get theirs from, and none has.
    Unallocated = "unallocated", Drop, "the destination is in a ServiceCIDR, but no Service's ClusterIP";
    /// More new flows than a CPU takes.
    FlowsLimited = "flows_limited", Drop, "more new flows than a CPU takes in a second: known flows go on";
    /// Sent on by the node in the client's place.
    Masqueraded = "masqueraded", Note, "a flow was started under the node's own address, so that its answers come back through this node";
    /// Where to is not known.
    NoRoute = "no_route", Drop, "the kernel knows no way to the backend, or back to the client, of a flow under the node's own address";
    /// Larger than what the next device takes.
    TooBig = "too_big", Reject, "a packet was larger than what the device to its backend or client takes: its sender was told how large it may be";
    /// Went through too many routers.
    TimeExceeded = "time_exceeded", Reject, "a packet had gone through as many routers as it may: its sender was told";
    /// A later fragment without a first one.
    FragmentLost = "fragment_lost", Drop, "a fragment to a Service came before the first one of its datagram, which alone has the ports; or is an SCTP packet's, whose checksum it has not";
    /// An ICMP error of a flow.
    IcmpError = "icmp_error", Note, "an ICMP error about a packet of a known flow was translated with what it quotes";
    /// An ICMP redirect of a flow.
    IcmpRedirect = "icmp_redirect", Drop, "an ICMP redirect about a packet of a known flow: who gets it does not know the address that it is about";
    /// A frame with another machine's hardware address.
    OtherHost = "other_host", Pass, "a frame for another machine, which the device takes because somebody listens to everything on it, or for all or many machines";
    /// Of a flow that is no Service's.
    Foreign = "foreign", Pass, "a packet of a connection that left the node under a frontend's address and port, as a node's own or another program's translation (masquerading) may have it, or an answer to one";
    /// A socket was given a backend.
    SocketDialled = "socket_dialled", Note, "a process dialled a service and its socket was given a backend, before any packet was made";
    /// Nobody serves what a process dialled.
    SocketRefused = "socket_refused", Reject, "a process dialled a service without endpoints, or a port that a service does not have: the call failed at once";
    /// A policy leaves a process no backend.
    SocketDenied = "socket_denied", Drop, "a process dialled what a policy does not let it have, or an address of a ServiceCIDR that no Service has: the call failed";
}

impl Reason {
    /// How many there are.
    pub const COUNT: u32 = 38;

    /// The index in `REASONS`.
    #[inline(always)]
    pub const fn index(self) -> u32 {
        self as u32
    }
}

const _: () = assert!(Reason::ALL.len() == Reason::COUNT as usize && Reason::COUNT <= crate::maps::REASON_ROWS);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_its_own_name_and_a_help_text() {
        for (index, reason) in Reason::ALL.iter().enumerate() {
            assert_eq!(reason.index() as usize, index);
            assert!(!reason.help().is_empty());
            assert!(Reason::ALL.iter().filter(|other| other.name() == reason.name()).count() == 1);
        }
    }
}
