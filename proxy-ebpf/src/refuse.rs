//! Answering in the name of a service that nobody can serve, so that the client fails at once instead of waiting.
//!
//! A TCP connection attempt is answered with a reset, anything else with ICMP port unreachable; kube-proxy sends the latter for both, but
//! a TCP client over IPv6 only takes note of that when it repeats its SYN a second later.
//!
//! The packet itself is turned into the answer. Its checksum state is unknown in tc: a pod's packet may have only the sum of its pseudo
//! header yet. For the reset the checksum is therefore changed and not computed, which is right in either state. In an ICMP error the
//! unfinished field is part of what is quoted, and whoever sends the error may still finish it, though what it is the sum of was cut off.
//! Nobody checks it there, but the sum of the error itself must hold either way.

use proxy_common::{Protocol, reason::Reason};

use crate::{
    counters::count,
    csum::{Delta, fold16},
    ctx::PacketCtx,
    ip::Ip,
    maps::REFUSALS,
    parse::Packet,
    settings,
    translate::{begun_checksum, checksum_offset, in_wire_order},
    verdict::{Step, Stop, Verdict},
};

const TCP_HEADER: usize = 20;
const TCP_WORDS: usize = TCP_HEADER / 4;
/// A TCP header has up to ten words of options.
const MAX_OPTION_WORDS: usize = 10;
/// Data offset of five words, and the flags RST and ACK.
const RESET_FLAGS: [u8; 2] = [0x50, 0x14];

/// How many ICMP errors a CPU sends at most in a second.
const ERRORS_A_SECOND: u32 = 1000;
const ICMP_HEADER: usize = 8;
/// How much of the refused packet's transport header is quoted: all of TCP's, because the kernel does not cut a packet before an
/// unfinished checksum, which lies there.
const QUOTED_TCP: usize = 20;
const QUOTED_UDP: usize = 8;

/// Turns a packet into the refusal of it.
#[inline(always)]
pub fn refuse<F: Ip, C: PacketCtx>(ctx: &mut C, packet: &Packet<F>) -> Step<Verdict> {
    // A reset is no longer than what it answers; an ICMP error is, and could be had in another's name.
    if !packet.flags.opens() && !may_tell() {
        return Err(Stop::Drop(Reason::RefusalsLimited));
    }
    count(answer(ctx, packet)?);
    Ok(Verdict::Reflect)
}

/// Whether this CPU may send one more ICMP error in this second, as the kernel limits its own (`icmp_msgs_per_sec`).
#[inline(always)]
fn may_tell() -> bool {
    let Some(refusals) = REFUSALS.get_ptr_mut(0) else { return false };
    // SAFETY: the row is this CPU's own; a program is not interrupted by another on it.
    let refusals = unsafe { &mut *refusals };
    let second = settings::now() / settings::hz().max(1);
    if refusals.second != second {
        (refusals.second, refusals.made) = (second, 0);
    }
    refusals.made += 1;
    refusals.made <= ERRORS_A_SECOND
}

