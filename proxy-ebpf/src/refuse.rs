//! Telling a packet's sender why it goes no further: that nobody serves what he dials, so that he fails at once instead of waiting; or what a
//! router would tell, where the node sends packets on itself.
//!
//! A TCP connection attempt is answered with a reset, anything else with ICMP port unreachable; kube-proxy sends the latter for both, but
//! a TCP client over IPv6 only takes note of that when it repeats its SYN a second later.
//!
//! The packet itself is turned into the answer. Its checksum state is unknown in tc: a pod's packet may have only the sum of its pseudo
//! header yet. For the reset the checksum is therefore changed and not computed, which is right in either state. In an ICMP error the
//! unfinished field is part of what is quoted, and whoever sends the error may still finish it, though what it is the sum of was cut off.
//! Nobody checks it there, but the sum of the error itself must hold either way.

use proxy_common::{Protocol, Tuple, reason::Reason};

use crate::{
    counters::{count, limits},
    csum::{Delta, fold16},
    ctx::PacketCtx,
    ip::{Ip, L3, Piece, extensions::FRAGMENT},
    parse::{Packet, parse_l4},
    translate::{begun_checksum, checksum_offset, in_wire_order},
    verdict::{End, News, Step, Verdict},
};

const TCP_HEADER: usize = 20;
const TCP_WORDS: usize = TCP_HEADER / 4;
/// A TCP header has up to ten words of options.
const MAX_OPTION_WORDS: usize = 10;
/// Data offset of five words, and the flags RST and ACK.
const RESET_FLAGS: [u8; 2] = [0x50, 0x14];

/// How many ICMP errors a CPU sends at most in a second, as the kernel limits its own (`icmp_msgs_per_sec`).
const ERRORS_A_SECOND: u32 = 1000;
const ICMP_HEADER: usize = 8;
/// How much of the packet is quoted behind its network header: all of TCP's header, because the kernel does not cut a packet before an
/// unfinished checksum, which lies there.
const QUOTED_TCP: usize = 20;
/// The same of SCTP's.
const QUOTED_SCTP: usize = 12;
const QUOTED: usize = 8;
/// The same behind a fragment header of IPv6, with that.
const QUOTED_FRAGMENT: usize = 16;

/// Turns a packet into what its sender is to be told.
///
/// Options before the transport header are not carried over into an answer: who sends them hears nothing. An exception is the fragment header of
/// IPv6.
#[inline(always)]
pub fn tell<F: Ip, C: PacketCtx>(ctx: &mut C, news: News) -> Step<Verdict> {
    let l3 = F::read_fixed(ctx, ctx.l3())?;
    if let Piece::Later(_) = l3.piece {
        return Err(End::drop(Reason::Unanswered));
    }
    let reason = match parse_l4::<F, C>(ctx, &l3) {
        Ok(packet) => answer(ctx, &packet, news, may_tell)?,
        Err(end) if end == End::ASIDE => answer_other::<F, C>(ctx, &l3, news)?,
        Err(end) => return Err(end),
    };
    count(reason);
    Ok(Verdict::Reflect)
}

/// Makes the answer to a packet with ports, and says which it is. Whether it may be an ICMP error is asked before one is made.
#[inline(always)]
pub fn answer<F: Ip, C: PacketCtx>(ctx: &mut C, packet: &Packet<F>, news: News, may_tell: impl FnOnce() -> Step<()>) -> Step<Reason> {
    let Tuple { src, dst, .. } = packet.tuple;
    // A reset is never answered (RFC 9293 section 3.5.2).
    if packet.l4 != ctx.l3() + F::HEADER || packet.flags.rst() || !F::is_single(src) {
        return Err(End::drop(Reason::Unanswered));
    }
    if news == News::Refused && packet.protocol == Protocol::Tcp && packet.flags.opens() && reset(ctx, packet)? {
        ctx.swap_macs()?;
        return Ok(Reason::RejectReset);
    }
    may_tell()?;
    let begun = Some(Begun { field: checksum_offset(packet.protocol), sum: begun_checksum(packet) });
    match packet.protocol {
        Protocol::Tcp => quote::<F, C, QUOTED_TCP>(ctx, src, dst, news, begun),
        Protocol::Udp => quote::<F, C, QUOTED>(ctx, src, dst, news, begun),
        Protocol::Sctp => quote::<F, C, QUOTED_SCTP>(ctx, src, dst, news, None),
    }
}

