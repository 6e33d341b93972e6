//! tc programs: workload and uplink, ingress and egress, on devices with and without Ethernet headers.
//!
//! The verdict lets other programs on the device see the packet: -1 is `TCX_NEXT` for tcx and `TC_ACT_UNSPEC` for clsact.

use aya_ebpf::{
    bindings::{__sk_buff, BPF_F_INGRESS, TC_ACT_REDIRECT, TC_ACT_SHOT, TC_ACT_UNSPEC},
    helpers::generated::{bpf_jiffies64, bpf_redirect},
    macros::classifier,
    programs::TcContext,
};
use proxy_common::{Port, Side, V4, V6, reason::Reason};
use proxy_ebpf::{
    counters::{count, count_index},
    ctx::TcCtx,
    forward,
    frontend::Scope,
    ip::Ip,
    path, refuse, settings,
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
    let skb = ctx.skb.skb;
    if settings::outer_headers() && !is_received_again(skb) {
        // SAFETY: the context is the kernel's own.
        let ifindex = unsafe { (*skb).ifindex };
        // SAFETY: a helper that takes numbers only.
        return unsafe { bpf_redirect(ifindex, u64::from(BPF_F_INGRESS)) as i32 };
    }
    run::<External, false>(skb)
}

/// A packet on its way out of the node, on a device without Ethernet headers.
#[classifier]
pub(crate) fn uplink_l3_egress(ctx: TcContext) -> i32 {
    run::<Out, false>(ctx.skb.skb)
}

/// Whether a packet comes for the second time, or else marks it for that. Some kernels leave a tunnel's outer headers before what comes out of
/// it, and take them off when the packet is redirected to that device once more.
#[inline(always)]
fn is_received_again(skb: *mut __sk_buff) -> bool {
    // SAFETY: the context that the kernel gave to the program.
    let mut ctx = unsafe { TcCtx::<false>::pulled(skb) };
    let is_again = ctx.take_own_mark();
    if !is_again {
        ctx.mark_as_own();
    }
    is_again
}

/// Tells the daemon what the kernel's jiffies are now. Run by hand only, never attached.
#[classifier]
pub(crate) fn clock(_: TcContext) -> i32 {
    // SAFETY: a helper without arguments.
    unsafe { bpf_jiffies64() as i32 }
}

/// Where clients are whose flows begin at a hook, if any do.
trait Hook {
    const SCOPE: Option<Scope>;
}

/// From a pod towards a service.
struct Internal;
/// From outside the node towards a service.
struct External;
/// From a backend to its client.
struct Out;

impl Hook for Internal {
    const SCOPE: Option<Scope> = Some(Scope::Internal);
}

impl Hook for External {
    const SCOPE: Option<Scope> = Some(Scope::External);
}

impl Hook for Out {
    const SCOPE: Option<Scope> = None;
}

#[inline(always)]
fn run<H: Hook, const L2: bool>(skb: *mut __sk_buff) -> i32 {
    if L2 && is_tagged(skb) {
        count(Reason::NotIp);
        return TC_ACT_UNSPEC;
    }
    if L2 && matches!(H::SCOPE, Some(Scope::External)) && is_other_hosts(skb) {
        count(Reason::OtherHost);
        return TC_ACT_UNSPEC;
    }
    match ethertype(skb) {
        V4::ETHERTYPE => walked::<V4, H, L2>(skb),
        V6::ETHERTYPE => walked::<V6, H, L2>(skb),
        _ => {
            count(Reason::NotIp);
            TC_ACT_UNSPEC
        }
    }
}

/// Whether a packet is a VLAN's: the tag is no longer in the frame, and the packet belongs to another device. VLAN 0 is none.
#[inline(always)]
fn is_tagged(skb: *mut __sk_buff) -> bool {
    const VLAN_ID: u32 = 0xfff;
    // SAFETY: the context is the kernel's own, and valid as long as the program runs.
    let skb = unsafe { &*skb };
    skb.vlan_present != 0 && skb.vlan_tci & VLAN_ID != 0
}

/// Whether a frame has another hardware address than this machine's: another one's, as when somebody listens to the device, or that of all or many,
/// in which the stack neither forwards a packet nor takes one of a connection. Between a pod and its node that says nothing: with a bridge the node's
/// end of the pair has an address that no frame is sent to.
#[inline(always)]
fn is_other_hosts(skb: *mut __sk_buff) -> bool {
    /// `PACKET_HOST` of `linux/if_packet.h`.
    const HOST: u32 = 0;
    // SAFETY: the context is the kernel's own, and valid as long as the program runs.
    unsafe { (*skb).pkt_type != HOST }
}

