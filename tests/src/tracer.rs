//! The executable specification of the packet path: what becomes of a packet that belongs to no known flow.
//!
//! In: what the node's plan says of every service port, and a packet at a hook. Out: the [`Outcome`], in kube-proxy's words. It knows
//! plans and nothing of maps, slots or programs; the programs are held against it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::{IpAddr, SocketAddr},
};

use proxy_common::{Protocol, Undefined, reason::Reason};
use proxy_daemon::{
    maps::Direction,
    model::{FrontendAddr, ServicePortName},
    net::Role,
    plan::{Backend, BackendSet, FrontendPlan, ServicePlan},
};

use crate::packet::flags;

/// What the node does for each service port.
pub type Plans = BTreeMap<ServicePortName, ServicePlan>;

/// Where a packet is seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hook {
    pub role: Role,
    pub direction: Direction,
}

/// What matters of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// A whole datagram of a protocol with ports.
    Datagram { src: SocketAddr, dst: SocketAddr, transport: Transport },
    /// ICMP and all others without ports.
    OtherProtocol { dst: IpAddr },
    /// A piece of a datagram of which the first has not been seen.
    Fragment { dst: IpAddr },
    /// Headers that end too early or contradict each other.
    Malformed,
    /// ARP, VLAN tags and all others.
    NotIp,
    /// A frame from outside with another machine's hardware address.
    OtherHost,
}

/// The transport header of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    Tcp { flags: u8, has_data: bool },
    Udp,
}

/// What becomes of the packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It goes on untouched.
    Pass(Reason),
    /// It ends here, and the client is not told (kube-proxy's DROP).
    Drop(Reason),
    /// It ends here, and the client is told (kube-proxy's REJECT).
    Reject(Refusal),
    /// It goes to one of these (kube-proxy's DNAT).
    Translate(BTreeSet<Target>),
}

/// How a client is told that nobody serves it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// A TCP reset.
    Reset,
    /// ICMP port unreachable.
    Unreachable,
}

/// A backend, and what it sees of the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Target {
    pub backend: SocketAddr,
    pub source: Source,
}

/// The source that the backend sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// The client's own address and port.
    Client,
    /// The node's address: the client is the backend, and the packet goes back to where it came from (kube-proxy's hairpin).
    Node,
    /// The node's address (kube-proxy's masquerade): the client is outside and the backend on another node, and the answer has to come back by
    /// this one. The packet is sent on past the stack.
    Masqueraded,
}

/// Resolves packets on one node.
#[derive(Clone, Copy, Debug)]
pub struct Tracer<'a> {
    plans: &'a Plans,
    /// The addresses that stand in for a pod that reaches itself.
    masquerade: &'a [IpAddr],
}

// === impl Tracer ===

impl<'a> Tracer<'a> {
    pub fn new(plans: &'a Plans, masquerade: &'a [IpAddr]) -> Self {
        Self { plans, masquerade }
    }

    /// Says what becomes of a packet that belongs to no known flow.
    pub fn trace(&self, hook: Hook, packet: Seen) -> Outcome {
        let (src, dst, transport) = match packet {
            Seen::Datagram { src, dst, transport } => (src, dst, transport),
            Seen::OtherProtocol { dst } if self.is_undefined(hook, dst) => return Outcome::Reject(Refusal::Unreachable),
            Seen::OtherProtocol { .. } => return Outcome::Pass(Reason::OtherProtocol),
            Seen::Fragment { dst } if self.is_undefined(hook, dst) => return Outcome::Drop(Reason::FragmentLost),
            Seen::Fragment { .. } => return Outcome::Pass(Reason::Fragment),
            Seen::Malformed => return Outcome::Pass(Reason::Malformed),
            Seen::NotIp => return Outcome::Pass(Reason::NotIp),
            Seen::OtherHost => return Outcome::Pass(Reason::OtherHost),
        };
        // Services are entered on the way into the node only; on the way out there are replies, and those belong to a flow.
        let frontend = match hook.direction {
            Direction::Ingress => self.frontend(dst, transport.protocol()),
            Direction::Egress => None,
        };
        let Some(frontend) = frontend else {
            return if self.is_undefined(hook, dst.ip()) { transport.refuse() } else { Outcome::Pass(Reason::NoService) };
        };
        // Clients inside the cluster are those behind workload devices; everybody else comes in by an uplink.
        let backends = match hook.role {
            Role::Workload => &frontend.internal,
            Role::Uplink => &frontend.external,
        };
        match backends {
            BackendSet::Backends(backends) => self.translate(src, hook.role, backends),
            BackendSet::Reject => transport.refuse(),
            BackendSet::Drop => Outcome::Drop(Reason::PolicyDrop),
        }
    }

