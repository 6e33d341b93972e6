//! What differs between the address families: headers, and which maps hold their rows.

mod v4;
mod v6;

use proxy_common::{Family, Protocol, Tuple};

use crate::{
    ctx::PacketCtx,
    maps::{Backends, Flows, Frontends, Scratches, Snat},
    verdict::Step,
};

/// The network header of a packet, and where the transport header is.
#[derive(Clone, Copy, Debug)]
pub struct L3<F: Family> {
    /// The source address.
    pub src: F::Addr,
    /// The destination address.
    pub dst: F::Addr,
    /// The transport protocol.
    pub protocol: Protocol,
    /// The offset of the transport header.
    pub l4: usize,
    /// Where the packet ends by its network header. What follows there is padding.
    pub end: usize,
}

/// An address family as the packet path needs it.
pub trait Ip: Family {
    /// The number of the protocol in the link-layer header.
    const ETHERTYPE: u16;
    /// Whether this is IPv6, for what the checksum of the network header means to the kernel.
    const IPV6: bool;
    /// The length of a header without options.
    const HEADER: usize;
    /// The protocol number of this family's ICMP.
    const ICMP: u8;
    /// Type and code of ICMP's port unreachable (RFC 792, RFC 4443).
    const PORT_UNREACHABLE: [u8; 2];

    /// Whether an address is that of a single machine, which may be told of an error (RFC 1122 section 3.2.2, RFC 4443 section 2.4).
    fn is_single(addr: Self::Addr) -> bool;

    /// Reads the network header.
    fn read_l3<C: PacketCtx>(ctx: &C) -> Step<L3<Self>>;

    /// Writes other addresses into the network header, and corrects its checksum.
    fn write_addrs<C: PacketCtx>(ctx: &mut C, old: &Tuple<Self>, new: &Tuple<Self>) -> Step<()>;

    /// Writes a whole network header without options for `payload` bytes of `protocol`, as a new packet has it.
    fn write_header<C: PacketCtx>(ctx: &mut C, src: Self::Addr, dst: Self::Addr, protocol: u8, payload: u16) -> Step<()>;

    /// The sum of the words of a header without options at `offset`.
    fn sum_header<C: PacketCtx>(ctx: &C, offset: usize) -> Step<u64>;

    /// The sum of the pseudo header that this family's ICMP has in its checksum.
    fn icmp_pseudo_sum(src: Self::Addr, dst: Self::Addr, payload: u16) -> u64;

    /// The family's frontends.
    fn frontends() -> &'static Frontends<Self>;
    /// The family's backend slots.
    fn backends() -> &'static Backends<Self>;
    /// The family's flows.
    fn flows() -> &'static Flows<Self>;
    /// Scratch room.
    fn scratch() -> &'static Scratches<Self>;
    /// The node's own address.
    fn snat() -> &'static Snat<Self>;
}

/// The same offset, but the compiler does not know what it was made of.
///
/// It would else check the bounds at one sum of these parts and access the packet at another, and the verifier would not see that
/// they belong together (LLVM 22, kernel 6.18: "invalid access to packet ... R1 offset is outside of the packet"). The mask gives the
/// verifier its bound back. Guarded by the packet tests `ipv4_options` and `ipv6_extension_headers`.
#[inline(always)]
pub(crate) fn opaque(offset: usize) -> usize {
    // SAFETY: a reference to a local is valid.
    unsafe { core::ptr::read_volatile(&raw const offset) & 0xff }
}
