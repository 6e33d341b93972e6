//! The pipelines: the stages in the order in which a packet goes through them, and nothing else.

use proxy_common::{Side, Tuple, reason::Reason};

use crate::{
    ctx::PacketCtx,
    filter::admit,
    flow,
    frontend::{self, Choice, Scope},
    ip::Ip,
    parse::{Packet, parse},
    refuse::refuse,
    translate::{has_begun_checksum, translate},
    verdict::{Step, Stop, Verdict},
};

/// A packet that enters the node: towards a service.
#[inline(always)]
pub fn to_backend<F: Ip, C: PacketCtx>(ctx: &mut C, scope: Scope) -> Step<Verdict> {
    let packet = parse::<F, C>(ctx)?;
    admit(&packet, Side::Ingress)?;
    if let Some(to) = flow::find(&packet, Side::Ingress) {
        return translate(ctx, &packet, &to);
    }
    match frontend::choose(&packet, scope)? {
        Choice::Backend(backend, service) => {
            let to = flow::start(&packet, &backend, service)?;
            translate(ctx, &packet, &to)
        }
        Choice::Refuse => refuse(ctx, &packet),
    }
}

/// A frame from outside, before tc: only what goes on to a backend is dealt with here. Everything else passes as it came, for tc: who has no
/// backends, who is to be dropped or sent back, and packets whose checksum is only begun, of which no more than tc knows. A drop says that
/// the frame is spoilt.
#[inline(always)]
pub fn early<F: Ip, C: PacketCtx>(ctx: &mut C) -> Step<Verdict> {
    let (packet, to) = early_way::<F, C>(ctx).ok_or(Stop::Pass(Reason::NoService))?;
    translate(ctx, &packet, &to).or(Err(Stop::Drop(Reason::RewriteFailed)))
}

#[inline(always)]
fn early_way<F: Ip, C: PacketCtx>(ctx: &C) -> Option<(Packet<F>, Tuple<F>)> {
    let packet = parse::<F, C>(ctx).ok()?;
    admit(&packet, Side::Ingress).ok()?;
    if has_begun_checksum(ctx, &packet).ok()? {
        return None;
    }
    let to = match flow::find(&packet, Side::Ingress) {
        Some(to) => to,
        None => start_early(&packet)?,
    };
    (to.dst != packet.tuple.src).then_some((packet, to))
}

#[inline(always)]
fn start_early<F: Ip>(packet: &Packet<F>) -> Option<Tuple<F>> {
    let Choice::Backend(backend, service) = frontend::choose(packet, Scope::External).ok()? else { return None };
    if backend.addr == packet.tuple.src {
        return None;
    }
    flow::start(packet, &backend, service).ok()
}

/// A packet that leaves the node: from a backend to a client.
#[inline(always)]
pub fn from_backend<F: Ip, C: PacketCtx>(ctx: &mut C) -> Step<Verdict> {
    let packet = parse::<F, C>(ctx)?;
    admit(&packet, Side::Egress)?;
    let to = flow::find(&packet, Side::Egress).ok_or(Stop::Pass(Reason::NoService))?;
    translate(ctx, &packet, &to)
}