/// Makes the refusal, and says which it is.
#[inline(always)]
pub fn answer<F: Ip, C: PacketCtx>(ctx: &mut C, packet: &Packet<F>) -> Step<Reason> {
    // A reset is never answered (RFC 9293 section 3.5.2). Options before the transport header are not carried over into an answer.
    if packet.l4 != ctx.l3() + F::HEADER || packet.flags.rst() || !F::is_single(packet.tuple.src) {
        return Err(Stop::Drop(Reason::Unanswered));
    }
    let reason = if packet.protocol == Protocol::Tcp && packet.flags.opens() && reset(ctx, packet)? {
        Reason::RejectReset
    } else {
        unreachable(ctx, packet)?;
        Reason::RejectUnreachable
    };
    ctx.swap_macs()?;
    Ok(reason)
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

/// Turns a packet into an ICMP error that quotes it.
#[inline(always)]
fn unreachable<F: Ip, C: PacketCtx>(ctx: &mut C, packet: &Packet<F>) -> Step<()> {
    match packet.protocol {
        Protocol::Tcp => quote::<F, C, QUOTED_TCP>(ctx, packet),
        Protocol::Udp | Protocol::Sctp => quote::<F, C, QUOTED_UDP>(ctx, packet),
    }
}

#[inline(always)]
fn quote<F: Ip, C: PacketCtx, const L4: usize>(ctx: &mut C, packet: &Packet<F>) -> Step<()> {
    let l3 = ctx.l3();
    ctx.truncate((l3 + F::HEADER + L4) as u32)?;
    ctx.insert_before_l3((F::HEADER + ICMP_HEADER) as u32)?;
    let payload = (ICMP_HEADER + F::HEADER + L4) as u16;
    let (src, dst) = (packet.tuple.dst, packet.tuple.src);
    F::write_header(ctx, src, dst, F::ICMP, payload)?;
    let icmp = l3 + F::HEADER;
    ctx.write(icmp, u16::from_ne_bytes(F::PORT_UNREACHABLE))?;
    ctx.write(icmp + 2, 0_u16)?;
    ctx.write(icmp + 4, 0_u32)?;
    steady_quoted_checksum::<F, C, L4>(ctx, packet, icmp + ICMP_HEADER + F::HEADER)?;
    let quoted = F::sum_header(ctx, icmp + ICMP_HEADER)? + quoted_sum::<C, L4>(ctx, icmp + ICMP_HEADER + F::HEADER)?;
    let sum = F::icmp_pseudo_sum(src, dst, payload) + ctx.sum::<2>(icmp)? + quoted;
    ctx.write(icmp + 2, !fold16(sum))
}

/// The sum of the transport header that is quoted.
#[inline(always)]
fn quoted_sum<C: PacketCtx, const L4: usize>(ctx: &C, at: usize) -> Step<u64> {
    let rest = if L4 == QUOTED_TCP { ctx.sum::<3>(at + QUOTED_UDP)? } else { 0 };
    Ok(ctx.sum::<2>(at)? + rest)
}

/// Makes the sum of the quoted transport header the same whether or not its checksum is still finished.
///
/// A checksum that is only begun holds the sum of the pseudo header. To finish it is to replace it by the complement of all words of
/// the quotation, itself included. With the rest of the words adding up to `r`, a field of `q` makes `r + q` before and `-q` after: the
/// same for `q = -r / 2`, and to halve in one's complement is to rotate right.
#[inline(always)]
fn steady_quoted_checksum<F: Ip, C: PacketCtx, const L4: usize>(ctx: &mut C, packet: &Packet<F>, at: usize) -> Step<()> {
    let field = at + checksum_offset(packet.protocol);
    let held = ctx.read::<u16>(field)?;
    if held != begun_checksum(packet) {
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
        parse::parse,
        testing::{CLIENT_MAC, Ends, NODE_MAC, ends4, ends6, verify},
    };

    /// Refuses a frame: the reason, and the answer.
    fn refused<F: Ip>(frame: &[u8]) -> Step<(Reason, Vec<u8>)> {
        let mut ctx = BufCtx::<2048>::new(frame);
        let packet = parse::<F, _>(&ctx)?;
        let reason = answer(&mut ctx, &packet)?;
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
                (ends.udp(&[]), QUOTED_UDP),
                (ends.udp(b"odd"), QUOTED_UDP),
                (ends.udp(&[7; 1400]), QUOTED_UDP),
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
                assert_eq!(refused_in(ends, &frame), Err(Stop::Drop(Reason::Unanswered)), "{source}");
            }
        }
    }

    #[test]
    fn a_reset_is_never_answered() {
        for ends in [ends4(), ends6()] {
            for ack in [false, true] {
                let frame = ends.tcp(|tcp| (tcp.rst, tcp.ack) = (true, ack), &[]);
                assert_eq!(refused_in(ends, &frame), Err(Stop::Drop(Reason::Unanswered)));
            }
        }
    }
}
