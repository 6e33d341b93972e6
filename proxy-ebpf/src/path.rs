//! The pipelines: the stages in the order in which a packet goes through them, and nothing else.
//!
//! A hook has a short one for packets of known flows, which are nearly all. What else there is to do has others: a new flow is [chosen](choose) a
//! backend and then [begun](begin), or begun [under the node's address](stand_in); its packet is [translated](translate_left), or
//! [sent on](crate::forward::send_on); and what is not common goes [aside]. Each is a function of the program by itself, so that the verifier
//! follows one after the other and none has all values on its stack. What one finds out for the next lies in the scratch room.

use proxy_common::{Protocol, Side, reason::Reason};

use crate::{
    counters::count_packet,
    ctx::PacketCtx,
    filter::admits,
    flow::{self, Way},
    forward::{leave, next_hop},
    fragment,
    frontend::{self, Choice, Scope},
    icmp,
    ip::{Ip, L3, Piece},
    new_flow,
    parse::{Packet, parse, parse_first, parse_l4},
    translate::{has_begun_checksum, translate, translate_later},
    undefined::{is_cluster_ip, judge, nobody},
    verdict::{End, Step, Verdict},
};

/// A packet that enters the node: towards a service, or back to a client that the node stands in for.
#[inline(always)]
pub fn to_backend<F: Ip, C: PacketCtx>(ctx: &mut C) -> Step<Verdict> {
    let packet = parse::<F, C>(ctx)?;
    if !admits(&packet, Side::Ingress) {
        return Err(nobody::<F>(packet.tuple.dst));
    }
    let way = flow::find(&packet, Side::Ingress).ok_or(End::UNKNOWN)?;
    go(ctx, &packet, &way, Side::Ingress)
}

/// A packet that leaves the node: from a backend to a client.
#[inline(always)]
pub fn from_backend<F: Ip, C: PacketCtx>(ctx: &mut C) -> Step<Verdict> {
    let packet = parse::<F, C>(ctx)?;
    if !admits(&packet, Side::Egress) {
        return Err(End::pass(Reason::NoService));
    }
    let way = flow::find(&packet, Side::Egress).ok_or_else(|| stranger(&packet))?;
    go(ctx, &packet, &way, Side::Egress)
}

/// What becomes of a packet of no known flow that leaves the node: only one with a frontend's address and port as its source is asked any more.
#[inline(always)]
fn stranger<F: Ip>(packet: &Packet<F>) -> End {
    if frontend::is_one(&packet.tuple.reversed(), packet.protocol) { End::UNKNOWN } else { End::pass(Reason::NoService) }
}

/// Gives a packet of a known flow its way.
#[inline(always)]
fn go<F: Ip, C: PacketCtx>(ctx: &mut C, packet: &Packet<F>, way: &Way<F>, side: Side) -> Step<Verdict> {
    if way.is_foreign() {
        return Err(flow::leave_alone(packet, side));
    }
    count_packet(way.service, packet.len);
    if way.is_masqueraded() { Err(flow::leave(way)) } else { translate(ctx, packet, &way.to) }
}

/// The same of a rare packet, which other functions of the program translate or send on.
#[inline(always)]
fn go_on<F: Ip>(packet: &Packet<F>, way: &Way<F>, side: Side) -> End {
    if way.is_foreign() {
        return flow::leave_alone(packet, side);
    }
    count_packet(way.service, packet.len);
    flow::leave(way)
}

/// Gives a packet the tuple that was left for it.
#[inline(always)]
pub fn translate_left<F: Ip, C: PacketCtx>(ctx: &mut C) -> Step<Verdict> {
    let packet = parse_first::<F, C>(ctx)?;
    translate(ctx, &packet, &flow::left()?)
}

/// Finds out where a packet of no known flow goes: it ends here, or a flow is to begin.
#[inline(always)]
pub fn choose<F: Ip, C: PacketCtx>(ctx: &C, scope: Scope) -> End {
    chosen(ctx, parse_first::<F, C>(ctx), scope)
}

