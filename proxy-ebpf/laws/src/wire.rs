//! A frame as etherparse reads it: what the packet path has to find in it, and where.

use std::{
    net::{IpAddr, SocketAddr},
    ops::Range,
};

use etherparse::{IpAuthHeaderSlice, IpNumber, Ipv4HeaderSlice, Ipv6HeaderSlice, Ipv6RawExtHeaderSlice, TcpHeaderSlice, UdpHeaderSlice};

/// So many extension headers are walked over, and so many bytes of them.
const EXTENSION_HEADERS: usize = 5;
const EXTENSION_BYTES: usize = 96;

/// A TCP, UDP or SCTP packet, or the first fragment of one, and where its parts are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wire {
    /// Address and port.
    pub src: SocketAddr,
    /// Address and port.
    pub dst: SocketAddr,
    /// TCP, UDP or SCTP.
    pub protocol: u8,
    /// Where the network header begins.
    pub l3: usize,
    /// How much of it has a checksum of its own: all of IPv4's, nothing of IPv6's.
    pub checked_header: usize,
    /// Where both addresses are.
    pub addrs: Range<usize>,
    /// Where the transport header begins.
    pub l4: usize,
    /// Where the packet ends by its network header, which may be anywhere.
    pub end: usize,
}

/// The network header of a packet.
struct Network {
    addrs: [IpAddr; 2],
    protocol: u8,
    checked_header: usize,
    first_addr: usize,
    header: usize,
    len: usize,
}

/// Reads a packet that begins at `l3`. Nothing if it is none that could belong to a Service.
pub fn read(frame: &[u8], l3: usize) -> Option<Wire> {
    let packet = frame.get(l3..)?;
    let network = match packet.first()? >> 4 {
        4 => ipv4(packet)?,
        6 => ipv6(packet)?,
        _ => return None,
    };
    let [src, dst] = network.addrs;
    let [src_port, dst_port] = ports(packet.get(network.header..)?, network.protocol)?;
    let addr_len = if src.is_ipv4() { 4 } else { 16 };
    let first_addr = l3 + network.first_addr;
    Some(Wire {
        src: SocketAddr::new(src, src_port),
        dst: SocketAddr::new(dst, dst_port),
        protocol: network.protocol,
        l3,
        checked_header: network.checked_header,
        addrs: first_addr..first_addr + 2 * addr_len,
        l4: l3 + network.header,
        end: l3 + network.len,
    })
}

fn ipv4(packet: &[u8]) -> Option<Network> {
    let header = Ipv4HeaderSlice::from_slice(packet).ok().filter(|header| header.fragments_offset().value() == 0)?;
    let len = header.slice().len();
    Some(Network {
        addrs: [header.source_addr().into(), header.destination_addr().into()],
        protocol: header.protocol().0,
        checked_header: len,
        first_addr: 12,
        header: len,
        len: header.total_len().into(),
    })
}

fn ipv6(packet: &[u8]) -> Option<Network> {
    let header = Ipv6HeaderSlice::from_slice(packet).ok()?;
    let extensions = &packet[header.slice().len()..];
    let (mut next, mut skipped) = (header.next_header(), 0);
    for walked in 0.. {
        let Next::Extension(following, len) = announced(next, extensions.get(skipped..)?)? else { break };
        (next, skipped) = (following, skipped + len);
        if walked == EXTENSION_HEADERS || skipped > EXTENSION_BYTES {
            return None;
        }
    }
    Some(Network {
        addrs: [header.source_addr().into(), header.destination_addr().into()],
        protocol: next.0,
        checked_header: 0,
        first_addr: 8,
        header: header.slice().len() + skipped,
        len: header.slice().len() + usize::from(header.payload_length()),
    })
}

/// What stands where a next header is announced.
enum Next {
    /// An extension header: what it announces, and its length.
    Extension(IpNumber, usize),
    /// Something else.
    Payload,
}

