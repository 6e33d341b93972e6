//! What the programs say of packets of services: one line for each, with how its way ended. Only the build with logging has it.

use aya_ebpf::{bindings::__sk_buff, programs::TcContext};
use aya_log_ebpf::info;
use bytemuck::Pod;
use proxy_common::{Protocol, reason::Reason};
use proxy_ebpf::{
    ctx::TcCtx,
    ip::Ip,
    parse::parse,
    verdict::{Step, Stop, Verdict},
};

/// Logs how a packet ended, and its tuple as it is then; packets of no service are left out.
#[inline(always)]
pub(super) fn ended<F: Ip, const L2: bool>(skb: *mut __sk_buff, ended: &Step<Verdict>) {
    match ended {
        Err(Stop::Pass(Reason::NoService | Reason::OtherProtocol | Reason::NotIp)) => {}
        Ok(Verdict::Continue) => say::<F, L2>(skb, TRANSLATED),
        Ok(Verdict::Reflect) => say::<F, L2>(skb, REFLECTED),
        Err(Stop::Pass(reason)) => say::<F, L2>(skb, PASSED + reason.index()),
        Err(Stop::Drop(reason)) => say::<F, L2>(skb, DROPPED + reason.index()),
    }
}

const TRANSLATED: u32 = 0;
const REFLECTED: u32 = 1;
const PASSED: u32 = 0x100;
const DROPPED: u32 = 0x200;

/// Says it. A function of its own for the sake of the stack, like the pipelines; so the end of the way comes as a number.
#[inline(never)]
fn say<F: Ip, const L2: bool>(skb: *mut __sk_buff, code: u32) {
    let ctx = TcContext::new(skb);
    let verdict = match code {
        TRANSLATED => "goes on translated",
        REFLECTED => "goes back",
        PASSED..DROPPED => "passes untouched:",
        _ => "is dropped:",
    };
    let reason = if code < PASSED { "" } else { name(code & 0xff) };
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
