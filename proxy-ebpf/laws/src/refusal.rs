//! What a refusal must be: a whole packet with right checksums that goes to who sent the refused one, and no longer than it has to be.

use std::net::IpAddr;

use etherparse::{Icmpv4Slice, Icmpv6Slice, IpNumber, NetSlice, SlicedPacket, TcpHeaderSlice, TcpSlice, TransportSlice};

use crate::{
    Law, require, sums,
    translation::{Ethernet, is_ethernet},
    wire::{self, Wire},
};

const ICMP_HEADER: usize = 8;

/// What a refusal is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// A TCP reset.
    Reset,
    /// An ICMP error.
    Unreachable,
}

/// Compares a packet with the refusal of it; yields which it is.
pub fn check(refused: &[u8], answer: &[u8], l3: usize) -> Law<Refusal> {
    let old = wire::read(refused, l3).ok_or("what is no TCP or UDP packet was refused")?;
    require(may_be_told(refused, &old), "nobody may be told of this packet")?;
    let packet = answer.get(l3..).ok_or("the answer is shorter than an Ethernet header")?;
    require(is_ethernet(&refused[..l3], &answer[..l3], Ethernet::Turned), "the Ethernet header does not lead back")?;
    let sliced = SlicedPacket::from_ip(packet).or(Err("the answer is no whole packet"))?;
    let (src, dst, len) = network(&sliced)?;
    require((src, dst) == (old.dst.ip(), old.src.ip()), "the answer does not go from the service to the client")?;
    require(len == packet.len(), "the answer is longer or shorter than it says")?;
    match sliced.transport.as_ref().ok_or("the answer has no transport header")? {
        TransportSlice::Tcp(tcp) => reset(refused, answer, &old, tcp).map(|()| Refusal::Reset),
        TransportSlice::Icmpv4(icmp) => {
            require(sums::residue(sums::words(icmp.slice())) == 0, "the ICMP checksum is wrong")?;
            unreachable4(refused, answer, &old, icmp).map(|()| Refusal::Unreachable)
        }
        TransportSlice::Icmpv6(icmp) => {
            let pseudo = pseudo6(packet, icmp.slice().len());
            require(sums::residue(pseudo + sums::words(icmp.slice())) == 0, "the ICMPv6 checksum is wrong")?;
            unreachable6(refused, answer, &old, icmp).map(|()| Refusal::Unreachable)
        }
        TransportSlice::Udp(_) => Err("a refusal is not UDP"),
    }
}

/// Says whether an error may be sent because of a packet (RFC 1122 section 3.2.2, RFC 4443 section 2.4, RFC 9293 section 3.5.2).
pub fn may_be_told(refused: &[u8], wire: &Wire) -> bool {
    let is_single = match wire.src.ip() {
        IpAddr::V4(addr) => addr.octets()[0] != 0 && addr.octets()[0] < 240 && !addr.is_loopback() && !addr.is_multicast(),
        IpAddr::V6(addr) => !addr.is_unspecified() && !addr.is_multicast(),
    };
    let has_options = wire.l4 != wire.l3 + header(wire);
    is_single && !has_options && flags(refused, wire) & RST == 0
}

const SYN: u8 = 2;
const RST: u8 = 4;
const ACK: u8 = 16;

/// The flags of a TCP packet; none of UDP.
fn flags(frame: &[u8], wire: &Wire) -> u8 {
    if wire.is_udp() { 0 } else { frame[wire.l4 + 13] }
}

/// The length of a network header without options.
fn header(wire: &Wire) -> usize {
    if wire.src.is_ipv4() { 20 } else { 40 }
}

