//! ICMP errors about packets of known flows: translated as the packets are, outside and inside.
//!
//! An error goes against the packet that it quotes. So the flow's entry for the other direction, at the hook where the error is seen, says what
//! both become: its key is the quoted tuple reversed, and its value that of the packet which the quotation is to be of, reversed.
//!
//! The error's own source changes only where it is that of the flow, a backend that refuses a datagram for instance; a router on the way stays
//! what it is. But where the node stands in for a client it does so for the routers on the client's side as well (RFC 5508, REQ-5): on the way to
//! another node nobody need take packets from them.

use bytemuck::{Pod, Zeroable};
use proxy_common::{FlowKey, FlowState, Port, Protocol, Side, Tuple, reason::Reason};

use crate::{
    counters::count,
    csum::{Delta, replace},
    ctx::PacketCtx,
    forward,
    ip::{Ip, L3, Piece},
    translate::checksum_offset,
    verdict::{End, Step, Verdict},
};

/// Up to the packet that is quoted.
const HEADER: usize = 8;
const CHECKSUM: usize = 2;

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Header {
    kind: u8,
    code: u8,
    checksum: u16,
    rest: u32,
}

/// An error, and what it quotes.
struct Quotation<F: Ip> {
    /// Where the quoted network header is.
    l3: usize,
    /// Where the quoted transport header is, of which at least the first eight bytes are there.
    l4: usize,
    tuple: Tuple<F>,
    protocol: Protocol,
    is_redirect: bool,
}

/// Whether a packet without ports may begin something: of ICMP only a question does, and of what else there is nobody knows.
#[inline(always)]
pub fn begins<F: Ip, C: PacketCtx>(ctx: &C, l3: &L3<F>) -> bool {
    l3.protocol != F::ICMP || ctx.read::<Header>(l3.l4).is_ok_and(|header| header.kind == F::ECHO_REQUEST)
}

/// Translates an ICMP error of a known flow. `None` says that it is none, with nothing done.
#[inline(always)]
pub fn translate_error<F: Ip, C: PacketCtx>(ctx: &mut C, l3: &L3<F>, side: Side) -> Option<Step<Verdict>> {
    if l3.protocol != F::ICMP || l3.piece != Piece::Whole {
        return None;
    }
    let quoted = read::<F, C>(ctx, l3.l4).ok()??;
    let key = FlowKey::new(quoted.tuple.reversed(), quoted.protocol, side);
    let flow = F::flows().get_ptr(&key)?;
    // SAFETY: the entry stays readable while the program runs; copied, since others write it.
    let flow = unsafe { core::ptr::read_volatile(flow) };
    if l3.dst != key.dst || flow.owner.state().has(FlowState::FOREIGN) {
        return None;
    }
    if quoted.is_redirect {
        return Some(Err(End::drop(Reason::IcmpRedirect)));
    }
    let state = flow.owner.state();
    let is_masqueraded = state.has(FlowState::MASQUERADED);
    let is_stood_in_for = is_masqueraded && !state.has(FlowState::REPLY);
    let src = if is_stood_in_for || l3.src == key.src { flow.src } else { l3.src };
    Some(translated(ctx, l3, &quoted, src, &flow.tuple(), is_masqueraded))
}

#[inline(always)]
fn read<F: Ip, C: PacketCtx>(ctx: &C, at: usize) -> Step<Option<Quotation<F>>> {
    let kind = ctx.read::<Header>(at)?.kind;
    if !F::is_icmp_error(kind) {
        return Ok(None);
    }
    let inner = F::read_piece(ctx, at + HEADER)?;
    let Some(protocol) = Protocol::from_wire(inner.protocol) else { return Ok(None) };
    if matches!(inner.piece, Piece::Later(_)) {
        return Ok(None);
    }
    let [src_port, dst_port, _, _] = ctx.read::<[Port; 4]>(inner.l4)?;
    let tuple = Tuple { src: inner.src, dst: inner.dst, src_port, dst_port };
    Ok(Some(Quotation { l3: at + HEADER, l4: inner.l4, tuple, protocol, is_redirect: F::is_icmp_redirect(kind) }))
}

/// Gives an error this source, and what it quotes the reverse of `to`, which the packets of the flow get that come from where it comes from.
#[inline(always)]
fn translated<F: Ip, C: PacketCtx>(
    ctx: &mut C,
    l3: &L3<F>,
    quoted: &Quotation<F>,
    src: F::Addr,
    to: &Tuple<F>,
    is_masqueraded: bool,
) -> Step<Verdict> {
    let port = Port::from_host(0);
    let old = Tuple { src: l3.src, dst: l3.dst, src_port: port, dst_port: port };
    let new = Tuple { src, dst: to.dst, ..old };
    let inside = translate_quotation(ctx, quoted, &to.reversed())?;
    let outside = if F::IPV6 { Delta::of_addr(old.src, new.src).plus(Delta::of_addr(old.dst, new.dst)) } else { Delta::ZERO };
    let checksum = ctx.read::<u16>(l3.l4 + CHECKSUM)?;
    ctx.write(l3.l4 + CHECKSUM, replace(checksum, inside.plus(outside), false))?;
    F::write_addrs(ctx, &old, &new)?;
    count(Reason::IcmpError);
    if is_masqueraded {
        let len = (l3.end as u16).wrapping_sub(ctx.l3() as u16);
        // Nobody is told of what became of an error (RFC 1122, 3.2.2).
        let hop = forward::next_hop::<F, C>(ctx, &new, len).or(Err(End::drop(Reason::NoRoute)))?;
        return forward::leave::<F, C>(ctx, &hop);
    }
    if new.dst == old.src {
        ctx.swap_macs()?;
        return Ok(Verdict::Reflect);
    }
    Ok(Verdict::Continue)
}

/// Gives the quoted packet another tuple: the change of the words of the quotation.
#[inline(always)]
fn translate_quotation<F: Ip, C: PacketCtx>(ctx: &mut C, quoted: &Quotation<F>, to: &Tuple<F>) -> Step<Delta> {
    let from = &quoted.tuple;
    let header = F::write_addrs_at(ctx, quoted.l3, from, to)?;
    let ports = Delta::of_ports([from.src_port, from.dst_port], [to.src_port, to.dst_port]);
    ctx.write(quoted.l4, [to.src_port, to.dst_port])?;
    let addrs = Delta::of_addr(from.src, to.src).plus(Delta::of_addr(from.dst, to.dst));
    let checksum = translate_checksum(ctx, quoted, addrs.plus(ports));
    Ok(header.plus(ports).plus(checksum))
}

/// Corrects the checksum in the quoted transport header, if it is quoted that far: the change of its words. Nobody is known to look at it.
#[inline(always)]
fn translate_checksum<F: Ip, C: PacketCtx>(ctx: &mut C, quoted: &Quotation<F>, delta: Delta) -> Delta {
    // That of SCTP could only be computed.
    if quoted.protocol == Protocol::Sctp {
        return Delta::ZERO;
    }
    let at = quoted.l4 + checksum_offset(quoted.protocol);
    let Ok(old) = ctx.read::<u16>(at) else { return Delta::ZERO };
    let new = replace(old, delta, quoted.protocol == Protocol::Udp);
    if ctx.write(at, new).is_err() {
        return Delta::ZERO;
    }
    Delta::from_sums(u64::from(old), u64::from(new))
}
