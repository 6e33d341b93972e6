//! Packets by who they are from and whom they are for.
//!
//! In: two ends and a kind of packet. Out: the packet of the flow 0; the driver makes those of all other flows of it.

use std::net::SocketAddr;

use crate::{
    addr::{self, Addrs, Family},
    packet::{Packet, flags},
};

pub(super) const PORT: u16 = 80;
pub(super) const TARGET: u16 = 8080;
pub(super) const NODE_PORT: u16 = 30_001;

/// An end of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// The client, of which the driver makes many.
    Client,
    /// The Service at its `ClusterIP`.
    Service,
    /// The Service at a port of the node.
    Node,
    /// The Service's only backend.
    Backend,
    /// Somebody who has nothing to do with Services.
    Stranger,
}

/// What a packet is apart from its ends.
#[derive(Clone, Copy, Debug)]
pub(super) enum Transport {
    Syn,
    SynAck,
    Ack,
    Datagram,
}

/// A packet of the flow 0.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sample(pub(super) End, pub(super) End, pub(super) Transport);

/// The client of the flow 0. The low bits of its address and port are clear: in them the driver writes the number of the flow. The networks
/// are those set aside for benchmarks (RFC 2544, RFC 5180).
fn client() -> Addrs {
    Addrs::new("198.18.0.0", "2001:2::")
}
const CLIENT_PORT: u16 = 0x8000;

/// The Service's only backend.
pub(super) fn backend() -> Addrs {
    addr::pod(1, 5)
}

/// The node that all of it is on.
pub(super) fn node() -> Addrs {
    addr::node(1)
}

impl End {
    pub(super) fn addr(self, family: Family) -> SocketAddr {
        match self {
            Self::Client => client().at(family, CLIENT_PORT),
            Self::Service => addr::cluster_ips(1).at(family, PORT),
            Self::Node => node().at(family, NODE_PORT),
            Self::Backend => backend().at(family, TARGET),
            Self::Stranger => addr::pod(2, 7).at(family, TARGET),
        }
    }
}

impl Sample {
    /// The packet, with so much payload that its frame has the length of every frame of its family here.
    pub(super) fn packet(self, family: Family, length: usize) -> Packet {
        let Self(src, dst, transport) = self;
        let (src, dst) = (src.addr(family), dst.addr(family));
        let packet = match transport {
            Transport::Syn => Packet::tcp(src, dst, flags::SYN),
            Transport::SynAck => Packet::tcp(src, dst, flags::SYN | flags::ACK),
            Transport::Ack => Packet::tcp(src, dst, flags::ACK),
            Transport::Datagram => Packet::udp(src, dst),
        };
        let headers = packet.build().len();
        packet.payload(vec![0x5a; length - headers])
    }

    /// Whether the client is whom the packet goes to.
    pub(super) fn is_to_client(self) -> bool {
        self.1 == End::Client
    }
}
