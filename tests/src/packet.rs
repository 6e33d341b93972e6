//! Frames for packet tests: a thin layer over `etherparse`.
//!
//! [`Packet`] is what a test says and compares: addresses, ports, flags, payload.
//! [`Packet::build`] turns it into a frame whose checksums are computed, [`Packet::decode`] turns a frame back,
//! so that "the expected packet" is the sent one with the fields changed that should have changed.
//! Checksums are no part of a `Packet`: [`verify_checksums`] recomputes every one a frame carries.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context as _, Result, bail, ensure};
use etherparse::{IpNumber, NetSlice, PacketBuilder, PacketBuilderStep, SlicedPacket, TransportSlice, checksum::Sum16BitWords};

/// The bits of the TCP flags byte, as on the wire.
pub mod flags {
    pub const FIN: u8 = 0x01;
    pub const SYN: u8 = 0x02;
    pub const RST: u8 = 0x04;
    pub const PSH: u8 = 0x08;
    pub const ACK: u8 = 0x10;
}

/// One Ethernet frame with an IP packet of one family.
///
/// ICMP and other protocols have no ports: theirs are 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    pub eth_src: [u8; 6],
    /// Zeros are the loopback device's, by which the packets of the kernel's test run come: any other is another machine's to it.
    pub eth_dst: [u8; 6],
    pub src: SocketAddr,
    pub dst: SocketAddr,
    /// TTL or hop limit.
    pub ttl: u8,
    pub l4: L4,
    pub payload: Vec<u8>,
}

/// The transport header without its ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum L4 {
    Tcp {
        flags: u8,
        seq: u32,
        ack: u32,
        window: u16,
        options: Vec<u8>,
    },
    /// `checksum: false` sends zero, "not computed", which IPv4 allows.
    Udp {
        checksum: bool,
    },
    /// `ICMP` or `ICMPv6` by the packet's family; the quoted packet is the payload.
    Icmp {
        kind: u8,
        code: u8,
        rest: [u8; 4],
    },
    /// Any other protocol number, or a fragment after the first: the payload is all that follows the IP header.
    Other(u8),
}

impl Packet {
    /// Describes a TCP segment with these flags, sequence numbers of no meaning and no payload.
    pub fn tcp(src: SocketAddr, dst: SocketAddr, flags: u8) -> Self {
        let ack = if flags & flags::ACK == 0 { 0 } else { 2000 };
        Self::new(src, dst, L4::Tcp { flags, seq: 1000, ack, window: 64_000, options: Vec::new() })
    }

    /// Describes a UDP datagram with a checksum and no payload.
    pub fn udp(src: SocketAddr, dst: SocketAddr) -> Self {
        Self::new(src, dst, L4::Udp { checksum: true })
    }

    fn new(src: SocketAddr, dst: SocketAddr, l4: L4) -> Self {
        Self { eth_src: [0x02, 0, 0, 0, 0, 1], eth_dst: [0; 6], src, dst, ttl: 64, l4, payload: Vec::new() }
    }

    #[must_use]
    pub fn payload(mut self, payload: impl Into<Vec<u8>>) -> Self {
        self.payload = payload.into();
        self
    }

    /// The same packet from another source.
    #[must_use]
    pub fn from(mut self, src: SocketAddr) -> Self {
        self.src = src;
        self
    }

    /// The same packet to another destination.
    #[must_use]
    pub fn to(mut self, dst: SocketAddr) -> Self {
        self.dst = dst;
        self
    }

    /// The answer to this packet: every pair of addresses exchanged, all else equal.
    #[must_use]
    pub fn reversed(mut self) -> Self {
        std::mem::swap(&mut self.src, &mut self.dst);
        std::mem::swap(&mut self.eth_src, &mut self.eth_dst);
        self
    }

