//! Which backend a new flow goes to: the frontend it dials, the range for where it comes from, and a slot of that range.
//!
//! The slot is chosen by a hash of the flow and a seed of the node, not by chance: a packet in mid-stream whose flow was lost finds the
//! same backend again as long as the set is the same.

use aya_ebpf::btf_maps::lpm_trie::Key;
use proxy_common::{
    Address as _, Backend, BackendFlags, BackendRef, FrontendKey, FrontendRef, Protocol, Range, RangeWord, RowFlags, RowIndex, ServiceId,
    Tuple, reason::Reason,
};

use crate::{
    affinity,
    ctx::PacketCtx,
    ip::Ip,
    maps::{FRONTEND_ROWS, SourceBits},
    parse::Packet,
    settings,
    verdict::{End, News, Step},
};

/// Where a client is, as the device tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// A pod of this node.
    Internal,
    /// Anything that arrives on an uplink.
    External,
}

/// Where a new flow goes.
#[derive(Clone, Copy, Debug)]
pub struct Choice<F: Ip> {
    /// The backend.
    pub backend: Backend<F>,
    /// The node has to stand in for the client.
    pub masquerade: bool,
}

impl<F: Ip> Choice<F> {
    /// Where a packet goes by itself, without a Service.
    #[inline(always)]
    pub fn direct(packet: &Packet<F>) -> Self {
        let to = packet.tuple;
        let backend = Backend::new(to.dst, to.dst_port, BackendFlags::NONE, BackendRef::NONE, ServiceId::NONE);
        Self { backend, masquerade: false }
    }
}

/// The frontend that packets with this tuple are to.
#[inline(always)]
pub fn find<F: Ip>(tuple: &Tuple<F>, protocol: Protocol) -> Option<FrontendRef> {
    at::<F>(&FrontendKey::new(tuple.dst, tuple.dst_port, protocol))
}

/// The frontend of a key.
#[inline(always)]
pub(crate) fn at<F: Ip>(key: &FrontendKey<F>) -> Option<FrontendRef> {
    // SAFETY: the daemon replaces an entry as a whole, and the value is copied before anything else happens.
    unsafe { F::frontends().get(key) }.copied()
}

/// Chooses a backend for a packet of no known flow to a frontend.
///
/// A process of the node may have been given a node port for a connection of its own, where the kernel's range of such ports has node ports in it:
/// answers to it are none of a Service's (connection tracking knows them for kube-proxy).
#[inline(always)]
pub fn choose<F: Ip, C: PacketCtx>(ctx: &C, packet: &Packet<F>, frontend: FrontendRef, scope: Scope) -> Step<Choice<F>> {
    let client = packet.tuple.src;
    let row = read(frontend.row, scope).ok_or(End::pass(Reason::NoService))?;
    // What begins a connection is no answer.
    let may_be_answer = !packet.flags.opens() && row.flags.kind() == RowFlags::NODE_PORT;
    if may_be_answer && ctx.has_connection::<F>(&packet.tuple, packet.protocol) {
        return Err(End::pass(Reason::NoService));
    }
    if row.flags.has(RowFlags::SOURCE_RANGES) && !may_use::<F>(client, frontend.service) {
        return Err(End::drop(Reason::SourceRange));
    }
    let backend = pick::<F>(frontend, &row, client, F::hash(&packet.tuple, packet.protocol, settings::seed()))?;
    Ok(Choice { backend, masquerade: must_masquerade(scope, row.flags, backend.flags) })
}

/// The backend that a client's hash stands for, or the one that the client had last.
#[inline(always)]
pub(crate) fn pick<F: Ip>(frontend: FrontendRef, row: &Row, client: F::Addr, hash: u32) -> Step<Backend<F>> {
    let slots = match row.range.range() {
        Range::Slots(slots) => slots,
        Range::Reject => return Err(End::tell(News::Refused)),
        Range::Drop => return Err(End::drop(Reason::PolicyDrop)),
    };
    let mut slot = slots.pick(hash);
    if row.affinity_secs != 0 {
        slot = affinity::slot::<F>(client, frontend.service, row.affinity_secs, row.range, slot);
    }
    let backend = *F::backends().get(slot).ok_or(End::drop(Reason::StaleSlot))?;
    if backend.owner == frontend.service { Ok(backend) } else { Err(End::drop(Reason::StaleSlot)) }
}

/// Whether packets with this tuple are to a frontend.
#[inline(always)]
pub fn is_one<F: Ip>(tuple: &Tuple<F>, protocol: Protocol) -> bool {
    F::frontends().get_ptr(&FrontendKey::new(tuple.dst, tuple.dst_port, protocol)).is_some()
}

/// Whether the node has to stand in for a client: for one outside, whose backend is elsewhere and would answer past this node; and where the
/// operator wants it.
#[inline(always)]
fn must_masquerade(scope: Scope, row: RowFlags, backend: BackendFlags) -> bool {
    match scope {
        Scope::Internal => row.has(RowFlags::MASQUERADE_INTERNAL),
        Scope::External => row.has(RowFlags::MASQUERADE_EXTERNAL) || backend.has(BackendFlags::ELSEWHERE),
    }
}

/// Whether a client is among those who may use a service's load balancer addresses.
#[inline(always)]
pub(crate) fn may_use<F: Ip>(client: F::Addr, service: ServiceId) -> bool {
    let bits = F::Addr::LEN as u32 * 8 + ServiceId::BITS;
    F::sources().get(&Key::new(bits, SourceBits { service, client })).is_some()
}

/// What a row says to clients of a scope.
pub(crate) struct Row {
    pub(crate) range: RangeWord,
    pub(crate) flags: RowFlags,
    pub(crate) affinity_secs: u32,
}

/// Reads a row, each field once: the daemon may store another at any time.
#[inline(always)]
pub(crate) fn read(row: RowIndex, scope: Scope) -> Option<Row> {
    let row = FRONTEND_ROWS.get_ptr(row.0)?;
    // SAFETY: a field of the row.
    let internal = unsafe { &raw const (*row).internal };
    // SAFETY: a field of the row.
    let external = unsafe { &raw const (*row).external };
    let range = match scope {
        Scope::Internal => internal,
        Scope::External => external,
    };
    // SAFETY: a field of the row.
    let flags = unsafe { &raw const (*row).flags };
    // SAFETY: a field of the row.
    let affinity_secs = unsafe { &raw const (*row).affinity_secs };
    // SAFETY: an aligned 64-bit word of that row.
    let range = unsafe { core::ptr::read_volatile(range) };
    // SAFETY: an aligned word of that row.
    let flags = unsafe { core::ptr::read_volatile(flags) };
    // SAFETY: an aligned word of that row.
    let affinity_secs = unsafe { core::ptr::read_volatile(affinity_secs) };
    Some(Row { range, flags, affinity_secs })
}