/// Source, destination and length of an answer, whose network header must be right and without options.
fn network(sliced: &SlicedPacket<'_>) -> Law<(IpAddr, IpAddr, usize)> {
    match sliced.net.as_ref() {
        Some(NetSlice::Ipv4(ip)) => {
            let header = ip.header();
            require(sums::residue(sums::words(header.slice())) == 0, "the IPv4 header's checksum is wrong")?;
            require(header.slice().len() == 20 && !header.is_fragmenting_payload() && header.ttl() > 1, "the IPv4 header is odd")?;
            Ok((header.source_addr().into(), header.destination_addr().into(), header.total_len().into()))
        }
        Some(NetSlice::Ipv6(ip)) => {
            let header = ip.header();
            let payload = usize::from(header.payload_length());
            let is_plain = matches!(header.next_header(), IpNumber::TCP | IpNumber::IPV6_ICMP);
            require(is_plain && header.hop_limit() > 1, "the IPv6 header is odd")?;
            Ok((header.source_addr().into(), header.destination_addr().into(), header.slice().len() + payload))
        }
        Some(NetSlice::Arp(_)) | None => Err("the answer is not IP"),
    }
}

/// RFC 9293 section 3.10.7.1: the reset of a connection attempt without data.
fn reset(refused: &[u8], answer: &[u8], old: &Wire, tcp: &TcpSlice<'_>) -> Law<()> {
    require(!old.is_udp() && flags(refused, old) & (SYN | RST | ACK) == SYN, "a reset answers no connection attempt")?;
    let transport = &refused[old.l4..];
    let header = usize::from(transport[12] >> 4) * 4;
    require(old.end == old.l4 + header, "a reset answers a connection attempt that has data")?;
    let sequence = u32::from_be_bytes([transport[4], transport[5], transport[6], transport[7]]);
    let acknowledged = (tcp.sequence_number(), tcp.acknowledgment_number()) == (0, sequence.wrapping_add(1));
    require(acknowledged, "a reset does not acknowledge the connection attempt")?;
    require((tcp.source_port(), tcp.destination_port()) == (old.dst.port(), old.src.port()), "a reset has other ports")?;
    require(tcp.slice().len() == 20, "a reset has options or data")?;
    let rest = [&tcp.slice()[12..16], &tcp.slice()[18..]].concat();
    require(rest == [0x50, RST | ACK, 0, 0, 0, 0], "a reset has other flags, a window or an urgent pointer")?;
    let new = wire::read(answer, old.l3).ok_or("a reset cannot be read")?;
    require(sums::transport(refused, old) == sums::transport(answer, &new), "a reset's checksum is not as right as that of what it resets")
}

fn pseudo6(packet: &[u8], len: usize) -> u64 {
    sums::words(&packet[8..40]) + u64::from(IpNumber::IPV6_ICMP.0) + u64::try_from(len).unwrap_or_default()
}

fn unreachable4(refused: &[u8], answer: &[u8], old: &Wire, icmp: &Icmpv4Slice<'_>) -> Law<()> {
    require((icmp.type_u8(), icmp.code_u8()) == (3, 3), "an ICMP error does not say that the port is unreachable")?;
    require(icmp.bytes5to8() == [0; 4], "the unused bytes of an ICMP error are used")?;
    quotation(refused, answer, old)
}

fn unreachable6(refused: &[u8], answer: &[u8], old: &Wire, icmp: &Icmpv6Slice<'_>) -> Law<()> {
    require((icmp.type_u8(), icmp.code_u8()) == (1, 4), "an ICMPv6 error does not say that the port is unreachable")?;
    require(icmp.bytes5to8() == [0; 4], "the unused bytes of an ICMPv6 error are used")?;
    quotation(refused, answer, old)
}

