//! The code that is judged, and what it is judged by.

use std::net::SocketAddr;

use packet_laws::{
    Law,
    refusal::{self, Refusal},
    require, sums,
    translation::{self, Ethernet},
    wire::{self, Wire},
};
use proxy_common::{Address as _, Port, Protocol, Tuple, V4, V6, reason::Reason};
use proxy_ebpf::{
    csum::{Delta, replace_begun},
    ctx::BufCtx,
    ip::Ip,
    parse::{Packet, parse, parse_first},
    refuse::answer,
    translate::translate,
    verdict::{End, News, Step, Verdict},
};

use crate::input::{Input, L3, LONGEST};

/// Room for the longest frame and for what an ICMP error puts before it.
const ROOM: usize = LONGEST + 48;

type Frame = BufCtx<ROOM>;

/// Puts one input through the packet core.
///
/// # Panics
/// When a law is broken.
pub fn run(bytes: &[u8]) {
    let Some(input) = Input::read(bytes) else { return };
    let wire = wire::read(&input.frame, L3);
    let (v4, v6) = match wire {
        Some(wire) if wire.src.is_ipv4() => (Some(wire), None),
        wire => (None, wire),
    };
    for outcome in [judge::<V4>(&input, v4.as_ref()), judge::<V6>(&input, v6.as_ref())] {
        assert!(outcome.is_ok(), "{outcome:?}: {input:02x?}");
    }
}

/// Judges what one family makes of an input, given how it reads.
fn judge<F: Ip>(input: &Input, wire: Option<&Wire>) -> Law<()> {
    let ctx = Frame::new(&input.frame);
    let packet = read::<F>(&ctx, wire.is_some());
    require(ctx.frame() == input.frame, "a packet was changed by being read")?;
    match (packet, wire) {
        (Ok(packet), Some(wire)) => {
            check_reading(&packet, wire, &input.frame)?;
            check_translation(&packet, wire, input)?;
            if wire.is_sctp() { Ok(()) } else { check_refusal(&packet, wire, &input.frame) }
        }
        (Err(end), None) if end == End::pass(Reason::Malformed) || end == End::ASIDE => Ok(()),
        (Ok(_), None) => Err("a packet was accepted that is none"),
        (Err(_), Some(_)) => Err("a good packet was not accepted"),
        (Err(_), None) => Err("a packet was not passed, or for no reason that its bytes give"),
    }
}

/// Reads a packet as the path does. What is not common is read aside; of that, what the laws do not know may be anything.
fn read<F: Ip>(ctx: &Frame, is_known: bool) -> Step<Packet<F>> {
    parse(ctx).or_else(|end| {
        let rare = if end == End::ASIDE { parse_first(ctx) } else { Err(end) };
        if is_known { rare } else { rare.and(Err(End::ASIDE)) }
    })
}

fn check_reading<F: Ip>(packet: &Packet<F>, wire: &Wire, frame: &[u8]) -> Law<()> {
    let (src, dst) = ends(&packet.tuple);
    require((src, dst) == (wire.src, wire.dst), "the tuple is another one")?;
    let places = (packet.l4, packet.end, packet.len as usize) == (wire.l4, wire.end, frame.len());
    require(places && packet.protocol.to_wire() == wire.protocol, "the packet is another one")?;
    let flags = match packet.protocol {
        Protocol::Tcp => frame[wire.l4 + 13],
        Protocol::Udp => 0,
        Protocol::Sctp => flags_of_chunk(frame.get(wire.l4 + 12).copied().unwrap_or_default()),
    };
    let [fin, syn, rst, ack] = [1, 2, 4, 16].map(|bit| flags & bit != 0);
    let expected = (syn && !ack && !rst, syn && ack && !rst, fin, rst);
    let found = (packet.flags.opens(), packet.flags.accepts(), packet.flags.fin(), packet.flags.rst());
    require(found == expected && packet.may_move() == (wire.is_udp() || expected.0), "the flags are others")
}

/// What the type of an association's first chunk is to TCP: INIT, its acknowledgement, ABORT, the three of a shutdown, and the rest.
const fn flags_of_chunk(kind: u8) -> u8 {
    match kind {
        1 => 2,
        2 => 2 | 16,
        6 => 4,
        7 | 8 | 14 => 1 | 16,
        _ => 16,
    }
}

fn ends<F: Ip>(tuple: &Tuple<F>) -> (SocketAddr, SocketAddr) {
    let end = |addr: F::Addr, port: Port| SocketAddr::new(addr.to_ip(), port.to_host());
    (end(tuple.src, tuple.src_port), end(tuple.dst, tuple.dst_port))
}

