//! XDP before tc: it does to a frame what tc would do, or nothing.

use proxy_common::{Protocol, reason::Reason};
use proxy_daemon::{maps::Direction, net::Role};
use shunt_tests::{
    Family, addr, gate,
    packet::Packet,
    rows,
    test_run::{NEEDS, OPTIONS, Ran, SNAT_PORTS, TestNode, Verdict},
    tracer::{Hook, Outcome, Seen},
};

use crate::{
    expect::{Setup, data, datagram, entries, pod_at, port_name, syn},
    masquerade,
};

const FROM_OUTSIDE: Hook = Hook { role: Role::Uplink, direction: Direction::Ingress };

#[test]
fn what_xdp_translates_is_as_tc_would_have_it() {
    if gate::skip(NEEDS) {
        return;
    }
    let cluster = rows::cluster();
    let mut node = TestNode::in_a_place(cluster.node_ips(), SNAT_PORTS, OPTIONS).unwrap();
    node.apply(&cluster.plans()).unwrap();
    let (mut translated, mut left) = (0, 0);
    // Of hardware addresses XDP knows nothing: the kernel drops what is another machine's afterwards.
    for row in rows::all().into_iter().filter(|row| row.hook == FROM_OUTSIDE && row.seen != Seen::OtherHost) {
        let Ran { verdict, frame: by_tc } = node.run(row.hook, &row.frame).unwrap();
        let known = entries(&node);
        let mut counted = node.take_counted().unwrap();
        node.forget_flows().unwrap();
        let by_xdp = node.run_xdp(&row.frame).unwrap();
        if matches!(row.expected, Outcome::Translate(_)) && verdict == Verdict::Next {
            counted.push((Reason::XdpTranslated, 1));
            assert_eq!((by_xdp, entries(&node), node.take_counted().unwrap()), (by_tc, known, counted), "{}", row.name);
            translated += 1;
        } else {
            assert_eq!((by_xdp, entries(&node), node.take_counted().unwrap()), (row.frame, Vec::new(), Vec::new()), "{}", row.name);
            left += 1;
        }
        node.forget_flows().unwrap();
    }
    assert!(translated > 10 && left > 10, "{translated} rows are translated, {left} are left");
}

/// The flow is the same, wherever its packets are translated.
#[test]
fn a_flow_may_change_between_xdp_and_tc() {
    if gate::skip(NEEDS) {
        return;
    }
    let mut setup = Setup::new();
    setup.serve_external(1, 9, &[10, 11, 12]);
    for family in Family::ALL {
        let (client, service) = (addr::client().at(family, 40_000), addr::external_ips(9).at(family, 80));
        let first = setup.node.run_xdp(&syn(client, service).build()).unwrap();
        let backend = Packet::decode(&first).unwrap().dst;
        setup.assert_counted(&[Reason::NewFlow, Reason::XdpTranslated]);
        let second = setup.node.run(FROM_OUTSIDE, &data(client, service).build()).unwrap();
        assert_eq!(Packet::decode(&second.frame).unwrap().dst, backend);
        setup.assert_counted(&[]);
        let third = setup.node.run_xdp(&data(client, service).build()).unwrap();
        assert_eq!(Packet::decode(&third).unwrap().dst, backend);
        setup.assert_counted(&[Reason::XdpTranslated]);
        let answer = setup.node.run(FROM_OUTSIDE.opposite(), &data(backend, client).build()).unwrap();
        let answer = Packet::decode(&answer.frame).unwrap();
        assert_eq!((answer.src, answer.dst), (service, client));
        setup.assert_counted(&[]);
    }
}

/// What the node sends on is counted where that is done.
#[test]
fn a_flow_that_is_left_to_tc_is_not_counted_here() {
    if gate::skip(NEEDS) {
        return;
    }
    let mut setup = masquerade::Setup::new();
    for family in Family::ALL {
        let (client, frontend) = (masquerade::client(family, 50_000), masquerade::node_port(family));
        setup.sent_on(&syn(client, frontend));
        let packets = |setup: &masquerade::Setup| setup.node.service_counters(&port_name(1, Protocol::Tcp)).unwrap().packets;
        let before = packets(&setup);
        let frame = data(client, frontend).build();
        assert_eq!(setup.node.run_xdp(&frame).unwrap(), frame);
        assert_eq!(packets(&setup), before);
        setup.sent_on(&data(client, frontend));
        assert_eq!(packets(&setup), before + 1);
    }
}

/// A sender that leaves its checksum to the device puts the sum of the pseudo header there.
#[test]
fn a_checksum_that_is_only_begun_is_left_to_tc() {
    if gate::skip(NEEDS) {
        return;
    }
    let mut setup = Setup::new();
    setup.serve_external(1, 9, &[10]);
    for family in Family::ALL {
        let (client, service) = (addr::client().at(family, 40_000), addr::external_ips(9).at(family, 80));
        for (packet, field) in [(data(client, service), 16), (datagram(client, service), 6)] {
            let mut frame = packet.build();
            let transport = rows::frames::transport(&packet);
            let sum = begun(&packet, frame.len() - transport);
            frame[transport + field..][..2].copy_from_slice(&sum.to_be_bytes());
            assert_eq!(setup.node.run_xdp(&frame).unwrap(), frame);
            setup.assert_counted(&[]);
            let backend = setup.node.run_xdp(&packet.build()).unwrap();
            assert_eq!(Packet::decode(&backend).unwrap().dst, pod_at(family, 10, 8080));
            setup.ignore_counted();
        }
    }
}

/// The sum of a packet's pseudo header (RFC 9293 section 3.1, RFC 8200 section 8.1).
fn begun(packet: &Packet, length: usize) -> u16 {
    let octets = |ip: std::net::IpAddr| match ip {
        std::net::IpAddr::V4(ip) => ip.octets().to_vec(),
        std::net::IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    let bytes = [octets(packet.src.ip()), octets(packet.dst.ip())].concat();
    let words = bytes.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])));
    let protocol = if matches!(packet.l4, shunt_tests::packet::L4::Udp { .. }) { 17 } else { 6 };
    let mut sum = words.sum::<u32>() + protocol + u32::try_from(length).unwrap();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    u16::try_from(sum).unwrap()
}
