//! From bytes to values: the tuple of a packet, and what of the transport header matters.

use bytemuck::{Pod, Zeroable};
use proxy_common::{Port, Protocol, Tuple};

use crate::{
    ctx::PacketCtx,
    flags::{self, TcpFlags},
    ip::{Ip, L3, Piece},
    verdict::{End, Step},
};

/// What the stages need to know of a packet.
#[derive(Clone, Copy, Debug)]
pub struct Packet<F: Ip> {
    /// Source and destination.
    pub tuple: Tuple<F>,
    /// The protocol.
    pub protocol: Protocol,
    /// The flags of a TCP packet, or what an SCTP packet has of them.
    pub flags: TcpFlags,
    /// The offset of the transport header.
    pub l4: usize,
    /// Where the packet ends by its network header. What follows there is padding.
    pub end: usize,
    /// No fragment.
    pub is_whole: bool,
    /// The length of the packet, link-layer header included.
    pub len: u32,
}

impl<F: Ip> Packet<F> {
    /// Whether the packet may choose its backend anew: nothing would be lost but an attempt or a datagram.
    #[inline(always)]
    pub fn may_move(&self) -> bool {
        match self.protocol {
            Protocol::Tcp | Protocol::Sctp => self.flags.opens(),
            Protocol::Udp => true,
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

/// An SCTP header.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct SctpHeader {
    ports: [Port; 2],
    verification_tag: u32,
    checksum: u32,
}

/// Reads the headers of a common packet of one family: TCP or UDP, whole, and without options in the network header. Others go aside.
#[inline(always)]
pub fn parse<F: Ip, C: PacketCtx>(ctx: &C) -> Step<Packet<F>> {
    let l3 = F::read_common(ctx)?;
    if l3.protocol == Protocol::Sctp.to_wire() {
        return Err(End::ASIDE);
    }
    parse_l4(ctx, &l3)
}

/// Reads the headers of any packet with ports.
#[inline(always)]
pub fn parse_first<F: Ip, C: PacketCtx>(ctx: &C) -> Step<Packet<F>> {
    let l3 = F::read_l3(ctx)?;
    if let Piece::Later(_) = l3.piece { Err(End::ASIDE) } else { parse_l4(ctx, &l3) }
}

/// Reads the transport header.
///
/// It is read in one piece: the verifier ties a bound to the very pointer that was checked, and the compiler computes the pointer anew for each
/// piece when its offset is not a constant.
#[inline(always)]
pub fn parse_l4<F: Ip, C: PacketCtx>(ctx: &C, l3: &L3<F>) -> Step<Packet<F>> {
    let protocol = Protocol::from_wire(l3.protocol).ok_or(End::ASIDE)?;
    let ([src_port, dst_port], flags) = match protocol {
        Protocol::Tcp => {
            let header = ctx.read::<TcpHeader>(l3.l4)?;
            (header.ports, TcpFlags::new(header.flags))
        }
        Protocol::Udp => (ctx.read::<UdpHeader>(l3.l4)?.ports, TcpFlags::new(0)),
        Protocol::Sctp => {
            let header = ctx.read::<SctpHeader>(l3.l4)?;
            // The first chunk is out of reach in an aggregate, which is data.
            let chunk = ctx.read::<u8>(l3.l4 + size_of::<SctpHeader>()).unwrap_or(flags::DATA);
            (header.ports, TcpFlags::of_chunk(chunk))
        }
    };
    let tuple = Tuple { src: l3.src, dst: l3.dst, src_port, dst_port };
    let is_whole = matches!(l3.piece, Piece::Whole);
    Ok(Packet { tuple, protocol, flags, l4: l3.l4, end: l3.end, is_whole, len: ctx.len() })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proxy_common::{V4, V6, reason::Reason};

    use super::*;
    use crate::{
        ctx::BufCtx,
        testing::{Ends, ends4, ends6},
    };

    const TCP: u8 = 6;
    const UDP: u8 = 17;

    fn parsed<F: Ip>(frame: &[u8]) -> Step<Packet<F>> {
        parse::<F, _>(&BufCtx::<2048>::new(frame))
    }

    fn parsed_first<F: Ip>(frame: &[u8]) -> Step<Packet<F>> {
        parse_first::<F, _>(&BufCtx::<2048>::new(frame))
    }

    fn piece<F: Ip>(frame: &[u8]) -> Piece {
        F::read_l3(&BufCtx::<2048>::new(frame)).unwrap().piece
    }

    fn is_malformed<F: Ip>(frame: &[u8]) -> bool {
        parsed_first::<F>(frame).err() == Some(End::pass(Reason::Malformed))
    }

    fn goes_aside<F: Ip>(frame: &[u8]) -> bool {
        parsed::<F>(frame).err() == Some(End::ASIDE)
    }

    /// Puts `bytes` between the network header and what follows it.
    fn insert(frame: &mut Vec<u8>, at: usize, bytes: &[u8]) {
        frame.splice(at..at, bytes.iter().copied());
    }

    fn with_options(ends: Ends, options: &[u8]) -> Vec<u8> {
        let mut frame = ends.udp(b"payload");
        insert(&mut frame, 34, options);
        frame[14] = 0x45 + u8::try_from(options.len() / 4).unwrap();
        frame
    }

    /// A UDP frame whose extension headers are of these kinds and lengths.
    fn with_extensions(ends: Ends, headers: &[(u8, usize)]) -> Vec<u8> {
        let mut frame = ends.udp(b"payload");
        let mut at = 54;
        let mut next_at = 20;
        for (kind, len) in headers {
            let unit = if *kind == 51 { len / 4 - 2 } else { len / 8 - 1 };
            let mut header = vec![0; *len];
            header[0] = UDP;
            header[1] = u8::try_from(unit).unwrap();
            insert(&mut frame, at, &header);
            frame[next_at] = *kind;
            (next_at, at) = (at, at + len);
        }
        frame
    }

    #[test]
    fn the_tuple_is_what_the_headers_say() {
        fn check<F: Ip>(ends: Ends) {
            let udp = parsed::<F>(&ends.udp(b"question")).unwrap();
            assert_eq!((udp.tuple, udp.protocol, udp.l4), (ends.tuple(), Protocol::Udp, 14 + F::HEADER));
            assert!(udp.may_move());
            let frame = ends.tcp(|tcp| tcp.syn = true, &[]);
            let syn = parsed::<F>(&frame).unwrap();
            assert_eq!((syn.tuple, syn.protocol, syn.len as usize), (ends.tuple(), Protocol::Tcp, frame.len()));
            assert!(syn.flags.opens() && syn.may_move());
            let data = parsed::<F>(&ends.tcp(|tcp| tcp.ack = true, b"data")).unwrap();
            assert!(!data.flags.opens() && !data.may_move());
        }
        check::<V4>(ends4());
        check::<V6>(ends6());
    }

    #[test]
    fn ipv4_options_are_stepped_over() {
        for words in 1..=10 {
            let frame = with_options(ends4(), &vec![1; words * 4]);
            assert!(goes_aside::<V4>(&frame));
            let packet = parsed_first::<V4>(&frame).unwrap();
            assert_eq!((packet.tuple, packet.l4), (ends4().tuple(), 34 + words * 4));
        }
    }

    #[test]
    fn fragments_of_ipv4_go_aside_and_the_first_has_ports() {
        let id = u32::from(u16::from_ne_bytes([0x12, 0x34]));
        for (field, expected) in [([0x20, 0], Piece::First(id)), ([0x20, 1], Piece::Later(id)), ([0, 185], Piece::Later(id))] {
            let mut frame = ends4().udp(b"payload");
            frame[18..22].copy_from_slice(&[0x12, 0x34, field[0], field[1]]);
            assert!(goes_aside::<V4>(&frame));
            assert_eq!(piece::<V4>(&frame), expected);
            let tuple = parsed_first::<V4>(&frame).map(|packet| packet.tuple);
            assert_eq!(tuple, if expected == Piece::First(id) { Ok(ends4().tuple()) } else { Err(End::ASIDE) });
        }
        // "Do not fragment" is no fragment.
        let mut frame = ends4().udp(b"payload");
        frame[20..22].copy_from_slice(&[0x40, 0]);
        assert!(parsed::<V4>(&frame).is_ok());
    }

    #[test]
    fn ipv6_extension_headers_are_stepped_over() {
        let (hop, routing, auth, options) = (0, 43, 51, 60);
        let chains: &[&[(u8, usize)]] = &[
            &[(hop, 8)],
            &[(options, 40)],
            &[(auth, 24)],
            &[(hop, 8), (options, 16), (routing, 24)],
            &[(hop, 8), (options, 8), (routing, 8), (auth, 12), (options, 8)],
            &[(hop, 96)],
        ];
        for chain in chains {
            let skipped: usize = chain.iter().map(|(_, len)| len).sum();
            let frame = with_extensions(ends6(), chain);
            assert!(goes_aside::<V6>(&frame));
            let packet = parsed_first::<V6>(&frame).unwrap();
            assert_eq!((packet.tuple, packet.protocol, packet.l4), (ends6().tuple(), Protocol::Udp, 54 + skipped), "{chain:?}");
        }
    }

    #[test]
    fn ipv6_extension_headers_beyond_the_bounds_pass() {
        assert!(is_malformed::<V6>(&with_extensions(ends6(), &[(0, 8), (60, 8), (43, 8), (60, 8), (60, 8), (60, 8)])));
        assert!(is_malformed::<V6>(&with_extensions(ends6(), &[(0, 104)])));
    }

    #[test]
    fn fragments_of_ipv6_are_told_apart() {
        for before in [&[][..], &[(0, 8)]] {
            let at = 54 + before.iter().map(|(_, len)| len).sum::<usize>();
            let fragment = |field: u16| {
                let mut frame = with_extensions(ends6(), &[before, &[(44, 8)]].concat());
                frame[at + 1] = 0;
                frame[at + 2..at + 4].copy_from_slice(&field.to_be_bytes());
                frame[at + 4..at + 8].copy_from_slice(&7_u32.to_ne_bytes());
                frame
            };
            for field in [8, 9, 0xfff8] {
                assert!(goes_aside::<V6>(&fragment(field)));
                assert_eq!(piece::<V6>(&fragment(field)), Piece::Later(7));
                assert_eq!(parsed_first::<V6>(&fragment(field)).err(), Some(End::ASIDE));
            }
            for (field, expected) in [(1, Piece::First(7)), (0, Piece::Whole)] {
                assert!(goes_aside::<V6>(&fragment(field)));
                assert_eq!(piece::<V6>(&fragment(field)), expected);
                let packet = parsed_first::<V6>(&fragment(field)).unwrap();
                assert_eq!((packet.tuple, packet.l4), (ends6().tuple(), at + 8));
            }
        }
    }

    #[test]
    fn what_has_no_ports_goes_aside() {
        for protocol in [1, 2, 47, 50, 58, 59, 255] {
            assert!(goes_aside::<V4>(&ends4().raw(protocol, &[0; 40])));
            assert!(goes_aside::<V6>(&ends6().raw(protocol, &[0; 40])));
        }
    }

    #[test]
    fn sctp_is_read_with_its_first_chunk_or_without() {
        let header = [0x9c, 0x40, 0, 80, 0, 0, 0, 7, 0, 0, 0, 0];
        for (chunk, expected) in [(&[][..], 0), (&[1, 0, 0, 4], 1), (&[6, 0, 0, 4], 6)] {
            let packet = parsed_first::<V4>(&ends4().raw(132, &[&header, chunk].concat())).unwrap();
            assert_eq!((packet.protocol, packet.tuple.dst_port), (Protocol::Sctp, Port::from_host(80)));
            assert_eq!((packet.flags, packet.may_move()), (TcpFlags::of_chunk(expected), expected == 1));
        }
    }

    #[test]
    fn headers_of_the_other_family_pass() {
        assert!(is_malformed::<V4>(&ends6().udp(b"payload")));
        assert!(is_malformed::<V6>(&ends4().udp(&[0; 64])));
        let mut frame = ends4().udp(b"payload");
        frame[14] = 0x44;
        assert!(is_malformed::<V4>(&frame));
    }

    /// Whatever is cut off within the headers, the packet passes; whatever behind them, it does not matter.
    #[test]
    fn a_packet_may_end_anywhere() {
        fn check<F: Ip>(frame: &[u8], headers: usize) {
            for len in 0..=frame.len() {
                assert_eq!(is_malformed::<F>(&frame[..len]), len < headers, "{len} of {} bytes", frame.len());
            }
        }
        let transport = |protocol| if protocol == TCP { 20 } else { 8 };
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            let l4 = transport(protocol.to_wire());
            check::<V4>(&ends4().frame(protocol, b"payload"), 34 + l4);
            check::<V6>(&ends6().frame(protocol, b"payload"), 54 + l4);
        }
        check::<V4>(&with_options(ends4(), &[1; 40]), 34 + 40 + 8);
        check::<V6>(&with_extensions(ends6(), &[(0, 8), (51, 12)]), 54 + 20 + 8);
    }

    /// The outcome of a parse is a tuple that lies within the packet, or a reason to pass.
    fn check_any<F: Ip>(frame: &[u8]) {
        let any = parsed_first::<F>(frame);
        // What is common reads the same either way.
        if let Ok(packet) = parsed::<F>(frame) {
            assert_eq!(format!("{any:?}"), format!("{:?}", Ok::<_, End>(packet)));
        }
        match any {
            Ok(packet) => {
                let header = if packet.protocol == Protocol::Udp { 8 } else { 12 };
                assert!(packet.l4 + header <= frame.len());
                let ports = &frame[packet.l4..packet.l4 + 4];
                let [src, dst] = [packet.tuple.src_port.to_wire(), packet.tuple.dst_port.to_wire()];
                assert_eq!(ports, [src[0], src[1], dst[0], dst[1]]);
            }
            Err(end) => assert!(end == End::pass(Reason::Malformed) || end == End::ASIDE, "{end:?}"),
        }
    }

    proptest! {
        #[test]
        fn any_bytes_parse_without_trouble(frame in proptest::collection::vec(any::<u8>(), 0..256)) {
            check_any::<V4>(&frame);
            check_any::<V6>(&frame);
        }

        #[test]
        fn any_damage_parses_without_trouble(
            damage in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 1..8), tcp in any::<bool>(),
        ) {
            let protocol = if tcp { Protocol::Tcp } else { Protocol::Udp };
            let mut v4 = ends4().frame(protocol, &[0; 64]);
            let mut v6 = ends6().frame(protocol, &[0; 64]);
            for (index, byte) in damage {
                *index.get_mut(&mut v4[14..]) = byte;
                *index.get_mut(&mut v6[14..]) = byte;
            }
            check_any::<V4>(&v4);
            check_any::<V6>(&v6);
        }
    }
}
