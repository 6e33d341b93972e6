//! The XDP program of uplinks: what goes to a backend is translated before the kernel makes a socket buffer of it.
//!
//! It goes up the stack like any other packet, marked so that tc leaves it alone. Everything else goes up as it came and is not counted:
//! tc decides about it.

use aya_ebpf::{
    bindings::{xdp_action, xdp_md},
    macros::xdp,
    programs::XdpContext,
};
use proxy_common::{V4, V6, reason::Reason};
use proxy_ebpf::{
    counters::count,
    ctx::XdpCtx,
    ip::Ip,
    path,
    verdict::{Stop, Verdict},
};

/// A frame from outside the node.
#[xdp]
pub(crate) fn uplink_xdp(ctx: XdpContext) -> u32 {
    // SAFETY: the context that the kernel gave to the program.
    match unsafe { XdpCtx::new(ctx.ctx) }.ethertype() {
        Ok(V4::ETHERTYPE) => walk::<V4>(ctx.ctx),
        Ok(V6::ETHERTYPE) => walk::<V6>(ctx.ctx),
        _ => xdp_action::XDP_PASS,
    }
}

/// The way of one family's frames. A function of its own for the sake of the stack, as in tc.
#[inline(never)]
fn walk<F: Ip>(xdp: *mut xdp_md) -> u32 {
    // SAFETY: the context that the kernel gave to the program.
    let mut ctx = unsafe { XdpCtx::new(xdp) };
    match path::early::<F, _>(&mut ctx) {
        Ok(Verdict::Continue) => {
            count(Reason::XdpTranslated);
            ctx.mark();
            xdp_action::XDP_PASS
        }
        Err(Stop::Drop(reason)) => {
            count(reason);
            xdp_action::XDP_DROP
        }
        Ok(Verdict::Reflect) | Err(Stop::Pass(_)) => xdp_action::XDP_PASS,
    }
}
