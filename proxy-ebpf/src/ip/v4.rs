//! IPv4 (RFC 791).

use bytemuck::{Pod, Zeroable};
use proxy_common::{Addr4, Address as _, Port, Protocol, Tuple, V4, reason::Reason};

use super::{Ip, L3, opaque};
use crate::{
    csum::{Delta, fold16, replace},
    ctx::PacketCtx,
    maps::{self, Backends, Flows, Frontends, Scratches, Snat},
    verdict::{Step, Stop},
};

/// A header without options.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Header {
    version_ihl: u8,
    tos: u8,
    total_len: Port,
    id: u16,
    fragment: Port,
    ttl: u8,
    protocol: u8,
    checksum: u16,
    src: Addr4,
    dst: Addr4,
}

/// More fragments, or an offset other than zero.
const FRAGMENT: u16 = 0x3fff;
const CHECKSUM: usize = 10;
const ADDRS: usize = 12;

impl Ip for V4 {
    const ETHERTYPE: u16 = 0x0800;
    const IPV6: bool = false;
    const HEADER: usize = 20;
    const ICMP: u8 = 1;
    const PORT_UNREACHABLE: [u8; 2] = [3, 3];

    #[inline(always)]
    fn is_single(addr: Addr4) -> bool {
        // Not "this network", loopback, multicast, reserved or broadcast (RFC 6890).
        let [first, ..] = addr.to_wire();
        first != 0 && first != 127 && first < 224
    }

    #[inline(always)]
    fn read_l3<C: PacketCtx>(ctx: &C) -> Step<L3<Self>> {
        let header = ctx.read::<Header>(ctx.l3())?;
        let words = usize::from(header.version_ihl & 0xf);
        if header.version_ihl >> 4 != 4 || words < 5 {
            return Err(Stop::Pass(Reason::Malformed));
        }
        if header.fragment.to_host() & FRAGMENT != 0 {
            return Err(Stop::Pass(Reason::Fragment));
        }
        let protocol = Protocol::from_wire(header.protocol).ok_or(Stop::Pass(Reason::OtherProtocol))?;
        let l4 = if words == 5 { ctx.l3() + Self::HEADER } else { opaque(ctx.l3() + words * 4) };
        let end = ctx.l3() + usize::from(header.total_len.to_host());
        Ok(L3 { src: header.src, dst: header.dst, protocol, l4, end })
    }

    #[inline(always)]
    fn write_addrs<C: PacketCtx>(ctx: &mut C, old: &Tuple<Self>, new: &Tuple<Self>) -> Step<()> {
        let delta = Delta::of_addr(old.src, new.src).plus(Delta::of_addr(old.dst, new.dst));
        let at = ctx.l3();
        let checksum = ctx.read::<u16>(at + CHECKSUM)?;
        ctx.write(at + CHECKSUM, replace(checksum, delta, false))?;
        ctx.write(at + ADDRS, [new.src, new.dst])
    }

    #[inline(always)]
    fn write_header<C: PacketCtx>(ctx: &mut C, src: Addr4, dst: Addr4, protocol: u8, payload: u16) -> Step<()> {
        let total_len = Port::from_host(payload.wrapping_add(Self::HEADER as u16));
        let mut header = Header {
            version_ihl: 0x45,
            tos: 0,
            total_len,
            id: 0,
            fragment: Port::from_host(0x4000),
            ttl: 64,
            protocol,
            checksum: 0,
            src,
            dst,
        };
        let first = u64::from(u16::from_ne_bytes([header.version_ihl, header.tos]));
        let fourth = u64::from(u16::from_ne_bytes([header.ttl, header.protocol]));
        let sum = first + u64::from(total_len.raw()) + u64::from(header.fragment.raw()) + fourth + src.csum_words() + dst.csum_words();
        header.checksum = !fold16(sum);
        ctx.write(ctx.l3(), header)
    }

    /// ICMP for IPv4 has no pseudo header.
    #[inline(always)]
    fn icmp_pseudo_sum(_: Addr4, _: Addr4, _: u16) -> u64 {
        0
    }

    #[inline(always)]
    fn sum_header<C: PacketCtx>(ctx: &C, offset: usize) -> Step<u64> {
        ctx.sum::<{ Self::HEADER / 4 }>(offset)
    }

    #[inline(always)]
    fn frontends() -> &'static Frontends<Self> {
        &maps::FRONTENDS_V4
    }

    #[inline(always)]
    fn backends() -> &'static Backends<Self> {
        &maps::BACKENDS_V4
    }

    #[inline(always)]
    fn flows() -> &'static Flows<Self> {
        &maps::FLOWS_V4
    }

    #[inline(always)]
    fn scratch() -> &'static Scratches<Self> {
        &maps::SCRATCH_V4
    }

    #[inline(always)]
    fn snat() -> &'static Snat<Self> {
        &maps::SNAT_V4
    }
}
