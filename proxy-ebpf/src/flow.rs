//! The flow table: a packet of a known flow is translated after one look-up.
//!
//! A flow has two entries, one for each direction, each complete in itself. Entries are inserted only where none is (`BPF_NOEXIST`) and
//! afterwards written only through the pointer that a look-up returned: an update in a full LRU table may evict a stranger. Each
//! direction makes its partner again when that was evicted, unless the flow is coming to its end.

use aya_ebpf::bindings::BPF_NOEXIST;
use proxy_common::{BackendRef, Flow, FlowKey, FlowOwner, FlowState, Protocol, ServiceId, Side, Tuple, reason::Reason};

use crate::{
    counters::{count, limits},
    filter::mark,
    ip::Ip,
    maps::{BACKEND_LIVE, Scratch},
    parse::Packet,
    settings::{self, now},
    verdict::{End, Step},
};

/// What becomes of the packets of one direction of a flow.
#[derive(Clone, Copy, Debug)]
pub struct Way<F: Ip> {
    /// The tuple to give them.
    pub to: Tuple<F>,
    /// Those of [`FlowState::MASQUERADED`] and [`FlowState::FOREIGN`] that are set, as a number: to the verifier it is one of many.
    apart: u32,
    /// In whose name they are counted.
    pub service: ServiceId,
}

impl<F: Ip> Way<F> {
    #[inline(always)]
    pub(crate) fn of(flow: &Flow<F>) -> Self {
        let apart = flow.owner.state().bits() & FlowState::MASQUERADED.with(FlowState::FOREIGN).bits();
        Self { to: flow.tuple(), apart: u32::from(apart), service: flow.owner.service() }
    }

    /// The way of packets that are translated, and nothing else.
    #[inline(always)]
    pub(crate) const fn common(to: Tuple<F>, service: ServiceId) -> Self {
        Self { to, apart: 0, service }
    }

    /// The node stands in for the client, and sends packets on itself.
    #[inline(always)]
    pub const fn is_masqueraded(&self) -> bool {
        self.apart & FlowState::MASQUERADED.bits() as u32 != 0
    }

    /// The flow is none of a Service's.
    #[inline(always)]
    pub const fn is_foreign(&self) -> bool {
        self.apart & FlowState::FOREIGN.bits() as u32 != 0
    }

    /// Neither: packets are translated, and nothing else.
    #[inline(always)]
    pub const fn is_common(&self) -> bool {
        self.apart == 0
    }
}

/// Finds the flow of a packet at this side of a device.
#[inline(always)]
pub fn find<F: Ip>(packet: &Packet<F>, side: Side) -> Option<Way<F>> {
    let key = FlowKey::new(packet.tuple, packet.protocol, side);
    let entry = F::flows().get_ptr_mut(&key)?;
    // SAFETY: the entry stays readable while the program runs, even if it is evicted. It is copied: other CPUs write its last fields.
    let flow = unsafe { core::ptr::read_volatile(entry) };
    // A number of its own, before anything else is asked of the state: what the verifier learns of that would tell one way to the end from
    // another, and it would follow all of them.
    let apart = core::hint::black_box(Way::of(&flow).apart);
    let state = flow.owner.state();
    if side == Side::Egress && is_anothers(packet, &key, &flow) {
        forget(&key, &flow);
        if let Ok(scratch) = scratch() {
            insert_foreign(&key, &mut scratch.flow);
        }
        return Some(Way { to: packet.tuple, apart: u32::from(FlowState::FOREIGN.bits()), service: ServiceId::NONE });
    }
    if packet.may_move() && !state.has(FlowState::REPLY) {
        if !lives(flow.backend) {
            forget(&key, &flow);
            count(Reason::BackendGone);
            return None;
        }
        if packet.flags.opens() && forget_if_over(&key, &flow) {
            return None;
        }
    }
    let now = now();
    let is_old = now.wrapping_sub(flow.last_used) >= settings::hz();
    let next = advance(packet, state, is_old);
    if next != state {
        set_state(entry, flow.owner, next);
    }
    if is_old {
        // SAFETY: a field of the entry.
        let place = unsafe { &raw mut (*entry).last_used };
        // SAFETY: an aligned word; the last writer wins, see `Flow`.
        unsafe { core::ptr::write_volatile(place, now) };
        if next.heals() {
            heal(&key, &flow, next, now);
        }
    }
    Some(Way { to: flow.tuple(), apart, service: flow.owner.service() })
}

