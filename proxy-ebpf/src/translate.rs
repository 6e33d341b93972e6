//! Giving a packet another tuple: addresses, ports and both checksums together.

use proxy_common::{Protocol, Tuple};

use crate::{
    csum::Delta,
    ctx::PacketCtx,
    ip::Ip,
    parse::Packet,
    verdict::{Step, Verdict},
};

/// Where the checksum is in the transport header.
#[inline(always)]
const fn checksum_offset(protocol: Protocol) -> usize {
    match protocol {
        Protocol::Tcp => 16,
        Protocol::Udp => 6,
        Protocol::Sctp => 8,
    }
}

/// Rewrites a packet to `to`. What then goes back to where it came from has to be reflected: the stack would not route it there.
#[inline(always)]
pub fn translate<F: Ip, C: PacketCtx>(ctx: &mut C, packet: &Packet<F>, to: &Tuple<F>) -> Step<Verdict> {
    let from = &packet.tuple;
    let addrs = Delta::of_addr(from.src, to.src).plus(Delta::of_addr(from.dst, to.dst));
    let ports = Delta::of_ports([from.src_port, from.dst_port], [to.src_port, to.dst_port]);
    let optional = matches!(packet.protocol, Protocol::Udp);
    ctx.fix_l4_csum(packet.l4 + checksum_offset(packet.protocol), addrs, ports, optional, F::IPV6)?;
    F::write_addrs(ctx, from, to)?;
    ctx.write(packet.l4, [to.src_port, to.dst_port])?;
    if to.dst == from.src {
        ctx.swap_macs()?;
        return Ok(Verdict::Reflect);
    }
    Ok(Verdict::Continue)
}
