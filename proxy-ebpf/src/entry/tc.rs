//! tc programs: workload and uplink, ingress and egress, on devices with and without Ethernet headers.
//!
//! The verdict lets other programs on the device see the packet: -1 is `TCX_NEXT` for tcx and `TC_ACT_UNSPEC` for clsact.

use aya_ebpf::{
    bindings::{__sk_buff, TC_ACT_SHOT, TC_ACT_UNSPEC},
    helpers::generated::{bpf_jiffies64, bpf_redirect},
    macros::classifier,
    programs::TcContext,
};
use proxy_common::{Port, V4, V6, reason::Reason};
use proxy_ebpf::{
    counters::count,
    ctx::{PacketCtx, TcCtx},
    frontend::Scope,
    ip::Ip,
    path,
    verdict::{End, Step, Stop, Verdict},
};

/// A pod's packet on its way in.
#[classifier]
pub(crate) fn workload_ingress(ctx: TcContext) -> i32 {
    run::<Internal, true>(ctx.skb.skb)
}

/// A packet on its way to a pod.
#[classifier]
pub(crate) fn workload_egress(ctx: TcContext) -> i32 {
    run::<Out, true>(ctx.skb.skb)
}

/// A packet from outside the node.
#[classifier]
pub(crate) fn uplink_ingress(ctx: TcContext) -> i32 {
    let skb = ctx.skb.skb;
    // SAFETY: the context that the kernel gave to the program.
    if unsafe { TcCtx::<true>::is_marked(skb) } {
        count(Reason::XdpDone);
        return TC_ACT_UNSPEC;
    }
    run::<External, true>(skb)
}

/// A packet on its way out of the node.
#[classifier]
pub(crate) fn uplink_egress(ctx: TcContext) -> i32 {
    run::<Out, true>(ctx.skb.skb)
}

/// A packet from outside the node, on a device without Ethernet headers.
#[classifier]
pub(crate) fn uplink_l3_ingress(ctx: TcContext) -> i32 {
    run::<External, false>(ctx.skb.skb)
}

/// A packet on its way out of the node, on a device without Ethernet headers.
#[classifier]
pub(crate) fn uplink_l3_egress(ctx: TcContext) -> i32 {
    run::<Out, false>(ctx.skb.skb)
}

/// Tells the daemon what the kernel's jiffies are now. Run by hand only, never attached.
#[classifier]
pub(crate) fn clock(_: TcContext) -> i32 {
    // SAFETY: a helper without arguments.
    unsafe { bpf_jiffies64() as i32 }
}

/// The pipeline of a hook.
trait Way {
    fn walk<F: Ip, C: PacketCtx>(ctx: &mut C) -> Step<Verdict>;
}

/// From a pod towards a service.
struct Internal;
/// From outside the node towards a service.
struct External;
/// From a backend to its client.
struct Out;

impl Way for Internal {
    #[inline(always)]
    fn walk<F: Ip, C: PacketCtx>(ctx: &mut C) -> Step<Verdict> {
        path::to_backend::<F, C>(ctx, Scope::Internal)
    }
}

impl Way for External {
    #[inline(always)]
    fn walk<F: Ip, C: PacketCtx>(ctx: &mut C) -> Step<Verdict> {
        path::to_backend::<F, C>(ctx, Scope::External)
    }
}

impl Way for Out {
    #[inline(always)]
    fn walk<F: Ip, C: PacketCtx>(ctx: &mut C) -> Step<Verdict> {
        path::from_backend::<F, C>(ctx)
    }
}

#[inline(always)]
fn run<W: Way, const L2: bool>(skb: *mut __sk_buff) -> i32 {
    match ethertype(skb) {
        V4::ETHERTYPE => walked::<V4, W, L2>(skb),
        V6::ETHERTYPE => walked::<V6, W, L2>(skb),
        _ => {
            count(Reason::NotIp);
            TC_ACT_UNSPEC
        }
    }
}

#[inline(always)]
fn walked<F: Ip, W: Way, const L2: bool>(skb: *mut __sk_buff) -> i32 {
    let end = End(walk::<F, W, L2>(skb));
    #[cfg(feature = "log")]
    super::log::packet::<F, L2>(skb, end);
    act(skb, end)
}

/// The way of one family's packets; yields an [`End`]. A function of its own, because the compiler does not let two families' values share
/// their places on the stack, which holds 512 bytes. It takes the context and returns a number: nothing else may cross such a border.
#[inline(never)]
fn walk<F: Ip, W: Way, const L2: bool>(skb: *mut __sk_buff) -> u32 {
    // SAFETY: the context that the kernel gave to the program.
    let ended = unsafe { TcCtx::<L2>::new(skb) }.and_then(|mut ctx| W::walk::<F, _>(&mut ctx));
    if let Err(Stop::Pass(reason) | Stop::Drop(reason)) = ended {
        count(reason);
    }
    End::new(ended).0
}

/// Turns the end of a packet's way into what the kernel is to do.
#[inline(always)]
fn act(skb: *mut __sk_buff, end: End) -> i32 {
    match end {
        End::REFLECTED => {
            // SAFETY: the context is the kernel's own.
            let ifindex = unsafe { (*skb).ifindex };
            // SAFETY: a helper that takes numbers only.
            unsafe { bpf_redirect(ifindex, 0) as i32 }
        }
        end if end.is_drop() => TC_ACT_SHOT,
        _ => TC_ACT_UNSPEC,
    }
}

/// The network protocol that the kernel has found.
#[inline(always)]
fn ethertype(skb: *mut __sk_buff) -> u16 {
    // SAFETY: the context is the kernel's own.
    let protocol = unsafe { (*skb).protocol };
    // A 16-bit number in network byte order, as a port is.
    Port::from_wire((protocol as u16).to_ne_bytes()).to_host()
}
