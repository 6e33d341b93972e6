//! Under which source address and port a flow goes on, so that its replies are told from all others.
//!
//! The entry for the replies is inserted here. Its key must be nobody else's: two flows of one client to two frontends of one backend would else
//! be answered as one. A client keeps its port wherever that is free.

use core::num::NonZeroU32;

use proxy_common::{ANY_DEVICE, FlowState, PORT_STEP, Port, Protocol, SnatSource, reason::Reason};

use crate::{
    counters::count,
    ctx::{PacketCtx, Route},
    flow::{forget_if_over, insert_new, scratch},
    ip::Ip,
    maps::{SNAT_CURSOR, Scratch},
    parse::Packet,
    settings,
    verdict::{End, Step},
};

/// How many source ports are tried for a flow that needs another one. Each try is a look-up and an insert; with half of all ports taken,
/// one flow in 256 fails.
const PORT_TRIES: u32 = 8;

/// What stands in for clients where the device does not matter.
#[inline(always)]
pub(crate) fn any_source<F: Ip>() -> Step<SnatSource<F>> {
    // The key has to lie on the stack: a constant's place is one that the loader does not fill in.
    let device = core::hint::black_box(ANY_DEVICE);
    // SAFETY: the daemon replaces an entry as a whole; what is read is copied before anything else happens.
    let source = *unsafe { F::snat().get(&device) }.ok_or(End::drop(Reason::NoSnatSource))?;
    if source.first_port == Port::from_host(0) { Err(End::drop(Reason::NoSnatSource)) } else { Ok(source) }
}

/// What stands in for a client on the way to a backend: the address that the kernel would choose on the device there. Nothing where the kernel
/// does not send anything on, as to the node itself.
#[inline(always)]
pub(crate) fn source_for<F: Ip, C: PacketCtx>(ctx: &C, backend: F::Addr) -> Step<Option<SnatSource<F>>> {
    /// Fits everywhere: whether the packet does, too, is asked when it is sent on. Of none the kernel would take the packet's own.
    const LEAST: u16 = 1;
    let any = any_source::<F>()?;
    match ctx.route::<F>(any.addr, backend, LEAST) {
        // SAFETY: as in `any_source`.
        Route::By(hop) => Ok(Some(unsafe { F::snat().get(&hop.ifindex) }.map_or(any, |source| *source))),
        Route::Here => Ok(None),
        Route::TooBig(_) | Route::Nowhere => Err(End::drop(Reason::NoRoute)),
    }
}

/// How often ports are looked for, [`PORTS_AT_ONCE`] each time.
const ROUNDS: u32 = 32;
/// How many ports are tried at once.
const PORTS_AT_ONCE: u32 = 16;

/// Inserts the entry for the replies to the node, which stands in for the client, under a port that no other flow to the backend and no socket
/// of the node's has.
///
/// The first port to be tried depends on the flow, so that one whose entry was lost mostly finds its replies' again. The others are tried in
/// turn, from where the last search ended: ports are then taken again long after they were given up, and a search that finds none, after
/// [`ROUNDS`] times [`PORTS_AT_ONCE`] of them, leaves the rest to the next one. In its second half it also takes those of connections that are
/// over: not before, for the backend may still remember them (TIME-WAIT) and take another client's for theirs.
#[inline(always)]
pub(crate) fn reserve_at_node<F: Ip, C: PacketCtx>(ctx: &C, packet: &Packet<F>, source: &SnatSource<F>) -> Step<()> {
    let mut ports = PortChoice::of(source, packet.tuple.src_port, F::hash(&packet.tuple, packet.protocol, settings::seed()));
    let scratch = scratch::<F>()?;
    scratch.flow.src_port = ports.next();
    scratch.reply_key = scratch.key.partner(&scratch.flow);
    scratch.reply = scratch.key.partner_flow(&scratch.flow, FlowState::REPLY.with(FlowState::MASQUERADED));
    let has_port = is_own(scratch);
    if packet.flags.rst() && !has_port {
        // It breaks off what nobody knows.
        return Err(End::drop(Reason::Unanswered));
    }
    count(Reason::Masqueraded);
    if has_port || ctx.try_node_port::<F>(false) {
        return Ok(());
    }
    for round in 0..ROUNDS {
        if ctx.take_node_port::<F>(ports.first, ports.count, round >= ROUNDS / 2) {
            count(Reason::PortCollision);
            return Ok(());
        }
    }
    Err(End::drop(Reason::PortsExhausted))
}

/// Takes the port of the node that stands in the scratch room, if it is free, or if that is enough, its connection is over.
#[inline(always)]
pub(crate) fn try_node_port<F: Ip, C: PacketCtx>(ctx: &C, if_over: bool) -> bool {
    let Ok(scratch) = scratch::<F>() else { return false };
    // Looked up first: an insert takes an entry from the LRU list before it finds that the key is there.
    if F::flows().get_ptr(&scratch.reply_key).is_some() && !(if_over && put_away(scratch)) {
        return false;
    }
    let protocol = Protocol::from_wire(scratch.reply_key.protocol).unwrap_or(Protocol::Sctp);
    // Before the entry is there: what comes for the socket meanwhile would be taken for the flow's.
    !ctx.has_socket::<F>(&scratch.reply_key.tuple(), protocol) && insert_new(&scratch.reply_key, &scratch.reply)
}