/// Makes the answer to any other packet. None answers an ICMP error, nor any fragment but the first (RFC 1122 section 3.2.2).
#[inline(always)]
fn answer_other<F: Ip, C: PacketCtx>(ctx: &mut C, l3: &L3<F>, news: News) -> Step<Reason> {
    let quoted = ctx.read::<[u8; QUOTED]>(l3.l4)?;
    let is_error = l3.protocol == F::ICMP && F::is_icmp_error(quoted[0]);
    let is_plain = l3.l4 == ctx.l3() + F::HEADER && l3.end >= l3.l4 + QUOTED;
    if is_error || !is_plain || !F::is_single(l3.src) {
        return Err(End::drop(Reason::Unanswered));
    }
    may_tell()?;
    if F::IPV6 && l3.protocol == FRAGMENT {
        let is_later = matches!(F::read_piece(ctx, ctx.l3())?.piece, Piece::Later(_));
        if is_later || l3.end < l3.l4 + QUOTED_FRAGMENT {
            return Err(End::drop(Reason::Unanswered));
        }
        return quote::<F, C, QUOTED_FRAGMENT>(ctx, l3.src, l3.dst, news, None);
    }
    if F::is_option(l3.protocol) {
        return Err(End::drop(Reason::Unanswered));
    }
    quote::<F, C, QUOTED>(ctx, l3.src, l3.dst, news, None)
}

/// Whether this CPU may send one more ICMP error in this second. A reset is no longer than what it answers; an ICMP error is, and could be had in
/// another's name.
#[inline(always)]
fn may_tell() -> Step<()> {
    let limits = limits().ok_or(End::drop(Reason::RefusalsLimited))?;
    limits.errors += 1;
    if limits.errors <= ERRORS_A_SECOND { Ok(()) } else { Err(End::drop(Reason::RefusalsLimited)) }
}

/// Turns a connection attempt into its reset (RFC 9293 section 3.10.7.1). Says no, with nothing done, when it carries data.
#[inline(always)]
fn reset<F: Ip, C: PacketCtx>(ctx: &mut C, packet: &Packet<F>) -> Step<bool> {
    let l4 = packet.l4;
    let words = usize::from(ctx.read::<u8>(l4 + 12)? >> 4);
    if packet.end != l4 + words * 4 {
        return Ok(false);
    }
    let old = ctx.sum::<TCP_WORDS>(l4)? + option_sum(ctx, l4, words)?;
    let acknowledged = u32::from_be_bytes(ctx.read(l4 + 4)?).wrapping_add(1).to_be_bytes();
    ctx.write(l4, [packet.tuple.dst_port, packet.tuple.src_port])?;
    ctx.write(l4 + 4, 0_u32)?;
    ctx.write(l4 + 8, u32::from_ne_bytes(acknowledged))?;
    ctx.write(l4 + 12, u16::from_ne_bytes(RESET_FLAGS))?;
    ctx.write(l4 + 14, 0_u16)?;
    ctx.write(l4 + 18, 0_u16)?;
    // The checksum itself is part of both sums; it takes no part in the change.
    let header = Delta::from_sums(old, ctx.sum::<TCP_WORDS>(l4)?);
    let length = |words: usize| in_wire_order(words as u16 * 4);
    let pseudo = Delta::from_sums(length(words), length(TCP_WORDS));
    ctx.fix_l4_csum(l4 + checksum_offset(Protocol::Tcp), pseudo, header, false, F::IPV6)?;
    F::write_header(ctx, packet.tuple.dst, packet.tuple.src, Protocol::Tcp.to_wire(), TCP_HEADER as u16)?;
    ctx.truncate((l4 + TCP_HEADER) as u32)?;
    Ok(true)
}

/// The sum of the options of a TCP header that has `words` words in all.
#[inline(always)]
fn option_sum<C: PacketCtx>(ctx: &C, l4: usize, words: usize) -> Step<u64> {
    let mut sum = 0;
    for index in TCP_WORDS..TCP_WORDS + MAX_OPTION_WORDS {
        if index >= words {
            break;
        }
        sum += u64::from(ctx.read::<u32>(l4 + index * 4)?);
    }
    Ok(sum)
}

