//! The flow table: a packet of a known flow is translated after one look-up.
//!
//! A flow has two entries, one for each direction, each complete in itself. Entries are inserted only where none is (`BPF_NOEXIST`) and
//! afterwards written only through the pointer that a look-up returned: an update in a full LRU table may evict a stranger. Each
//! direction makes its partner again when that was evicted, unless the flow is coming to its end.

use core::num::NonZeroU32;

use aya_ebpf::bindings::BPF_NOEXIST;
use proxy_common::{
    ANY_DEVICE, Backend, BackendFlags, BackendRef, Flow, FlowKey, FlowOwner, FlowState, PORT_STEP, Port, Protocol, ServiceId, Side,
    SnatSource, Tuple, reason::Reason,
};

use crate::{
    counters::{count, count_flow, count_packet, limits},
    ctx::PacketCtx,
    filter::mark,
    forward::Route,
    frontend::Choice,
    ip::Ip,
    maps::{BACKEND_LIVE, SNAT_CURSOR, Scratch},
    parse::Packet,
    settings::{self, now},
    verdict::{Step, Stop},
};

/// How many source ports are tried for a flow that needs another one. Each try is a look-up and an insert; with half of all ports taken,
/// one flow in 256 fails.
const PORT_TRIES: u32 = 8;

/// What becomes of the packets of one direction of a flow.
#[derive(Clone, Copy, Debug)]
pub struct Way<F: Ip> {
    /// The tuple to give them.
    pub to: Tuple<F>,
    /// The node stands in for the client, and sends them on itself.
    pub is_masqueraded: bool,
}