/// Takes a port of the node out of `count` from `first` on for the flow in the scratch room, and says whether one of those that were tried was
/// free.
#[inline(always)]
pub(crate) fn take_node_port<F: Ip, C: PacketCtx>(ctx: &C, first: u32, count: u32, if_over: bool) -> bool {
    let (Some(cursor), Some(count)) = (SNAT_CURSOR.get_ptr_mut(0), NonZeroU32::new(count)) else { return false };
    // SAFETY: a word of the map. Other CPUs write it, too: at worst a port is tried twice.
    let mut at = unsafe { core::ptr::read_volatile(cursor) };
    let mut found = false;
    for _ in 0..PORTS_AT_ONCE {
        // The step and the number of ports have no divisor in common, so that every port has its turn.
        at = at.wrapping_add(PORT_STEP) % count;
        found = set_port::<F>(Port::from_host((first + at) as u16)) && ctx.try_node_port::<F>(if_over);
        if found {
            break;
        }
    }
    // SAFETY: as above.
    unsafe { core::ptr::write_volatile(cursor, at) };
    found
}

/// Gives the flow in the scratch room another source port.
#[inline(always)]
fn set_port<F: Ip>(port: Port) -> bool {
    let Ok(scratch) = scratch::<F>() else { return false };
    scratch.flow.src_port = port;
    scratch.reply_key.dst_port = port;
    true
}

/// Inserts the entry for the replies of the flow in the scratch room, whose client keeps its address. Where its port is not free for that, the
/// flow gets another one.
#[inline(always)]
pub(crate) fn reserve<F: Ip>(mut ports: PortChoice) -> Step<()> {
    let scratch = scratch::<F>()?;
    scratch.reply_key = scratch.key.partner(&scratch.flow);
    scratch.reply = scratch.key.partner_flow(&scratch.flow, FlowState::REPLY);
    if insert_new(&scratch.reply_key, &scratch.reply) || belongs_to(scratch) {
        return Ok(());
    }
    for _ in 0..PORT_TRIES {
        if F::try_port(ports.next()) {
            return Ok(());
        }
    }
    Err(End::drop(Reason::PortsExhausted))
}

/// Takes a source port for the flow in the scratch room, if it is free or the flow's already.
#[inline(always)]
pub(crate) fn try_port<F: Ip>(port: Port) -> bool {
    let Ok(scratch) = scratch::<F>() else { return false };
    scratch.flow.src_port = port;
    scratch.reply_key.dst_port = port;
    if insert_new(&scratch.reply_key, &scratch.reply) {
        count(Reason::PortCollision);
        return true;
    }
    is_own(scratch)
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
fn belongs_to<F: Ip>(scratch: &Scratch<F>) -> bool {
    is_own(scratch) || put_away(scratch) && insert_new(&scratch.reply_key, &scratch.reply)
}

/// Removes the flow that holds the reply entry, if it is over.
#[inline(always)]
fn put_away<F: Ip>(scratch: &Scratch<F>) -> bool {
    let Some(held) = F::flows().get_ptr(&scratch.reply_key) else { return false };
    // SAFETY: the entry stays readable while the program runs.
    forget_if_over(&scratch.reply_key, unsafe { &*held })
}

/// A walk through a range of source ports from a start that depends on the flow.
#[derive(Clone, Copy)]
pub(crate) struct PortChoice {
    first: u32,
    count: u32,
    at: u32,
}

impl PortChoice {
    /// A walk through `first..=last`.
    #[inline(always)]
    pub(crate) fn within(start: u32, first: Port, last: Port) -> Self {
        let first = u32::from(first.to_host());
        let count = (u32::from(last.to_host()) + 1).saturating_sub(first);
        Self { first, count, at: start & 0xffff }
    }

    /// A walk through the ports of what stands in for a client.
    ///
    /// In the place of a port that only a privileged process may have there is another such, for some servers ask for that (NFS, unless an export
    /// is `insecure`). The kernel's ranges are the same (its `nf_nat_l4proto_unique_tuple`).
    #[inline(always)]
    fn of<F: Ip>(source: &SnatSource<F>, client: Port, start: u32) -> Self {
        // Computed, without any branch: the verifier would follow each range to the end.
        let below = |limit: u32| core::hint::black_box(0_u32.wrapping_sub(u32::from(client.to_host()).wrapping_sub(limit) >> 31));
        let (low, privileged) = (below(512), below(1024));
        let port = |low_port: u32, other: u32, rest: Port| {
            (low_port & low) | (other & privileged & !low) | (u32::from(rest.to_host()) & !privileged)
        };
        let (first, last) = (port(1, 600, source.first_port), port(511, 1023, source.last_port));
        Self::within(start, Port::from_host(first as u16), Port::from_host(last as u16))
    }

    /// A walk through all ports that need no privilege, for a client whose address is kept.
    #[inline(always)]
    pub(crate) fn anywhere(start: Port) -> Self {
        Self { first: 1024, count: 65_536 - 1024, at: u32::from(start.to_host()) }
    }

    #[inline(always)]
    pub(crate) fn next(&mut self) -> Port {
        self.at = self.at.wrapping_add(PORT_STEP) & 0xffff;
        // Scaled into the range instead of divided: the verifier wants no remainder of an unknown number.
        Port::from_host((self.first + ((self.at * self.count) >> 16)) as u16)
    }
}
