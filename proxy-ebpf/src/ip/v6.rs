//! IPv6 (RFC 8200).

use bytemuck::{Pod, Zeroable};
use proxy_common::{Addr6, Address as _, Port, Tuple, V6, reason::Reason};

use super::{
    Ip, L3, Piece,
    extensions::{self, Extensions, FragmentHeader, is_extension},
    is_less, opaque, port_pair,
};
use crate::{
    csum::Delta,
    ctx::PacketCtx,
    maps::{self, Affinities, Backends, ClusterIps, Flows, Fragments, Frontends, Scratches, ServiceNetworks, Snat, SocketPeers, Sources},
    verdict::{End, Step},
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

const HOP_LIMIT: usize = 7;
const ADDRS: usize = 8;

impl Ip for V6 {
    const ETHERTYPE: u16 = 0x86dd;
    const IPV6: bool = true;
    const HEADER: usize = 40;
    const AF: u8 = 10;
    const ICMP: u8 = 58;
    const ECHO_REQUEST: u8 = 128;
    const PORT_UNREACHABLE: [u8; 2] = [1, 4];
    const TOO_BIG: [u8; 2] = [2, 0];
    const TIME_EXCEEDED: [u8; 2] = [3, 0];

    /// All types below 128 (RFC 4443 section 2.1); others than these are not defined.
    #[inline(always)]
    fn is_icmp_error(kind: u8) -> bool {
        matches!(kind, 1..=4)
    }

    #[inline(always)]
    fn is_option(protocol: u8) -> bool {
        is_extension(protocol)
    }

    /// Redirects of IPv6 do not leave their link.
    #[inline(always)]
    fn is_icmp_redirect(_: u8) -> bool {
        false
    }

    const LOOPBACK: Addr6 = Addr6::from_wire([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);

    #[inline(always)]
    fn is_loopback(addr: Addr6) -> bool {
        addr == Self::LOOPBACK || addr.raw() == [0, 0]
    }

    #[inline(always)]
    fn is_single(addr: Addr6) -> bool {
        // Not unspecified or multicast (RFC 4291).
        let [first, ..] = addr.to_wire();
        first != 0xff && addr.csum_words() != 0
    }

    #[inline(always)]
    fn read_common<C: PacketCtx>(ctx: &C) -> Step<L3<Self>> {
        let l3 = Self::read_fixed(ctx, ctx.l3())?;
        if is_extension(l3.protocol) { Err(End::ASIDE) } else { Ok(l3) }
    }

    #[inline(always)]
    fn read_l3<C: PacketCtx>(ctx: &C) -> Step<L3<Self>> {
        let l3 = Self::read_fixed(ctx, ctx.l3())?;
        if !is_extension(l3.protocol) {
            return Ok(l3);
        }
        let Extensions { next, len, piece } = ctx.walk_extensions(l3.protocol).extensions()?;
        Ok(L3 { protocol: next, l4: opaque(l3.l4 + usize::from(len)), piece, ..l3 })
    }

    #[inline(always)]
    fn read_fixed<C: PacketCtx>(ctx: &C, offset: usize) -> Step<L3<Self>> {
        let header = ctx.read::<Header>(offset)?;
        let [version, ..] = header.version_class_flow.to_ne_bytes();
        if version >> 4 != 6 {
            return Err(End::pass(Reason::Malformed));
        }
        let l4 = offset + Self::HEADER;
        let end = l4 + usize::from(header.payload_len.to_host());
        Ok(L3 { src: header.src, dst: header.dst, protocol: header.next, l4, end, piece: Piece::Whole })
    }

    #[inline(always)]
    fn read_piece<C: PacketCtx>(ctx: &C, offset: usize) -> Step<L3<Self>> {
        let l3 = Self::read_fixed(ctx, offset)?;
        if l3.protocol != extensions::FRAGMENT {
            return Ok(l3);
        }
        let header = ctx.read::<FragmentHeader>(l3.l4)?;
        Ok(L3 { protocol: header.next, l4: l3.l4 + size_of::<FragmentHeader>(), piece: header.piece(), ..l3 })
    }

    #[inline(always)]
    fn write_addrs<C: PacketCtx>(ctx: &mut C, old: &Tuple<Self>, new: &Tuple<Self>) -> Step<()> {
        Self::write_addrs_at(ctx, ctx.l3(), old, new).map(|_| ())
    }

    #[inline(always)]
    fn write_addrs_at<C: PacketCtx>(ctx: &mut C, offset: usize, old: &Tuple<Self>, new: &Tuple<Self>) -> Step<Delta> {
        ctx.write(offset + ADDRS, [new.src, new.dst])?;
        Ok(Delta::of_addr(old.src, new.src).plus(Delta::of_addr(old.dst, new.dst)))
    }

    #[inline(always)]
    fn hops_left<C: PacketCtx>(ctx: &C) -> Step<u8> {
        ctx.read::<u8>(ctx.l3() + HOP_LIMIT)
    }

    #[inline(always)]
    fn take_hop<C: PacketCtx>(ctx: &mut C) -> Step<()> {
        let at = ctx.l3() + HOP_LIMIT - 1;
        let [next, hops] = ctx.read::<[u8; 2]>(at)?;
        let [old, new] = [hops, hops.wrapping_sub(1)].map(|hops| u16::from_ne_bytes([next, hops]));
        ctx.write(at, new)?;
        // No checksum makes up for it.
        ctx.note_change(Delta::from_sums(u64::from(old), u64::from(new)));
        Ok(())
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

    /// What every link takes (RFC 8200).
    const LEAST_MTU: u16 = 1280;

    #[inline(always)]
    fn in_words(addr: Addr6) -> [u64; 2] {
        addr.raw()
    }

    #[inline(always)]
    fn sock_tuple<'a>(tuple: &Tuple<Self>, _: &'a mut [u32; 3], v6: &'a mut [u32; 9]) -> (*mut u32, u32) {
        let words = bytemuck::cast::<_, [u32; 8]>([tuple.src.raw(), tuple.dst.raw()]);
        for (place, word) in v6.iter_mut().zip(words) {
            *place = word;
        }
        v6[8] = port_pair(tuple.src_port, tuple.dst_port);
        (v6.as_mut_ptr(), size_of_val(v6) as u32)
    }

    #[inline(always)]
    fn is_before(one: (Addr6, Port), other: (Addr6, Port)) -> u32 {
        let numbers = |(addr, port): (Addr6, Port)| {
            let [high, low] = addr.raw().map(|word| u64::from_be_bytes(word.to_ne_bytes()));
            [high, low, u64::from(port.to_host())]
        };
        // The borrow from the last word to the first.
        let borrow = |one: u64, other: u64, below: u64| is_less(one, other) | !(is_less(one, other) | is_less(other, one)) & below & 1;
        let [one, other] = [numbers(one), numbers(other)];
        borrow(one[0], other[0], borrow(one[1], other[1], is_less(one[2], other[2]))) as u32
    }

    #[inline(always)]
    fn sockets() -> &'static SocketPeers<Self> {
        &maps::SOCKETS_V6
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

    #[inline(always)]
    fn sources() -> &'static Sources<Self> {
        &maps::SOURCES_V6
    }

    #[inline(always)]
    fn affinities() -> &'static Affinities<Self> {
        &maps::AFFINITY_V6
    }

    #[inline(always)]
    fn fragments() -> &'static Fragments<Self> {
        &maps::FRAGMENTS_V6
    }

    #[inline(always)]
    fn cluster_ips() -> &'static ClusterIps<Self> {
        &maps::CLUSTER_IPS_V6
    }

    #[inline(always)]
    fn networks() -> &'static ServiceNetworks<Self> {
        &maps::NETWORKS_V6
    }
}
