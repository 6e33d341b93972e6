//! Flows: one entry for each direction of a connection, each complete in itself.
//!
//! An entry maps the tuple of a packet, as it is at the hook, to the tuple it is given there. Both entries of a flow can be made from
//! either: see [`FlowKey::partner`] and [`FlowKey::partner_flow`].

use bytemuck::{Pod, Zeroable};

use crate::{
    BackendRef, Family, Port, Protocol, ServiceId, V4, V6,
    filter::{About, Place},
    layout::pod,
};

/// Which hooks of a device an entry is for.
///
/// A client's packets are translated where they enter the node from the client's device, the replies where they leave by it. What a
/// pod sends to itself through a Service comes back into the same device, so both its entries are for [`Side::Ingress`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Side {
    /// Packets that enter the node.
    Ingress = 0,
    /// Packets that leave it.
    Egress = 1,
}

/// Source and destination of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tuple<F: Family> {
    /// The source address.
    pub src: F::Addr,
    /// The destination address.
    pub dst: F::Addr,
    /// The source port.
    pub src_port: Port,
    /// The destination port.
    pub dst_port: Port,
}

impl<F: Family> Tuple<F> {
    /// The tuple of the answers to this one.
    #[inline(always)]
    #[must_use]
    pub fn reversed(self) -> Self {
        Self { src: self.dst, dst: self.src, src_port: self.dst_port, dst_port: self.src_port }
    }

    /// The place in the service filter that says whether packets with this tuple may be known at a side.
    #[inline(always)]
    pub fn place(&self, side: Side) -> Place {
        match side {
            Side::Ingress => Place::of(About::Entering, self.dst, self.dst_port),
            Side::Egress => Place::of(About::Leaving, self.src, self.src_port),
        }
    }
}

/// The key of `FLOWS_V4` (16 bytes) and `FLOWS_V6` (40 bytes).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(C, align(8))]
pub struct FlowKey<F: Family> {
    /// The source address as the packet has it at the hook.
    pub src: F::Addr,
    /// The destination address as the packet has it at the hook.
    pub dst: F::Addr,
    /// The source port as the packet has it at the hook.
    pub src_port: Port,
    /// The destination port as the packet has it at the hook.
    pub dst_port: Port,
    /// The number of the [`Protocol`].
    pub protocol: u8,
    /// The [`Side`].
    pub side: u8,
    pad: u16,
}

pod!(FlowKey<V4>: 16 { src, dst, src_port, dst_port, protocol, side, pad });
pod!(FlowKey<V6>: 40 { src, dst, src_port, dst_port, protocol, side, pad });

impl<F: Family> FlowKey<F> {
    /// The key of one direction of a flow.
    #[inline(always)]
    pub fn new(tuple: Tuple<F>, protocol: Protocol, side: Side) -> Self {
        F::flow_key(&tuple, protocol.to_wire(), side as u8)
    }

    /// The tuple of the packets that the entry is for.
    #[inline(always)]
    pub fn tuple(&self) -> Tuple<F> {
        Tuple { src: self.src, dst: self.dst, src_port: self.src_port, dst_port: self.dst_port }
    }

    /// The place in the service filter that must be marked while the entry is there.
    #[inline(always)]
    pub fn place(&self) -> Place {
        self.tuple().place(if self.side == Side::Ingress as u8 { Side::Ingress } else { Side::Egress })
    }

    /// The key of the other direction, of a flow whose entry for this key is `flow`.
    #[inline(always)]
    #[must_use]
    pub fn partner(&self, flow: &Flow<F>) -> Self {
        // Translated packets that go back to where they came from return by the same hook: a pod that reaches itself. Answers to the node
        // itself enter it, like the packets that they answer.
        let same = flow.dst == self.src || flow.owner.state().has(FlowState::MASQUERADED);
        let side = if same { self.side } else { self.side ^ 1 };
        F::flow_key(&flow.tuple().reversed(), self.protocol, side)
    }

    /// The entry of the other direction, with `state` as its state.
    #[inline(always)]
    pub fn partner_flow(&self, flow: &Flow<F>, state: FlowState) -> Flow<F> {
        Flow::new(self.tuple().reversed(), flow.last_used, flow.backend, flow.owner.service(), state)
    }
}

