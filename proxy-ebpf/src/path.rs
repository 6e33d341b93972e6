//! The pipelines: the stages in the order in which a packet goes through them, and nothing else.

use proxy_common::{Side, reason::Reason};

use crate::{
    ctx::PacketCtx,
    flow,
    frontend::{self, Choice, Scope},
    ip::Ip,
    parse::parse,
    refuse::refuse,
    translate::translate,
    verdict::{Step, Stop, Verdict},
};

/// A packet that enters the node: towards a service.
#[inline(always)]
pub fn to_backend<F: Ip, C: PacketCtx>(ctx: &mut C, scope: Scope) -> Step<Verdict> {
    let packet = parse::<F, C>(ctx)?;
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

/// A packet that leaves the node: from a backend to a client.
#[inline(always)]
pub fn from_backend<F: Ip, C: PacketCtx>(ctx: &mut C) -> Step<Verdict> {
    let packet = parse::<F, C>(ctx)?;
    let to = flow::find(&packet, Side::Egress).ok_or(Stop::Pass(Reason::NoService))?;
    translate(ctx, &packet, &to)
}
