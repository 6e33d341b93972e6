//! What the programs say of packets of services: one line for each, with how its way ended. Only the build with logging has it.

use aya_ebpf::{bindings::__sk_buff, programs::TcContext};
use aya_log_ebpf::info;
use bytemuck::Pod;
use proxy_common::{Protocol, reason::Reason};
use proxy_ebpf::{ctx::TcCtx, ip::Ip, parse::parse, verdict::End};

/// Logs how a packet ended, and its tuple as it is then; packets of no service are left out.
#[inline(always)]
pub(super) fn packet<F: Ip, const L2: bool>(skb: *mut __sk_buff, end: End) {
    let silent = [Reason::NoService, Reason::OtherProtocol].map(Reason::index);
    if end.reason().is_none_or(|reason| reason != silent[0] && reason != silent[1]) {
        say::<F, L2>(skb, end.0);
    }
}

/// Says it. A function of its own, for the sake of the stack.
#[inline(never)]
fn say<F: Ip, const L2: bool>(skb: *mut __sk_buff, end: u32) {
    let (ctx, end) = (TcContext::new(skb), End(end));
    let verdict = match end {
        End::TRANSLATED => "goes on translated",
        End::REFLECTED => "goes back",
        end if end.is_drop() => "is dropped:",
        _ => "passes untouched:",
    };
    let reason = end.reason().map_or("", name);
    // SAFETY: the context that the kernel gave to the program.
    let packet = unsafe { TcCtx::<L2>::new(skb) }.and_then(|ctx| parse::<F, _>(&ctx));
    let Ok(packet) = packet else {
        info!(&ctx, "a packet {} {}", verdict, reason);
        return;
    };
    let protocol = if packet.protocol == Protocol::Tcp { "TCP" } else { "UDP" };
    let (src, dst) = (packet.tuple.src, packet.tuple.dst);
    let (from, to) = (packet.tuple.src_port.to_host(), packet.tuple.dst_port.to_host());
    if F::IPV6 {
        let (src, dst) = (octets::<_, 16>(src), octets::<_, 16>(dst));
        info!(&ctx, "{} [{:i}]:{} > [{:i}]:{} {} {}", protocol, src, from, dst, to, verdict, reason);
    } else {
        let (src, dst) = (octets::<_, 4>(src), octets::<_, 4>(dst));
        info!(&ctx, "{} {:i}:{} > {:i}:{} {} {}", protocol, src, from, dst, to, verdict, reason);
    }
}

/// An address as the log takes it. `IpAddr` would make it move bytes by a function of their own, which returns a pointer to the stack and is
/// refused for that.
#[inline(always)]
fn octets<A: Pod, const N: usize>(addr: A) -> [u8; N]
where
    [u8; N]: Pod,
{
    bytemuck::try_cast(addr).unwrap_or([0; N])
}

fn name(index: u32) -> &'static str {
    Reason::ALL.get(index as usize).map_or("", |reason| reason.name())
}