/// Reads the header that is announced by this number. Nothing if it is cut off, or the packet is not the first fragment.
fn announced(number: IpNumber, bytes: &[u8]) -> Option<Next> {
    match number {
        IpNumber::IPV6_FRAGMENTATION_HEADER => {
            // By hand: etherparse 0.18 takes other bits for the offset than RFC 8200 section 4.5 has.
            let header = bytes.first_chunk::<8>().filter(|header| u16::from_be_bytes([header[2], header[3]]) & 0xfff8 == 0)?;
            Some(Next::Extension(IpNumber(header[0]), header.len()))
        }
        IpNumber::IPV6_HEADER_HOP_BY_HOP | IpNumber::IPV6_ROUTE_HEADER | IpNumber::IPV6_DESTINATION_OPTIONS => {
            let header = Ipv6RawExtHeaderSlice::from_slice(bytes).ok()?;
            Some(Next::Extension(header.next_header(), header.slice().len()))
        }
        // Too short for all that belongs into it, which etherparse minds and the kernel's walk does not.
        IpNumber::AUTHENTICATION_HEADER if bytes.get(1) == Some(&0) => Some(Next::Extension(IpNumber(bytes[0]), 8)),
        IpNumber::AUTHENTICATION_HEADER => {
            let header = IpAuthHeaderSlice::from_slice(bytes).ok()?;
            Some(Next::Extension(header.next_header(), header.slice().len()))
        }
        _ => Some(Next::Payload),
    }
}

/// The ports of a whole transport header. The length of TCP's options is not what makes it one.
fn ports(header: &[u8], protocol: u8) -> Option<[u16; 2]> {
    match IpNumber(protocol) {
        IpNumber::UDP => UdpHeaderSlice::from_slice(header).ok().map(|udp| [udp.source_port(), udp.destination_port()]),
        IpNumber::TCP if header.len() >= 20 => Some(TcpHeaderSlice::from_slice(header).map_or_else(
            |_| [[header[0], header[1]], [header[2], header[3]]].map(u16::from_be_bytes),
            |tcp| [tcp.source_port(), tcp.destination_port()],
        )),
        // Without a chunk, too: that of an aggregate is elsewhere.
        IpNumber::SCTP if header.len() >= 12 => Some([[header[0], header[1]], [header[2], header[3]]].map(u16::from_be_bytes)),
        _ => None,
    }
}

// === impl Wire ===

impl Wire {
    /// Whether this is UDP, whose checksum is optional.
    pub fn is_udp(&self) -> bool {
        self.protocol == IpNumber::UDP.0
    }

    /// Whether this is SCTP, whose checksum is a CRC over the packet alone.
    pub fn is_sctp(&self) -> bool {
        self.protocol == IpNumber::SCTP.0
    }

    /// Where the transport checksum is.
    pub fn checksum(&self) -> Range<usize> {
        let (at, len) = match IpNumber(self.protocol) {
            IpNumber::UDP => (6, 2),
            IpNumber::SCTP => (8, 4),
            _ => (16, 2),
        };
        self.l4 + at..self.l4 + at + len
    }

    /// Where the ports are.
    pub fn ports(&self) -> Range<usize> {
        self.l4..self.l4 + 4
    }

    /// The length of a transport header without options.
    pub fn l4_header(&self) -> usize {
        match IpNumber(self.protocol) {
            IpNumber::UDP => 8,
            IpNumber::SCTP => 12,
            _ => 20,
        }
    }

    /// The same packet without what is before its network header.
    #[must_use]
    pub fn without_ethernet(self) -> Self {
        let (l3, addrs) = (self.l3, self.addrs.clone());
        Self { l3: 0, addrs: addrs.start - l3..addrs.end - l3, l4: self.l4 - l3, end: self.end - l3, ..self }
    }

    /// The length of the transport header and its payload, as the pseudo header has it.
    pub(crate) fn length(&self) -> u64 {
        let end = u16::try_from(self.end % 0x1_0000).unwrap_or_default();
        let l4 = u16::try_from(self.l4).unwrap_or_default();
        end.wrapping_sub(l4).into()
    }

    /// How far the transport checksum's sum goes.
    pub fn summed_end(&self, frame: &[u8]) -> usize {
        self.end.min(frame.len()).max(self.l4 + self.l4_header())
    }
}
