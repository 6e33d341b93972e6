//! Clients outside whose backend is on another node: the node stands in for them and sends packets on itself, both ways.

use std::{net::SocketAddr, ops::RangeInclusive};

use proxy_common::{FlowState, Protocol, Side, reason::Reason};
use proxy_daemon::{datapath::Options, plan::Settings};
use shunt_tests::{
    Family, addr, gate,
    objects::{Endpoint, Service},
    packet::{L4, Packet, flags, verify_checksums},
    rows::{Cluster, frames},
    test_run::{NEEDS, OPTIONS, SNAT_PORTS, TUNNEL_MTU, TestNode, Verdict},
};

use crate::expect::{Entry, POD_INGRESS, PORT, TARGET, UPLINK_INGRESS, datagram, entries, syn};

const NODE_PORT: u16 = 30_080;
/// A pod of this node.
const HERE: u8 = 6;

pub(crate) struct Setup {
    pub(crate) node: TestNode,
}

type Opening = fn(SocketAddr, SocketAddr) -> Packet;
const OPENINGS: [(Protocol, Opening); 2] = [(Protocol::Tcp, syn), (Protocol::Udp, datagram)];

pub(crate) fn families_and_openings() -> impl Iterator<Item = (Family, Protocol, Opening)> {
    Family::ALL.into_iter().flat_map(|family| OPENINGS.map(|(protocol, opening)| (family, protocol, opening)))
}

pub(crate) fn client(family: Family, port: u16) -> SocketAddr {
    addr::client().at(family, port)
}

pub(crate) fn node_port(family: Family) -> SocketAddr {
    addr::node(1).at(family, NODE_PORT)
}

pub(crate) fn external_ip(family: Family) -> SocketAddr {
    addr::external_ips(1).at(family, PORT)
}

pub(crate) fn backend(family: Family) -> SocketAddr {
    addr::pod(2, 6).at(family, TARGET)
}

impl Setup {
    pub(crate) fn new() -> Self {
        Self::with(SNAT_PORTS, OPTIONS)
    }

    /// A Service with one backend, on another node.
    pub(crate) fn with(ports: RangeInclusive<u16>, options: Options) -> Self {
        let cluster = Cluster::of_node("n1", &addr::node(1).both());
        Self::of(cluster, &Endpoint::at(addr::pod(2, 6), "n2"), ports, options)
    }

    /// A Service with one backend on this node, for an operator who has said how Services are served.
    fn with_backend_here(settings: Settings) -> Self {
        let cluster = Cluster::served("n1", &addr::node(1).both(), settings);
        Self::of(cluster, &Endpoint::at(addr::pod(1, HERE), "n1"), SNAT_PORTS, OPTIONS)
    }

    fn of(mut cluster: Cluster, endpoint: &Endpoint, ports: RangeInclusive<u16>, options: Options) -> Self {
        let service =
            Service::named("s1").cluster_ips(addr::cluster_ips(1)).external_ips(addr::external_ips(1)).node_port(PORT, TARGET, NODE_PORT);
        cluster.apply(service.with_endpoints(std::slice::from_ref(endpoint)));
        let mut node = TestNode::in_a_place(cluster.node_ips(), ports, options).unwrap();
        node.apply(&cluster.plans()).unwrap();
        Self { node }
    }

    /// Runs a packet from outside that must be sent on: as it is then.
    #[track_caller]
    pub(crate) fn sent_on(&mut self, packet: &Packet) -> Packet {
        self.sent_on_frame(&packet.build())
    }

    #[track_caller]
    fn sent_on_frame(&mut self, frame: &[u8]) -> Packet {
        let ran = self.node.run(UPLINK_INGRESS, frame).unwrap();
        assert_eq!(ran.verdict, Verdict::Redirect, "{:?}", self.node.take_counted());
        verify_checksums(&ran.frame).unwrap();
        Packet::decode(&ran.frame).unwrap()
    }