/// The refused packet's headers follow as they were, but for a checksum that was only begun: its field may hold anything as long as the
/// error's sum is right both with that and with what a device makes of it.
fn quotation(refused: &[u8], answer: &[u8], old: &Wire) -> Law<()> {
    let at = old.l3 + header(old) + ICMP_HEADER;
    let (quoted, original) = (&answer[at..], &refused[old.l3..]);
    require(quoted.len() == header(old) + old.l4_header(), "an ICMP error quotes more or less than the headers")?;
    let field = old.checksum().start - old.l3..old.checksum().end - old.l3;
    let untouched = quoted[..field.start] == original[..field.start] && quoted[field.end..] == original[field.end..quoted.len()];
    require(untouched, "an ICMP error quotes something else")?;
    if original[field.clone()] != sums::folded(sums::pseudo(refused, old)).to_be_bytes() {
        return require(quoted[field.clone()] == original[field], "an ICMP error quotes another checksum");
    }
    let transport = &quoted[header(old)..];
    let unfinished = sums::words(transport);
    let finished = unfinished - sums::words(&quoted[field]) + sums::words(&sums::checksum(unfinished));
    require(sums::residue(unfinished) == sums::residue(finished), "an ICMP error becomes wrong as its quotation is finished")
}

/// Says whether a TCP header is as long as it says it is.
pub fn is_whole_tcp(frame: &[u8], wire: &Wire) -> bool {
    TcpHeaderSlice::from_slice(&frame[wire.l4..]).is_ok()
}

#[cfg(test)]
mod tests {
    use etherparse::{PacketBuilder, TcpHeader};

    use super::*;

    const CLIENT: [u8; 4] = [10, 244, 1, 5];
    const SERVICE: [u8; 4] = [10, 96, 0, 1];
    const HERE: [u8; 6] = [2, 0, 0, 0, 0, 1];
    const THERE: [u8; 6] = [2, 0, 0, 0, 0, 2];

    fn syn_and_reset() -> [Vec<u8>; 2] {
        let segment = |[src, dst]: [[u8; 4]; 2], macs: [[u8; 6]; 2], tcp| {
            let mut frame = Vec::new();
            PacketBuilder::ethernet2(macs[0], macs[1]).ipv4(src, dst, 64).tcp_header(tcp).write(&mut frame, &[]).unwrap();
            frame
        };
        let mut syn = TcpHeader::new(40_000, 80, 1000, 64_000);
        syn.syn = true;
        let mut reset = TcpHeader::new(80, 40_000, 0, 0);
        (reset.rst, reset.ack, reset.acknowledgment_number) = (true, true, 1001);
        [segment([CLIENT, SERVICE], [HERE, THERE], syn), segment([SERVICE, CLIENT], [THERE, HERE], reset)]
    }

    fn datagram_and_error() -> [Vec<u8>; 2] {
        let mut datagram = Vec::new();
        PacketBuilder::ethernet2(HERE, THERE).ipv4(CLIENT, SERVICE, 64).udp(40_000, 53).write(&mut datagram, b"question").unwrap();
        let mut error = Vec::new();
        let ethernet = PacketBuilder::ethernet2(THERE, HERE);
        ethernet.ipv4(SERVICE, CLIENT, 64).icmpv4_raw(3, 3, [0; 4]).write(&mut error, &datagram[14..42]).unwrap();
        [datagram, error]
    }

    #[test]
    fn right_refusals_keep_the_laws() {
        let [syn, reset] = syn_and_reset();
        assert_eq!(check(&syn, &reset, 14), Ok(Refusal::Reset));
        let [datagram, error] = datagram_and_error();
        assert_eq!(check(&datagram, &error, 14), Ok(Refusal::Unreachable));
    }

    #[test]
    fn any_wrong_bit_breaks_a_law() {
        for [sent, right] in [syn_and_reset(), datagram_and_error()] {
            for bit in 0..right.len() * 8 {
                let mut wrong = right.clone();
                wrong[bit / 8] ^= 1 << (bit % 8);
                assert!(check(&sent, &wrong, 14).is_err(), "bit {bit} of {right:02x?}");
            }
        }
    }

    #[test]
    fn a_refusal_is_no_longer_than_it_has_to_be() {
        for [sent, right] in [syn_and_reset(), datagram_and_error()] {
            assert!(check(&sent, &[&right[..], &[0]].concat(), 14).is_err());
            assert!(check(&sent, &right[..right.len() - 1], 14).is_err());
        }
    }
}