    /// Builds the frame with right lengths and checksums.
    ///
    /// # Panics
    /// When source and destination are of different families, or the payload is too long for a packet.
    pub fn build(&self) -> Vec<u8> {
        let mut frame = Vec::new();
        let ethernet = PacketBuilder::ethernet2(self.eth_src, self.eth_dst);
        let ip = match (self.src.ip(), self.dst.ip()) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => ethernet.ipv4(src.octets(), dst.octets(), self.ttl),
            (IpAddr::V6(src), IpAddr::V6(dst)) => ethernet.ipv6(src.octets(), dst.octets(), self.ttl),
            (src, dst) => unreachable!("{src} and {dst} are of one family"),
        };
        self.write_l4(ip, &mut frame);
        if self.l4 == (L4::Udp { checksum: false }) {
            let udp = frame.len() - self.payload.len() - 8;
            frame[udp + 6..udp + 8].fill(0);
        }
        frame
    }

    fn write_l4(&self, ip: PacketBuilderStep<etherparse::IpHeaders>, frame: &mut Vec<u8>) {
        let (sport, dport) = (self.src.port(), self.dst.port());
        let written = match &self.l4 {
            L4::Tcp { flags, seq, ack, window, options } => {
                let mut tcp = etherparse::TcpHeader::new(sport, dport, *seq, *window);
                tcp.acknowledgment_number = *ack;
                tcp.fin = flags & flags::FIN != 0;
                tcp.syn = flags & flags::SYN != 0;
                tcp.rst = flags & flags::RST != 0;
                tcp.psh = flags & flags::PSH != 0;
                tcp.ack = flags & flags::ACK != 0;
                tcp.set_options_raw(options).expect("at most 40 bytes of TCP options");
                ip.tcp_header(tcp).write(frame, &self.payload)
            }
            L4::Udp { .. } => ip.udp(sport, dport).write(frame, &self.payload),
            L4::Icmp { kind, code, rest } if self.src.is_ipv4() => ip.icmpv4_raw(*kind, *code, *rest).write(frame, &self.payload),
            L4::Icmp { kind, code, rest } => ip.icmpv6_raw(*kind, *code, *rest).write(frame, &self.payload),
            L4::Other(number) => ip.write(frame, IpNumber(*number), &self.payload),
        };
        written.expect("the payload fits a packet");
    }

    /// Reads a frame back, without looking at its checksums.
    pub fn decode(frame: &[u8]) -> Result<Self> {
        let sliced = SlicedPacket::from_ethernet(frame).context("parsing the frame")?;
        let ethernet = sliced.link.as_ref().and_then(etherparse::LinkSlice::to_header);
        let ethernet = ethernet.and_then(etherparse::LinkHeader::ethernet2);
        let ethernet = ethernet.context("no Ethernet header")?;
        let ip = Ip::of(&sliced)?;
        let (sport, dport, l4, payload) = decode_l4(&sliced, &ip);
        Ok(Self {
            eth_src: ethernet.source,
            eth_dst: ethernet.destination,
            src: SocketAddr::new(ip.src, sport),
            dst: SocketAddr::new(ip.dst, dport),
            ttl: ip.ttl,
            l4,
            payload,
        })
    }
}

/// What both families' headers have in common.
struct Ip<'a> {
    src: IpAddr,
    dst: IpAddr,
    ttl: u8,
    number: u8,
    fragmented: bool,
    payload: &'a [u8],
}

impl<'a> Ip<'a> {
    fn of(sliced: &SlicedPacket<'a>) -> Result<Self> {
        match sliced.net.as_ref() {
            Some(NetSlice::Ipv4(v4)) => {
                let (header, payload) = (v4.header(), v4.payload());
                Ok(Self {
                    src: IpAddr::V4(header.source_addr()),
                    dst: IpAddr::V4(header.destination_addr()),
                    ttl: header.ttl(),
                    number: payload.ip_number.0,
                    fragmented: payload.fragmented,
                    payload: payload.payload,
                })
            }
            Some(NetSlice::Ipv6(v6)) => {
                let (header, payload) = (v6.header(), v6.payload());
                Ok(Self {
                    src: IpAddr::V6(header.source_addr()),
                    dst: IpAddr::V6(header.destination_addr()),
                    ttl: header.hop_limit(),
                    number: payload.ip_number.0,
                    fragmented: payload.fragmented,
                    payload: payload.payload,
                })
            }
            Some(NetSlice::Arp(_)) | None => bail!("no IP packet in the frame"),
        }
    }

    /// The ones' complement sum of the pseudo header and the transport bytes: zero when the checksum holds.
    fn transport_sum(&self) -> u16 {
        let sum = match (self.src, self.dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => Sum16BitWords::new().add_4bytes(src.octets()).add_4bytes(dst.octets()),
            (IpAddr::V6(src), IpAddr::V6(dst)) => Sum16BitWords::new().add_16bytes(src.octets()).add_16bytes(dst.octets()),
            (src, dst) => unreachable!("{src} and {dst} are of one family"),
        };
        let len = u16::try_from(self.payload.len()).expect("a packet's length has 16 bits");
        let [high, low] = [(len >> 8) as u8, (len & 0xff) as u8];
        sum.add_2bytes([0, self.number]).add_2bytes([high, low]).add_slice(self.payload).ones_complement()
    }
}