/// The value of `FLOWS_V4` (24 bytes) and `FLOWS_V6` (48 bytes).
///
/// Inserted whole. Afterwards programs write `last_used` and `owner` through the pointer they looked up, each with one store and
/// without a lock: the last writer wins, which is harmless for both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C, align(8))]
pub struct Flow<F: Family> {
    /// The source address to give the packet.
    pub src: F::Addr,
    /// The destination address to give the packet.
    pub dst: F::Addr,
    /// The source port to give the packet.
    pub src_port: Port,
    /// The destination port to give the packet.
    pub dst_port: Port,
    /// When a packet last used the entry: the low half of the kernel's `jiffies_64`, written at most once a second.
    pub last_used: u32,
    /// The backend that the flow goes to; none where that was dialled without a Service.
    pub backend: BackendRef,
    /// The service port, if there is one, and the state of this direction.
    pub owner: FlowOwner,
}

pod!(Flow<V4>: 24 { src, dst, src_port, dst_port, last_used, backend, owner });
pod!(Flow<V6>: 48 { src, dst, src_port, dst_port, last_used, backend, owner });

impl<F: Family> Flow<F> {
    /// The entry that gives packets the tuple `to`.
    #[inline(always)]
    pub fn new(to: Tuple<F>, last_used: u32, backend: BackendRef, service: ServiceId, state: FlowState) -> Self {
        F::flow(&to, last_used, backend, FlowOwner::new(service, state))
    }

    /// The entry that leaves packets with this tuple as they are.
    #[inline(always)]
    pub fn foreign(tuple: Tuple<F>, last_used: u32) -> Self {
        Self::new(tuple, last_used, BackendRef::NONE, ServiceId::NONE, FlowState::REPLY.with(FlowState::FOREIGN))
    }

    /// The tuple that packets get.
    #[inline(always)]
    pub fn tuple(&self) -> Tuple<F> {
        Tuple { src: self.src, dst: self.dst, src_port: self.src_port, dst_port: self.dst_port }
    }
}

/// A service id in bits 0..24 and a [`FlowState`] in bits 24..32, so that an IPv6 entry fits 48 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(transparent)]
pub struct FlowOwner(u32);

impl FlowOwner {
    /// From an id of at most [`ServiceId::MAX`].
    #[inline(always)]
    pub const fn new(service: ServiceId, state: FlowState) -> Self {
        Self(service.0 & ServiceId::MAX | (state.0 as u32) << 24)
    }

    /// The word as it lies in memory.
    #[inline(always)]
    pub const fn raw(self) -> u32 {
        self.0
    }

    /// The service port.
    #[inline(always)]
    pub const fn service(self) -> ServiceId {
        ServiceId(self.0 & ServiceId::MAX)
    }

    /// The state.
    #[inline(always)]
    pub const fn state(self) -> FlowState {
        FlowState((self.0 >> 24) as u8)
    }
}

/// What was seen of one direction of a flow: a set of flags.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowState(u8);

impl FlowState {
    /// Nothing yet but the packet that made the entry: a TCP connection attempt, or a datagram without an answer.
    pub const NEW: Self = Self(0);
    /// More was seen than the first packet: of the client another one, of the backend any answer that is not a TCP RST.
    pub const ESTABLISHED: Self = Self(1);
    /// A TCP FIN was seen.
    pub const FIN: Self = Self(2);
    /// A TCP RST was seen.
    pub const RST: Self = Self(4);
    /// This entry is for the replies; without it, for the client's packets.
    pub const REPLY: Self = Self(8);
    /// The node stands in for the client. The packets of both directions enter the node, and programs send them on themselves: the stack would
    /// not take them, whose source is its own.
    pub const MASQUERADED: Self = Self(16);
    /// The packets are none of a Service's: who leaves the node under a frontend's address and port began that flow, or a connection without a
    /// Service was there before a flow that wanted its ports. They are left as they are, and there is one entry only.
    pub const FOREIGN: Self = Self(32);

    /// Both sets together.
    #[inline(always)]
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// What is left of this set without `other`.
    #[inline(always)]
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Whether any of `other` is in this set.
    #[inline(always)]
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// Whether a flow is over of which this is the state of one direction, and `other` that of the other one if its entry is there: one
    /// side has broken it off, or both have said that they have nothing more to send.
    #[inline(always)]
    pub fn is_over(self, other: Option<Self>) -> bool {
        let Some(other) = other else { return self.has(Self::RST) };
        self.has(Self::RST) || other.has(Self::RST) || self.has(Self::FIN) && other.has(Self::FIN)
    }

    /// Whether the other direction's entry is made again when it is lost: not while this one is coming to its end, and not where there is none.
    #[inline(always)]
    pub const fn heals(self) -> bool {
        !self.has(Self(Self::FIN.0 | Self::RST.0 | Self::FOREIGN.0))
    }

