//! The programs: drivers and floors, for tc and for XDP.

use aya_ebpf::{
    bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC, xdp_action},
    helpers::generated::{bpf_xdp_adjust_head, bpf_xdp_adjust_meta},
    macros::{classifier, xdp},
    programs::{TcContext, XdpContext},
};

use crate::{
    drive,
    floor::{self, Seen, V4, V6},
    frame::Frame,
    maps::BENCH_SLOT,
};

/// Makes a packet and runs the program in the slot. Drops it where that fails.
#[classifier]
pub(crate) fn drive_tc(ctx: TcContext) -> i32 {
    // SAFETY: the context is the kernel's own.
    unsafe { (*ctx.skb.skb).mark = 0 };
    if drive::restore(tc(&ctx)).is_some() {
        // SAFETY: the slot holds a program of this type, and nothing here waits to be dropped.
        unsafe { BENCH_SLOT.tail_call(&ctx, 0) };
    }
    TC_ACT_SHOT
}

/// Makes a frame and runs the program in the slot. Aborts where that fails.
#[xdp]
pub(crate) fn drive_xdp(ctx: XdpContext) -> u32 {
    if is_bare(&ctx) && drive::restore(xdp(&ctx)).is_some() {
        // SAFETY: as in `drive_tc`.
        unsafe { BENCH_SLOT.tail_call(&ctx, 0) };
    }
    xdp_action::XDP_ABORTED
}

/// Takes away what the last program has put before the frame, and says whether that went well.
///
/// What is there for tc is taken away by a call in any case, so that a program which puts something there has no more of a driver's time
/// than one that does not.
#[inline(always)]
fn is_bare(ctx: &XdpContext) -> bool {
    let grown = (ctx.data_end() - ctx.data()) as i32 - drive::length() as i32;
    // SAFETY: the context is the kernel's own, and no pointer into the frame is held here.
    if grown != 0 && unsafe { bpf_xdp_adjust_head(ctx.ctx, grown) } != 0 {
        return false;
    }
    let before = (ctx.data() - ctx.metadata()) as i32;
    // SAFETY: as above.
    unsafe { bpf_xdp_adjust_meta(ctx.ctx, before) == 0 }
}

/// Nothing at all.
#[classifier]
pub(crate) fn empty_tc(_: TcContext) -> i32 {
    TC_ACT_UNSPEC
}

/// Nothing at all.
#[xdp]
pub(crate) fn empty_xdp(_: XdpContext) -> u32 {
    xdp_action::XDP_PASS
}

/// Reads the headers.
#[classifier]
pub(crate) fn parse_tc_v4(ctx: TcContext) -> i32 {
    to_tc(floor::parse::<V4>(tc(&ctx)))
}

/// The same for IPv6.
#[classifier]
pub(crate) fn parse_tc_v6(ctx: TcContext) -> i32 {
    to_tc(floor::parse::<V6>(tc(&ctx)))
}

/// Reads the headers.
#[xdp]
pub(crate) fn parse_xdp_v4(ctx: XdpContext) -> u32 {
    to_xdp(floor::parse::<V4>(xdp(&ctx)))
}

/// The same for IPv6.
#[xdp]
pub(crate) fn parse_xdp_v6(ctx: XdpContext) -> u32 {
    to_xdp(floor::parse::<V6>(xdp(&ctx)))
}

/// Reads the headers, finds the flow or records it, and rewrites.
#[classifier]
pub(crate) fn nat_tc_v4(ctx: TcContext) -> i32 {
    to_tc(floor::nat::<V4>(tc(&ctx)))
}

/// The same for IPv6.
#[classifier]
pub(crate) fn nat_tc_v6(ctx: TcContext) -> i32 {
    to_tc(floor::nat::<V6>(tc(&ctx)))
}

/// Reads the headers, finds the flow or records it, and rewrites.
#[xdp]
pub(crate) fn nat_xdp_v4(ctx: XdpContext) -> u32 {
    to_xdp(floor::nat::<V4>(xdp(&ctx)))
}

/// The same for IPv6.
#[xdp]
pub(crate) fn nat_xdp_v6(ctx: XdpContext) -> u32 {
    to_xdp(floor::nat::<V6>(xdp(&ctx)))
}

#[inline(always)]
fn tc(ctx: &TcContext) -> Frame {
    Frame { start: ctx.data(), end: ctx.data_end() }
}

#[inline(always)]
fn xdp(ctx: &XdpContext) -> Frame {
    Frame { start: ctx.data(), end: ctx.data_end() }
}

#[inline(always)]
fn to_tc(seen: Seen) -> i32 {
    if seen == Seen::Good { TC_ACT_UNSPEC } else { TC_ACT_SHOT }
}

#[inline(always)]
fn to_xdp(seen: Seen) -> u32 {
    if seen == Seen::Good { xdp_action::XDP_PASS } else { xdp_action::XDP_DROP }
}
