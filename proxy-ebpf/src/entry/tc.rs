//! tc programs: workload and uplink, ingress and egress, on devices with and without Ethernet headers.
//!
//! The verdict lets other programs on the device see the packet: -1 is `TCX_NEXT` for tcx and `TC_ACT_UNSPEC` for clsact.

use aya_ebpf::{
    bindings::{__sk_buff, TC_ACT_REDIRECT, TC_ACT_SHOT, TC_ACT_UNSPEC},
    helpers::generated::{bpf_jiffies64, bpf_redirect},
    macros::classifier,
    programs::TcContext,
};
use proxy_common::{Port, Side, V4, V6, reason::Reason};
use proxy_ebpf::{
    counters::{count, count_index},
    ctx::{PacketCtx, TcCtx},
    forward,
    frontend::Scope,
    ip::Ip,
    path, refuse,
    verdict::{End, News, Step, Verdict},
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

/// The pipelines of a hook.
trait Way {
    /// Where clients are whose flows begin here, if any do.
    const SCOPE: Option<Scope>;

    #[inline(always)]
    fn walk<F: Ip, C: PacketCtx>(ctx: &mut C) -> Step<Verdict> {
        if Self::SCOPE.is_some() { path::to_backend::<F, C>(ctx) } else { path::from_backend::<F, C>(ctx) }
    }

    #[inline(always)]
    fn walk_rare<F: Ip, C: PacketCtx>(ctx: &mut C) -> Step<Verdict> {
        if Self::SCOPE.is_some() { path::rare_to_backend::<F, C>(ctx) } else { path::rare_from_backend::<F, C>(ctx) }
    }
}

/// From a pod towards a service.
struct Internal;
/// From outside the node towards a service.
struct External;
/// From a backend to its client.
struct Out;

impl Way for Internal {
    const SCOPE: Option<Scope> = Some(Scope::Internal);
}

impl Way for External {
    const SCOPE: Option<Scope> = Some(Scope::External);
}

impl Way for Out {
    const SCOPE: Option<Scope> = None;
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

/// The whole way of a packet: what its first function leaves to do is done by the next.
#[inline(always)]
fn walked<F: Ip, W: Way, const L2: bool>(skb: *mut __sk_buff) -> i32 {
    let mut end = End(walk::<F, W, L2>(skb));
    if end == End::ASIDE {
        end = End(aside::<F, L2>(skb, W::SCOPE.is_some()));
    }
    if end == End::RARE {
        end = End(walk_rare::<F, W, L2>(skb));
    }
    if end == End::RELATED {
        end = End(related::<F, L2>(skb, W::SCOPE.is_some()));
    }
    if let Some(scope) = W::SCOPE {
        if end == End::UNKNOWN {
            end = End(choose::<F, L2>(skb, scope == Scope::Internal));
        }
        if end == End::STAND_IN {
            end = End(stand_in::<F, L2>(skb));
        }
        if end == End::CHOSEN {
            end = End(begin::<F, L2>(skb));
        }
        if end == End::SEND_ON {
            end = End(send_on::<F, L2>(skb));
        }
    }
    if end == End::TRANSLATE {
        end = End(translate::<F, L2>(skb));
    }
    if end.news().is_some() {
        end = End(tell::<F, L2>(skb, end.0));
    }
    #[cfg(feature = "log")]
    super::log::packet::<F, L2>(skb, end);
    act(skb, end)
}

// Functions of their own for the sake of the stack, which holds 512 bytes, and of the verifier's patience. Each takes the context and returns the
// number of an [`End`]: nothing else may cross such a border.

/// The way of packets of known flows.
#[inline(never)]
fn walk<F: Ip, W: Way, const L2: bool>(skb: *mut __sk_buff) -> u32 {
    with_packet::<L2>(skb, |ctx| W::walk::<F, _>(ctx))
}

/// Tells what is not common apart, and has later fragments follow the first.
#[inline(never)]
fn aside<F: Ip, const L2: bool>(skb: *mut __sk_buff, is_ingress: bool) -> u32 {
    with_packet::<L2>(skb, |ctx| path::aside::<F, _>(ctx, side(is_ingress)))
}

/// The way of rare packets with ports.
#[inline(never)]
fn walk_rare<F: Ip, W: Way, const L2: bool>(skb: *mut __sk_buff) -> u32 {
    with_packet::<L2>(skb, |ctx| W::walk_rare::<F, _>(ctx))
}

/// The way of errors about packets of flows, and of what is for nobody in a network of Services.
#[inline(never)]
fn related<F: Ip, const L2: bool>(skb: *mut __sk_buff, is_ingress: bool) -> u32 {
    with_packet::<L2>(skb, |ctx| path::related::<F, _>(ctx, side(is_ingress)))
}

#[inline(always)]
fn side(is_ingress: bool) -> Side {
    if is_ingress { Side::Ingress } else { Side::Egress }
}

/// Finds out where a packet of no known flow goes.
#[inline(never)]
fn choose<F: Ip, const L2: bool>(skb: *mut __sk_buff, is_internal: bool) -> u32 {
    let scope = if is_internal { Scope::Internal } else { Scope::External };
    with_packet::<L2>(skb, |ctx| Err(path::choose::<F, _>(ctx, scope)))
}

/// Begins a flow.
#[inline(never)]
fn begin<F: Ip, const L2: bool>(skb: *mut __sk_buff) -> u32 {
    with_packet::<L2>(skb, |ctx| Err(path::begin::<F, _>(ctx)))
}

/// Begins a flow whose client the node stands in for.
#[inline(never)]
fn stand_in<F: Ip, const L2: bool>(skb: *mut __sk_buff) -> u32 {
    with_packet::<L2>(skb, |ctx| Err(path::stand_in::<F, _>(ctx)))
}

/// Gives a packet the tuple that one of the functions above has found.
#[inline(never)]
fn translate<F: Ip, const L2: bool>(skb: *mut __sk_buff) -> u32 {
    with_packet::<L2>(skb, |ctx| path::translate_left::<F, _>(ctx))
}

/// Sends a packet of a flow under the node's address on.
#[inline(never)]
fn send_on<F: Ip, const L2: bool>(skb: *mut __sk_buff) -> u32 {
    with_packet::<L2>(skb, |ctx| forward::send_on::<F, _>(ctx))
}

/// Tells a packet's sender what has become of it.
#[inline(never)]
fn tell<F: Ip, const L2: bool>(skb: *mut __sk_buff, end: u32) -> u32 {
    let news = End(end).news().unwrap_or(News::Refused);
    with_packet::<L2>(skb, |ctx| refuse::tell::<F, _>(ctx, news))
}

/// Makes a packet's headers reachable, and counts the reason for which it is passed or dropped.
#[inline(always)]
fn with_packet<const L2: bool>(skb: *mut __sk_buff, work: impl FnOnce(&mut TcCtx<L2>) -> Step<Verdict>) -> u32 {
    // SAFETY: the context that the kernel gave to the program.
    let end = End::new(unsafe { TcCtx::<L2>::new(skb) }.and_then(|mut ctx| work(&mut ctx)));
    if let Some(reason) = end.reason() {
        count_index(reason);
    }
    end.0
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
        End::SENT_ON => TC_ACT_REDIRECT,
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