    #[track_caller]
    pub(crate) fn assert_dropped(&mut self, packet: &Packet, reason: Reason) {
        self.ignore_counted();
        assert_eq!(self.node.run(UPLINK_INGRESS, &packet.build()).unwrap().verdict, Verdict::Shot);
        assert!(self.node.take_counted().unwrap().contains(&(reason, 1)));
    }

    #[track_caller]
    pub(crate) fn assert_counted(&mut self, reasons: &[Reason]) {
        let mut expected: Vec<_> = reasons.iter().map(|reason| (*reason, 1)).collect();
        expected.sort_unstable();
        assert_eq!(self.node.take_counted().unwrap(), expected);
    }

    pub(crate) fn ignore_counted(&mut self) {
        drop(self.node.take_counted().unwrap());
    }
}

/// A packet after one more router.
fn one_hop_on(packet: Packet) -> Packet {
    Packet { ttl: packet.ttl - 1, ..packet }
}

#[test]
fn packets_go_there_and_back_under_the_nodes_address() {
    if gate::skip(NEEDS) {
        return;
    }
    let mut setup = Setup::new();
    for (family, protocol, opening) in families_and_openings() {
        for frontend in [node_port(family), external_ip(family)] {
            let (client, backend) = (client(family, 50_000), backend(family));
            let sent = opening(client, frontend);
            let there = setup.sent_on(&sent);
            setup.assert_counted(&[Reason::Masqueraded, Reason::NewFlow]);
            assert_eq!(there, one_hop_on(sent.clone().from(there.src).to(backend)));
            assert_eq!(there.src.ip(), addr::node(1).of(family));
            assert!(SNAT_PORTS.contains(&there.src.port()));

            let answer = opening(backend, there.src);
            let back = setup.sent_on(&answer);
            assert_eq!(back, one_hop_on(answer.from(frontend).to(client)));
            assert_eq!(setup.sent_on(&sent), there, "the flow stays as it is");
            setup.assert_counted(&[]);

            let state = |state: FlowState| state.with(FlowState::MASQUERADED);
            let (side, (from, to)) = (Side::Ingress, ((client, frontend), (there.src, backend)));
            let forward = Entry { side, protocol, from, to, state: state(FlowState::NEW) };
            let reply = Entry { side, protocol, from: (to.1, to.0), to: (from.1, from.0), state: state(FlowState::REPLY) };
            let found = entries(&setup.node);
            assert!(found.len() == 2 && found.contains(&forward) && found.contains(&reply), "{found:#?}");
            setup.node.forget_flows().unwrap();
        }
    }
}

/// As the kernel has it.
#[test]
fn who_has_a_privileged_port_gets_another_such() {
    if gate::skip(NEEDS) {
        return;
    }
    let mut setup = Setup::new();
    for (family, _, opening) in families_and_openings() {
        for (port, range) in [(1, 1..=511), (511, 1..=511), (512, 600..=1023), (1023, 600..=1023), (1024, SNAT_PORTS)] {
            let there = setup.sent_on(&opening(client(family, port), node_port(family)));
            assert!(range.contains(&there.src.port()), "{} for {port}", there.src.port());
        }
        setup.node.forget_flows().unwrap();
    }
}