/// A checksum of a quoted packet that may be only begun.
#[derive(Clone, Copy)]
struct Begun {
    /// Where it is in the transport header.
    field: usize,
    /// What it holds then.
    sum: u16,
}

/// Turns a packet into an ICMP error that quotes it: its network header, and `L4` bytes of what follows.
#[inline(always)]
fn quote<F: Ip, C: PacketCtx, const L4: usize>(ctx: &mut C, src: F::Addr, dst: F::Addr, news: News, begun: Option<Begun>) -> Step<Reason> {
    let l3 = ctx.l3();
    ctx.truncate((l3 + F::HEADER + L4) as u32)?;
    ctx.insert_before_l3((F::HEADER + ICMP_HEADER) as u32)?;
    let payload = (ICMP_HEADER + F::HEADER + L4) as u16;
    F::write_header(ctx, dst, src, F::ICMP, payload)?;
    let (kind, fits, reason) = match news {
        News::Refused => (F::PORT_UNREACHABLE, 0, Reason::RejectUnreachable),
        News::TimeExceeded => (F::TIME_EXCEEDED, 0, Reason::TimeExceeded),
        News::TooBig(fits) => (F::TOO_BIG, u32::from(fits), Reason::TooBig),
    };
    let icmp = l3 + F::HEADER;
    ctx.write(icmp, u16::from_ne_bytes(kind))?;
    ctx.write(icmp + 2, 0_u16)?;
    ctx.write(icmp + 4, fits.to_be_bytes())?;
    let quoted = icmp + ICMP_HEADER;
    if let Some(begun) = begun {
        steady_quoted_checksum::<C, L4>(ctx, begun, quoted + F::HEADER)?;
    }
    let sums = F::sum_header(ctx, quoted)? + quoted_sum::<C, L4>(ctx, quoted + F::HEADER)?;
    let sum = F::icmp_pseudo_sum(dst, src, payload) + ctx.sum::<2>(icmp)? + sums;
    ctx.write(icmp + 2, !fold16(sum))?;
    ctx.swap_macs()?;
    Ok(reason)
}

/// The sum of what is quoted behind the network header.
#[inline(always)]
fn quoted_sum<C: PacketCtx, const L4: usize>(ctx: &C, at: usize) -> Step<u64> {
    let rest = match L4 {
        QUOTED_TCP => ctx.sum::<3>(at + QUOTED)?,
        QUOTED_SCTP => ctx.sum::<1>(at + QUOTED)?,
        QUOTED_FRAGMENT => ctx.sum::<2>(at + QUOTED)?,
        _ => 0,
    };
    Ok(ctx.sum::<2>(at)? + rest)
}

