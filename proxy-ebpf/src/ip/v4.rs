//! IPv4 (RFC 791).

use bytemuck::{Pod, Zeroable};
use proxy_common::{Addr4, Address as _, Port, Tuple, V4, reason::Reason};

use super::{Ip, L3, Piece, is_less, opaque, port_pair};
use crate::{
    csum::{Delta, fold16, replace},
    ctx::PacketCtx,
    maps::{self, Affinities, Backends, ClusterIps, Flows, Fragments, Frontends, Scratches, ServiceNetworks, Snat, SocketPeers, Sources},
    verdict::{End, Step},
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

/// The version, and the length of a header without options in words.
const PLAIN: u8 = 0x45;
/// Flags and offset of a fragment: "more fragments" in the first byte, and the offset.
const MORE_FRAGMENTS: u16 = 0x2000;
const FRAGMENT_OFFSET: u16 = 0x1fff;
const TTL: usize = 8;
const CHECKSUM: usize = 10;
const ADDRS: usize = 12;

impl Header {
    /// What the header at `offset` says. `l4` is the offset of what follows it.
    #[inline(always)]
    fn l3(&self, offset: usize) -> Step<L3<V4>> {
        let words = usize::from(self.version_ihl & 0xf);
        if self.version_ihl >> 4 != 4 || words < 5 {
            return Err(End::pass(Reason::Malformed));
        }
        let l4 = if words == 5 { offset + V4::HEADER } else { opaque(offset + words * 4) };
        let (field, id) = (self.fragment.to_host(), u32::from(self.id));
        let piece = match (field & FRAGMENT_OFFSET, field & MORE_FRAGMENTS) {
            (0, 0) => Piece::Whole,
            (0, _) => Piece::First(id),
            _ => Piece::Later(id),
        };
        Ok(self.l3_at(offset, l4, piece))
    }

    #[inline(always)]
    fn l3_at(&self, offset: usize, l4: usize, piece: Piece) -> L3<V4> {
        L3 { src: self.src, dst: self.dst, protocol: self.protocol, l4, end: offset + usize::from(self.total_len.to_host()), piece }
    }
}

impl Ip for V4 {
    const ETHERTYPE: u16 = 0x0800;
    const IPV6: bool = false;
    const HEADER: usize = 20;
    const AF: u8 = 2;
    const ICMP: u8 = 1;
    const ECHO_REQUEST: u8 = 8;
    const PORT_UNREACHABLE: [u8; 2] = [3, 3];
    const TOO_BIG: [u8; 2] = [3, 4];
    const TIME_EXCEEDED: [u8; 2] = [11, 0];

    /// Destination unreachable, source quench, redirect, time exceeded, parameter problem (RFC 1122 section 3.2.2).
    #[inline(always)]
    fn is_icmp_error(kind: u8) -> bool {
        matches!(kind, 3 | 4 | 5 | 11 | 12)
    }

    #[inline(always)]
    fn is_option(_: u8) -> bool {
        false
    }

    #[inline(always)]
    fn is_icmp_redirect(kind: u8) -> bool {
        kind == 5
    }

    const LOOPBACK: Addr4 = Addr4::from_wire([127, 0, 0, 1]);

    #[inline(always)]
    fn is_loopback(addr: Addr4) -> bool {
        addr.to_wire()[0] == 127 || addr.raw() == 0
    }

    #[inline(always)]
    fn is_single(addr: Addr4) -> bool {
        // Not "this network", loopback, multicast, reserved or broadcast (RFC 6890).
        let [first, ..] = addr.to_wire();
        first != 0 && first != 127 && first < 224
    }

    #[inline(always)]
    fn read_common<C: PacketCtx>(ctx: &C) -> Step<L3<Self>> {
        let header = ctx.read::<Header>(ctx.l3())?;
        if header.version_ihl != PLAIN || header.fragment.to_host() & (MORE_FRAGMENTS | FRAGMENT_OFFSET) != 0 {
            return Err(End::ASIDE);
        }
        Ok(header.l3_at(ctx.l3(), ctx.l3() + Self::HEADER, Piece::Whole))
    }

    #[inline(always)]
    fn read_l3<C: PacketCtx>(ctx: &C) -> Step<L3<Self>> {
        Self::read_fixed(ctx, ctx.l3())
    }

    #[inline(always)]
    fn read_fixed<C: PacketCtx>(ctx: &C, offset: usize) -> Step<L3<Self>> {
        ctx.read::<Header>(offset)?.l3(offset)
    }

    #[inline(always)]
    fn read_piece<C: PacketCtx>(ctx: &C, offset: usize) -> Step<L3<Self>> {
        Self::read_fixed(ctx, offset)
    }

    #[inline(always)]
    fn write_addrs<C: PacketCtx>(ctx: &mut C, old: &Tuple<Self>, new: &Tuple<Self>) -> Step<()> {
        Self::write_addrs_at(ctx, ctx.l3(), old, new).map(|_| ())
    }

    #[inline(always)]
    fn write_addrs_at<C: PacketCtx>(ctx: &mut C, offset: usize, old: &Tuple<Self>, new: &Tuple<Self>) -> Step<Delta> {
        let delta = Delta::of_addr(old.src, new.src).plus(Delta::of_addr(old.dst, new.dst));
        let checksum = ctx.read::<u16>(offset + CHECKSUM)?;
        let corrected = replace(checksum, delta, false);
        ctx.write(offset + CHECKSUM, corrected)?;
        ctx.write(offset + ADDRS, [new.src, new.dst])?;
        Ok(delta.plus(Delta::from_sums(u64::from(checksum), u64::from(corrected))))
    }

    #[inline(always)]
    fn hops_left<C: PacketCtx>(ctx: &C) -> Step<u8> {
        ctx.read::<u8>(ctx.l3() + TTL)
    }

    #[inline(always)]
    fn take_hop<C: PacketCtx>(ctx: &mut C) -> Step<()> {
        let at = ctx.l3();
        let [ttl, protocol] = ctx.read::<[u8; 2]>(at + TTL)?;
        let [old, new] = [ttl, ttl.wrapping_sub(1)].map(|ttl| u16::from_ne_bytes([ttl, protocol]));
        let checksum = ctx.read::<u16>(at + CHECKSUM)?;
        ctx.write(at + TTL, new)?;
        // The checksum makes up for it in a sum that a device has computed.
        ctx.write(at + CHECKSUM, replace(checksum, Delta::from_sums(u64::from(old), u64::from(new)), false))
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

    /// What every host can take (RFC 791).
    const LEAST_MTU: u16 = 576;

    #[inline(always)]
    fn in_words(addr: Addr4) -> [u64; 2] {
        let [a, b, c, d] = addr.to_wire();
        [u64::from_ne_bytes([a, b, c, d, 0, 0, 0, 0]), 0]
    }

    #[inline(always)]
    fn sock_tuple<'a>(tuple: &Tuple<Self>, v4: &'a mut [u32; 3], _: &'a mut [u32; 9]) -> (*mut u32, u32) {
        *v4 = [tuple.src.raw(), tuple.dst.raw(), port_pair(tuple.src_port, tuple.dst_port)];
        (v4.as_mut_ptr(), size_of_val(v4) as u32)
    }

    #[inline(always)]
    fn is_before(one: (Addr4, Port), other: (Addr4, Port)) -> u32 {
        let number = |(addr, port): (Addr4, Port)| u64::from(u32::from_be_bytes(addr.to_wire())) << 16 | u64::from(port.to_host());
        is_less(number(one), number(other)) as u32
    }

    #[inline(always)]
    fn sockets() -> &'static SocketPeers<Self> {
        &maps::SOCKETS_V4
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

    #[inline(always)]
    fn sources() -> &'static Sources<Self> {
        &maps::SOURCES_V4
    }

    #[inline(always)]
    fn affinities() -> &'static Affinities<Self> {
        &maps::AFFINITY_V4
    }

    #[inline(always)]
    fn fragments() -> &'static Fragments<Self> {
        &maps::FRAGMENTS_V4
    }

    #[inline(always)]
    fn cluster_ips() -> &'static ClusterIps<Self> {
        &maps::CLUSTER_IPS_V4
    }

    #[inline(always)]
    fn networks() -> &'static ServiceNetworks<Self> {
        &maps::NETWORKS_V4
    }
}
