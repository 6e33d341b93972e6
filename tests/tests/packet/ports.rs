//! The node's ports, under which it stands in for clients: each flow to a backend has one of its own.

use std::{collections::BTreeSet, net::UdpSocket};

use proxy_common::{Protocol, Side, reason::Reason};
use proxy_daemon::{config::Sizes, datapath::Options};
use shunt_tests::{
    Family, addr, gate,
    packet::{Packet, flags},
    test_run::{NEEDS, OPTIONS, SNAT_PORTS, Verdict},
};

use crate::{
    expect::{UPLINK_INGRESS, age, data, datagram, entries, evict, syn},
    masquerade::{Setup, backend, client, external_ip, families_and_openings, node_port},
};

#[test]
fn flows_that_would_meet_at_the_backend_have_ports_of_their_own() {
    if gate::skip(NEEDS) {
        return;
    }
    let mut setup = Setup::new();
    for (family, _, opening) in families_and_openings() {
        let mut sources = BTreeSet::new();
        let mut flows = Vec::new();
        for (port, frontend) in (50_000..50_200).flat_map(|port| [(port, node_port(family)), (port, external_ip(family))]) {
            let client = client(family, port);
            let source = setup.sent_on(&opening(client, frontend)).src;
            assert!(sources.insert(source), "{source} is taken twice");
            flows.push((client, frontend, source));
        }
        for (client, frontend, source) in flows {
            let back = setup.sent_on(&opening(backend(family), source));
            assert_eq!((back.src, back.dst), (frontend, client), "each answer goes to who has asked");
        }
        setup.node.forget_flows().unwrap();
    }
}

/// The reply's entry still says which port it was.
#[test]
fn a_flow_that_lost_its_entry_finds_its_port_again() {
    if gate::skip(NEEDS) {
        return;
    }
    let mut setup = Setup::new();
    for family in Family::ALL {
        let (client, frontend) = (client(family, 50_000), node_port(family));
        let there = setup.sent_on(&syn(client, frontend));
        evict(&mut setup.node, Side::Ingress, Protocol::Tcp, client, frontend);
        setup.ignore_counted();
        assert_eq!(setup.sent_on(&data(client, frontend)).src, there.src);
        setup.assert_counted(&[Reason::Masqueraded, Reason::Midstream, Reason::NewFlow]);
        setup.node.forget_flows().unwrap();
    }
}

#[test]
fn a_port_that_a_socket_of_the_node_has_is_left_to_it() {
    if gate::skip(NEEDS) {
        return;
    }
    let mut setup = Setup::with(20_000..=20_002, OPTIONS);
    for family in Family::ALL {
        let unspecified = if family == Family::V4 { "0.0.0.0" } else { "[::]" };
        let _socket = setup.node.place().run(|| UdpSocket::bind(format!("{unspecified}:20001"))).unwrap();
        let sources = [50_000, 50_001].map(|port| setup.sent_on(&datagram(client(family, port), node_port(family))).src.port());
        assert_eq!(BTreeSet::from(sources), BTreeSet::from([20_000, 20_002]));
        setup.assert_dropped(&datagram(client(family, 50_002), node_port(family)), Reason::PortsExhausted);
        setup.node.forget_flows().unwrap();
    }
}

#[test]
fn every_port_is_found_before_any_is_missed() {
    if gate::skip(NEEDS) {
        return;
    }
    // More than is tried at once.
    let mut setup = Setup::with(20_000..=20_149, OPTIONS);
    for family in Family::ALL {
        let sources: BTreeSet<u16> =
            (0..150).map(|n| setup.sent_on(&datagram(client(family, 50_000 + n), node_port(family))).src.port()).collect();
        assert_eq!(sources, (20_000..=20_149).collect());
        setup.assert_dropped(&datagram(client(family, 60_000), node_port(family)), Reason::PortsExhausted);
        setup.node.forget_flows().unwrap();
    }
}

/// What one backend and one source address must have room for.
#[test]
fn twenty_eight_thousand_flows_reach_one_backend() {
    if gate::skip(NEEDS) {
        return;
    }
    let options = Options { sizes: Sizes { flows: 1 << 18, ..OPTIONS.sizes }, ..OPTIONS };
    let mut setup = Setup::with(SNAT_PORTS, options);
    let runner = setup.node.runner(UPLINK_INGRESS).unwrap();
    let place = setup.node.place().clone();
    let dropped = place.run(|| {
        let sent = (0..28_000_u16).map(|n| datagram(client(Family::V4, 1024 + n), node_port(Family::V4)).build());
        sent.filter(|frame| runner.run(frame).unwrap().verdict != Verdict::Redirect).count()
    });
    assert_eq!(dropped, 0);
    let sources: BTreeSet<u16> = entries(&setup.node)
        .into_iter()
        .filter(|entry| entry.from.0.ip() == addr::client().of(Family::V4))
        .map(|entry| entry.to.0.port())
        .collect();
    assert_eq!(sources.len(), 28_000);
}

/// The backend may remember them for a while, and take somebody else's packets for theirs.
#[test]
fn ports_of_connections_that_are_over_are_taken_when_no_others_are_left() {
    const PORTS: u16 = 40;
    if gate::skip(NEEDS) {
        return;
    }
    let mut setup = Setup::with(20_000..=20_000 + PORTS - 1, OPTIONS);
    for family in Family::ALL {
        let (fin, frontend) = (flags::FIN | flags::ACK, node_port(family));
        let mut over = BTreeSet::new();
        for port in (50_000..).take(usize::from(PORTS / 2)) {
            let source = setup.sent_on(&syn(client(family, port), frontend)).src;
            setup.sent_on(&Packet::tcp(backend(family), source, fin));
            setup.sent_on(&Packet::tcp(client(family, port), frontend, fin));
            over.insert(source.port());
        }
        let mut open = |from: u16| -> BTreeSet<u16> {
            (from..).take(usize::from(PORTS / 2)).map(|port| setup.sent_on(&syn(client(family, port), frontend)).src.port()).collect()
        };
        let fresh = open(60_000);
        assert_eq!(fresh.len(), usize::from(PORTS / 2));
        assert!(fresh.is_disjoint(&over), "a port was taken that a backend may remember");
        assert_eq!(open(61_000), over, "they are taken before anybody is refused");
        setup.assert_dropped(&syn(client(family, 62_000), frontend), Reason::PortsExhausted);
        setup.node.forget_flows().unwrap();
    }
}

/// The entry for the answers was lost, and another flow has its key by now: the answers are the other's, and the flow must not go on.
#[test]
fn a_flow_whose_port_another_has_begins_anew() {
    if gate::skip(NEEDS) {
        return;
    }
    let mut setup = Setup::with(20_000..=20_000, OPTIONS);
    for family in Family::ALL {
        let (one, other) = (client(family, 50_000), client(family, 50_001));
        let source = setup.sent_on(&datagram(one, node_port(family))).src;
        evict(&mut setup.node, Side::Ingress, Protocol::Udp, backend(family), source);
        assert_eq!(setup.sent_on(&datagram(other, node_port(family))).src, source);
        age(&mut setup.node);
        setup.sent_on(&datagram(one, node_port(family)));
        setup.assert_dropped(&datagram(one, node_port(family)), Reason::PortsExhausted);
        let back = setup.sent_on(&datagram(backend(family), source));
        assert_eq!(back.dst, other);
        setup.node.forget_flows().unwrap();
    }
}