/// The whole way of a packet.
#[inline(always)]
fn walked<F: Ip, H: Hook, const L2: bool>(skb: *mut __sk_buff) -> i32 {
    let mut end = if H::SCOPE.is_some() { to_backend::<F, L2>(skb) } else { from_backend::<F, L2>(skb) };
    if !end.is_final() {
        end = finished::<F, H, L2>(skb, end);
    }
    #[cfg(feature = "log")]
    super::log::packet::<F, L2>(skb, end);
    act::<L2>(skb, end)
}

/// What is left to do after a packet's first function: each leaves something to the next, in this order.
///
/// | [`End`] | goes on in | which may leave it to |
/// |---|---|---|
/// | `ASIDE` | `aside_*` | `RARE`, `RELATED` |
/// | `RARE` | `rare_*` | `UNKNOWN`, `TRANSLATE`, `SEND_ON` |
/// | `RELATED` | `related_*` | nobody |
/// | `UNKNOWN` on ingress | `choose_from_*` | `CHOSEN`, `STAND_IN`, news |
/// | `UNKNOWN` on egress | `note_foreign` | nobody |
/// | `STAND_IN` | `stand_in` | `CHOSEN`, `SEND_ON` |
/// | `CHOSEN` | `begin` | `TRANSLATE` |
/// | `SEND_ON` | `send_on` | news |
/// | `TRANSLATE` | `translate` | nobody |
/// | news | `tell` | nobody |
#[inline(always)]
fn finished<F: Ip, H: Hook, const L2: bool>(skb: *mut __sk_buff, mut end: End) -> End {
    let is_ingress = H::SCOPE.is_some();
    if end == End::ASIDE {
        end = if is_ingress { aside_to_backend::<F, L2>(skb) } else { aside_from_backend::<F, L2>(skb) };
    }
    if end == End::RARE {
        end = if is_ingress { rare_to_backend::<F, L2>(skb) } else { rare_from_backend::<F, L2>(skb) };
    }
    if end == End::RELATED {
        end = if is_ingress { related_to_client::<F, L2>(skb) } else { related_to_backend::<F, L2>(skb) };
    }
    if let Some(scope) = H::SCOPE {
        if end == End::UNKNOWN {
            end = match scope {
                Scope::Internal => choose_from_inside::<F, L2>(skb),
                Scope::External => choose_from_outside::<F, L2>(skb),
            };
        }
        if end == End::STAND_IN {
            end = stand_in::<F, L2>(skb);
        }
        if end == End::CHOSEN {
            end = begin::<F, L2>(skb);
        }
        if end == End::SEND_ON {
            end = send_on::<F, L2>(skb);
        }
    } else if end == End::UNKNOWN {
        end = note_foreign::<F, L2>(skb);
    }
    if end == End::TRANSLATE {
        end = translate::<F, L2>(skb);
    }
    if end.news().is_some() {
        end = tell::<F, L2>(skb, end.0);
    }
    end
}