/// Makes the sum of the quoted transport header the same whether or not its checksum is still finished.
///
/// A checksum that is only begun holds the sum of the pseudo header. To finish it is to replace it by the complement of all words of
/// the quotation, itself included. With the rest of the words adding up to `r`, a field of `q` makes `r + q` before and `-q` after: the
/// same for `q = -r / 2`, and to halve in one's complement is to rotate right.
#[inline(always)]
fn steady_quoted_checksum<C: PacketCtx, const L4: usize>(ctx: &mut C, begun: Begun, at: usize) -> Step<()> {
    let field = at + begun.field;
    let held = ctx.read::<u16>(field)?;
    if held != begun.sum {
        return Ok(());
    }
    let rest = fold16(quoted_sum::<C, L4>(ctx, at)? + u64::from(!held));
    ctx.write(field, (!rest).rotate_right(1))
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use etherparse::{NetHeaders, PacketHeaders, TransportHeader};
    use proxy_common::{Addr4, Addr6, Address as _, V4, V6};

    use super::*;
    use crate::{
        ctx::BufCtx,
        testing::{CLIENT_MAC, Ends, NODE_MAC, ends4, ends6, verify},
    };

    /// Refuses a frame: the reason, and the answer.
    fn refused<F: Ip>(frame: &[u8]) -> Step<(Reason, Vec<u8>)> {
        let mut ctx = BufCtx::<2048>::new(frame);
        let packet = crate::parse::parse::<F, _>(&ctx)?;
        let reason = answer(&mut ctx, &packet, News::Refused, || Ok(()))?;
        Ok((reason, ctx.frame().to_vec()))
    }

    fn refused_in(ends: Ends, frame: &[u8]) -> Step<(Reason, Vec<u8>)> {
        if ends.src.is_ipv4() { refused::<V4>(frame) } else { refused::<V6>(frame) }
    }

    /// Decodes an answer, which must be whole, have right checksums and go from the service to the client.
    fn decoded(ends: Ends, answer: &[u8]) -> PacketHeaders<'_> {
        verify(answer);
        let headers = PacketHeaders::from_ethernet_slice(answer).unwrap();
        let ethernet = headers.link.clone().unwrap().ethernet2().unwrap();
        assert_eq!((ethernet.source, ethernet.destination), (NODE_MAC, CLIENT_MAC));
        let (src, dst, len, ttl): (IpAddr, IpAddr, _, _) = match headers.net.as_ref().unwrap() {
            NetHeaders::Ipv4(ip, _) => (ip.source.into(), ip.destination.into(), usize::from(ip.total_len), ip.time_to_live),
            NetHeaders::Ipv6(ip, _) => (ip.source.into(), ip.destination.into(), usize::from(ip.payload_length) + V6::HEADER, ip.hop_limit),
            NetHeaders::Arp(_) => unreachable!("an answer is an IP packet"),
        };
        assert_eq!((src, dst), (ends.dst.ip(), ends.src.ip()));
        assert_eq!((len, ttl), (answer.len() - 14, 64), "the length in the header is that of the packet");
        headers
    }

    #[test]
    fn a_connection_attempt_is_reset() {
        use etherparse::TcpOptionElement::{MaximumSegmentSize, Noop, SelectiveAcknowledgementPermitted, Timestamp, WindowScale};
        let options = [MaximumSegmentSize(1460), SelectiveAcknowledgementPermitted, Timestamp(7, 0), Noop, WindowScale(7)];
        for (ends, n_options) in [ends4(), ends6()].into_iter().flat_map(|ends| (0..=options.len()).map(move |n| (ends, n))) {
            for sequence in [0, 1000, u32::MAX] {
                let syn = |tcp: &mut etherparse::TcpHeader| {
                    (tcp.syn, tcp.sequence_number) = (true, sequence);
                    tcp.set_options(&options[..n_options]).unwrap();
                };
                let (reason, answer) = refused_in(ends, &ends.tcp(syn, &[])).unwrap();
                assert_eq!(reason, Reason::RejectReset);
                let Some(TransportHeader::Tcp(tcp)) = decoded(ends, &answer).transport else { unreachable!("a reset is TCP") };
                let mut expected = etherparse::TcpHeader::new(ends.dst.port(), ends.src.port(), 0, 0);
                (expected.rst, expected.ack, expected.acknowledgment_number) = (true, true, sequence.wrapping_add(1));
                expected.checksum = tcp.checksum;
                assert_eq!(tcp, expected);
            }
        }
    }

    /// The address of the quoted packet, its ports, and how long the quotation is.
    fn assert_quotes(answer: &[u8], frame: &[u8], header: usize, quoted: usize) {
        let at = 14 + header + ICMP_HEADER;
        assert_eq!(answer[at..], frame[14..14 + header + quoted], "the refused packet is quoted as it was");
    }

    #[test]
    fn anything_else_is_told_that_the_port_is_unreachable() {
        for (ends, header, kind) in [(ends4(), V4::HEADER, [3, 3]), (ends6(), V6::HEADER, [1, 4])] {
            let late = |tcp: &mut etherparse::TcpHeader| (tcp.ack, tcp.psh) = (true, true);
            // Data with a connection attempt (RFC 7413) is not answered with a reset, which would have to acknowledge it.
            let early = |tcp: &mut etherparse::TcpHeader| tcp.syn = true;
            let frames = [
                (ends.udp(&[]), QUOTED),
                (ends.udp(b"odd"), QUOTED),
                (ends.udp(&[7; 1400]), QUOTED),
                (ends.tcp(late, b"data"), QUOTED_TCP),
                (ends.tcp(late, &[]), QUOTED_TCP),
                (ends.tcp(early, b"data"), QUOTED_TCP),
            ];
            for (frame, quoted) in frames {
                let (reason, answer) = refused_in(ends, &frame).unwrap();
                assert_eq!(reason, Reason::RejectUnreachable);
                decoded(ends, &answer);
                assert_eq!(answer[14 + header..][..2], kind);
                assert_eq!(answer[14 + header + 4..][..4], [0; 4], "the unused word is zero");
                assert_quotes(&answer, &frame, header, quoted);
            }
        }
    }

    /// What a device does that does not compute checksums itself: the field holds the sum of the pseudo header, and the rest is added.
    fn finish(frame: &mut [u8], transport: usize, field: usize) {
        let words = frame[transport..].chunks_exact(2).map(|pair| u64::from(u16::from_ne_bytes([pair[0], pair[1]])));
        let sum = !fold16(words.sum());
        frame[field..field + 2].copy_from_slice(&sum.to_ne_bytes());
    }

    fn begun_sum(ends: Ends, protocol: u16, length: usize) -> [u8; 2] {
        let words = |ip: IpAddr| match ip {
            IpAddr::V4(ip) => Addr4::from_wire(ip.octets()).csum_words(),
            IpAddr::V6(ip) => Addr6::from_wire(ip.octets()).csum_words(),
        };
        let sum = words(ends.src.ip()) + words(ends.dst.ip()) + in_wire_order(protocol) + in_wire_order(length as u16);
        fold16(sum).to_ne_bytes()
    }

    #[test]
    fn an_error_holds_whether_or_not_the_quoted_checksum_is_finished() {
        for (ends, header) in [(ends4(), V4::HEADER), (ends6(), V6::HEADER)] {
            let late = |tcp: &mut etherparse::TcpHeader| (tcp.ack, tcp.psh) = (true, true);
            let payloads: [&[u8]; 3] = [b"", b"even", b"not even"];
            for payload in payloads {
                for (frame, protocol, checksum) in [(ends.udp(payload), 17, 6), (ends.tcp(late, payload), 6, 16)] {
                    let mut begun = frame.clone();
                    let transport = 14 + header;
                    begun[transport + checksum..][..2].copy_from_slice(&begun_sum(ends, protocol, frame.len() - transport));
                    let (_, mut answer) = refused_in(ends, &begun).unwrap();
                    decoded(ends, &answer);
                    let quoted = transport + ICMP_HEADER + header;
                    finish(&mut answer, quoted, quoted + checksum);
                    decoded(ends, &answer);
                }
            }
        }
    }

    /// The shortest frame of an Ethernet is longer than a SYN.
    #[test]
    fn padding_is_no_data() {
        for ends in [ends4(), ends6()] {
            let mut frame = ends.tcp(|tcp| tcp.syn = true, &[]);
            frame.extend([0xa5; 6]);
            let (reason, answer) = refused_in(ends, &frame).unwrap();
            assert_eq!(reason, Reason::RejectReset);
            decoded(ends, &answer);
        }
    }

    #[test]
    fn only_a_single_machine_is_told() {
        let sources = ["0.0.0.0", "0.1.2.3", "127.0.0.1", "224.0.0.1", "255.255.255.255", "::", "ff02::1"];
        for source in sources.map(|source| source.parse::<IpAddr>().unwrap()) {
            let mut ends = if source.is_ipv4() { ends4() } else { ends6() };
            ends.src.set_ip(source);
            for frame in [ends.udp(b"question"), ends.tcp(|tcp| tcp.syn = true, &[])] {
                assert_eq!(refused_in(ends, &frame), Err(End::drop(Reason::Unanswered)), "{source}");
            }
        }
    }

    #[test]
    fn a_reset_is_never_answered() {
        for ends in [ends4(), ends6()] {
            for ack in [false, true] {
                let frame = ends.tcp(|tcp| (tcp.rst, tcp.ack) = (true, ack), &[]);
                assert_eq!(refused_in(ends, &frame), Err(End::drop(Reason::Unanswered)));
            }
        }
    }
}
