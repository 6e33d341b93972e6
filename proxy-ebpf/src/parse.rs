//! From bytes to values: the tuple of a packet, and what of the transport header matters.

use bytemuck::{Pod, Zeroable};
use proxy_common::{Port, Protocol, Tuple, reason::Reason};

use crate::{
    ctx::PacketCtx,
    ip::Ip,
    verdict::{Step, Stop},
};

/// Flags of a TCP header (RFC 9293); all clear for other protocols.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpFlags(u8);

impl TcpFlags {
    const FIN: u8 = 1;
    const SYN: u8 = 2;
    const RST: u8 = 4;
    const ACK: u8 = 16;

    /// The flags of a header's fourteenth byte.
    pub const fn new(byte: u8) -> Self {
        Self(byte)
    }

    /// Whether the sender has nothing more to send.
    #[inline(always)]
    pub const fn fin(self) -> bool {
        self.0 & Self::FIN != 0
    }

    /// Whether the connection is broken off.
    #[inline(always)]
    pub const fn rst(self) -> bool {
        self.0 & Self::RST != 0
    }

    /// Whether this is the first packet of a connection: a SYN that acknowledges nothing.
    #[inline(always)]
    pub const fn opens(self) -> bool {
        self.0 & (Self::SYN | Self::ACK | Self::RST) == Self::SYN
    }

    /// Whether this is the answer to such a packet.
    #[inline(always)]
    pub const fn accepts(self) -> bool {
        self.0 & (Self::SYN | Self::ACK | Self::RST) == Self::SYN | Self::ACK
    }
}

/// What the stages need to know of a packet.
#[derive(Clone, Copy, Debug)]
pub struct Packet<F: Ip> {
    /// Source and destination.
    pub tuple: Tuple<F>,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// The flags of a TCP packet.
    pub flags: TcpFlags,
    /// The offset of the transport header.
    pub l4: usize,
    /// The length of the packet, link-layer header included.
    pub len: u32,
}

impl<F: Ip> Packet<F> {
    /// Whether the packet may choose its backend anew: nothing would be lost but an attempt or a datagram.
    #[inline(always)]
    pub fn may_move(&self) -> bool {
        match self.protocol {
            Protocol::Tcp => self.flags.opens(),
            Protocol::Udp | Protocol::Sctp => true,
        }
    }
}

/// A TCP header without options.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct TcpHeader {
    ports: [Port; 2],
    sequence: u32,
    acknowledged: u32,
    offset: u8,
    flags: u8,
    window: u16,
    checksum: u16,
    urgent: u16,
}

/// A UDP header.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct UdpHeader {
    ports: [Port; 2],
    length: u16,
    checksum: u16,
}

/// Reads the headers of a packet of one family. SCTP is not looked into yet.
///
/// A transport header is read in one piece: the verifier ties a bound to the very pointer that was checked, and the compiler computes
/// the pointer anew for each piece when its offset is not a constant.
#[inline(always)]
pub fn parse<F: Ip, C: PacketCtx>(ctx: &C) -> Step<Packet<F>> {
    let l3 = F::read_l3(ctx)?;
    let ([src_port, dst_port], flags) = match l3.protocol {
        Protocol::Tcp => {
            let header = ctx.read::<TcpHeader>(l3.l4)?;
            (header.ports, TcpFlags::new(header.flags))
        }
        Protocol::Udp => (ctx.read::<UdpHeader>(l3.l4)?.ports, TcpFlags::new(0)),
        Protocol::Sctp => return Err(Stop::Pass(Reason::OtherProtocol)),
    };
    let tuple = Tuple { src: l3.src, dst: l3.dst, src_port, dst_port };
    Ok(Packet { tuple, protocol: l3.protocol, flags, l4: l3.l4, len: ctx.len() })
}