fn tuple<F: Ip>([src, dst]: [SocketAddr; 2]) -> Option<Tuple<F>> {
    let port = |end: SocketAddr| Port::from_host(end.port());
    Some(Tuple { src: F::Addr::from_ip(src.ip())?, dst: F::Addr::from_ip(dst.ip())?, src_port: port(src), dst_port: port(dst) })
}

/// There and back again.
fn check_translation<F: Ip>(packet: &Packet<F>, wire: &Wire, input: &Input) -> Law<()> {
    let to = tuple::<F>(input.target(wire.src)).ok_or("no tuple of this family")?;
    let mut ctx = Frame::new(&input.frame);
    let has_ports_of = [packet.tuple.src_port, packet.tuple.dst_port] == [to.src_port, to.dst_port];
    if wire.is_sctp() && !packet.is_whole && !has_ports_of && input.frame[wire.checksum()] != [0; 4] {
        let is_dropped = translate(&mut ctx, packet, &to) == Err(End::drop(Reason::FragmentLost));
        return require(is_dropped && ctx.frame() == input.frame, "a checksum was corrected that covers more than is there");
    }
    let there = translated(&mut ctx, packet, &to, &input.frame)?;
    require((there.src, there.dst) == ends(&to), "the packet got another tuple")?;
    if !wire.is_sctp() {
        check_begun(packet, &to, [(&input.frame, wire), (ctx.frame(), &there)])?;
    }

    if wire.is_sctp() && ctx.frame()[there.checksum()] == [0; 4] {
        // The checksum is zero by chance, which says that there is none.
        return Ok(());
    }
    let halfway = ctx.frame().to_vec();
    let packet_there = read::<F>(&ctx, true).or(Err("a translated packet is not accepted any more"))?;
    translated(&mut ctx, &packet_there, &packet.tuple, &halfway)?;
    // The addresses of the Ethernet header may have been turned on the way, or twice; both were looked at.
    let same = translation::is_same(&input.frame[L3..], &ctx.frame()[L3..], &wire.clone().without_ethernet());
    require(same, "there and back again gives another packet")
}

/// Translates a packet, and compares it with how it was before.
fn translated<F: Ip>(ctx: &mut Frame, packet: &Packet<F>, to: &Tuple<F>, before: &[u8]) -> Law<Wire> {
    let ethernet = match translate(ctx, packet, to) {
        Ok(Verdict::Continue) if to.dst != packet.tuple.src => Ethernet::Kept,
        Ok(Verdict::Reflect) if to.dst == packet.tuple.src => Ethernet::Turned,
        Ok(_) => return Err("a packet goes the wrong way"),
        Err(_) => return Err("an accepted packet could not be translated"),
    };
    translation::check(before, ctx.frame(), L3, ethernet)
}

/// A checksum that is only begun, as tc changes it, is the one that is begun for the new addresses.
fn check_begun<F: Ip>(packet: &Packet<F>, to: &Tuple<F>, [old, new]: [(&[u8], &Wire); 2]) -> Law<()> {
    let delta = Delta::of_addr(packet.tuple.src, to.src).plus(Delta::of_addr(packet.tuple.dst, to.dst));
    let begun = |(frame, wire): (&[u8], &Wire)| sums::folded(sums::pseudo(frame, wire)).to_be_bytes();
    let changed = replace_begun(u16::from_ne_bytes(begun(old)), delta).to_ne_bytes();
    let [changed, wanted] = [changed, begun(new)].map(|bytes| sums::residue(sums::words(&bytes)));
    require(changed == wanted, "a begun checksum is not the one of the new addresses")
}

fn check_refusal<F: Ip>(packet: &Packet<F>, wire: &Wire, frame: &[u8]) -> Law<()> {
    let mut ctx = Frame::new(frame);
    let answered: Step<Reason> = answer(&mut ctx, packet, News::Refused, || Ok(()));
    let refusal = match answered {
        Ok(reason) => (reason, refusal::check(frame, ctx.frame(), L3)?),
        Err(end) if end == End::pass(Reason::Malformed) => {
            require(ctx.frame() == frame, "what passes was changed")?;
            return require(!wire.is_udp() && !refusal::is_whole_tcp(frame, wire), "a whole packet passes for malformed");
        }
        Err(end) if end == End::drop(Reason::Unanswered) => {
            return require(!refusal::may_be_told(frame, wire), "a client is not told");
        }
        Err(_) => return Err("a packet could not be refused"),
    };
    let said = matches!(refusal, (Reason::RejectReset, Refusal::Reset) | (Reason::RejectUnreachable, Refusal::Unreachable));
    require(said, "the refusal is another one than was said")
}
