//! IPv6 (RFC 8200), with the extension headers that may stand before the transport header.

use bytemuck::{Pod, Zeroable};
use proxy_common::{Addr6, Address as _, Port, Protocol, Tuple, V6, reason::Reason};

use super::{Ip, L3, opaque};
use crate::{
    ctx::PacketCtx,
    maps::{self, Backends, Flows, Frontends, Scratches, Snat},
    verdict::{Step, Stop},
};

/// The fixed header.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Header {
    version_class_flow: u32,
    payload_len: Port,
    next: u8,
    hop_limit: u8,
    src: Addr6,
    dst: Addr6,
}

const ADDRS: usize = 8;

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION_OPTIONS: u8 = 60;

/// RFC 8200 section 4.1 recommends at most one each of hop-by-hop, routing and authentication headers, and two with destination options.
const MAX_EXTENSION_HEADERS: usize = 5;
/// Together they must not be longer than this, so that the transport header is within what was made reachable.
const MAX_EXTENSIONS: usize = 96;

/// Walks the extension headers: the protocol of the first header that is none, and its offset.
#[inline(always)]
fn skip_extensions<C: PacketCtx>(ctx: &C, first: u8) -> Step<(u8, usize)> {
    let start = ctx.l3() + V6::HEADER;
    if !is_extension(first) {
        return Ok((first, start));
    }
    let mut next = first;
    let mut skipped = 0;
    for _ in 0..=MAX_EXTENSION_HEADERS {
        let unit = match next {
            HOP_BY_HOP | ROUTING | DESTINATION_OPTIONS => 8,
            AUTHENTICATION => 4,
            FRAGMENT => return Err(Stop::Pass(Reason::Fragment)),
            _ => return Ok((next, opaque(start + skipped))),
        };
        let [following, length] = ctx.read::<[u8; 2]>(start + skipped)?;
        // In units of eight bytes beyond the first (RFC 8200), but of four bytes beyond the first two for authentication (RFC 4302).
        skipped += if unit == 8 { usize::from(length) * 8 + 8 } else { usize::from(length) * 4 + 8 };
        if skipped > MAX_EXTENSIONS {
            return Err(Stop::Pass(Reason::Malformed));
        }
        next = following;
    }
    Err(Stop::Pass(Reason::Malformed))
}

#[inline(always)]
const fn is_extension(header: u8) -> bool {
    matches!(header, HOP_BY_HOP | ROUTING | FRAGMENT | AUTHENTICATION | DESTINATION_OPTIONS)
}

impl Ip for V6 {
    const ETHERTYPE: u16 = 0x86dd;
    const IPV6: bool = true;
    const HEADER: usize = 40;
    const ICMP: u8 = 58;
    const PORT_UNREACHABLE: [u8; 2] = [1, 4];

    #[inline(always)]
    fn is_single(addr: Addr6) -> bool {
        // Not unspecified or multicast (RFC 4291).
        let [first, ..] = addr.to_wire();
        first != 0xff && addr.csum_words() != 0
    }

    #[inline(always)]
    fn read_l3<C: PacketCtx>(ctx: &C) -> Step<L3<Self>> {
        let header = ctx.read::<Header>(ctx.l3())?;
        let [version, ..] = header.version_class_flow.to_ne_bytes();
        if version >> 4 != 6 {
            return Err(Stop::Pass(Reason::Malformed));
        }
        let (protocol, l4) = skip_extensions(ctx, header.next)?;
        let protocol = Protocol::from_wire(protocol).ok_or(Stop::Pass(Reason::OtherProtocol))?;
        let end = ctx.l3() + Self::HEADER + usize::from(header.payload_len.to_host());
        Ok(L3 { src: header.src, dst: header.dst, protocol, l4, end })
    }

    #[inline(always)]
    fn write_addrs<C: PacketCtx>(ctx: &mut C, _: &Tuple<Self>, new: &Tuple<Self>) -> Step<()> {
        ctx.write(ctx.l3() + ADDRS, [new.src, new.dst])
    }

    #[inline(always)]
    fn write_header<C: PacketCtx>(ctx: &mut C, src: Addr6, dst: Addr6, protocol: u8, payload: u16) -> Step<()> {
        let header = Header {
            version_class_flow: u32::from_ne_bytes([0x60, 0, 0, 0]),
            payload_len: Port::from_host(payload),
            next: protocol,
            hop_limit: 64,
            src,
            dst,
        };
        ctx.write(ctx.l3(), header)
    }

    /// RFC 8200 section 8.1.
    #[inline(always)]
    fn icmp_pseudo_sum(src: Addr6, dst: Addr6, payload: u16) -> u64 {
        let length = u64::from(Port::from_host(payload).raw());
        let protocol = u64::from(Port::from_host(u16::from(Self::ICMP)).raw());
        src.csum_words() + dst.csum_words() + length + protocol
    }

    #[inline(always)]
    fn sum_header<C: PacketCtx>(ctx: &C, offset: usize) -> Step<u64> {
        ctx.sum::<{ Self::HEADER / 4 }>(offset)
    }

    #[inline(always)]
    fn frontends() -> &'static Frontends<Self> {
        &maps::FRONTENDS_V6
    }

    #[inline(always)]
    fn backends() -> &'static Backends<Self> {
        &maps::BACKENDS_V6
    }

    #[inline(always)]
    fn flows() -> &'static Flows<Self> {
        &maps::FLOWS_V6
    }

    #[inline(always)]
    fn scratch() -> &'static Scratches<Self> {
        &maps::SCRATCH_V6
    }

    #[inline(always)]
    fn snat() -> &'static Snat<Self> {
        &maps::SNAT_V6
    }
}