/// Who is stood in for where the backend is on the node: the hook, the client and the frontend.
#[track_caller]
fn assert_stands_in(settings: &Settings, expected: [bool; 4]) {
    let mut setup = Setup::with_backend_here(settings.clone());
    for (family, _, opening) in families_and_openings() {
        let (cluster_ip, backend) = (addr::cluster_ips(1).at(family, PORT), addr::pod(1, HERE).at(family, TARGET));
        // A port for each: flows that meet at the backend have others.
        let [pod, again] = [50_000, 50_001].map(|port| addr::pod(1, 3).at(family, port));
        let ways = [
            (POD_INGRESS, pod, cluster_ip),
            (UPLINK_INGRESS, client(family, 50_000), cluster_ip),
            (POD_INGRESS, again, external_ip(family)),
            (UPLINK_INGRESS, client(family, 50_001), node_port(family)),
        ];
        for ((hook, client, frontend), expected) in ways.into_iter().zip(expected) {
            let ran = setup.node.run(hook, &opening(client, frontend).build()).unwrap();
            verify_checksums(&ran.frame).unwrap();
            let there = Packet::decode(&ran.frame).unwrap();
            let way = format!("{settings:?}: {client} to {frontend}");
            assert_eq!(there.dst, backend, "{way}");
            if !expected {
                assert_eq!((ran.verdict, there.src), (Verdict::Next, client), "{way}");
                continue;
            }
            assert_eq!((ran.verdict, there.src.ip()), (Verdict::Redirect, addr::node(1).of(family)), "{way}");
            // The answer comes in by the backend's own device.
            let ran = setup.node.run(POD_INGRESS, &opening(backend, there.src).build()).unwrap();
            assert_eq!(ran.verdict, Verdict::Redirect, "{way}");
            verify_checksums(&ran.frame).unwrap();
            let back = Packet::decode(&ran.frame).unwrap();
            assert_eq!((back.src, back.dst), (frontend, client), "{way}");
        }
        setup.node.forget_flows().unwrap();
    }
}

#[test]
fn the_operator_says_who_is_stood_in_for_where_the_backend_is_here() {
    if gate::skip(NEEDS) {
        return;
    }
    let cluster_cidrs = vec!["10.244.0.0/16".parse().unwrap(), "fd00:244::/48".parse().unwrap()];
    let auto = Settings { cluster_cidrs, ..Settings::default() };
    let kube_proxy = Settings { masquerade_as_kube_proxy: true, ..auto.clone() };
    assert_stands_in(&auto, [false; 4]);
    assert_stands_in(&kube_proxy, [false, true, true, true]);
    assert_stands_in(&Settings { masquerade_all: true, ..auto }, [true, true, false, false]);
    assert_stands_in(&Settings { masquerade_all: true, ..kube_proxy }, [true; 4]);
}

/// It gets its packets back from where it sent them, whether the operator has everybody stood in for or not.
#[test]
fn a_pod_that_would_be_stood_in_for_reaches_itself() {
    if gate::skip(NEEDS) {
        return;
    }
    let mut setup = Setup::with_backend_here(Settings { masquerade_all: true, ..Settings::default() });
    for (family, _, opening) in families_and_openings() {
        let (pod, itself) = (addr::pod(1, HERE).at(family, 50_000), addr::pod(1, HERE).at(family, TARGET));
        let packet = opening(pod, addr::cluster_ips(1).at(family, PORT));
        let ran = setup.node.run(POD_INGRESS, &packet.build()).unwrap();
        assert_eq!(ran.verdict, Verdict::Redirect);
        let there = Packet::decode(&ran.frame).unwrap();
        let back = packet.clone().from(there.src).to(itself);
        assert_eq!(there, Packet { eth_src: packet.eth_dst, eth_dst: packet.eth_src, ..back });
        assert_eq!(there.src.ip(), addr::node(1).of(family));
        setup.assert_counted(&[Reason::Hairpin, Reason::NewFlow]);
        setup.node.forget_flows().unwrap();
    }
}

#[test]
fn the_sender_of_a_packet_that_is_too_large_is_told_how_large_it_may_be() {
    if gate::skip(NEEDS) {
        return;
    }
    let mut setup = Setup::new();
    for family in Family::ALL {
        let (client, frontend) = (client(family, 50_000), node_port(family));
        setup.sent_on(&syn(client, frontend));
        let header = if family == Family::V4 { 20 } else { 40 };
        let fits = usize::from(TUNNEL_MTU) - header - 20;
        let of_size = |len: usize| Packet::tcp(client, frontend, flags::ACK).payload(vec![7; len]);
        setup.sent_on(&of_size(fits));
        setup.ignore_counted();
        let sent = of_size(fits + 1);
        let told = setup.sent_on(&sent);
        setup.assert_counted(&[Reason::TooBig]);
        let (kind, code) = if family == Family::V4 { (3, 4) } else { (2, 0) };
        assert_eq!(told.l4, L4::Icmp { kind, code, rest: u32::from(TUNNEL_MTU).to_be_bytes() });
        assert_eq!((told.src.ip(), told.dst.ip()), (frontend.ip(), client.ip()));
        assert_eq!(told.payload, sent.build()[14..][..header + 20], "it quotes what was sent");
        setup.node.forget_flows().unwrap();
    }
}

