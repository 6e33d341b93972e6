//! What the programs say of packets of services: one line for each, with how its way ended. Only the build with logging has it.

use aya_ebpf::bindings::__sk_buff;
use aya_log_ebpf::info;
use bytemuck::Pod;
use proxy_common::{FlowKey, Protocol, Side, V4, V6, reason::Reason};
use proxy_ebpf::{
    ctx::TcCtx,
    flow::scratch,
    ip::Ip,
    parse::parse_first,
    verdict::{End, Step},
};

/// Logs how a packet ended, and its tuple as it is then; packets of no service are left out.
#[inline(always)]
pub(super) fn packet<F: Ip, const L2: bool>(skb: *mut __sk_buff, end: End) {
    let silent = [Reason::NoService, Reason::OtherProtocol].map(Reason::index);
    if end.reason().is_some_and(|reason| reason == silent[0] || reason == silent[1]) {
        return;
    }
    if !L2 && end == End::SENT_ON {
        // It has been given an Ethernet header for that. Readers of both kinds would be more than the verifier is asked to look at.
        log_other(end.0);
        return;
    }
    match (F::IPV6, L2) {
        (false, true) => log_v4(end.0, read_v4(skb)),
        (true, true) => log_v6(end.0, read_v6(skb)),
        (false, false) => log_v4(end.0, read_l3_v4(skb)),
        (true, false) => log_v6(end.0, read_l3_v6(skb)),
    };
}

// Functions by themselves: the verifier looks at each once, instead of once for each way in which a packet may have come to its end. That is
// what keeps programs that log as far from its limit as the others.

macro_rules! readers {
    ($($name:ident: $family:ty, $l2:literal;)+) => {
        $(
            #[unsafe(no_mangle)]
            #[inline(never)]
            extern "C" fn $name(skb: *mut __sk_buff) -> u32 {
                u32::from(read::<$family, $l2>(skb).is_ok())
            }
        )+
    };
}

readers! {
    read_v4: V4, true;
    read_v6: V6, true;
    read_l3_v4: V4, false;
    read_l3_v6: V6, false;
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn log_v4(end: u32, has_tuple: u32) -> u32 {
    say::<V4>(end, has_tuple != 0);
    0
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn log_v6(end: u32, has_tuple: u32) -> u32 {
    say::<V6>(end, has_tuple != 0);
    0
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn log_other(end: u32) -> u32 {
    info!(NO_CONTEXT, "{} a packet", text(End(end)));
    0
}

/// The log asks for a context and does nothing with it.
const NO_CONTEXT: () = ();

/// Puts the tuple of a packet into the scratch room, which nobody needs any more when a packet has come to its end.
#[inline(always)]
fn read<F: Ip, const L2: bool>(skb: *mut __sk_buff) -> Step<()> {
    // SAFETY: the context that the kernel gave to the program.
    let packet = unsafe { TcCtx::<L2>::with_headers::<F>(skb) }.and_then(|ctx| parse_first::<F, _>(&ctx))?;
    scratch::<F>()?.key = FlowKey::new(packet.tuple, packet.protocol, Side::Ingress);
    Ok(())
}

#[inline(always)]
fn say<F: Ip>(end: u32, has_tuple: bool) {
    let (true, Ok(scratch)) = (has_tuple, scratch::<F>()) else {
        log_other(end);
        return;
    };
    let key = scratch.key;
    let (end, protocol) = (text(End(end)), protocol(key.protocol));
    let (from, to) = (key.src_port.to_host(), key.dst_port.to_host());
    if F::IPV6 {
        let (src, dst) = (octets::<_, 16>(key.src), octets::<_, 16>(key.dst));
        info!(NO_CONTEXT, "{} {} [{:i}]:{} > [{:i}]:{}", end, protocol, src, from, dst, to);
    } else {
        let (src, dst) = (octets::<_, 4>(key.src), octets::<_, 4>(key.dst));
        info!(NO_CONTEXT, "{} {} {:i}:{} > {:i}:{}", end, protocol, src, from, dst, to);
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

/// A protocol's name, from a table for the same reason as below.
#[inline(always)]
fn protocol(protocol: u8) -> &'static str {
    // SAFETY: a reference to a local is valid.
    let row = unsafe { core::ptr::read_volatile(&raw const protocol) } as usize >> 4 & 15;
    // SAFETY: made of whole strings.
    PROTOCOLS.get(row).map_or("", |name| unsafe { core::str::from_utf8_unchecked(name) })
}

/// By the upper half of the protocol's number.
static PROTOCOLS: [[u8; 4]; 16] = protocols();

#[expect(clippy::indexing_slicing, reason = "done by the compiler, which finds out")]
const fn protocols() -> [[u8; 4]; 16] {
    let mut names = [*b"    "; 16];
    names[Protocol::Tcp as usize >> 4] = *b" TCP";
    names[Protocol::Udp as usize >> 4] = *b" UDP";
    names[Protocol::Sctp as usize >> 4] = *b"SCTP";
    names
}

/// The words for an end, filled up with spaces: a column of the log.
///
/// All are of one length and in one table, so that there is one way through the code that copies them, and not one for each.
#[inline(always)]
fn text(end: End) -> &'static str {
    // SAFETY: made of whole strings and spaces.
    TEXTS.get(row(end)).map_or("", |text| unsafe { core::str::from_utf8_unchecked(text) })
}

/// Room for the longest of them.
const TEXT_LEN: usize = 36;
/// As many rows as there may be reasons, for ends without one, for passing and for dropping.
const ROWS: usize = 4 * REASONS;
const REASONS: usize = 64;
const _: () = assert!(Reason::COUNT as usize <= REASONS);

/// The row of an end, computed from how its number is made up: a branch would be a way of its own.
const fn row(end: End) -> usize {
    (end.0 as usize >> 8) % 4 * REASONS + end.0 as usize % REASONS
}

static TEXTS: [[u8; TEXT_LEN]; ROWS] = texts();

#[expect(clippy::indexing_slicing, reason = "done by the compiler, which finds out")]
const fn texts() -> [[u8; TEXT_LEN]; ROWS] {
    let mut texts = [[b' '; TEXT_LEN]; ROWS];
    texts[row(End::TRANSLATED)] = joined("goes on translated", "");
    texts[row(End::REFLECTED)] = joined("goes back", "");
    texts[row(End::SENT_ON)] = joined("is sent on", "");
    let mut index = 0;
    while index < Reason::ALL.len() {
        let reason = Reason::ALL[index];
        texts[row(End::pass(reason))] = joined("passes untouched: ", reason.name());
        texts[row(End::drop(reason))] = joined("is dropped: ", reason.name());
        index += 1;
    }
    texts
}

#[expect(clippy::indexing_slicing, reason = "as above")]
const fn joined(first: &str, second: &str) -> [u8; TEXT_LEN] {
    let (mut text, mut at) = ([b' '; TEXT_LEN], 0);
    while at < first.len() + second.len() {
        text[at] = if at < first.len() { first.as_bytes()[at] } else { second.as_bytes()[at - first.len()] };
        at += 1;
    }
    text
}
