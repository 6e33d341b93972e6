//! Where a packet lives: what the stages may do to it, whatever the hook.

mod buf;
mod checksum;
mod fib;
mod route;
mod socket;
mod tc;
mod xdp;

pub use buf::BufCtx;
pub use route::{Hop, Route};
pub use tc::TcCtx;
pub use xdp::XdpCtx;

use proxy_common::{Protocol, Tuple, reason::Reason};

use crate::{
    csum::Delta,
    ip::{Ip, extensions::ExtensionsWord},
    verdict::{End, Step},
};

/// Length of an Ethernet header.
pub const ETH_LEN: usize = 14;

/// What XDP puts before a frame that it has translated.
const TRANSLATED_MARK: u32 = u32::from_be_bytes(*b"shnt");

/// Access to a packet. Offsets count from its first byte, the link-layer header where there is one.
pub trait PacketCtx {
    /// Where the network header starts.
    fn l3(&self) -> usize;

    /// The length of the packet in bytes; for an aggregate of segments, that of the aggregate.
    fn len(&self) -> u32;

    /// The only access to packet memory: checks that a `T` lies at `offset`, and says where.
    ///
    /// The pointer may be unaligned and is stale after the next call of a `&mut self` method.
    fn at<T>(&self, offset: usize) -> Step<*mut T>;

    /// Corrects the transport checksum at `offset` for a change of the pseudo header's addresses and one of the transport header.
    ///
    /// With `optional`, a checksum of zero means that there is none (UDP, RFC 768), and none is made. `ipv6` says that no checksum of
    /// a network header takes part.
    fn fix_l4_csum(&mut self, offset: usize, pseudo: Delta, transport: Delta, optional: bool, ipv6: bool) -> Step<()>;

    /// The one's complement sum of `WORDS` 32-bit words from `offset` on, not folded.
    fn sum<const WORDS: usize>(&self, offset: usize) -> Step<u64>;

    /// How long a packet is from the network header on, or, of an aggregate of segments, each of them: it ends at `end`, and its transport
    /// header is at `l4`.
    fn segment_len(&self, l4: usize, end: usize, protocol: Protocol) -> Step<u16>;

    /// Asks the kernel's routing for the way of a packet of `len` bytes, or of no length that matters.
    fn route<F: Ip>(&self, src: F::Addr, dst: F::Addr, len: u16) -> Route;

    /// Has the packet leave by a device.
    fn send_on(&mut self, hop: &Hop) -> Step<()>;

    /// Whether a socket of this node would take packets with this tuple.
    fn has_socket<F: Ip>(&self, tuple: &Tuple<F>, protocol: Protocol) -> bool;

    /// Whether a packet with this tuple is one of a connection that a process of this node has: not one that it waits for. Nobody waits for
    /// datagrams from anywhere at a connected socket.
    fn has_connection<F: Ip>(&self, tuple: &Tuple<F>, protocol: Protocol) -> bool;

    /// Learns whose the packet is: it has come by a pod's device.
    fn learn_pod(&self);

    /// Takes the node's port that stands in the scratch room for the flow there, if it is free, or if that is enough, its connection over.
    fn try_node_port<F: Ip>(&self, if_over: bool) -> bool;

    /// Takes such a port out of `count` from `first` on for the flow in the scratch room, and says whether there was one among those that it
    /// tried.
    fn take_node_port<F: Ip>(&self, first: u32, count: u32, if_over: bool) -> bool;

    /// Walks the packet's extension headers of IPv6, of which the first is of kind `first`.
    fn walk_extensions(&self, first: u8) -> ExtensionsWord;

    /// Says that the packet's words have changed, and that no checksum among them makes up for it.
    fn note_change(&mut self, delta: Delta);

    /// Cuts the packet to `len` bytes.
    fn truncate(&mut self, len: u32) -> Step<()>;

    /// Puts `len` bytes between the link-layer and the network header. Their contents are undefined.
    fn insert_before_l3(&mut self, len: u32) -> Step<()>;

    /// Reads a value by copy. Any bytes must be a value of `T`.
    #[inline(always)]
    fn read<T: bytemuck::Pod>(&self, offset: usize) -> Step<T> {
        let ptr = self.at::<T>(offset)?;
        // SAFETY: `at` has checked the bounds and any bytes are a `T` because it is `Pod`. Packet headers are not aligned. On BPF that
        // is said nowhere, because the compiler would then read byte by byte: loads from packets need no alignment there (the kernel
        // refuses the program where they would), and nothing else is derived from the address.
        #[cfg(target_arch = "bpf")]
        return Ok(unsafe { ptr.read() });
        // SAFETY: as above, but aligned or not.
        #[cfg(not(target_arch = "bpf"))]
        Ok(unsafe { ptr.read_unaligned() })
    }

    /// Writes a value.
    #[inline(always)]
    fn write<T: bytemuck::Pod>(&mut self, offset: usize, value: T) -> Step<()> {
        let ptr = self.at::<T>(offset)?;
        // SAFETY: `at` has checked the bounds; about alignment see `read`.
        #[cfg(target_arch = "bpf")]
        unsafe {
            ptr.write(value);
        }
        // SAFETY: as above, but aligned or not.
        #[cfg(not(target_arch = "bpf"))]
        unsafe {
            ptr.write_unaligned(value);
        }
        Ok(())
    }

    /// Turns the link-layer header around, so that the packet goes back to its sender.
    #[inline(always)]
    fn swap_macs(&mut self) -> Step<()> {
        if self.l3() < ETH_LEN {
            return Ok(());
        }
        let [dst, src] = self.read::<[[u16; 3]; 2]>(0)?;
        self.write(0, [src, dst])
    }
}

/// The end of a packet whose bytes end too early.
#[inline(always)]
pub(crate) const fn too_short() -> End {
    End::pass(Reason::Malformed)
}