#[inline(always)]
fn chosen<F: Ip, C: PacketCtx>(ctx: &C, packet: Step<Packet<F>>, scope: Scope) -> End {
    let packet = match packet {
        Ok(packet) => packet,
        Err(end) => return end,
    };
    let Some(frontend) = frontend::find(&packet.tuple, packet.protocol) else {
        if flow::would_be_mistaken(&packet) {
            return new_flow::leave(&Choice::direct(&packet));
        }
        return judge::<F>(packet.tuple.dst, packet.may_move(), Reason::NoService);
    };
    if scope == Scope::Internal {
        ctx.learn_pod();
    }
    match frontend::choose(ctx, &packet, frontend, scope) {
        Ok(choice) => new_flow::leave(&choice),
        Err(end) => end,
    }
}

/// Records a flow that leaves the node under a frontend's address and port, and is none of a Service's.
#[inline(always)]
pub fn note_foreign<F: Ip, C: PacketCtx>(ctx: &C) -> End {
    match parse_first::<F, C>(ctx) {
        Ok(packet) => flow::note_foreign(&packet),
        Err(end) => end,
    }
}

/// Begins a flow.
#[inline(always)]
pub fn begin<F: Ip, C: PacketCtx>(ctx: &C) -> End {
    match parse_first::<F, C>(ctx).and_then(|packet| new_flow::start(&packet)) {
        Ok(way) => flow::leave(&way),
        Err(end) => end,
    }
}

/// Begins a flow whose client the node stands in for.
#[inline(always)]
pub fn stand_in<F: Ip, C: PacketCtx>(ctx: &C) -> End {
    match parse_first::<F, C>(ctx).and_then(|packet| new_flow::start_masqueraded(ctx, &packet)) {
        Ok(way) => flow::leave(&way),
        Err(end) => end,
    }
}

/// A frame from outside, before tc: only what goes on to a backend of this node is dealt with here. Everything else passes as it came, for tc:
/// who has no backends or has them elsewhere, who is to be dropped or sent back, fragments, and packets whose checksum is only begun, of which no
/// more than tc knows. A drop says that the frame is spoilt.
#[inline(always)]
pub fn early<F: Ip, C: PacketCtx>(ctx: &mut C) -> Step<Verdict> {
    let packet = parse::<F, C>(ctx)?;
    if !admits(&packet, Side::Ingress) {
        return Err(End::pass(Reason::NoService));
    }
    if has_begun_checksum(ctx, &packet)? {
        return Err(End::pass(Reason::NoService));
    }
    let way = flow::find(&packet, Side::Ingress).ok_or(End::UNKNOWN)?;
    if is_for_tc(&packet, &way) {
        return Err(End::pass(Reason::NoService));
    }
    count_packet(way.service, packet.len);
    translate_early(ctx, &packet, &way)
}

/// Finds out where such a frame of no known flow goes.
#[inline(always)]
pub fn choose_early<F: Ip, C: PacketCtx>(ctx: &C) -> End {
    chosen(ctx, parse::<F, C>(ctx), Scope::External)
}

/// Begins a flow of such frames.
#[inline(always)]
pub fn begin_early<F: Ip, C: PacketCtx>(ctx: &mut C) -> Step<Verdict> {
    let packet = parse::<F, C>(ctx)?;
    if new_flow::is_to_itself(&packet)? {
        return Err(End::pass(Reason::NoService));
    }
    let way = new_flow::start(&packet)?;
    if is_for_tc(&packet, &way) {
        return Err(End::pass(Reason::NoService));
    }
    translate_early(ctx, &packet, &way)
}

/// Whether XDP can do nothing for a packet: it sends nothing on by itself, nor back.
#[inline(always)]
fn is_for_tc<F: Ip>(packet: &Packet<F>, way: &Way<F>) -> bool {
    !way.is_common() || way.to.dst == packet.tuple.src
}

#[inline(always)]
fn translate_early<F: Ip, C: PacketCtx>(ctx: &mut C, packet: &Packet<F>, way: &Way<F>) -> Step<Verdict> {
    translate(ctx, packet, &way.to).or(Err(End::drop(Reason::RewriteFailed)))
}

