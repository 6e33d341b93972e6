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
    verdict::{End, Step, Verdict},
};

/// A frame from outside the node.
#[xdp]
pub(crate) fn uplink_xdp(ctx: XdpContext) -> u32 {
    // SAFETY: the context that the kernel gave to the program.
    match unsafe { XdpCtx::new(ctx.ctx) }.ethertype() {
        Ok(V4::ETHERTYPE) => walked::<V4>(ctx.ctx),
        Ok(V6::ETHERTYPE) => walked::<V6>(ctx.ctx),
        _ => xdp_action::XDP_PASS,
    }
}

/// The way of one family's frames.
#[inline(always)]
fn walked<F: Ip>(xdp: *mut xdp_md) -> u32 {
    let mut end = End(walk::<F>(xdp));
    if end == End::UNKNOWN {
        end = End(choose::<F>(xdp));
    }
    if end == End::CHOSEN {
        end = End(begin::<F>(xdp));
    }
    if end == End::TRANSLATED {
        count(Reason::XdpTranslated);
        // SAFETY: the context that the kernel gave to the program.
        unsafe { XdpCtx::new(xdp) }.mark();
    } else if end == End::drop(Reason::RewriteFailed) {
        count(Reason::RewriteFailed);
        return xdp_action::XDP_DROP;
    }
    xdp_action::XDP_PASS
}

// Functions of their own, as in tc.

#[inline(never)]
fn walk<F: Ip>(xdp: *mut xdp_md) -> u32 {
    with_frame(xdp, |ctx| path::early::<F, _>(ctx))
}

#[inline(never)]
fn choose<F: Ip>(xdp: *mut xdp_md) -> u32 {
    with_frame(xdp, |ctx| Err(path::choose_early::<F, _>(ctx)))
}

#[inline(never)]
fn begin<F: Ip>(xdp: *mut xdp_md) -> u32 {
    with_frame(xdp, |ctx| path::begin_early::<F, _>(ctx))
}

#[inline(always)]
fn with_frame(xdp: *mut xdp_md, work: impl FnOnce(&mut XdpCtx) -> Step<Verdict>) -> u32 {
    // The compiler would have the caller read the frame's bounds and hand them over, which the verifier takes for numbers then.
    let xdp = core::hint::black_box(xdp);
    // SAFETY: the context that the kernel gave to the program.
    End::new(work(&mut unsafe { XdpCtx::new(xdp) })).0
}
