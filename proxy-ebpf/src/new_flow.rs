//! New flows: each goes to the backend that was chosen for it, and is recorded for either direction before its first packet goes on.

use proxy_common::{Backend, BackendFlags, Flow, FlowKey, FlowState, ServiceId, Side, Tuple, reason::Reason};

use crate::{
    counters::{count, count_flow, count_packet},
    ctx::PacketCtx,
    flow::{Way, advance, insert_new, may_start, scratch},
    frontend::Choice,
    ip::Ip,
    maps::Scratch,
    parse::Packet,
    settings::{self, now},
    snat::{PortChoice, any_source, reserve, reserve_at_node, source_for},
    verdict::{End, Step},
};

/// Leaves where a new flow goes in the scratch room, for [`start`] or [`start_masqueraded`], which other functions of the program call.
#[inline(always)]
pub fn leave<F: Ip>(choice: &Choice<F>) -> End {
    match scratch::<F>() {
        Ok(scratch) => {
            scratch.backend = choice.backend;
            if choice.masquerade { End::STAND_IN } else { End::CHOSEN }
        }
        Err(end) => end,
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
        return Ok(Way::common(to, backend.owner));
    }
    if !may_record {
        return Err(End::drop(Reason::FlowsLimited));
    }
    prepare(packet, &backend, to, FlowState::NEW)?;
    reserve::<F>(ports)?;
    record(scratch::<F>()?)
}

/// Records a new flow under the node's own address, by the way that the packets to its backend take. A backend on this node that is the node
/// itself, or the client, is left to [`start`]: the stack would not take packets from its own address.
#[inline(always)]
pub fn start_masqueraded<F: Ip, C: PacketCtx>(ctx: &C, packet: &Packet<F>) -> Step<Way<F>> {
    let backend = chosen::<F>()?;
    let is_here = !backend.flags.has(BackendFlags::ELSEWHERE);
    if is_here && backend.addr == packet.tuple.src {
        return Err(End::CHOSEN);
    }
    let otherwise = if is_here { End::CHOSEN } else { End::drop(Reason::NoRoute) };
    let source = source_for::<F, C>(ctx, backend.addr)?.ok_or(otherwise)?;
    if !note_start(packet, backend.owner) {
        return Err(End::drop(Reason::FlowsLimited));
    }
    let to = Tuple { src: source.addr, dst: backend.addr, src_port: packet.tuple.src_port, dst_port: backend.port };
    prepare(packet, &backend, to, FlowState::MASQUERADED)?;
    reserve_at_node::<F, C>(ctx, packet, &source)?;
    record(scratch::<F>()?)
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
fn prepare<F: Ip>(packet: &Packet<F>, backend: &Backend<F>, to: Tuple<F>, state: FlowState) -> Step<()> {
    let state = if packet.may_move() { state } else { advance(packet, state, false) };
    let scratch = scratch::<F>()?;
    scratch.key = FlowKey::new(packet.tuple, packet.protocol, Side::Ingress);
    scratch.flow = Flow::new(to, now(), backend.reference, backend.owner, state);
    Ok(())
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
    let first = F::flows().get_ptr(&scratch.key).ok_or(End::drop(Reason::FlowTableFull))?;
    // SAFETY: the entry stays readable while the program runs.
    Ok(Way::of(unsafe { &*first }))
}
