//! Sockets whose peer was exchanged before any packet was made: what a process dialled, and the backend that it got instead.
//!
//! As with flows there is an entry for each direction, which says all there is to do.

use bytemuck::Zeroable;

use crate::{BackendRef, Family, Port, Protocol, ServiceId, V4, V6, layout::pod};

/// What the address and the port of an entry's key are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Toward {
    /// What a process says: what it dialled. The entry has the backend.
    Backend = 0,
    /// What the kernel says: the backend. The entry has what was dialled.
    Process = 1,
}

/// The key of `SOCKETS_V4` (16 bytes) and `SOCKETS_V6` (32 bytes).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(C, align(8))]
pub struct SocketKey<F: Family> {
    /// The socket, by the number that the kernel gives to no other (`SO_COOKIE`).
    pub cookie: u64,
    /// The address at the other end.
    pub addr: F::Addr,
    /// The port at the other end.
    pub port: Port,
    /// The number of the [`Protocol`].
    pub protocol: u8,
    /// See [`Toward`].
    pub toward: u8,
    /// Always zero.
    pub pad_word: F::RowPad,
}

pod!(SocketKey<V4>: 16 { cookie, addr, port, protocol, toward, pad_word });
pod!(SocketKey<V6>: 32 { cookie, addr, port, protocol, toward, pad_word });

impl<F: Family> SocketKey<F> {
    /// The key of one direction.
    #[inline(always)]
    pub fn new(cookie: u64, (addr, port): (F::Addr, Port), protocol: Protocol, toward: Toward) -> Self {
        Self { cookie, addr, port, protocol: protocol.to_wire(), toward: toward as u8, pad_word: Zeroable::zeroed() }
    }
}

/// The value of `SOCKETS_V4` (24 bytes) and `SOCKETS_V6` (40 bytes). Written as a whole; the last writer wins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C, align(8))]
pub struct SocketPeer<F: Family> {
    /// The address to give.
    pub addr: F::Addr,
    /// The port to give.
    pub port: Port,
    /// 1 where the socket is connected to this backend, 0 where it sends datagrams to whom it likes.
    pub connected: u16,
    /// The life of the backend.
    pub backend: BackendRef,
    /// The service port.
    pub service: ServiceId,
    /// When the entry was made or sent by: the low half of the kernel's `jiffies_64`.
    pub last_used: u32,
    /// Always zero.
    pub reserved: u32,
    /// Always zero.
    pub pad_word: F::RowPad,
}

pod!(SocketPeer<V4>: 24 { addr, port, connected, backend, service, last_used, reserved, pad_word });
pod!(SocketPeer<V6>: 40 { addr, port, connected, backend, service, last_used, reserved, pad_word });

/// Whose sockets are served where they call: a set, of which programs are told when they are loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sockets(pub u32);

impl Sockets {
    /// Nobody's.
    pub const NONE: Self = Self(0);
    /// Those of the node's own processes.
    pub const HOST: Self = Self(1);

    /// Whether the node's own processes are served.
    #[inline(always)]
    pub const fn serve_host(self) -> bool {
        self.0 & Self::HOST.0 != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Addr4;

    #[test]
    fn a_key_has_the_documented_bytes() {
        let peer = (Addr4::from_wire([10, 96, 0, 1]), Port::from_host(53));
        let key = SocketKey::<V4>::new(7, peer, Protocol::Udp, Toward::Process);
        assert_eq!(bytemuck::bytes_of(&key)[8..], [10, 96, 0, 1, 0, 53, 17, 1]);
    }
}