/// Nobody is told twice of one datagram, nor of the middle of one as if there were ports.
#[test]
fn of_a_datagram_in_fragments_only_the_first_is_told_of() {
    if gate::skip(NEEDS) {
        return;
    }
    let mut setup = Setup::new();
    for family in Family::ALL {
        let sent = Packet::udp(client(family, 50_000), node_port(family)).payload(vec![7; 4000]);
        let fragments = frames::fragments(&sent, (usize::from(TUNNEL_MTU) + 40) & !7, 1);
        let told = setup.sent_on_frame(&fragments[0]);
        assert!(matches!(told.l4, L4::Icmp { .. }), "{told:?}");
        setup.ignore_counted();
        assert_eq!(setup.node.run(UPLINK_INGRESS, &fragments[1]).unwrap().verdict, Verdict::Shot);
        setup.assert_counted(&[Reason::Unanswered]);
        setup.node.forget_flows().unwrap();
    }
}

/// One whose first fragment was too large goes by the next try: what began with it is whole.
#[test]
fn a_datagram_in_fragments_goes_once_they_are_small_enough() {
    const HEADERS: usize = 40;
    if gate::skip(NEEDS) {
        return;
    }
    let mut setup = Setup::new();
    for family in Family::ALL {
        let sent = Packet::udp(client(family, 50_000), node_port(family)).payload(vec![7; 2000]);
        let [first, _] = &frames::fragments(&sent, (usize::from(TUNNEL_MTU) + 40) & !7, 1)[..] else { panic!("not two fragments") };
        let told = setup.sent_on_frame(first);
        assert!(matches!(told.l4, L4::Icmp { .. }), "{told:?}");
        for id in 2..5 {
            let fragments = frames::fragments(&sent, (usize::from(TUNNEL_MTU) - HEADERS - 8) & !7, id);
            let ran: Vec<_> = fragments
                .iter()
                .map(|fragment| {
                    let ran = setup.node.run(UPLINK_INGRESS, fragment).unwrap();
                    assert_eq!(ran.verdict, Verdict::Redirect, "{id}: {:?}", setup.node.take_counted());
                    ran.frame
                })
                .collect();
            let whole = frames::joined(&ran);
            verify_checksums(&whole).unwrap();
            assert_eq!(Packet::decode(&whole).unwrap().dst.ip(), setup.sent_on(&Packet::udp(sent.src, sent.dst)).dst.ip());
        }
        setup.node.forget_flows().unwrap();
    }
}

#[test]
fn a_packet_that_has_come_too_far_is_told_of() {
    if gate::skip(NEEDS) {
        return;
    }
    let mut setup = Setup::new();
    for family in Family::ALL {
        let (client, frontend) = (client(family, 50_000), node_port(family));
        setup.sent_on(&datagram(client, frontend));
        setup.ignore_counted();
        let told = setup.sent_on(&Packet { ttl: 1, ..datagram(client, frontend) });
        setup.assert_counted(&[Reason::TimeExceeded]);
        let (kind, code) = if family == Family::V4 { (11, 0) } else { (3, 0) };
        assert_eq!((told.dst.ip(), told.l4), (client.ip(), L4::Icmp { kind, code, rest: [0; 4] }));
        assert_eq!(setup.sent_on(&Packet { ttl: 2, ..datagram(client, frontend) }).ttl, 1);
        setup.node.forget_flows().unwrap();
    }
}

