//! The flow table: a packet of a known flow is translated after one look-up.
//!
//! A flow has two entries, one for each direction, each complete in itself. Entries are inserted only where none is (`BPF_NOEXIST`) and
//! afterwards written only through the pointer that a look-up returned: an update in a full LRU table may evict a stranger. Each
//! direction makes its partner again when that was evicted, unless the flow is coming to its end.

use aya_ebpf::bindings::BPF_NOEXIST;
use proxy_common::{Backend, BackendRef, Flow, FlowKey, FlowOwner, FlowState, Port, Protocol, ServiceId, Side, Tuple, reason::Reason};

use crate::{
    counters::{count, count_flow, count_packet},
    filter::mark,
    ip::Ip,
    maps::{BACKEND_LIVE, Scratch},
    parse::Packet,
    settings::{self, now},
    verdict::{Step, Stop},
};

/// How many source ports are tried for a flow that needs another one. Each try is a look-up and an insert; with half of all ports taken,
/// one flow in 256 fails.
const PORT_TRIES: u32 = 8;

/// Finds the flow of a packet at this side of a device: the tuple to give it.
#[inline(always)]
pub fn find<F: Ip>(packet: &Packet<F>, side: Side) -> Option<Tuple<F>> {
    let key = FlowKey::new(packet.tuple, packet.protocol, side);
    let entry = F::flows().get_ptr_mut(&key)?;
    // SAFETY: the entry stays readable while the program runs, even if it is evicted. It is copied: other CPUs write its last fields.
    let flow = unsafe { core::ptr::read_volatile(entry) };
    let state = flow.owner.state();
    if packet.may_move() && !state.has(FlowState::REPLY) {
        let gone = !lives(flow.backend);
        if gone || packet.flags.opens() && is_over(&key, &flow) {
            forget(&key, &flow);
            if gone {
                count(Reason::BackendGone);
            }
            return None;
        }
    }
    let next = advance(packet, state);
    if next != state {
        let owner = FlowOwner::new(flow.owner.service(), next);
        // SAFETY: a field of the entry.
        let place = unsafe { &raw mut (*entry).owner };
        // SAFETY: an aligned word; the last writer wins, see `Flow`.
        unsafe { core::ptr::write_volatile(place, owner) };
    }
    let now = now();
    if now.wrapping_sub(flow.last_used) >= settings::hz() {
        // SAFETY: a field of the entry.
        let place = unsafe { &raw mut (*entry).last_used };
        // SAFETY: as for `owner`.
        unsafe { core::ptr::write_volatile(place, now) };
        if !next.is_closing() {
            heal(&key, &flow, next, now);
        }
    }
    count_packet(flow.owner.service(), packet.len);
    Some(flow.tuple())
}

/// Whether this life of a backend goes on.
#[inline(always)]
fn lives(backend: BackendRef) -> bool {
    BACKEND_LIVE.get(backend.index()).is_some_and(|live| *live == backend)
}

/// The state of the other direction of a flow, if its entry is there and its own: the same key may be another flow's by now.
#[inline(always)]
fn partner_state<F: Ip>(partner: &FlowKey<F>, key: &FlowKey<F>) -> Option<FlowState> {
    let held = F::flows().get_ptr(partner)?;
    // SAFETY: the entry stays readable while the program runs.
    let held = unsafe { &*held };
    (held.tuple() == key.tuple().reversed()).then_some(held.owner.state())
}

/// Whether a connection has come to its end, so that a SYN on its ports begins another one.
#[inline(always)]
fn is_over<F: Ip>(key: &FlowKey<F>, flow: &Flow<F>) -> bool {
    flow.owner.state().is_over(partner_state(&key.partner(flow), key))
}