/// What has no ports, or what a common packet has not. A later fragment has its way here; the rest goes on in one of the two pipelines below.
#[inline(always)]
pub fn aside<F: Ip, C: PacketCtx>(ctx: &mut C, side: Side) -> Step<Verdict> {
    let l3 = F::read_l3(ctx)?;
    match l3.piece {
        Piece::Later(id) => follow(ctx, &l3, id, side),
        Piece::First(id) => {
            let packet = parse_l4::<F, C>(ctx, &l3).or(Err(End::pass(Reason::Fragment)))?;
            if admits(&packet, side) {
                fragment::note(&packet, id);
            }
            Err(End::RARE)
        }
        Piece::Whole if Protocol::from_wire(l3.protocol).is_some() => Err(End::RARE),
        Piece::Whole => Err(End::RELATED),
    }
}

/// A rare kind of packet with ports that enters the node: SCTP, the first fragment of a datagram, or one to what no Service defines.
#[inline(always)]
pub fn rare_to_backend<F: Ip, C: PacketCtx>(ctx: &C) -> Step<Verdict> {
    let packet = parse_first::<F, C>(ctx)?;
    if !admits(&packet, Side::Ingress) {
        return Err(judge::<F>(packet.tuple.dst, packet.may_move(), Reason::NoService));
    }
    let way = flow::find(&packet, Side::Ingress).ok_or(End::UNKNOWN)?;
    Err(go_on(&packet, &way, Side::Ingress))
}

/// The same that leaves the node.
#[inline(always)]
pub fn rare_from_backend<F: Ip, C: PacketCtx>(ctx: &C) -> Step<Verdict> {
    let packet = parse_first::<F, C>(ctx)?;
    if !admits(&packet, Side::Egress) {
        return Err(End::pass(Reason::NoService));
    }
    let way = flow::find(&packet, Side::Egress).ok_or_else(|| stranger(&packet))?;
    Err(go_on(&packet, &way, Side::Egress))
}

/// A packet without ports: an error about one of a flow; or, where packets enter the node, one to a ClusterIP, which has nothing but ports.
#[inline(always)]
pub fn related<F: Ip, C: PacketCtx>(ctx: &mut C, side: Side) -> Step<Verdict> {
    let l3 = F::read_fixed(ctx, ctx.l3())?;
    // Asked here, for the verifier does not take it afterwards.
    let begins = icmp::begins(ctx, &l3);
    if let Some(done) = icmp::translate_error(ctx, &l3, side) {
        return done;
    }
    match side {
        Side::Ingress => Err(judge::<F>(l3.dst, begins, Reason::OtherProtocol)),
        Side::Egress => Err(End::pass(Reason::OtherProtocol)),
    }
}

/// Has a later fragment follow the first one, if that has been seen and is a flow's.
#[inline(always)]
fn follow<F: Ip, C: PacketCtx>(ctx: &mut C, l3: &L3<F>, id: u32, side: Side) -> Step<Verdict> {
    let is_lost = side == Side::Ingress && is_cluster_ip::<F>(l3.dst);
    let lost = if is_lost { End::drop(Reason::FragmentLost) } else { End::pass(Reason::Fragment) };
    let protocol = Protocol::from_wire(l3.protocol).ok_or(lost)?;
    let tuple = fragment::tuple(l3, id).ok_or(lost)?;
    let way = flow::find_for_fragment(tuple, protocol, side).ok_or(lost)?;
    if way.is_foreign() {
        return Err(End::pass(Reason::Foreign));
    }
    count_packet(way.service, ctx.len());
    if way.is_common() {
        return translate_later(ctx, &tuple, &way.to);
    }
    let len = l3.end.wrapping_sub(ctx.l3()) as u16;
    let hop = next_hop::<F, C>(ctx, &way.to, len)?;
    translate_later(ctx, &tuple, &way.to)?;
    leave::<F, C>(ctx, &hop)
}
