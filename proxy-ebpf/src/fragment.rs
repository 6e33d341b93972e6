//! Fragments follow the first one of their datagram, which alone has its ports.
//!
//! A first fragment is translated like any packet, and its ports are noted. One that comes before it has nobody to follow: to a Service it is
//! dropped, for there is nothing to hold it in. Fragments that belong to no Service pass.

use aya_ebpf::bindings::BPF_ANY;
use proxy_common::{FragmentKey, Ports, Tuple};

use crate::{
    ip::{Ip, L3},
    parse::Packet,
    settings::{self, now},
};

/// How long the ports of a datagram are known: as long as its receiver waits for all of it (`net.ipv4.ipfrag_time`).
const SECONDS: u32 = 30;

/// Notes the ports of a datagram, of which the packet is the first fragment.
#[inline(always)]
pub fn note<F: Ip>(packet: &Packet<F>, id: u32) {
    let Tuple { src, dst, src_port, dst_port } = packet.tuple;
    let key = FragmentKey::<F> { src, dst, id, protocol: u32::from(packet.protocol.to_wire()) };
    let ports = Ports { src: src_port, dst: dst_port, seen: now() };
    // One that finds no room is as good as lost on the way.
    _ = F::fragments().insert(&key, &ports, u64::from(BPF_ANY));
}

/// The tuple of the datagram that a later fragment is of.
#[inline(always)]
pub fn tuple<F: Ip>(l3: &L3<F>, id: u32) -> Option<Tuple<F>> {
    let key = FragmentKey::<F> { src: l3.src, dst: l3.dst, id, protocol: u32::from(l3.protocol) };
    // SAFETY: copied; a datagram that has the same identification as one before may change it at any time, for which there is no help.
    let ports = *unsafe { F::fragments().get(&key) }?;
    let is_fresh = now().wrapping_sub(ports.seen) <= SECONDS * settings::hz();
    is_fresh.then_some(Tuple { src: l3.src, dst: l3.dst, src_port: ports.src, dst_port: ports.dst })
}
