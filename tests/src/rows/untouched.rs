//! Packets that are no service's by their headers, at every hook, and headers that must not get in the way.
//!
//! A network header that is cut off is not among them: newer kernels refuse to run a program on such a frame. The tests of the packet
//! core in `proxy-ebpf` have it.

use std::net::SocketAddr;

use proxy_common::{Protocol, reason::Reason};
use proxy_daemon::maps::Direction;

use super::{POD_INGRESS, PORT, PROTOCOLS, Row, TARGET, UPLINK_INGRESS, WEB, client, frames, here, opening, pod, seen, to};
use crate::{
    addr::{self, Family},
    packet::{L4, Packet},
    tracer::{Hook, Outcome, Refusal, Seen},
};

const OTHER_MACHINE: [u8; 6] = [0x02, 0, 0, 0, 0, 9];

/// What a frame looks like is the same at every hook; only the addresses differ, so that nothing but the headers speaks against them.
pub(super) fn rows() -> Vec<Row> {
    let mut rows = Vec::new();
    for hook in Hook::ALL {
        for family in Family::ALL {
            rows.extend(passed(hook, family));
        }
    }
    for protocol in PROTOCOLS {
        rows.extend(stepped_over(protocol));
    }
    rows
}

/// From a client of the device to a Service, or on its way out the answer that a flow would be needed for.
fn packet(hook: Hook, family: Family, protocol: Protocol) -> Packet {
    let client: SocketAddr = match hook.role {
        proxy_daemon::net::Role::Workload => pod().at(family, 40_001),
        proxy_daemon::net::Role::Uplink => client().at(family, 40_001),
    };
    match hook.direction {
        Direction::Ingress => opening(protocol, client, addr::cluster_ips(WEB).at(family, PORT)),
        Direction::Egress => opening(protocol, here().at(family, TARGET), client),
    }
}

fn passed(hook: Hook, family: Family) -> Vec<Row> {
    let udp = packet(hook, family, Protocol::Udp);
    let tcp = packet(hook, family, Protocol::Tcp);
    let other = |number| Packet { l4: L4::Other(number), ..udp.clone() }.build();
    let (no_ports, piece) = (Seen::OtherProtocol { dst: udp.dst.ip() }, Seen::Fragment { dst: udp.dst.ip() });
    let large = udp.clone().payload(vec![0; 3000]);
    let [_, middle, last] = &frames::fragments(&large, 1200, 7)[..] else { unreachable!("three fragments of 1,200 bytes") };
    let mut frames = vec![
        ("ARP", Seen::NotIp, frames::with_ethertype(&udp, 0x0806)),
        ("a VLAN tag", Seen::NotIp, frames::with_vlan(&udp)),
        ("MPLS", Seen::NotIp, frames::with_ethertype(&udp, 0x8847)),
        ("an echo request", no_ports, echo(&udp)),
        ("ESP", no_ports, other(50)),
        ("a protocol of another's", no_ports, other(253)),
        ("a fragment", piece, middle.clone()),
        ("the last fragment", piece, last.clone()),
        ("TCP cut off in its header", Seen::Malformed, tcp.build()[..frames::transport(&tcp) + 19].to_vec()),
        ("UDP cut off in its header", Seen::Malformed, udp.build()[..frames::transport(&udp) + 7].to_vec()),
        ("SCTP cut off in its header", Seen::Malformed, other(132)),
        ("the wrong version", Seen::Malformed, with_version(&udp, 5)),
    ];
    match family {
        Family::V4 => frames.push(("a header of four words", Seen::Malformed, with_version(&udp, 4))),
        Family::V6 => frames.extend([
            ("too many headers", Seen::Malformed, frames::with_ipv6_extensions(&udp, &[(60, 8); 6])),
            ("too long headers", Seen::Malformed, frames::with_ipv6_extensions(&udp, &[(0, 104)])),
        ]),
    }
    if hook == UPLINK_INGRESS {
        frames.push(("a frame for another machine", Seen::OtherHost, addressed_to(OTHER_MACHINE, &udp)));
        frames.push(("a frame for all machines", Seen::OtherHost, addressed_to([0xff; 6], &tcp)));
        frames.push(("a frame for many machines", Seen::OtherHost, addressed_to([0x01, 0, 0x5e, 0, 0, 1], &udp)));
    }
    if hook.direction == Direction::Egress {
        frames.extend([("no reply, UDP", seen(&udp), udp.build()), ("no reply, TCP", seen(&tcp), tcp.build())]);
    }
    let row = |(what, seen, frame)| {
        let (expected, counted) = outcome(hook, seen);
        Row { name: format!("{what} at {hook}, {family}"), hook, seen, frame, expected, counted: vec![counted] }
    };
    frames.into_iter().map(row).collect()
}