/// The state of a direction after one more of its packets.
#[inline(always)]
fn advance<F: Ip>(packet: &Packet<F>, state: FlowState) -> FlowState {
    let flags = packet.flags;
    if flags.opens() {
        // A connection attempt: nothing that was seen before counts.
        return state.without(FlowState::ESTABLISHED.with(FlowState::FIN).with(FlowState::RST));
    }
    if flags.rst() {
        return state.with(FlowState::RST);
    }
    // Who goes on after a RST of his own has not sent it, or it was not taken: anybody can send one.
    let next = state.with(FlowState::ESTABLISHED).without(FlowState::RST);
    if flags.accepts() {
        return next.without(FlowState::FIN);
    }
    if flags.fin() { next.with(FlowState::FIN) } else { next }
}

/// This CPU's room for the entries of a flow that is being recorded.
#[inline(always)]
fn scratch<F: Ip>() -> Step<&'static mut Scratch<F>> {
    let scratch = F::scratch().get_ptr_mut(0).ok_or(Stop::Drop(Reason::FlowTableFull))?;
    // SAFETY: the row is this CPU's own, and no program interrupts another on it; each stage that uses it ends before the next begins.
    Ok(unsafe { &mut *scratch })
}

/// Inserts an entry where none is.
#[inline(always)]
fn insert_new<F: Ip>(key: &FlowKey<F>, flow: &Flow<F>) -> bool {
    mark(key);
    F::flows().insert(key, flow, u64::from(BPF_NOEXIST)).is_ok()
}

/// Removes both entries of a flow. One that is not there any more was evicted meanwhile, which is as good.
#[inline(always)]
fn forget<F: Ip>(key: &FlowKey<F>, flow: &Flow<F>) {
    let partner = key.partner(flow);
    if partner_state(&partner, key).is_some() {
        _ = F::flows().remove(&partner);
    }
    _ = F::flows().remove(key);
}

/// Makes the entry of the other direction again if it is lost.
#[inline(always)]
fn heal<F: Ip>(key: &FlowKey<F>, flow: &Flow<F>, state: FlowState, now: u32) {
    let Ok(scratch) = scratch::<F>() else { return };
    scratch.other_key = key.partner(flow);
    // Looked up first: an insert takes an entry from the LRU list before it finds that the key is there.
    if F::flows().get_ptr(&scratch.other_key).is_some() {
        return;
    }
    let partner_state = if state.has(FlowState::REPLY) { FlowState::NEW } else { FlowState::REPLY };
    scratch.reply = key.partner_flow(flow, partner_state.with(state.without(FlowState::REPLY)));
    scratch.reply.last_used = now;
    if insert_new(&scratch.other_key, &scratch.reply) {
        count(Reason::FlowHealed);
    }
}

/// Records a new flow to `backend`: the tuple to give its packets.
///
/// A TCP packet that breaks a connection off is translated without a record.
#[inline(always)]
pub fn start<F: Ip>(packet: &Packet<F>, backend: &Backend<F>, service: ServiceId) -> Step<Tuple<F>> {
    let from = packet.tuple;
    let mut to = Tuple { src: from.src, dst: backend.addr, src_port: from.src_port, dst_port: backend.port };
    let mut ports = PortChoice::anywhere(from.src_port);
    if backend.addr == from.src {
        // The pod itself: the node stands in as the client, or the pod's stack would answer itself without us (kube-proxy's hairpin rule).
        let source = F::snat().get(0).ok_or(Stop::Drop(Reason::NoSnatSource))?;
        if source.first_port == Port::from_host(0) {
            return Err(Stop::Drop(Reason::NoSnatSource));
        }
        ports = PortChoice::within(F::hash(&from, packet.protocol, settings::seed()), source.first_port, source.last_port);
        to.src = source.addr;
        to.src_port = ports.next();
        count(Reason::Hairpin);
    }
    count_packet(service, packet.len);
    if packet.protocol == Protocol::Tcp && !packet.flags.opens() {
        count(Reason::Midstream);
        if packet.flags.rst() {
            return Ok(to);
        }
    }
    let state = if packet.may_move() { FlowState::NEW } else { advance(packet, FlowState::NEW) };
    let scratch = scratch::<F>()?;
    scratch.key = FlowKey::new(from, packet.protocol, Side::Ingress);
    scratch.flow = Flow::new(to, now(), backend.reference, service, state);
    reserve(scratch, ports)?;
    if insert_new(&scratch.key, &scratch.flow) {
        count(Reason::NewFlow);
        count_flow(service);
        return Ok(scratch.flow.tuple());
    }
    // Another CPU recorded the flow a moment ago: what it chose counts.
    let first = F::flows().get_ptr(&scratch.key).ok_or(Stop::Drop(Reason::FlowTableFull))?;
    // SAFETY: the entry stays readable while the program runs.
    Ok(unsafe { (*first).tuple() })
}