    /// Whether a packet enters the node and is to a ClusterIP: what its Service does not define there is refused.
    fn is_undefined(&self, hook: Hook, dst: IpAddr) -> bool {
        let is_refused = |plan: &ServicePlan| plan.cluster_ips.get(&dst) == Some(&Undefined::REFUSE);
        hook.direction == Direction::Ingress && self.plans.values().any(is_refused)
    }

    /// The frontend that a destination is, which at most one service port has.
    fn frontend(&self, dst: SocketAddr, protocol: Protocol) -> Option<&'a FrontendPlan> {
        let addr = FrontendAddr { addr: dst.ip(), port: dst.port(), protocol };
        let mut found = self.plans.values().filter_map(|plan| plan.frontends.get(&addr));
        let frontend = found.next();
        assert!(found.next().is_none(), "{addr} is a frontend of two service ports");
        frontend
    }

    /// The client's address is kept, except where it is the backend's own, and where the answer would not come back by this node.
    fn translate(&self, src: SocketAddr, role: Role, backends: &[Backend]) -> Outcome {
        let source = |backend: &Backend| match role {
            Role::Uplink if backend.is_elsewhere => Source::Masqueraded,
            _ if backend.addr.ip() == src.ip() => Source::Node,
            Role::Uplink | Role::Workload => Source::Client,
        };
        let can_masquerade = self.masquerade.iter().any(|addr| addr.is_ipv4() == src.is_ipv4());
        if !can_masquerade && backends.iter().all(|backend| source(backend) != Source::Client) {
            return Outcome::Drop(Reason::NoSnatSource);
        }
        Outcome::Translate(backends.iter().map(|backend| Target { backend: backend.addr, source: source(backend) }).collect())
    }
}

// === impl Transport ===

impl Transport {
    pub fn protocol(self) -> Protocol {
        match self {
            Self::Tcp { .. } => Protocol::Tcp,
            Self::Udp => Protocol::Udp,
        }
    }

    /// A connection attempt hears a reset, anything else an ICMP error. A reset is never answered (RFC 9293, section 3.5.2), and no ICMP
    /// error says more about a connection attempt with data, which a reset would have to acknowledge.
    fn refuse(self) -> Outcome {
        let bits = |flags| flags & (flags::SYN | flags::ACK | flags::RST);
        match self {
            Self::Tcp { flags, .. } if flags & flags::RST != 0 => Outcome::Drop(Reason::Unanswered),
            Self::Tcp { flags, has_data: false } if bits(flags) == flags::SYN => Outcome::Reject(Refusal::Reset),
            Self::Tcp { .. } | Self::Udp => Outcome::Reject(Refusal::Unreachable),
        }
    }
}

// === impl Hook ===

impl Hook {
    /// All there are.
    pub const ALL: [Self; 4] = [
        Self { role: Role::Workload, direction: Direction::Ingress },
        Self { role: Role::Workload, direction: Direction::Egress },
        Self { role: Role::Uplink, direction: Direction::Ingress },
        Self { role: Role::Uplink, direction: Direction::Egress },
    ];

    /// The other hook of the same device.
    #[must_use]
    pub fn opposite(self) -> Self {
        let direction = match self.direction {
            Direction::Ingress => Direction::Egress,
            Direction::Egress => Direction::Ingress,
        };
        Self { direction, ..self }
    }
}

impl fmt::Display for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.role.name(), self.direction)
    }
}
