//! Fragments: only the first one of a datagram has its ports.

use crate::{Family, Port, V4, V6, layout::pod};

/// The key of `FRAGMENTS_V4` (16 bytes) and `FRAGMENTS_V6` (40 bytes): what the fragments of a datagram have in common (RFC 791, RFC 8200).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(C, align(8))]
pub struct FragmentKey<F: Family> {
    /// The source address as the packets have it at the hook.
    pub src: F::Addr,
    /// The destination address as the packets have it at the hook.
    pub dst: F::Addr,
    /// The identification as it stands in the packet, which IPv4 has 16 bits of.
    pub id: u32,
    /// The number of the protocol.
    pub protocol: u32,
}

pod!(FragmentKey<V4>: 16 { src, dst, id, protocol });
pod!(FragmentKey<V6>: 40 { src, dst, id, protocol });

/// The value of `FRAGMENTS_V4` and `FRAGMENTS_V6`: what the first fragment said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C, align(8))]
pub struct Ports {
    /// The source port.
    pub src: Port,
    /// The destination port.
    pub dst: Port,
    /// When it was seen: the low half of the kernel's `jiffies_64`.
    pub seen: u32,
}

pod!(Ports: 8 { src, dst, seen });