/// Inserts the entry for the replies. Its key must be nobody else's: two flows of one client to two frontends of one backend would
/// else be answered as one. The second then gets another source port, which changes `scratch.flow`.
#[inline(always)]
fn reserve<F: Ip>(scratch: &mut Scratch<F>, mut ports: PortChoice) -> Step<()> {
    scratch.reply_key = scratch.key.partner(&scratch.flow);
    scratch.reply = scratch.key.partner_flow(&scratch.flow, FlowState::REPLY);
    if insert_new(&scratch.reply_key, &scratch.reply) || belongs_to(scratch) {
        return Ok(());
    }
    for _ in 0..PORT_TRIES {
        let port = ports.next();
        scratch.flow.src_port = port;
        scratch.reply_key.dst_port = port;
        if insert_new(&scratch.reply_key, &scratch.reply) {
            count(Reason::PortCollision);
            return Ok(());
        }
        if is_own(scratch) {
            return Ok(());
        }
    }
    Err(Stop::Drop(Reason::PortsExhausted))
}

/// Whether the reply entry that is there already is this flow's: its other half was lost, and this is the port it had.
#[inline(always)]
fn is_own<F: Ip>(scratch: &Scratch<F>) -> bool {
    // SAFETY: the entry stays readable while the program runs.
    F::flows().get_ptr(&scratch.reply_key).is_some_and(|held| unsafe { (*held).tuple() } == scratch.reply.tuple())
}

/// Whether the reply entry that is there already may serve for this flow: because it is the same flow's (its other half was lost, or
/// another CPU is a step ahead), or because the flow that holds it is over and is put out of the way.
#[inline(always)]
fn belongs_to<F: Ip>(scratch: &mut Scratch<F>) -> bool {
    let Some(held) = F::flows().get_ptr(&scratch.reply_key) else {
        return false;
    };
    // SAFETY: the entry stays readable while the program runs.
    let held = unsafe { &*held };
    if held.tuple() == scratch.reply.tuple() {
        return true;
    }
    if !is_over(&scratch.reply_key, held) {
        return false;
    }
    forget(&scratch.reply_key, held);
    insert_new(&scratch.reply_key, &scratch.reply)
}

/// A walk through a range of source ports from a start that depends on the flow.
#[derive(Clone, Copy)]
struct PortChoice {
    first: u32,
    count: u32,
    at: u32,
}

impl PortChoice {
    /// A step that reaches every port of a range and does not try neighbours one after another.
    const STEP: u32 = 7919;

    /// A walk through `first..=last`.
    #[inline(always)]
    fn within(start: u32, first: Port, last: Port) -> Self {
        let first = u32::from(first.to_host());
        let count = (u32::from(last.to_host()) + 1).saturating_sub(first);
        Self { first, count, at: start & 0xffff }
    }

    /// A walk through all ports that need no privilege, for a client whose address is kept.
    #[inline(always)]
    fn anywhere(start: Port) -> Self {
        Self { first: 1024, count: 65_536 - 1024, at: u32::from(start.to_host()) }
    }

    #[inline(always)]
    fn next(&mut self) -> Port {
        self.at = self.at.wrapping_add(Self::STEP) & 0xffff;
        // Scaled into the range instead of divided: the verifier wants no remainder of an unknown number.
        Port::from_host((self.first + ((self.at * self.count) >> 16)) as u16)
    }
}
