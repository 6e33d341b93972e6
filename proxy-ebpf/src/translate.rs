//! Giving a packet another tuple: addresses, ports and both checksums together.

use proxy_common::{Address as _, Port, Protocol, Tuple, reason::Reason};

use crate::{
    crc::crc_change,
    csum::{Delta, fold16},
    ctx::PacketCtx,
    ip::Ip,
    parse::Packet,
    verdict::{End, Step, Verdict},
};

/// Where the checksum is in the transport header.
#[inline(always)]
pub(crate) const fn checksum_offset(protocol: Protocol) -> usize {
    match protocol {
        Protocol::Tcp => 16,
        Protocol::Udp => 6,
        Protocol::Sctp => 8,
    }
}

/// What a checksum field holds that its sender has only begun and left to the device (`CHECKSUM_PARTIAL`): the sum of the pseudo header. A
/// finished checksum is the same by chance once in 65,536.
#[inline(always)]
pub(crate) fn begun_checksum<F: Ip>(packet: &Packet<F>) -> u16 {
    let (src, dst) = (packet.tuple.src.csum_words(), packet.tuple.dst.csum_words());
    let length = (packet.end as u16).wrapping_sub(packet.l4 as u16);
    fold16(src + dst + in_wire_order(u16::from(packet.protocol.to_wire())) + in_wire_order(length))
}

/// Whether the transport checksum of a packet is only begun, or looks as if it were.
#[inline(always)]
pub(crate) fn has_begun_checksum<F: Ip, C: PacketCtx>(ctx: &C, packet: &Packet<F>) -> Step<bool> {
    Ok(ctx.read::<u16>(packet.l4 + checksum_offset(packet.protocol))? == begun_checksum(packet))
}

/// A number as one of the words that a checksum adds.
#[inline(always)]
pub(crate) const fn in_wire_order(number: u16) -> u64 {
    Port::from_host(number).raw() as u64
}

/// Rewrites a packet to `to`. What then goes back to where it came from has to be reflected: the stack would not route it there.
#[inline(always)]
pub fn translate<F: Ip, C: PacketCtx>(ctx: &mut C, packet: &Packet<F>, to: &Tuple<F>) -> Step<Verdict> {
    let from = &packet.tuple;
    if packet.protocol == Protocol::Sctp {
        fix_crc(ctx, packet, to)?;
    } else {
        let addrs = Delta::of_addr(from.src, to.src).plus(Delta::of_addr(from.dst, to.dst));
        let ports = Delta::of_ports([from.src_port, from.dst_port], [to.src_port, to.dst_port]);
        let optional = matches!(packet.protocol, Protocol::Udp);
        ctx.fix_l4_csum(packet.l4 + checksum_offset(packet.protocol), addrs, ports, optional, F::IPV6)?;
    }
    ctx.write(packet.l4, [to.src_port, to.dst_port])?;
    translate_addrs(ctx, from, to)
}

/// Rewrites a later fragment, whose checksum is in the first one.
#[inline(always)]
pub fn translate_later<F: Ip, C: PacketCtx>(ctx: &mut C, from: &Tuple<F>, to: &Tuple<F>) -> Step<Verdict> {
    if F::IPV6 {
        // Nor has the header a checksum that makes up for it, as IPv4's has.
        ctx.note_change(Delta::of_addr(from.src, to.src).plus(Delta::of_addr(from.dst, to.dst)));
    }
    translate_addrs(ctx, from, to)
}

/// Rewrites only the addresses of a packet.
#[inline(always)]
fn translate_addrs<F: Ip, C: PacketCtx>(ctx: &mut C, from: &Tuple<F>, to: &Tuple<F>) -> Step<Verdict> {
    F::write_addrs(ctx, from, to)?;
    if to.dst == from.src {
        ctx.swap_macs()?;
        return Ok(Verdict::Reflect);
    }
    Ok(Verdict::Continue)
}