#[test]
fn errors_about_such_flows_reach_who_sent_the_packet() {
    if gate::skip(NEEDS) {
        return;
    }
    let mut setup = Setup::new();
    for family in Family::ALL {
        let (client, frontend, backend) = (client(family, 50_000), node_port(family), backend(family));
        let source = setup.sent_on(&datagram(client, frontend)).src;
        setup.ignore_counted();
        let header = if family == Family::V4 { 20 } else { 40 };
        let quote = |packet: Packet| packet.build()[14..][..header + 8].to_vec();
        let (kind, code) = if family == Family::V4 { (3, 4) } else { (2, 0) };
        let error = |from: SocketAddr, to: SocketAddr, quoted: Vec<u8>| {
            let no_ports = |addr: SocketAddr| SocketAddr::new(addr.ip(), 0);
            Packet { l4: L4::Icmp { kind, code, rest: [0, 0, 5, 0] }, payload: quoted, ..Packet::udp(no_ports(from), no_ports(to)) }
        };
        // A router between the node and the backend.
        let router = addr::pod(2, 1).at(family, 0);
        let heard = setup.sent_on(&error(router, source, quote(datagram(source, backend))));
        setup.assert_counted(&[Reason::IcmpError]);
        assert_eq!(heard, one_hop_on(error(router, client, quote(datagram(client, frontend)))));
        // The client itself, or a router on its side: the node stands in for either.
        for from in [client, addr::external_ips(9).at(family, 0)] {
            let heard = setup.sent_on(&error(from, frontend, quote(datagram(frontend, client))));
            setup.assert_counted(&[Reason::IcmpError]);
            assert_eq!(heard, one_hop_on(error(source, backend, quote(datagram(backend, source)))));
        }
        setup.node.forget_flows().unwrap();
    }
}

#[test]
fn fragments_of_such_flows_follow_their_first() {
    if gate::skip(NEEDS) {
        return;
    }
    let mut setup = Setup::new();
    for family in Family::ALL {
        let (client, frontend) = (client(family, 50_000), node_port(family));
        let sent = datagram(client, frontend).payload(vec![3; 3000]);
        let ran: Vec<Vec<u8>> = frames::fragments(&sent, 1200, 99)
            .iter()
            .map(|fragment| {
                let ran = setup.node.run(UPLINK_INGRESS, fragment).unwrap();
                assert_eq!(ran.verdict, Verdict::Redirect);
                ran.frame
            })
            .collect();
        let whole = frames::joined(&ran);
        verify_checksums(&whole).unwrap();
        let there = Packet::decode(&whole).unwrap();
        assert_eq!(there, one_hop_on(sent.from(there.src).to(backend(family))));
        setup.node.forget_flows().unwrap();
    }
}

/// It would hold a port for a connection that nobody has.
#[test]
fn what_breaks_off_an_unknown_connection_begins_nothing() {
    if gate::skip(NEEDS) {
        return;
    }
    let mut setup = Setup::new();
    for family in Family::ALL {
        let frame = Packet::tcp(client(family, 50_000), node_port(family), flags::RST).build();
        assert_eq!(setup.node.run(UPLINK_INGRESS, &frame).unwrap().verdict, Verdict::Shot);
        setup.assert_counted(&[Reason::Midstream, Reason::Unanswered]);
        assert_eq!(entries(&setup.node), []);
    }
}

#[test]
fn without_a_way_to_the_backend_packets_are_dropped_and_counted() {
    if gate::skip(NEEDS) {
        return;
    }
    let mut setup = Setup::new();
    setup.node.place().ip("link set tunnel down\nlink set world down\n").unwrap();
    for (family, _, opening) in families_and_openings() {
        setup.assert_dropped(&opening(client(family, 50_000), node_port(family)), Reason::NoRoute);
        assert_eq!(entries(&setup.node), [], "nothing is recorded");
    }
}