/// Whether a packet that leaves the node under a flow's backend is of another connection, between the same two ports without a Service: it was there
/// first, for it goes on where the flow's backend has not even answered the SYN. What it says instead is what it says to any SYN in its own name
/// (RFC 5961, section 4). The flow gives its port up, and gets another one with the next SYN.
#[inline(always)]
fn is_anothers<F: Ip>(packet: &Packet<F>, key: &FlowKey<F>, flow: &Flow<F>) -> bool {
    let goes_on = packet.protocol == Protocol::Tcp && packet.flags.goes_on();
    // Of what was picked up in mid-stream the client has sent more than a SYN.
    goes_on
        && flow.owner.state() == FlowState::REPLY
        && partner_state(&key.partner(flow), key).is_some_and(|client| !client.has(FlowState::ESTABLISHED))
}

/// Writes the state of an entry that was found.
#[inline(always)]
fn set_state<F: Ip>(entry: *mut Flow<F>, owner: FlowOwner, state: FlowState) {
    // SAFETY: a field of the entry, which stays readable while the program runs.
    let place = unsafe { &raw mut (*entry).owner };
    // SAFETY: an aligned word; the last writer wins, see `Flow`.
    unsafe { core::ptr::write_volatile(place, FlowOwner::new(owner.service(), state)) };
}

/// Finds the flow that a later fragment belongs to. Its state is left to the first fragments.
#[inline(always)]
pub fn find_for_fragment<F: Ip>(tuple: Tuple<F>, protocol: Protocol, side: Side) -> Option<Way<F>> {
    let entry = F::flows().get_ptr(&FlowKey::new(tuple, protocol, side))?;
    // SAFETY: as in `find`.
    Some(Way::of(&unsafe { core::ptr::read_volatile(entry) }))
}

/// Whether this life of a backend goes on. What was dialled without a Service has none that could end.
#[inline(always)]
pub(crate) fn lives(backend: BackendRef) -> bool {
    backend == BackendRef::NONE || BACKEND_LIVE.get(backend.index()).is_some_and(|live| *live == backend)
}

/// The state of the other direction of a flow, if its entry is there and its own: the same key may be another flow's by now.
#[inline(always)]
fn partner_state<F: Ip>(partner: &FlowKey<F>, key: &FlowKey<F>) -> Option<FlowState> {
    let held = F::flows().get_ptr(partner)?;
    // SAFETY: the entry stays readable while the program runs.
    let held = unsafe { &*held };
    (held.tuple() == key.tuple().reversed()).then_some(held.owner.state())
}

