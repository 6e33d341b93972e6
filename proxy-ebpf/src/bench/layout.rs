//! What the benches' programs and their runner agree on. Part of both: each of them reads this file.

use bytemuck::{Pod, Zeroable};

/// The length of an IPv4 frame.
pub(crate) const FRAME_V4: usize = 64;
/// The length of an IPv6 frame.
pub(crate) const FRAME_V6: usize = 80;

/// How many stores make a frame, at most.
pub(crate) const STORES: usize = 15;

/// The bits of a client's port that a flow decides. All of them are clear in the frame.
pub(crate) const PORT_BITS: u32 = 0x7fff;
/// How many bits that is: the rest of a flow's number is added to the client's address.
pub(crate) const PORT_SHIFT: u32 = 15;

/// What a driver makes packets of. Writer: the runner, between runs, except for `next`, which the driver counts.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct Walk {
    /// The frame of the flow 0, a word for each store, in their order. There is one store for what programs may load together and one for
    /// each field that they load alone: a load of bytes that came by two stores waits until both have reached the cache.
    pub(crate) words: [u64; STORES],
    /// The number of flows less one, all ones below a power of two. All ones altogether: each packet is of a new flow.
    pub(crate) mask: u32,
    /// The number of the next packet.
    pub(crate) next: u32,
}

/// Packets are not of one flow after another, but of flows that lie far apart: an odd number, so that no flow is left out.
pub(crate) const STEP: u32 = 2_654_435_761;