/// What has no ports passes, except to a ClusterIP, where nothing but ports is defined.
fn outcome(hook: Hook, seen: Seen) -> (Outcome, Reason) {
    let pass = |reason| (Outcome::Pass(reason), reason);
    match seen {
        Seen::NotIp => pass(Reason::NotIp),
        Seen::OtherHost => pass(Reason::OtherHost),
        Seen::Malformed => pass(Reason::Malformed),
        Seen::Datagram { .. } => pass(Reason::NoService),
        Seen::OtherProtocol { .. } if hook.direction == Direction::Ingress => {
            (Outcome::Reject(Refusal::Unreachable), Reason::RejectUnreachable)
        }
        Seen::OtherProtocol { .. } => pass(Reason::OtherProtocol),
        Seen::Fragment { .. } if hook.direction == Direction::Ingress => (Outcome::Drop(Reason::FragmentLost), Reason::FragmentLost),
        Seen::Fragment { .. } => pass(Reason::Fragment),
    }
}

fn echo(packet: &Packet) -> Vec<u8> {
    let kind = if packet.src.is_ipv4() { 8 } else { 128 };
    Packet { l4: L4::Icmp { kind, code: 0, rest: [0; 4] }, ..packet.clone() }.build()
}

fn addressed_to(eth_dst: [u8; 6], packet: &Packet) -> Vec<u8> {
    Packet { eth_dst, ..packet.clone() }.build()
}

/// The first half-byte of the network header, and for IPv4 a length of as many words in the second.
fn with_version(packet: &Packet, version: u8) -> Vec<u8> {
    let mut frame = packet.build();
    frame[14] = version << 4 | 4;
    frame
}

/// Options and extension headers before the transport header change nothing, and neither does the hardware address that a pod sends to.
fn stepped_over(protocol: Protocol) -> Vec<Row> {
    let [v4, v6] = Family::ALL.map(|family| packet(POD_INGRESS, family, protocol));
    let mut frames = Vec::new();
    for words in [1, 3, 10] {
        frames.push((format!("ipv4_options: {words} words, {protocol}"), seen(&v4), Family::V4, frames::with_ipv4_options(&v4, words)));
    }
    let chains: [&[(u8, usize)]; 7] = [
        &[(44, 8)],
        &[(0, 8)],
        &[(60, 40)],
        &[(51, 12)],
        &[(0, 8), (60, 16), (43, 8)],
        &[(0, 8), (60, 8), (43, 8), (51, 24), (60, 8)],
        &[(0, 96)],
    ];
    for chain in chains {
        let name = format!("ipv6_extension_headers: {chain:?}, {protocol}");
        frames.push((name, seen(&v6), Family::V6, frames::with_ipv6_extensions(&v6, chain)));
    }
    // A pod sends to the bridge, whose hardware address is not that of the port it comes by.
    for (packet, family) in [(&v4, Family::V4), (&v6, Family::V6)] {
        frames.push((format!("another hardware address, {family}, {protocol}"), seen(packet), family, addressed_to(OTHER_MACHINE, packet)));
    }
    let row = |(name, seen, family, frame)| {
        let (expected, counted) = to(&[here(), super::elsewhere()].map(|backend| backend.at(family, TARGET)));
        Row { name, hook: POD_INGRESS, seen, frame, expected, counted: counted.to_vec() }
    };
    frames.into_iter().map(row).collect()
}