fn decode_l4(sliced: &SlicedPacket<'_>, ip: &Ip<'_>) -> (u16, u16, L4, Vec<u8>) {
    match sliced.transport.as_ref() {
        Some(TransportSlice::Tcp(tcp)) => {
            let bits = [
                (tcp.fin(), flags::FIN),
                (tcp.syn(), flags::SYN),
                (tcp.rst(), flags::RST),
                (tcp.psh(), flags::PSH),
                (tcp.ack(), flags::ACK),
            ];
            let l4 = L4::Tcp {
                flags: bits.iter().filter(|(set, _)| *set).map(|(_, bit)| bit).sum(),
                seq: tcp.sequence_number(),
                ack: tcp.acknowledgment_number(),
                window: tcp.window_size(),
                options: tcp.options().to_vec(),
            };
            (tcp.source_port(), tcp.destination_port(), l4, tcp.payload().to_vec())
        }
        Some(TransportSlice::Udp(udp)) => {
            let l4 = L4::Udp { checksum: udp.checksum() != 0 };
            (udp.source_port(), udp.destination_port(), l4, udp.payload().to_vec())
        }
        Some(TransportSlice::Icmpv4(_) | TransportSlice::Icmpv6(_)) => {
            let [kind, code, _, _, a, b, c, d, payload @ ..] = ip.payload else {
                unreachable!("etherparse checks ICMP's eight header bytes");
            };
            let l4 = L4::Icmp { kind: *kind, code: *code, rest: [*a, *b, *c, *d] };
            (0, 0, l4, payload.to_vec())
        }
        None => (0, 0, L4::Other(ip.number), ip.payload.to_vec()),
    }
}

/// Recomputes every checksum of a frame: the IPv4 header's and the transport's.
///
/// A fragment's transport checksum covers bytes that are elsewhere, and IPv4 UDP may carry none: both pass.
pub fn verify_checksums(frame: &[u8]) -> Result<()> {
    let sliced = SlicedPacket::from_ethernet(frame).context("parsing the frame")?;
    if let Some(NetSlice::Ipv4(v4)) = &sliced.net {
        let sum = Sum16BitWords::new().add_slice(v4.header().slice());
        ensure!(sum.ones_complement() == 0, "the IPv4 header's checksum is wrong");
    }
    let ip = Ip::of(&sliced)?;
    if ip.fragmented {
        return Ok(());
    }
    let (name, holds) = match &sliced.transport {
        Some(TransportSlice::Tcp(_)) => ("TCP", ip.transport_sum() == 0),
        Some(TransportSlice::Udp(udp)) if udp.checksum() == 0 => ("UDP", ip.src.is_ipv4()),
        Some(TransportSlice::Udp(_)) => ("UDP", ip.transport_sum() == 0),
        Some(TransportSlice::Icmpv4(icmp)) => {
            let sum = Sum16BitWords::new().add_slice(icmp.slice());
            ("ICMP", sum.ones_complement() == 0)
        }
        Some(TransportSlice::Icmpv6(_)) => ("ICMPv6", ip.transport_sum() == 0),
        None => return Ok(()),
    };
    ensure!(holds, "the {name} checksum is wrong");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples() -> Vec<Packet> {
        let mut all = Vec::new();
        for (src, dst) in [("10.0.0.1:1025", "10.96.0.1:80"), ("[fd00::1]:1025", "[fd00::2]:80")] {
            let (src, dst): (SocketAddr, SocketAddr) = (src.parse().unwrap(), dst.parse().unwrap());
            let tcp = Packet::tcp(src, dst, flags::PSH | flags::ACK).payload("odd");
            all.push(Packet::udp(src, dst).payload("question"));
            all.push(Packet { l4: L4::Icmp { kind: 3, code: 3, rest: [0; 4] }, ..tcp.clone() });
            all.push(tcp);
        }
        for icmp in all.iter_mut().filter(|p| matches!(p.l4, L4::Icmp { .. })) {
            icmp.src.set_port(0);
            icmp.dst.set_port(0);
        }
        all
    }

    #[test]
    fn a_built_packet_decodes_to_itself_and_its_checksums_hold() {
        for packet in samples() {
            let frame = packet.build();
            verify_checksums(&frame).unwrap();
            assert_eq!(Packet::decode(&frame).unwrap(), packet);
        }
    }

    #[test]
    fn any_flipped_bit_behind_the_ethernet_header_is_noticed() {
        for packet in samples() {
            let frame = packet.build();
            for at in 0..packet.payload.len() {
                let mut bad = frame.clone();
                let at = bad.len() - 1 - at;
                bad[at] ^= 0x10;
                verify_checksums(&bad).unwrap_err();
            }
        }
    }

    #[test]
    fn ipv4_udp_may_go_without_a_checksum() {
        let mut packet = samples().remove(0);
        packet.l4 = L4::Udp { checksum: false };
        let frame = packet.build();
        verify_checksums(&frame).unwrap();
        assert_eq!(Packet::decode(&frame).unwrap(), packet);
    }
}