/// Makes a stage a function by itself, for each family (`F`) and kind of device.
///
/// It has a stack of its own, of which there are 512 bytes, and the kernel calls it global: the verifier looks at it once, and not for each way
/// that leads there. It takes the context and numbers, and returns the number of an [`End`]: nothing else may cross such a border.
/// What it needs of the packet's headers is made reachable before.
macro_rules! stages {
    ($($(#[$doc:meta])* $stage:ident($ctx:ident: $headers:ident $(, $arg:ident: $number:ty)*) $work:block)+) => {
        $(
            $(#[$doc])*
            #[inline(always)]
            fn $stage<F: Ip, const L2: bool>(skb: *mut __sk_buff $(, $arg: $number)*) -> End {
                global!($stage, v4, "_v4", V4, true, $ctx: $headers, ($($arg: $number),*), $work);
                global!($stage, v6, "_v6", V6, true, $ctx: $headers, ($($arg: $number),*), $work);
                global!($stage, v4_l3, "_v4_l3", V4, false, $ctx: $headers, ($($arg: $number),*), $work);
                global!($stage, v6_l3, "_v6_l3", V6, false, $ctx: $headers, ($($arg: $number),*), $work);
                End(match (F::IPV6, L2) {
                    (false, true) => v4(skb $(, $arg)*),
                    (true, true) => v6(skb $(, $arg)*),
                    (false, false) => v4_l3(skb $(, $arg)*),
                    (true, false) => v6_l3(skb $(, $arg)*),
                })
            }
        )+
    };
}

macro_rules! global {
    ($stage:ident, $name:ident, $suffix:literal, $family:ty, $l2:literal, $ctx:ident: $headers:ident, ($($arg:ident: $number:ty),*), $work:block) => {
        #[unsafe(export_name = concat!(stringify!($stage), $suffix))]
        #[inline(never)]
        extern "C" fn $name(skb: *mut __sk_buff $(, $arg: $number)*) -> u32 {
            type F = $family;
            // SAFETY: the context that the kernel gave to the program.
            let packet = unsafe { TcCtx::<$l2>::$headers::<F>(skb) };
            ended(packet.and_then(|mut packet| {
                let $ctx = &mut packet;
                $work
            }))
        }
    };
}

stages! {
    /// The way of packets of known flows that enter the node.
    to_backend(ctx: with_common_headers) { path::to_backend::<F, _>(ctx) }

    /// The same of those that leave it.
    from_backend(ctx: with_common_headers) { path::from_backend::<F, _>(ctx) }

    /// Tells what is not common apart where packets enter the node, and has later fragments follow the first.
    aside_to_backend(ctx: with_headers) { path::aside::<F, _>(ctx, Side::Ingress) }

    /// The same where they leave it.
    aside_from_backend(ctx: with_headers) { path::aside::<F, _>(ctx, Side::Egress) }

    /// The way of rare packets with ports that enter the node.
    rare_to_backend(ctx: with_headers) { path::rare_to_backend::<F, _>(ctx) }

    /// The same of those that leave it.
    rare_from_backend(ctx: with_headers) { path::rare_from_backend::<F, _>(ctx) }

    /// The way of errors that enter the node, and of what is for nobody in a network of Services.
    related_to_client(ctx: with_headers) { path::related::<F, _>(ctx, Side::Ingress) }

    /// The way of errors that leave it.
    related_to_backend(ctx: with_headers) { path::related::<F, _>(ctx, Side::Egress) }

    /// Finds out where a packet of no known flow goes that a pod sends.
    choose_from_inside(ctx: with_headers) { Err(path::choose::<F, _>(ctx, Scope::Internal)) }

    /// The same for one from outside the node.
    choose_from_outside(ctx: with_headers) { Err(path::choose::<F, _>(ctx, Scope::External)) }

    /// Leaves flows alone that leave the node under a frontend's address and port, and not from here.
    note_foreign(ctx: with_headers) { Err(if ctx.take_own_mark() { End::pass(Reason::NoService) } else { path::note_foreign::<F, _>(ctx) }) }

    /// Begins a flow.
    begin(ctx: with_headers) { Err(path::begin::<F, _>(ctx)) }

    /// Begins a flow whose client the node stands in for.
    stand_in(ctx: with_headers) { Err(path::stand_in::<F, _>(ctx)) }

    /// Gives a packet the tuple that one of the functions above has found.
    translate(ctx: with_headers) { path::translate_left::<F, _>(ctx) }

    /// Sends a packet of a flow under the node's address on.
    send_on(ctx: with_headers) { forward::send_on::<F, _>(ctx) }

    /// Tells a packet's sender what has become of it.
    tell(ctx: with_headers, end: u32) { refuse::tell::<F, _>(ctx, End(end).news().unwrap_or(News::Refused)) }
}

/// Counts the reason for which a packet is passed or dropped, and gives the number of its end.
#[inline(always)]
fn ended(step: Step<Verdict>) -> u32 {
    let end = End::new(step);
    if let Some(reason) = end.reason() {
        count_index(reason);
    }
    end.0
}

/// Turns the end of a packet's way into what the kernel is to do.
#[inline(always)]
fn act<const L2: bool>(skb: *mut __sk_buff, end: End) -> i32 {
    match end {
        End::REFLECTED => reflect::<L2>(skb),
        End::SENT_ON => TC_ACT_REDIRECT,
        end if end.is_drop() => TC_ACT_SHOT,
        _ => TC_ACT_UNSPEC,
    }
}

/// Sends a packet back by the device it came from.
#[inline(always)]
fn reflect<const L2: bool>(skb: *mut __sk_buff) -> i32 {
    // SAFETY: the context is the kernel's own.
    let ifindex = unsafe { (*skb).ifindex };
    // SAFETY: the context that the kernel gave to the program.
    let mut ctx = unsafe { TcCtx::<L2>::pulled(skb) };
    if L2 {
        ctx.make_own();
        // SAFETY: a helper that takes numbers only.
        return unsafe { bpf_redirect(ifindex, 0) as i32 };
    }
    if ctx.send_by_route(ifindex).is_ok() { TC_ACT_REDIRECT } else { TC_ACT_SHOT }
}

/// The network protocol that the kernel has found.
#[inline(always)]
fn ethertype(skb: *mut __sk_buff) -> u16 {
    // SAFETY: the context is the kernel's own.
    let protocol = unsafe { (*skb).protocol };
    // A 16-bit number in network byte order, as a port is.
    Port::from_wire((protocol as u16).to_ne_bytes()).to_host()
}