/// The state of a direction after one more of its packets. `is_old` says that a second has gone by since the last that counts for it: datagrams
/// are more than a question and its answer then, and are remembered for longer, as connection tracking has it.
#[inline(always)]
pub(crate) fn advance<F: Ip>(packet: &Packet<F>, state: FlowState, is_old: bool) -> FlowState {
    let flags = packet.flags;
    if packet.protocol == Protocol::Udp && !is_old {
        return state;
    }
    if flags.opens() {
        // A connection attempt: what came to its end was another one. One that goes on may not hear of it, for anybody can send a SYN: its receiver
        // answers what it knows, and neither side need say more.
        return state.without(FlowState::FIN.with(FlowState::RST));
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
pub fn scratch<F: Ip>() -> Step<&'static mut Scratch<F>> {
    let scratch = F::scratch().get_ptr_mut(0).ok_or(End::drop(Reason::FlowTableFull))?;
    // SAFETY: the row is this CPU's own, and no program interrupts another on it; whoever calls another that writes to it asks for it anew.
    Ok(unsafe { &mut *scratch })
}

/// Inserts an entry where none is.
#[inline(always)]
pub(crate) fn insert_new<F: Ip>(key: &FlowKey<F>, flow: &Flow<F>) -> bool {
    mark(key.place());
    F::flows().insert(key, flow, u64::from(BPF_NOEXIST)).is_ok()
}

/// Removes both entries of a flow.
#[inline(always)]
fn forget<F: Ip>(key: &FlowKey<F>, flow: &Flow<F>) {
    let partner = key.partner(flow);
    let has_partner = partner_state(&partner, key).is_some();
    remove_pair(key, &partner, has_partner);
}

/// The same if its connection has come to its end, so that what begins on its ports is another one.
#[inline(always)]
pub(crate) fn forget_if_over<F: Ip>(key: &FlowKey<F>, flow: &Flow<F>) -> bool {
    let partner = key.partner(flow);
    let other = partner_state(&partner, key);
    let is_over = flow.owner.state().is_over(other);
    if is_over {
        remove_pair(key, &partner, other.is_some());
    }
    is_over
}

/// Removes an entry and its partner. One that is not there any more was evicted meanwhile, which is as good.
#[inline(always)]
fn remove_pair<F: Ip>(key: &FlowKey<F>, partner: &FlowKey<F>, has_partner: bool) {
    if has_partner {
        _ = F::flows().remove(partner);
    }
    _ = F::flows().remove(key);
}

/// Whether the answers to what begins, and is none of a Service's, would be taken for a flow's: its client dials a Service from the same port, and
/// was given the very backend that it dials here by itself. One that is over is put out of the way.
#[inline(always)]
pub fn would_be_mistaken<F: Ip>(packet: &Packet<F>) -> bool {
    if !packet.may_move() {
        return false;
    }
    let key = FlowKey::new(packet.tuple.reversed(), packet.protocol, Side::Egress);
    let Some(held) = F::flows().get_ptr(&key) else { return false };
    // SAFETY: the entry stays readable while the program runs; copied, since others write it.
    let held = unsafe { core::ptr::read_volatile(held) };
    !held.owner.state().has(FlowState::FOREIGN) && !forget_if_over(&key, &held)
}

/// Makes the entry of the other direction again if it is lost.
#[inline(always)]
fn heal<F: Ip>(key: &FlowKey<F>, flow: &Flow<F>, state: FlowState, now: u32) {
    let Ok(scratch) = scratch::<F>() else { return };
    scratch.other_key = key.partner(flow);
    // Looked up first: an insert takes an entry from the LRU list before it finds that the key is there.
    if let Some(held) = F::flows().get_ptr(&scratch.other_key) {
        // SAFETY: the entry stays readable while the program runs.
        let is_own = unsafe { (*held).tuple() } == key.tuple().reversed();
        if !is_own && !state.has(FlowState::REPLY) {
            // Another flow gets the answers by now: the next packet begins anew.
            _ = F::flows().remove(key);
        }
        return;
    }
    let partner_state = if state.has(FlowState::REPLY) { FlowState::NEW } else { FlowState::REPLY };
    scratch.reply = key.partner_flow(flow, partner_state.with(state.without(FlowState::REPLY)));
    scratch.reply.last_used = now;
    if insert_new(&scratch.other_key, &scratch.reply) {
        count(Reason::FlowHealed);
    }
}

/// Leaves the tuple that a packet is to get in the scratch room for [`left`], which another function of the program calls.
#[inline(always)]
pub fn leave<F: Ip>(way: &Way<F>) -> End {
    match scratch::<F>() {
        Ok(scratch) => {
            scratch.flow = Flow::new(way.to, 0, BackendRef::NONE, ServiceId::NONE, FlowState::NEW);
            if way.is_masqueraded() { End::SEND_ON } else { End::TRANSLATE }
        }
        Err(end) => end,
    }
}

/// What becomes of a packet of a foreign flow: it goes on as it is. One that comes to begin a connection is not of that flow, which is over.
#[inline(always)]
pub fn leave_alone<F: Ip>(packet: &Packet<F>, side: Side) -> End {
    if !packet.flags.opens() || side == Side::Egress {
        return End::pass(Reason::Foreign);
    }
    _ = F::flows().remove(&FlowKey::new(packet.tuple, packet.protocol, Side::Ingress));
    End::UNKNOWN
}

/// Records the flow of a packet that leaves the node under a frontend's address and port, and is of none that is known: it is foreign, and
/// its answers are not for the Service, though they come to the frontend. Connection tracking knows them for kube-proxy.
#[inline(always)]
pub fn note_foreign<F: Ip>(packet: &Packet<F>) -> End {
    let answers = packet.tuple.reversed();
    let scratch = match scratch::<F>() {
        Ok(scratch) => scratch,
        Err(end) => return end,
    };
    scratch.key = FlowKey::new(answers, packet.protocol, Side::Ingress);
    // Looked up first: an insert takes an entry from the LRU list before it finds that the key is there.
    match F::flows().get_ptr_mut(&scratch.key) {
        Some(entry) if packet.flags.rst() => break_off(entry),
        None if !packet.flags.rst() && may_start() => insert_foreign(&scratch.key, &mut scratch.flow),
        _ => {}
    }
    End::pass(Reason::Foreign)
}

/// Has packets be left alone from now on: their entry, for which there is room.
#[inline(always)]
fn insert_foreign<F: Ip>(key: &FlowKey<F>, room: &mut Flow<F>) {
    *room = Flow::foreign(key.tuple(), now());
    insert_new(key, room);
}

/// Has a foreign flow end soon: nobody need answer to what breaks it off.
#[inline(always)]
fn break_off<F: Ip>(entry: *mut Flow<F>) {
    // SAFETY: the entry stays readable while the program runs; copied, since others write it.
    let owner = unsafe { core::ptr::read_volatile(entry) }.owner;
    if owner.state().has(FlowState::FOREIGN) {
        set_state(entry, owner, owner.state().with(FlowState::RST));
    }
}

/// The tuple that was left.
#[inline(always)]
pub fn left<F: Ip>() -> Step<Tuple<F>> {
    Ok(scratch::<F>()?.flow.tuple())
}

/// Whether this CPU may begin one more flow in this second.
#[inline(always)]
pub(crate) fn may_start() -> bool {
    let Some(limits) = limits() else { return false };
    limits.flows += 1;
    limits.flows <= settings::new_flows()
}
