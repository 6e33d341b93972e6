//! Sockets whose peer was exchanged before any packet was made: what a process dialled, and the backend that it got instead.
//!
//! Nearly every socket has one peer in its life, and one entry, which is found by the socket alone. A socket that sends datagrams to whom it likes
//! has two more for each further one that it dials, one for each direction as a flow has.

use bytemuck::Zeroable;

use crate::{
    BackendRef, Family, Port, Protocol, ServiceId, V4, V6,
    filter::{About, Place},
    layout::pod,
};

/// By what an entry is found, besides the socket: what the address and the port of its key are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum By {
    /// Nothing, they are zero: the entry is that of the socket's first peer, or of the one that it was connected to last.
    Socket = 0,
    /// What the process dialled: asked when it sends there again.
    Dialled = 1,
    /// The backend: asked when a datagram comes from there.
    Backend = 2,
}

/// The key of `SOCKETS_V4` (16 bytes) and `SOCKETS_V6` (32 bytes).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(C, align(8))]
pub struct SocketKey<F: Family> {
    /// The socket, by the number that the kernel gives to no other (`SO_COOKIE`).
    pub cookie: u64,
    /// The address that [`By`] says.
    pub addr: F::Addr,
    /// The port that it says.
    pub port: Port,
    /// The number of the [`Protocol`].
    pub protocol: u8,
    /// See [`By`].
    pub by: u8,
    /// Always zero.
    pub pad_word: F::RowPad,
}

pod!(SocketKey<V4>: 16 { cookie, addr, port, protocol, by, pad_word });
pod!(SocketKey<V6>: 32 { cookie, addr, port, protocol, by, pad_word });

impl<F: Family> SocketKey<F> {
    /// The key of a socket's first peer.
    #[inline(always)]
    pub fn first(cookie: u64, protocol: Protocol) -> Self {
        Self::new(cookie, (F::Addr::zeroed(), Port::from_host(0)), protocol, By::Socket)
    }

    /// Any key.
    #[inline(always)]
    pub fn new(cookie: u64, (addr, port): (F::Addr, Port), protocol: Protocol, by: By) -> Self {
        Self { cookie, addr, port, protocol: protocol.to_wire(), by: by as u8, pad_word: Zeroable::zeroed() }
    }
}

/// The value of `SOCKETS_V4` (32 bytes) and `SOCKETS_V6` (56 bytes). Written as a whole; the last writer wins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C, align(8))]
pub struct SocketPeer<F: Family> {
    /// The address that the process dialled.
    pub dialled: F::Addr,
    /// The address of the backend.
    pub addr: F::Addr,
    /// The port that the process dialled.
    pub dialled_port: Port,
    /// The port of the backend.
    pub port: Port,
    /// The life of the backend.
    pub backend: BackendRef,
    /// The service port.
    pub service: ServiceId,
    /// When the entry was made or sent by: the low half of the kernel's `jiffies_64`.
    pub last_used: u32,
    /// 1 where `connect` has made the entry, 0 where a datagram has. That a socket is not connected any more (`AF_UNSPEC`) is not seen.
    pub connected: u32,
    /// Always zero.
    pub reserved: u32,
}

impl<F: Family> SocketPeer<F> {
    /// The place in the service filter that must be marked while the entry is there.
    #[inline(always)]
    pub fn place(&self) -> Place {
        Place::of(About::Given, self.addr, self.port)
    }
}

pod!(SocketPeer<V4>: 32 { dialled, addr, dialled_port, port, backend, service, last_used, connected, reserved });
pod!(SocketPeer<V6>: 56 { dialled, addr, dialled_port, port, backend, service, last_used, connected, reserved });

/// Whose sockets are served where they call: a set, of which programs are told when they are loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sockets(pub u32);

impl Sockets {
    /// Nobody's.
    pub const NONE: Self = Self(0);
    /// Those of the node's own processes.
    pub const HOST: Self = Self(1);
    /// Those of pods that speak TCP.
    pub const PODS_TCP: Self = Self(2);
    /// Those of pods that speak UDP.
    pub const PODS_UDP: Self = Self(4);

    /// What is in one of both.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether all of the other are in this.
    #[inline(always)]
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether any pods are served.
    #[inline(always)]
    pub const fn serves_pods(self) -> bool {
        self.serve_pods(Protocol::Tcp) || self.serve_pods(Protocol::Udp)
    }

    /// Whether pods that speak this are served.
    #[inline(always)]
    pub const fn serve_pods(self, protocol: Protocol) -> bool {
        match protocol {
            Protocol::Tcp => self.has(Self::PODS_TCP),
            Protocol::Udp => self.has(Self::PODS_UDP),
            Protocol::Sctp => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Addr4;

    #[test]
    fn a_key_has_the_documented_bytes() {
        let peer = (Addr4::from_wire([10, 96, 0, 1]), Port::from_host(53));
        let key = SocketKey::<V4>::new(7, peer, Protocol::Udp, By::Backend);
        assert_eq!(bytemuck::bytes_of(&key)[8..], [10, 96, 0, 1, 0, 53, 17, 2]);
        let first = SocketKey::<V4>::first(7, Protocol::Tcp);
        assert_eq!(bytemuck::bytes_of(&first)[8..], [0, 0, 0, 0, 0, 0, 6, 0]);
    }

    #[test]
    fn pods_are_served_by_what_they_speak() {
        let auto = Sockets::HOST.with(Sockets::PODS_TCP);
        assert!(auto.has(Sockets::HOST) && auto.serve_pods(Protocol::Tcp) && !auto.serve_pods(Protocol::Udp));
        assert!(!Sockets::HOST.serve_pods(Protocol::Tcp));
        assert!(auto.with(Sockets::PODS_UDP).serve_pods(Protocol::Udp));
    }
}
