//! What differs between the address families: headers, and which maps hold their rows.

pub mod extensions;
mod globals;
mod v4;
mod v6;

pub use globals::Globals;
use proxy_common::{Family, Port, Tuple};

use crate::{
    csum::Delta,
    ctx::PacketCtx,
    maps::{Affinities, Backends, ClusterIps, Flows, Fragments, Frontends, Scratches, ServiceNetworks, Snat, SocketPeers, Sources},
    verdict::Step,
};

/// The network header of a packet, and where the transport header is.
#[derive(Clone, Copy, Debug)]
pub struct L3<F: Family> {
    /// The source address.
    pub src: F::Addr,
    /// The destination address.
    pub dst: F::Addr,
    /// The number of the transport protocol.
    pub protocol: u8,
    /// The offset of what follows the network header.
    pub l4: usize,
    /// Where the packet ends by its network header. What follows there is padding.
    pub end: usize,
    /// Which piece of its datagram the packet is.
    pub piece: Piece,
}

/// Which piece of a datagram a packet is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Piece {
    /// All of it.
    Whole,
    /// Its first fragment, with the transport header; of the datagram with this identification.
    First(u32),
    /// Another fragment of the datagram with this identification.
    Later(u32),
}

/// An address family as the packet path needs it.
pub trait Ip: Globals {
    /// The number of the protocol in the link-layer header.
    const ETHERTYPE: u16;
    /// Whether this is IPv6, for what the checksum of the network header means to the kernel.
    const IPV6: bool;
    /// The length of a header without options.
    const HEADER: usize;
    /// The number of the family for the kernel.
    const AF: u8;
    /// The protocol number of this family's ICMP.
    const ICMP: u8;
    /// The type of ICMP's echo request (RFC 792, RFC 4443).
    const ECHO_REQUEST: u8;
    /// Type and code of ICMP's port unreachable (RFC 792, RFC 4443).
    const PORT_UNREACHABLE: [u8; 2];
    /// Type and code of ICMP's packet too big, or fragmentation needed (RFC 1191, RFC 4443).
    const TOO_BIG: [u8; 2];
    /// Type and code of ICMP's time exceeded in transit.
    const TIME_EXCEEDED: [u8; 2];

    /// Whether an ICMP type is that of an error, which quotes the packet that it is about.
    fn is_icmp_error(kind: u8) -> bool;

    /// Whether what a header announces is more of the network header: an extension header.
    fn is_option(protocol: u8) -> bool;

    /// Whether an ICMP type is that of a redirect.
    fn is_icmp_redirect(kind: u8) -> bool;

    /// The address of loopback at which node ports are frontends.
    const LOOPBACK: Self::Addr;

    /// Whether the kernel takes an address that is dialled for one of the machine itself, whatever addresses it has: loopback, or none at all.
    fn is_loopback(addr: Self::Addr) -> bool;

    /// Whether an address is that of a single machine, which may be told of an error (RFC 1122 section 3.2.2, RFC 4443 section 2.4).
    fn is_single(addr: Self::Addr) -> bool;

    /// Reads the network header of a common packet: one without options, and no fragment. Others go aside: what is rare is not to make the way
    /// of what is common longer.
    fn read_common<C: PacketCtx>(ctx: &C) -> Step<L3<Self>>;

    /// Reads the network header of any packet, and steps over its options.
    fn read_l3<C: PacketCtx>(ctx: &C) -> Step<L3<Self>>;

    /// Reads the network header at `offset`, and of what follows in IPv6 nothing: an extension header is the protocol then.
    fn read_fixed<C: PacketCtx>(ctx: &C, offset: usize) -> Step<L3<Self>>;

    /// The same with a fragment header of IPv6, if that is what follows: a packet that is quoted in an ICMP error may have one.
    fn read_piece<C: PacketCtx>(ctx: &C, offset: usize) -> Step<L3<Self>>;

    /// Writes other addresses into the network header at `offset`, and corrects its checksum: the change of the header's words.
    fn write_addrs_at<C: PacketCtx>(ctx: &mut C, offset: usize, old: &Tuple<Self>, new: &Tuple<Self>) -> Step<Delta>;

    /// How many more routers the packet may go through.
    fn hops_left<C: PacketCtx>(ctx: &C) -> Step<u8>;

    /// Counts this node as one of them.
    fn take_hop<C: PacketCtx>(ctx: &mut C) -> Step<()>;

    /// Writes other addresses into the network header, and corrects its checksum.
    fn write_addrs<C: PacketCtx>(ctx: &mut C, old: &Tuple<Self>, new: &Tuple<Self>) -> Step<()>;

    /// Writes a whole network header without options for `payload` bytes of `protocol`, as a new packet has it.
    fn write_header<C: PacketCtx>(ctx: &mut C, src: Self::Addr, dst: Self::Addr, protocol: u8, payload: u16) -> Step<()>;

    /// The sum of the words of a header without options at `offset`.
    fn sum_header<C: PacketCtx>(ctx: &C, offset: usize) -> Step<u64>;

    /// The sum of the pseudo header that this family's ICMP has in its checksum.
    fn icmp_pseudo_sum(src: Self::Addr, dst: Self::Addr, payload: u16) -> u64;

    /// The smallest MTU of any link.
    const LEAST_MTU: u16;

    /// An address as the kernel's routing takes it: sixteen bytes, of which IPv4 uses the first four.
    fn in_words(addr: Self::Addr) -> [u64; 2];

    /// A tuple as the kernel's sockets are looked up by (`struct bpf_sock_tuple`), in the place for this family.
    fn sock_tuple<'a>(tuple: &Tuple<Self>, v4: &'a mut [u32; 3], v6: &'a mut [u32; 9]) -> (*mut u32, u32);

    /// 1 if one address and port come before another, as numbers, and else 0; computed without a branch.
    fn is_before(one: (Self::Addr, Port), other: (Self::Addr, Port)) -> u32;

    /// The family's frontends.
    fn frontends() -> &'static Frontends<Self>;
    /// The family's backend slots.
    fn backends() -> &'static Backends<Self>;
    /// Sockets that were given a backend.
    fn sockets() -> &'static SocketPeers<Self>;
    /// The family's flows.
    fn flows() -> &'static Flows<Self>;
    /// Scratch room.
    fn scratch() -> &'static Scratches<Self>;
    /// The node's own addresses.
    fn snat() -> &'static Snat<Self>;
    /// Who may use load balancer addresses.
    fn sources() -> &'static Sources<Self>;
    /// Session affinity.
    fn affinities() -> &'static Affinities<Self>;
    /// Datagrams in fragments.
    fn fragments() -> &'static Fragments<Self>;
    /// Services' addresses beyond their ports.
    fn cluster_ips() -> &'static ClusterIps<Self>;
    /// The networks that Services have their addresses from.
    fn networks() -> &'static ServiceNetworks<Self>;
}

/// 1 if `a` is less than `b`, and else 0, without a branch: the borrow of the subtraction.
#[inline(always)]
fn is_less(a: u64, b: u64) -> u64 {
    (!a & b | (!a | b) & a.wrapping_sub(b)) >> 63
}

/// Two ports as they follow each other in memory.
#[inline(always)]
fn port_pair(first: Port, second: Port) -> u32 {
    bytemuck::cast([first, second])
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
