//! The programs of devices without Ethernet headers.
//!
//! The kernel's test run takes every packet for an Ethernet frame: what our programs see as its first byte is right, but where the kernel
//! itself thinks that a network header begins is not. So packets are chosen that have the ethertype where it looks for it, in their source
//! address; and an ICMP error cannot be tested here, because the kernel makes room for it in the wrong place.

use proxy_common::reason::Reason;
use proxy_daemon::{datapath::Options, maps::Direction};
use shunt_tests::{
    Addrs, Family, addr, gate,
    objects::Endpoint,
    packet::{L4, Packet, flags, verify_checksums},
    rows::{self, Cluster},
    test_run::{NEEDS, OPTIONS, Ran, TestNode, Verdict},
};

use crate::expect::{datagram, syn};

pub(crate) const ETHERNET: usize = 14;

/// Addresses that have the ethertype of their family in the right place.
pub(crate) fn marked(host: u8) -> Addrs {
    Addrs::new(&format!("8.0.0.{host}"), &format!("2001:db8:86dd::{host}"))
}

/// Runs a packet without its Ethernet header; it gets it back for the decoder.
fn run(node: &mut TestNode, direction: Direction, packet: &Packet) -> (Verdict, Packet) {
    let frame = packet.build();
    let ran = node.run_without_ethernet(direction, &frame[ETHERNET..]).unwrap();
    let frame = [&frame[..ETHERNET], &ran.frame].concat();
    verify_checksums(&frame).unwrap();
    (ran.verdict, Packet::decode(&frame).unwrap())
}

fn node() -> TestNode {
    let mut cluster = Cluster::of_node("n1", &addr::node(1).both());
    cluster.apply(rows::service(1).with_endpoints(&[Endpoint::at(marked(5), "n1")]));
    cluster.apply(rows::service(2).with_endpoints(&[]));
    let mut node = TestNode::new(cluster.node_ips()).unwrap();
    node.apply(&cluster.plans()).unwrap();
    node
}

#[test]
fn a_flow_is_translated_there_and_back() {
    if gate::skip(NEEDS) {
        return;
    }
    let mut node = node();
    for family in Family::ALL {
        let (client, service) = (marked(10).at(family, 40_000), addr::external_ips(1).at(family, 80));
        for packet in [syn(client, service), datagram(client, service)] {
            let (verdict, there) = run(&mut node, Direction::Ingress, &packet);
            assert_eq!((verdict, &there), (Verdict::Next, &packet.clone().to(marked(5).at(family, 8080))));
            let mut answer = there.reversed();
            answer.payload = b"answer".to_vec();
            let (verdict, back) = run(&mut node, Direction::Egress, &answer);
            assert_eq!((verdict, back), (Verdict::Next, answer.from(service).to(client)));
        }
    }
    assert_eq!(node.take_counted().unwrap(), [(Reason::NewFlow, 4)]);
}

#[test]
fn a_connection_is_refused_where_nobody_serves() {
    if gate::skip(NEEDS) {
        return;
    }
    let mut node = node();
    for family in Family::ALL {
        let packet = syn(marked(10).at(family, 40_000), addr::external_ips(2).at(family, 80));
        let (verdict, reset) = run(&mut node, Direction::Ingress, &packet);
        assert_eq!(verdict, Verdict::Redirect);
        assert_eq!((reset.src, reset.dst), (packet.dst, packet.src));
        assert_eq!(reset.l4, L4::Tcp { flags: flags::RST | flags::ACK, seq: 0, ack: 1001, window: 0, options: Vec::new() });
    }
    assert_eq!(node.take_counted().unwrap(), [(Reason::RejectReset, 2)]);
}

#[test]
fn what_is_no_service_passes_untouched() {
    if gate::skip(NEEDS) {
        return;
    }
    let mut node = node();
    for (family, direction) in Family::ALL.into_iter().flat_map(|family| Direction::ALL.map(|direction| (family, direction))) {
        let packet = datagram(marked(10).at(family, 40_000), addr::node(1).at(family, 53));
        assert_eq!(run(&mut node, direction, &packet), (Verdict::Next, packet));
        assert_eq!(node.take_counted().unwrap(), [(Reason::NoService, 1)]);
    }
}

/// On kernels before 5.14 a tunnel's outer headers may lie before what comes out of it: the device has to take it once more.
#[test]
fn what_may_have_outer_headers_is_received_again() {
    if gate::skip(NEEDS) {
        return;
    }
    let cluster = Cluster::of_node("n1", &addr::node(1).both());
    let mut node = TestNode::load(cluster.node_ips(), Options { outer_headers: true, ..OPTIONS }).unwrap();
    for family in Family::ALL {
        let packet = syn(marked(10).at(family, 40_000), addr::external_ips(1).at(family, 80));
        let bare = packet.build()[ETHERNET..].to_vec();
        assert_eq!(node.run_program("uplink_l3_ingress", &bare).unwrap(), Ran { verdict: Verdict::Redirect, frame: bare });
        assert_eq!(node.take_counted().unwrap(), []);
        assert_eq!(run(&mut node, Direction::Egress, &packet), (Verdict::Next, packet));
        assert_eq!(node.take_counted().unwrap(), [(Reason::NoService, 1)]);
    }
}
