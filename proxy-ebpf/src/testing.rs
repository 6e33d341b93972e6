//! Frames for the tests of this crate: built, decoded and checked by a library that knows nothing of ours.

use std::net::SocketAddr;

use etherparse::{NetSlice, PacketBuilder, SlicedPacket, TcpHeader, TransportSlice, checksum::Sum16BitWords};
use proptest::prelude::*;
use proxy_common::{Address as _, Port, Protocol, Tuple, V4, V6};

use crate::ip::Ip;

pub(crate) const CLIENT_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
pub(crate) const NODE_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];

/// Source and destination of a frame, in one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ends {
    pub(crate) src: SocketAddr,
    pub(crate) dst: SocketAddr,
}

impl Ends {
    pub(crate) fn new(src: &str, dst: &str) -> Self {
        Self { src: src.parse().unwrap(), dst: dst.parse().unwrap() }
    }

    pub(crate) fn tuple<F: Ip>(self) -> Tuple<F> {
        let addr = |end: SocketAddr| F::Addr::from_ip(end.ip()).unwrap();
        let port = |end: SocketAddr| Port::from_host(end.port());
        Tuple { src: addr(self.src), dst: addr(self.dst), src_port: port(self.src), dst_port: port(self.dst) }
    }

    pub(crate) fn of<F: Ip>(tuple: &Tuple<F>) -> Self {
        Self {
            src: SocketAddr::new(tuple.src.to_ip(), tuple.src_port.to_host()),
            dst: SocketAddr::new(tuple.dst.to_ip(), tuple.dst_port.to_host()),
        }
    }

    fn builder(self) -> etherparse::PacketBuilderStep<etherparse::IpHeaders> {
        let ethernet = PacketBuilder::ethernet2(CLIENT_MAC, NODE_MAC);
        match (self.src, self.dst) {
            (SocketAddr::V4(src), SocketAddr::V4(dst)) => ethernet.ipv4(src.ip().octets(), dst.ip().octets(), 64),
            (SocketAddr::V6(src), SocketAddr::V6(dst)) => ethernet.ipv6(src.ip().octets(), dst.ip().octets(), 64),
            (src, dst) => unreachable!("{src} and {dst} are of one family"),
        }
    }

    pub(crate) fn udp(self, payload: &[u8]) -> Vec<u8> {
        let mut frame = Vec::new();
        self.builder().udp(self.src.port(), self.dst.port()).write(&mut frame, payload).unwrap();
        frame
    }

    pub(crate) fn tcp(self, header: impl FnOnce(&mut TcpHeader), payload: &[u8]) -> Vec<u8> {
        let mut frame = Vec::new();
        let mut tcp = TcpHeader::new(self.src.port(), self.dst.port(), 1000, 64_000);
        header(&mut tcp);
        self.builder().tcp_header(tcp).write(&mut frame, payload).unwrap();
        frame
    }

    /// A frame of either protocol with that payload.
    pub(crate) fn frame(self, protocol: Protocol, payload: &[u8]) -> Vec<u8> {
        match protocol {
            Protocol::Tcp => self.tcp(|tcp| tcp.ack = true, payload),
            Protocol::Udp => self.udp(payload),
            Protocol::Sctp => self.raw(132, payload),
        }
    }

    /// A frame of any protocol, whose payload is all that follows the network header.
    pub(crate) fn raw(self, protocol: u8, payload: &[u8]) -> Vec<u8> {
        let mut frame = Vec::new();
        self.builder().write(&mut frame, etherparse::IpNumber(protocol), payload).unwrap();
        frame
    }
}

/// A family and two sets of ends, as a test wants them.
pub(crate) fn ends4() -> Ends {
    Ends::new("10.244.1.5:40000", "10.96.0.1:80")
}

pub(crate) fn ends6() -> Ends {
    Ends::new("[fd00:244::5]:40000", "[fd00:96::1]:80")
}

pub(crate) fn any_tuple4() -> impl Strategy<Value = Tuple<V4>> {
    any::<([u8; 4], [u8; 4], u16, u16)>().prop_map(|(src, dst, src_port, dst_port)| Tuple {
        src: proxy_common::Addr4::from_wire(src),
        dst: proxy_common::Addr4::from_wire(dst),
        src_port: Port::from_host(src_port),
        dst_port: Port::from_host(dst_port),
    })
}

pub(crate) fn any_tuple6() -> impl Strategy<Value = Tuple<V6>> {
    any::<([u8; 16], [u8; 16], u16, u16)>().prop_map(|(src, dst, src_port, dst_port)| Tuple {
        src: proxy_common::Addr6::from_wire(src),
        dst: proxy_common::Addr6::from_wire(dst),
        src_port: Port::from_host(src_port),
        dst_port: Port::from_host(dst_port),
    })
}

/// Computes every checksum of a frame anew. A UDP datagram without one passes.
#[track_caller]
pub(crate) fn verify(frame: &[u8]) {
    let sliced = SlicedPacket::from_ethernet(frame).unwrap();
    let (src, dst, number, payload): (Vec<u8>, Vec<u8>, u8, &[u8]) = match sliced.net.as_ref().unwrap() {
        NetSlice::Ipv4(ip) => {
            let sum = Sum16BitWords::new().add_slice(ip.header().slice()).ones_complement();
            assert_eq!(sum, 0, "the IPv4 header's checksum is wrong");
            let header = ip.header();
            (header.source().into(), header.destination().into(), ip.payload().ip_number.0, ip.payload().payload)
        }
        NetSlice::Ipv6(ip) => {
            let header = ip.header();
            (header.source().into(), header.destination().into(), ip.payload().ip_number.0, ip.payload().payload)
        }
        NetSlice::Arp(_) => unreachable!("only IP is tested"),
    };
    let pseudo = Sum16BitWords::new().add_slice(&src).add_slice(&dst).add_2bytes([0, number]);
    let length = u16::try_from(payload.len()).unwrap().to_be_bytes();
    let with_pseudo = pseudo.add_2bytes(length).add_slice(payload).ones_complement();
    let holds = match sliced.transport.as_ref().unwrap() {
        TransportSlice::Udp(udp) => udp.checksum() == 0 || with_pseudo == 0,
        TransportSlice::Tcp(_) | TransportSlice::Icmpv6(_) => with_pseudo == 0,
        TransportSlice::Icmpv4(_) => Sum16BitWords::new().add_slice(payload).ones_complement() == 0,
    };
    assert!(holds, "the transport checksum is wrong");
}