impl<F: Ip> Way<F> {
    #[inline(always)]
    fn of(flow: &Flow<F>) -> Self {
        Self { to: flow.tuple(), is_masqueraded: flow.owner.state().has(FlowState::MASQUERADED) }
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
    let is_masqueraded = core::hint::black_box(u32::from(flow.owner.state().has(FlowState::MASQUERADED)));
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
    Some(Way { to: flow.tuple(), is_masqueraded: is_masqueraded != 0 })
}

/// Finds the flow that a later fragment belongs to. Its state is left to the first fragments.
#[inline(always)]
pub fn find_for_fragment<F: Ip>(tuple: Tuple<F>, protocol: Protocol, side: Side, bytes: u32) -> Option<Way<F>> {
    let entry = F::flows().get_ptr(&FlowKey::new(tuple, protocol, side))?;
    // SAFETY: as in `find`.
    let flow = unsafe { core::ptr::read_volatile(entry) };
    count_packet(flow.owner.service(), bytes);
    Some(Way::of(&flow))
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
    let scratch = F::scratch().get_ptr_mut(0).ok_or(Stop::drop(Reason::FlowTableFull))?;
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

/// Leaves where a new flow goes in the scratch room, for [`start`] or [`start_masqueraded`], which other functions of the program call.
#[inline(always)]
pub fn leave_to_begin<F: Ip>(choice: &Choice<F>) -> Stop {
    match scratch::<F>() {
        Ok(scratch) => {
            scratch.backend = choice.backend;
            if choice.masquerade { Stop::STAND_IN } else { Stop::CHOSEN }
        }
        Err(stop) => stop,
    }
}

/// The backend that was chosen for a new flow.
#[inline(always)]
fn chosen<F: Ip>() -> Step<Backend<F>> {
    Ok(scratch::<F>()?.backend)
}

/// Whether a packet's sender is the backend that was chosen for it.
#[inline(always)]
pub fn is_to_itself<F: Ip>(packet: &Packet<F>) -> Step<bool> {
    Ok(chosen::<F>()?.addr == packet.tuple.src)
}

/// Leaves the tuple that a packet is to get in the scratch room for [`left`], which another function of the program calls.
#[inline(always)]
pub fn leave<F: Ip>(way: &Way<F>) -> Stop {
    match scratch::<F>() {
        Ok(scratch) => {
            scratch.flow = Flow::new(way.to, 0, BackendRef::NONE, ServiceId::NONE, FlowState::NEW);
            if way.is_masqueraded { Stop::SEND_ON } else { Stop::TRANSLATE }
        }
        Err(stop) => stop,
    }
}

/// The tuple that was left.
#[inline(always)]
pub fn left<F: Ip>() -> Step<Tuple<F>> {
    Ok(scratch::<F>()?.flow.tuple())
}

/// Records a new flow to the backend that was chosen for it.
///
/// A packet that breaks a connection off is translated without a record, and so is one in mid-stream when there are more new flows than may
/// be: its replies have an entry, or the connection is none.
#[inline(always)]
pub fn start<F: Ip>(packet: &Packet<F>) -> Step<Way<F>> {
    let (from, backend) = (packet.tuple, chosen::<F>()?);
    let mut to = Tuple { src: from.src, dst: backend.addr, src_port: from.src_port, dst_port: backend.port };
    let mut ports = PortChoice::anywhere(from.src_port);
    if backend.addr == from.src {
        // The pod itself: the node stands in as the client, or the pod's stack would answer itself without us (kube-proxy's hairpin rule).
        let source = any_source::<F>()?;
        ports = PortChoice::within(F::hash(&from, packet.protocol, settings::seed()), source.first_port, source.last_port);
        to.src = source.addr;
        to.src_port = ports.next();
        count(Reason::Hairpin);
    }
    let may_record = note_start(packet, backend.owner);
    if !packet.may_move() && (packet.flags.rst() || !may_record) {
        return Ok(Way { to, is_masqueraded: false });
    }
    if !may_record {
        return Err(Stop::drop(Reason::FlowsLimited));
    }
    let scratch = prepare(packet, &backend, to, FlowState::NEW)?;
    reserve(scratch, ports)?;
    record(scratch)
}

/// Records a new flow under the node's own address, by the way that the packets to its backend take. A backend on this node that is the node
/// itself, or the client, is left to [`start`]: the stack would not take packets from its own address.
#[inline(always)]
pub fn start_masqueraded<F: Ip, C: PacketCtx>(ctx: &C, packet: &Packet<F>) -> Step<Way<F>> {
    let backend = chosen::<F>()?;
    let is_here = !backend.flags.has(BackendFlags::ELSEWHERE);
    if is_here && backend.addr == packet.tuple.src {
        return Err(Stop::CHOSEN);
    }
    let otherwise = if is_here { Stop::CHOSEN } else { Stop::drop(Reason::NoRoute) };
    let source = source_for::<F, C>(ctx, backend.addr)?.ok_or(otherwise)?;
    if !note_start(packet, backend.owner) {
        return Err(Stop::drop(Reason::FlowsLimited));
    }
    let to = Tuple { src: source.addr, dst: backend.addr, src_port: packet.tuple.src_port, dst_port: backend.port };
    let scratch = prepare(packet, &backend, to, FlowState::MASQUERADED)?;
    reserve_at_node::<F, C>(ctx, scratch, packet, &source)?;
    // Looked up anew: another function may have written to it.
    record(self::scratch::<F>()?)
}

/// Counts the first packet of a flow, and says whether there may be one more flow.
#[inline(always)]
fn note_start<F: Ip>(packet: &Packet<F>, service: ServiceId) -> bool {
    count_packet(service, packet.len);
    if !packet.may_move() {
        count(Reason::Midstream);
    }
    may_start()
}

/// Puts the entry for the client's packets into the scratch room.
#[inline(always)]
fn prepare<F: Ip>(packet: &Packet<F>, backend: &Backend<F>, to: Tuple<F>, state: FlowState) -> Step<&'static mut Scratch<F>> {
    let state = if packet.may_move() { state } else { advance(packet, state) };
    let scratch = scratch::<F>()?;
    scratch.key = FlowKey::new(packet.tuple, packet.protocol, Side::Ingress);
    scratch.flow = Flow::new(to, now(), backend.reference, backend.owner, state);
    Ok(scratch)
}

/// Inserts the entry for the client's packets, that for the replies being there.
#[inline(always)]
fn record<F: Ip>(scratch: &Scratch<F>) -> Step<Way<F>> {
    if insert_new(&scratch.key, &scratch.flow) {
        count(Reason::NewFlow);
        count_flow(scratch.flow.owner.service());
        return Ok(Way::of(&scratch.flow));
    }
    // Another CPU recorded the flow a moment ago: what it chose counts.
    let first = F::flows().get_ptr(&scratch.key).ok_or(Stop::drop(Reason::FlowTableFull))?;
    // SAFETY: the entry stays readable while the program runs.
    Ok(Way::of(unsafe { &*first }))
}

/// Whether this CPU may begin one more flow in this second.
#[inline(always)]
fn may_start() -> bool {
    let Some(limits) = limits() else { return false };
    limits.flows += 1;
    limits.flows <= settings::new_flows()
}

/// What stands in for clients where the device does not matter.
#[inline(always)]
fn any_source<F: Ip>() -> Step<SnatSource<F>> {
    // The key has to lie on the stack: a constant's place is one that the loader does not fill in.
    let device = core::hint::black_box(ANY_DEVICE);
    // SAFETY: the daemon replaces an entry as a whole; what is read is copied before anything else happens.
    let source = *unsafe { F::snat().get(&device) }.ok_or(Stop::drop(Reason::NoSnatSource))?;
    if source.first_port == Port::from_host(0) { Err(Stop::drop(Reason::NoSnatSource)) } else { Ok(source) }
}

/// What stands in for a client on the way to a backend: the address that the kernel would choose on the device there. Nothing where the kernel
/// does not send anything on, as to the node itself.
#[inline(always)]
fn source_for<F: Ip, C: PacketCtx>(ctx: &C, backend: F::Addr) -> Step<Option<SnatSource<F>>> {
    /// Fits everywhere: whether the packet does, too, is asked when it is sent on. Of none the kernel would take the packet's own.
    const LEAST: u16 = 1;
    let any = any_source::<F>()?;
    match ctx.route::<F>(any.addr, backend, LEAST) {
        // SAFETY: as in `any_source`.
        Route::By(hop) => Ok(Some(unsafe { F::snat().get(&hop.ifindex) }.map_or(any, |source| *source))),
        Route::Here => Ok(None),
        Route::TooBig(_) | Route::Nowhere => Err(Stop::drop(Reason::NoRoute)),
    }
}

/// How often ports are looked for, [`PORTS_AT_ONCE`] each time.
const ROUNDS: u32 = 48;

/// Inserts the entry for the replies to the node, which stands in for the client, under a port that no other flow to the backend and no socket
/// of the node's has.
///
/// The first port to be tried depends on the flow, so that one whose entry was lost mostly finds its replies' again. The others are tried in
/// turn, from where the last search ended: ports are then taken again long after they were given up, and a search that finds none free, after
/// [`ROUNDS`] times [`PORTS_AT_ONCE`] of them, leaves the rest to the next one.
#[inline(always)]
fn reserve_at_node<F: Ip, C: PacketCtx>(ctx: &C, scratch: &mut Scratch<F>, packet: &Packet<F>, source: &SnatSource<F>) -> Step<()> {
    let mut ports = PortChoice::within(F::hash(&packet.tuple, packet.protocol, settings::seed()), source.first_port, source.last_port);
    scratch.flow.src_port = ports.next();
    scratch.reply_key = scratch.key.partner(&scratch.flow);
    scratch.reply = scratch.key.partner_flow(&scratch.flow, FlowState::REPLY.with(FlowState::MASQUERADED));
    count(Reason::Masqueraded);
    if belongs_to(scratch) || try_port(ctx, scratch) {
        return Ok(());
    }
    for _ in 0..ROUNDS {
        if ctx.take_port::<F>(ports.first, ports.count) {
            count(Reason::PortCollision);
            return Ok(());
        }
    }
    Err(Stop::drop(Reason::PortsExhausted))
}

/// Takes the port that stands in the scratch room, if it is free.
#[inline(always)]
fn try_port<F: Ip, C: PacketCtx>(ctx: &C, scratch: &Scratch<F>) -> bool {
    // Looked up first: an insert takes an entry from the LRU list before it finds that the key is there.
    if F::flows().get_ptr(&scratch.reply_key).is_some() || !insert_new(&scratch.reply_key, &scratch.reply) {
        return false;
    }
    let protocol = Protocol::from_wire(scratch.reply_key.protocol).unwrap_or(Protocol::Sctp);
    if !ctx.has_socket::<F>(&scratch.reply_key.tuple(), protocol) {
        return true;
    }
    _ = F::flows().remove(&scratch.reply_key);
    false
}

/// How many ports are tried at once: as many as the verifier has the patience for.
const PORTS_AT_ONCE: u32 = 4;

/// Takes a port out of `count` from `first` on for the flow in the scratch room, and says whether one of those that were tried was free.
#[inline(always)]
pub fn take_port<F: Ip, C: PacketCtx>(ctx: &C, first: u32, count: u32) -> bool {
    let (Ok(scratch), Some(cursor)) = (scratch::<F>(), SNAT_CURSOR.get_ptr_mut(0)) else { return false };
    // SAFETY: a word of the map. Other CPUs write it, too: at worst a port is tried twice.
    let mut at = unsafe { core::ptr::read_volatile(cursor) };
    let Some(count) = NonZeroU32::new(count) else { return false };
    let mut found = false;
    for _ in 0..PORTS_AT_ONCE {
        // The step and the number of ports have no divisor in common, so that every port has its turn.
        at = at.wrapping_add(PORT_STEP) % count;
        let port = Port::from_host((first + at) as u16);
        scratch.flow.src_port = port;
        scratch.reply_key.dst_port = port;
        if try_port(ctx, scratch) {
            found = true;
            break;
        }
    }
    // SAFETY: as above.
    unsafe { core::ptr::write_volatile(cursor, at) };
    found
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
    Err(Stop::drop(Reason::PortsExhausted))
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
        self.at = self.at.wrapping_add(PORT_STEP) & 0xffff;
        // Scaled into the range instead of divided: the verifier wants no remainder of an unknown number.
        Port::from_host((self.first + ((self.at * self.count) >> 16)) as u16)
    }
}
