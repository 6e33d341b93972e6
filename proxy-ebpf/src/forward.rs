//! Sending packets on past the stack, which would take those for forged that have its own address as their source.
//!
//! The node does what a router does: it asks the kernel's routing tables for the next device and hop, tells the sender of packets that are too
//! large for that device or have come too far, and leaves the hop's hardware address to the kernel.

use proxy_common::{Tuple, reason::Reason};

use crate::{
    ctx::{Hop, PacketCtx, Route},
    flow,
    ip::Ip,
    parse::parse_first,
    translate::translate,
    verdict::{End, News, Step, Verdict},
};

/// Translates a packet to the tuple that lies in the scratch room, and sends it on.
#[inline(always)]
pub fn send_on<F: Ip, C: PacketCtx>(ctx: &mut C) -> Step<Verdict> {
    let packet = parse_first::<F, C>(ctx)?;
    let to = flow::left::<F>()?;
    let hop = next_hop::<F, C>(ctx, &to, ctx.segment_len(packet.l4, packet.end, packet.protocol)?)?;
    translate(ctx, &packet, &to)?;
    leave::<F, C>(ctx, &hop)
}

/// Finds the next hop for a packet that will have this tuple, of which a segment has `len` bytes from the network header on.
#[inline(always)]
pub fn next_hop<F: Ip, C: PacketCtx>(ctx: &C, to: &Tuple<F>, len: u16) -> Step<Hop> {
    if F::hops_left(ctx)? <= 1 {
        return Err(End::tell(News::TimeExceeded));
    }
    match ctx.route::<F>(to.src, to.dst, len) {
        Route::By(hop) => Ok(hop),
        Route::TooBig(fits) => Err(End::tell(News::TooBig(fits))),
        Route::Here | Route::Nowhere => Err(End::drop(Reason::NoRoute)),
    }
}

/// Sends a translated packet to its next hop.
#[inline(always)]
pub fn leave<F: Ip, C: PacketCtx>(ctx: &mut C, hop: &Hop) -> Step<Verdict> {
    F::take_hop(ctx)?;
    ctx.send_on(hop)?;
    Ok(Verdict::SendOn)
}