    /// The flags as a number.
    pub const fn bits(self) -> u8 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Addr4, Addr6};

    fn addr(last: u8) -> Addr4 {
        Addr4::from_wire([10, 0, 0, last])
    }

    fn tuple(src: u8, src_port: u16, dst: u8, dst_port: u16) -> Tuple<V4> {
        let (src_port, dst_port) = (Port::from_host(src_port), Port::from_host(dst_port));
        Tuple { src: addr(src), dst: addr(dst), src_port, dst_port }
    }

    #[test]
    fn the_partner_of_the_partner_is_the_entry_itself() {
        let key = FlowKey::new(tuple(1, 4000, 96, 80), Protocol::Tcp, Side::Ingress);
        let value = Flow::new(tuple(1, 4000, 2, 8080), 7, BackendRef::new(3, 1), ServiceId(9), FlowState::NEW);
        let (reply_key, reply) = (key.partner(&value), key.partner_flow(&value, FlowState::REPLY));
        assert_eq!(reply_key, FlowKey::new(tuple(2, 8080, 1, 4000), Protocol::Tcp, Side::Egress));
        assert_eq!(reply.tuple(), tuple(96, 80, 1, 4000));
        assert_eq!((reply_key.partner(&reply), reply_key.partner_flow(&reply, FlowState::NEW)), (key, value));
    }

    #[test]
    fn a_pod_that_reaches_itself_has_both_entries_on_ingress() {
        let key = FlowKey::new(tuple(1, 4000, 96, 80), Protocol::Tcp, Side::Ingress);
        let value = Flow::new(tuple(200, 1024, 1, 8080), 7, BackendRef::new(3, 1), ServiceId(9), FlowState::NEW);
        let (reply_key, reply) = (key.partner(&value), key.partner_flow(&value, FlowState::REPLY));
        assert_eq!(reply_key, FlowKey::new(tuple(1, 8080, 200, 1024), Protocol::Tcp, Side::Ingress));
        assert_eq!((reply_key.partner(&reply), reply_key.partner_flow(&reply, FlowState::NEW)), (key, value));
    }

    #[test]
    fn a_masqueraded_flow_has_both_entries_on_ingress() {
        let key = FlowKey::new(tuple(1, 4000, 96, 30_080), Protocol::Tcp, Side::Ingress);
        let value = Flow::new(tuple(96, 1024, 2, 8080), 7, BackendRef::new(3, 1), ServiceId(9), FlowState::MASQUERADED);
        let replies = FlowState::REPLY.with(FlowState::MASQUERADED);
        let (reply_key, reply) = (key.partner(&value), key.partner_flow(&value, replies));
        assert_eq!(reply_key, FlowKey::new(tuple(2, 8080, 96, 1024), Protocol::Tcp, Side::Ingress));
        assert_eq!(reply.tuple(), tuple(96, 30_080, 1, 4000));
        assert_eq!((reply_key.partner(&reply), reply_key.partner_flow(&reply, FlowState::MASQUERADED)), (key, value));
    }

    #[test]
    fn owner_keeps_service_and_state_apart() {
        let owner = FlowOwner::new(ServiceId(ServiceId::MAX), FlowState::FIN.with(FlowState::REPLY));
        assert_eq!(owner.service(), ServiceId(ServiceId::MAX));
        assert!(!owner.state().heals());
        assert!(owner.state().has(FlowState::REPLY));
        assert!(!owner.state().has(FlowState::ESTABLISHED));
    }

    #[test]
    fn a_flow_is_over_by_one_reset_or_two_fins() {
        let [open, fin, rst] = [FlowState::ESTABLISHED, FlowState::FIN, FlowState::RST];
        let over = [(rst, None), (rst, Some(open)), (open, Some(rst)), (fin, Some(fin))];
        let not = [(open, None), (fin, None), (open, Some(open)), (fin, Some(open)), (open, Some(fin))];
        assert!(over.iter().all(|(one, other)| one.is_over(*other)));
        assert!(!not.iter().any(|(one, other)| one.is_over(*other)));
    }

    #[test]
    fn an_ipv6_key_is_forty_bytes_in_wire_order() {
        let (src, dst) = (Addr6::from_wire([1; 16]), Addr6::from_wire([2; 16]));
        let tuple = Tuple { src, dst, src_port: Port::from_host(1), dst_port: Port::from_host(2) };
        let key = FlowKey::<V6>::new(tuple, Protocol::Udp, Side::Egress);
        let bytes = bytemuck::bytes_of(&key);
        assert_eq!(bytes[..16], [1; 16]);
        assert_eq!(bytes[32..], [0, 1, 0, 2, 17, 1, 0, 0]);
    }
}