/// Corrects SCTP's checksum, which covers the ports and no addresses. Its sender may have left it to the device, and says so by zeros; that it
/// comes out as zero happens once in four thousand million packets. It also covers the fragments of the packet that are yet to come, so that
/// of a first one it cannot be corrected.
#[inline(always)]
fn fix_crc<F: Ip, C: PacketCtx>(ctx: &mut C, packet: &Packet<F>, to: &Tuple<F>) -> Step<()> {
    let pair = |ports: [Port; 2]| u32::from_le_bytes(bytemuck::cast(ports));
    let difference = pair([packet.tuple.src_port, packet.tuple.dst_port]) ^ pair([to.src_port, to.dst_port]);
    let at = packet.l4 + checksum_offset(Protocol::Sctp);
    let old = u32::from_le_bytes(ctx.read(at)?);
    if difference == 0 || old == 0 {
        return Ok(());
    }
    if !packet.is_whole {
        return Err(End::drop(Reason::FragmentLost));
    }
    let new = old ^ crc_change(difference, packet.end.wrapping_sub(packet.l4) as u32 & 0xffff);
    ctx.write(at, new.to_le_bytes())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proxy_common::{V4, V6};

    use super::*;
    use crate::{
        ctx::BufCtx,
        parse::parse,
        testing::{Ends, any_tuple4, any_tuple6, ends4, ends6, verify},
    };

    fn translated<F: Ip>(frame: &[u8], to: &Tuple<F>) -> (Verdict, Vec<u8>) {
        let mut ctx = BufCtx::<2048>::new(frame);
        let packet = parse::<F, _>(&ctx).unwrap();
        let verdict = translate(&mut ctx, &packet, to).unwrap();
        (verdict, ctx.frame().to_vec())
    }

    /// The translated frame is the one that would have been built with the other tuple.
    fn check<F: Ip>(from: &Tuple<F>, to: &Tuple<F>, protocol: Protocol, payload: &[u8]) {
        let frame = Ends::of(from).frame(protocol, payload);
        let (verdict, translated) = translated(&frame, to);
        verify(&translated);
        let mut expected = Ends::of(to).frame(protocol, payload);
        if to.dst == from.src {
            expected.copy_within(6..12, 0);
            expected[6..12].copy_from_slice(&frame[..6]);
            assert_eq!(verdict, Verdict::Reflect);
        } else {
            assert_eq!(verdict, Verdict::Continue);
        }
        // Zero and all ones are the same number to whoever verifies a TCP or IPv4 header checksum, and `verify` has done so.
        let checksums = [24, 14 + F::HEADER + checksum_offset(protocol)];
        for at in checksums.into_iter().filter(|at| !F::IPV6 || *at != 24) {
            if translated[at..at + 2] == [0xff, 0xff] && expected[at..at + 2] == [0, 0] {
                expected[at..at + 2].fill(0xff);
            }
        }
        assert_eq!(translated, expected);
    }

    fn any_protocol() -> impl Strategy<Value = Protocol> {
        prop_oneof![Just(Protocol::Tcp), Just(Protocol::Udp)]
    }

    proptest! {
        #[test]
        fn any_ipv4_packet_gets_any_tuple(
            from in any_tuple4(), to in any_tuple4(), protocol in any_protocol(), payload in proptest::collection::vec(any::<u8>(), 0..64),
        ) {
            check::<V4>(&from, &to, protocol, &payload);
        }

        #[test]
        fn any_ipv6_packet_gets_any_tuple(
            from in any_tuple6(), to in any_tuple6(), protocol in any_protocol(), payload in proptest::collection::vec(any::<u8>(), 0..64),
        ) {
            check::<V6>(&from, &to, protocol, &payload);
        }

        #[test]
        fn there_and_back_again_gives_the_same_packet(from in any_tuple4(), to in any_tuple4(), protocol in any_protocol()) {
            let frame = Ends::of(&from).frame(protocol, b"payload");
            let (_, there) = translated(&frame, &to);
            let (_, back) = translated(&there, &from);
            verify(&back);
            prop_assert_eq!(&back[26..34], &frame[26..34]);
        }
    }

    #[test]
    fn a_udp_packet_without_a_checksum_stays_without() {
        let mut frame = ends4().udp(b"payload");
        frame[14 + V4::HEADER + 6..][..2].fill(0);
        let to = Ends::new("10.244.1.5:40000", "10.244.2.7:8080");
        let (_, translated) = translated::<V4>(&frame, &to.tuple());
        verify(&translated);
        assert_eq!(translated[14 + V4::HEADER + 6..][..2], [0, 0]);
    }

    /// The checksum is what is missing in the sum of all words, so a payload that adds just this leaves nothing missing.
    #[test]
    fn a_udp_checksum_never_becomes_none() {
        let to = Ends::new("[fd00:244::5]:40000", "[fd00:244::9]:8080").tuple();
        let checksum = |payload: [u8; 2]| {
            let (_, translated) = translated::<V6>(&ends6().udp(&payload), &to);
            verify(&translated);
            [translated[14 + V6::HEADER + 6], translated[14 + V6::HEADER + 7]]
        };
        let missing = checksum([0, 0]);
        assert_eq!(checksum(missing), [0xff, 0xff]);
    }

    #[test]
    fn what_goes_back_to_its_sender_is_reflected() {
        let pod = ends4();
        let to = Ends::new("172.30.0.11:2000", "10.244.1.5:8080");
        check::<V4>(&pod.tuple(), &to.tuple(), Protocol::Tcp, b"myself");
    }
}
