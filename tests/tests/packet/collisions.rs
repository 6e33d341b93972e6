//! Flows of one client that meet at one backend: their answers must not be taken for each other's.

use std::net::SocketAddr;

use proxy_common::{Protocol, Side, reason::Reason};
use shunt_tests::{Family, gate, packet::Packet, packet::flags, test_run::NEEDS, test_run::TestNode, test_run::Verdict};

use crate::expect::{
    POD_EGRESS, POD_INGRESS, Setup, TARGET, accept, age, data, datagram, entries, evict, forward, pod_at, service_at, syn,
};

const CLIENT: u8 = 3;
const BACKEND: u8 = 10;
const FIN: u8 = flags::FIN | flags::ACK;

/// A client's first packet, from here to there.
type Opening = fn(SocketAddr, SocketAddr) -> Packet;

/// Two Services of one pod.
fn two_services() -> Setup {
    let mut setup = Setup::new();
    setup.serve(1, &[BACKEND]);
    setup.serve(2, &[BACKEND]);
    setup
}

#[test]
fn the_second_of_two_flows_that_meet_gets_another_port() {
    if gate::skip(NEEDS) {
        return;
    }
    let mut setup = two_services();
    let openings: [Opening; 2] = [syn, datagram];
    for (family, opening) in Family::ALL.into_iter().flat_map(|family| openings.map(|opening| (family, opening))) {
        let client = pod_at(family, CLIENT, 40_000);
        let (first, second) = (service_at(family, 1), service_at(family, 2));
        let backend = setup.backend(&opening(client, first));
        setup.assert_counted(&[Reason::NewFlow]);

        let moved = setup.translated(POD_INGRESS, &opening(client, second));
        setup.assert_counted(&[Reason::NewFlow, Reason::PortCollision]);
        assert_eq!((moved.src.ip(), moved.dst), (client.ip(), backend));
        assert_ne!(moved.src.port(), client.port());
        assert!(moved.src.port() >= 1024, "a port that needs no privilege");

        for (to, service) in [(client, first), (moved.src, second)] {
            let answer = setup.translated(POD_EGRESS, &opening(backend, to));
            assert_eq!((answer.src, answer.dst), (service, client), "each answer comes from the service that was asked");
        }
        assert_eq!(setup.backend(&opening(client, first)), backend);
        assert_eq!(setup.translated(POD_INGRESS, &opening(client, second)), moved, "and both go on as they began");
        setup.assert_counted(&[]);
        setup.node.forget_flows().unwrap();
    }
}

/// The entry for its replies is still there and says which port it had.
#[test]
fn a_flow_with_another_port_finds_it_again() {
    if gate::skip(NEEDS) {
        return;
    }
    let mut setup = two_services();
    for family in Family::ALL {
        let client = pod_at(family, CLIENT, 40_000);
        let (first, second) = (service_at(family, 1), service_at(family, 2));
        setup.backend(&syn(client, first));
        let moved = setup.translated(POD_INGRESS, &syn(client, second)).src;
        setup.ignore_counted();

        evict(&mut setup.node, Side::Ingress, Protocol::Tcp, client, second);
        assert_eq!(setup.translated(POD_INGRESS, &data(client, second)).src, moved);
        setup.assert_counted(&[Reason::Midstream, Reason::NewFlow]);
        assert_eq!(entries(&setup.node).len(), 4);
        setup.node.forget_flows().unwrap();
    }
}

#[test]
fn the_entry_of_a_flow_that_is_over_is_taken_over() {
    if gate::skip(NEEDS) {
        return;
    }
    let mut setup = two_services();
    for (family, (end, both)) in Family::ALL.into_iter().flat_map(|family| [(FIN, true), (flags::RST, false)].map(|end| (family, end))) {
        let client = pod_at(family, CLIENT, 40_000);
        let (first, second) = (service_at(family, 1), service_at(family, 2));
        let backend = setup.backend(&syn(client, first));
        setup.translated(POD_EGRESS, &accept(backend, client));
        setup.translated(POD_EGRESS, &Packet::tcp(backend, client, end));
        if both {
            setup.backend(&Packet::tcp(client, first, end));
        }
        setup.ignore_counted();

        assert_eq!(setup.backend(&syn(client, second)), backend, "with its own port");
        setup.assert_counted(&[Reason::NewFlow]);
        assert_eq!(entries(&setup.node).len(), 2, "nothing is left of the old flow");
        let answer = setup.translated(POD_EGRESS, &accept(backend, client));
        assert_eq!((answer.src, answer.dst), (second, client));
        setup.node.forget_flows().unwrap();
    }
}

/// The client has more to send, and would send it to nobody.
#[test]
fn the_entry_of_a_flow_that_is_half_closed_is_left_to_it() {
    if gate::skip(NEEDS) {
        return;
    }
    let mut setup = two_services();
    for family in Family::ALL {
        let client = pod_at(family, CLIENT, 40_000);
        let (first, second) = (service_at(family, 1), service_at(family, 2));
        let backend = setup.backend(&syn(client, first));
        setup.translated(POD_EGRESS, &accept(backend, client));
        setup.translated(POD_EGRESS, &Packet::tcp(backend, client, FIN));
        setup.ignore_counted();

        assert_ne!(setup.translated(POD_INGRESS, &syn(client, second)).src, client);
        setup.assert_counted(&[Reason::NewFlow, Reason::PortCollision]);
        assert_eq!(setup.backend(&data(client, first)), backend);
        let answer = setup.translated(POD_EGRESS, &data(backend, client));
        assert_eq!((answer.src, answer.dst), (first, client));
        setup.node.forget_flows().unwrap();
    }
}

/// It has lost the entry for its replies, and another one has the place by now: what ends is the first alone.
#[test]
fn a_flow_that_ends_leaves_the_answers_of_another_to_it() {
    if gate::skip(NEEDS) {
        return;
    }
    for (family, is_gone) in Family::ALL.into_iter().flat_map(|family| [(family, false), (family, true)]) {
        let mut setup = two_services();
        let (client, first, second) = (pod_at(family, CLIENT, 40_000), service_at(family, 1), service_at(family, 2));
        let backend = setup.backend(&syn(client, first));
        evict(&mut setup.node, Side::Egress, Protocol::Tcp, backend, client);
        if is_gone {
            setup.serve(1, &[BACKEND + 1]);
        } else {
            setup.backend(&Packet::tcp(client, first, flags::RST));
        }
        assert_eq!(setup.backend(&syn(client, second)), backend);
        setup.translated(POD_INGRESS, &syn(client, first));
        let answer = setup.translated(POD_EGRESS, &syn(backend, client));
        assert_eq!((answer.src, answer.dst), (second, client));
    }
}

/// One port of a client, by which it dials a Service and the backend that it was given. Or its process has ended, and the next one has its port by
/// chance.
#[test]
fn what_begins_without_the_service_gets_another_port() {
    if gate::skip(NEEDS) {
        return;
    }
    let mut setup = two_services();
    let openings: [Opening; 2] = [syn, datagram];
    for (family, opening) in Family::ALL.into_iter().flat_map(|family| openings.map(|opening| (family, opening))) {
        let (client, service) = (pod_at(family, CLIENT, 40_000), service_at(family, 1));
        let backend = setup.backend(&opening(client, service));
        setup.ignore_counted();

        let moved = setup.translated(POD_INGRESS, &opening(client, backend));
        setup.assert_counted(&[Reason::NewFlow, Reason::PortCollision]);
        assert_eq!((moved.src.ip(), moved.dst), (client.ip(), backend));
        for (to, from) in [(client, service), (moved.src, backend)] {
            let answer = setup.translated(POD_EGRESS, &opening(backend, to));
            assert_eq!((answer.src, answer.dst), (from, client), "each is answered by whom it asked");
        }
        // Also when the Service has other backends by now: what was dialled without it stays.
        for backends in [&[BACKEND][..], &[BACKEND + 1]] {
            setup.serve(1, backends);
            setup.ignore_counted();
            assert_eq!(setup.translated(POD_INGRESS, &opening(client, backend)), moved, "and goes on as it began");
            setup.assert_counted(&[]);
            age(&mut setup.node);
        }
        assert_eq!(setup.translated(POD_EGRESS, &opening(backend, moved.src)).src, backend);
        setup.node.forget_flows().unwrap();
        setup.serve(1, &[BACKEND]);
    }
}

#[test]
fn what_begins_without_the_service_takes_the_place_of_what_is_over() {
    if gate::skip(NEEDS) {
        return;
    }
    let mut setup = two_services();
    for family in Family::ALL {
        let (client, service) = (pod_at(family, CLIENT, 40_000), service_at(family, 1));
        let backend = setup.backend(&syn(client, service));
        setup.translated(POD_EGRESS, &Packet::tcp(backend, client, flags::RST));
        setup.ignore_counted();
        setup.passed(POD_INGRESS, &syn(client, backend));
        assert_eq!(entries(&setup.node), [], "nothing is left of the old flow");
        setup.passed(POD_EGRESS, &accept(backend, client));
        setup.passed(POD_INGRESS, &data(client, backend));
    }
}

/// The client's port is in use for the very backend, which says so: it acknowledges what that connection has sent, and not the SYN. Nothing was known
/// of that connection until then.
#[test]
fn what_was_there_without_the_service_keeps_its_port() {
    if gate::skip(NEEDS) {
        return;
    }
    let mut setup = two_services();
    for (family, says) in Family::ALL.into_iter().flat_map(|family| [(family, flags::ACK), (family, FIN)]) {
        let (client, service) = (pod_at(family, CLIENT, 40_000), service_at(family, 1));
        setup.passed(POD_INGRESS, &data(client, pod_at(family, BACKEND, TARGET)));
        let backend = setup.backend(&syn(client, service));
        setup.ignore_counted();
        setup.passed(POD_EGRESS, &Packet::tcp(backend, client, says));
        setup.assert_counted(&[Reason::Foreign]);
        setup.passed(POD_INGRESS, &data(client, backend));
        setup.passed(POD_EGRESS, &data(backend, client));
        setup.ignore_counted();

        let moved = setup.translated(POD_INGRESS, &syn(client, service));
        setup.assert_counted(&[Reason::NewFlow, Reason::PortCollision]);
        assert_eq!((moved.src.ip(), moved.dst), (client.ip(), backend));
        assert_ne!(moved.src.port(), client.port());
        assert_eq!(setup.translated(POD_EGRESS, &accept(backend, moved.src)).src, service);
        assert_eq!(setup.translated(POD_INGRESS, &data(client, service)), data(moved.src, backend), "the next SYN gets through");
        setup.passed(POD_EGRESS, &data(backend, client));
        setup.passed(POD_INGRESS, &syn(client, backend));
        let before = entries(&setup.node);
        setup.passed(POD_EGRESS, &syn(backend, client));
        assert_eq!(entries(&setup.node), before, "what the backend begins to say is noted nowhere else");
        setup.node.forget_flows().unwrap();
    }
}

/// Any other first answer is the flow's own, and so is all that a backend says of what was picked up in mid-stream.
#[test]
fn the_first_answer_of_a_flow_is_its_own() {
    if gate::skip(NEEDS) {
        return;
    }
    let mut setup = two_services();
    let answers: [(Opening, u8); 5] =
        [(syn, flags::SYN | flags::ACK), (syn, flags::RST | flags::ACK), (syn, flags::SYN), (data, flags::ACK), (data, FIN)];
    for family in Family::ALL {
        let (client, service) = (pod_at(family, CLIENT, 40_000), service_at(family, 1));
        for (begins, answer) in answers {
            let backend = setup.backend(&begins(client, service));
            assert_eq!(setup.translated(POD_EGRESS, &Packet::tcp(backend, client, answer)).src, service);
            setup.node.forget_flows().unwrap();
        }
        // The client's entry is lost: what was seen of it is not known.
        let backend = setup.backend(&syn(client, service));
        evict(&mut setup.node, Side::Ingress, Protocol::Tcp, client, service);
        assert_eq!(setup.translated(POD_EGRESS, &data(backend, client)).src, service);
        setup.node.forget_flows().unwrap();
        // And once it has answered it may say what it likes.
        let backend = setup.backend(&syn(client, service));
        setup.translated(POD_EGRESS, &accept(backend, client));
        assert_eq!(setup.translated(POD_EGRESS, &data(backend, client)).src, service);
        setup.node.forget_flows().unwrap();
    }
}

/// The same client dials the same service from the same port again before the old flow has expired.
#[test]
fn a_new_connection_on_the_same_ports_is_a_new_flow() {
    if gate::skip(NEEDS) {
        return;
    }
    let mut setup = two_services();
    for family in Family::ALL {
        let (client, service) = (pod_at(family, CLIENT, 40_000), service_at(family, 1));
        let backend = setup.backend(&syn(client, service));
        setup.backend(&Packet::tcp(client, service, flags::FIN | flags::ACK));
        setup.translated(POD_EGRESS, &Packet::tcp(backend, client, flags::FIN | flags::ACK));
        setup.ignore_counted();
        assert_eq!(setup.backend(&syn(client, service)), backend);
        setup.assert_counted(&[Reason::NewFlow]);
        assert!(forward(&setup.node, client, service).state.heals());
    }
}

/// Nine services of one pod: the first flow has the client's port, eight others are tried, and the tenth of ten would need a ninth.
#[test]
fn ports_run_out_when_all_that_are_tried_are_taken() {
    if gate::skip(NEEDS) {
        return;
    }
    const SERVICES: u8 = 10;
    let mut setup = Setup::new();
    for service in 1..=SERVICES {
        setup.serve(service, &[BACKEND]);
    }
    for family in Family::ALL {
        let client = pod_at(family, CLIENT, 40_000);
        for service in 1..SERVICES {
            setup.translated(POD_INGRESS, &datagram(client, service_at(family, service)));
        }
        setup.ignore_counted();
        let ran = setup.node.run(POD_INGRESS, &datagram(client, service_at(family, SERVICES)).build()).unwrap();
        assert_eq!(ran.verdict, Verdict::Shot);
        setup.assert_counted(&[Reason::PortsExhausted]);
        assert_eq!(entries(&setup.node).len(), 2 * usize::from(SERVICES - 1));
        setup.node.forget_flows().unwrap();
    }
}

#[test]
fn a_pod_reaches_itself_by_many_flows_at_once() {
    if gate::skip(NEEDS) {
        return;
    }
    let mut setup = Setup::new();
    // By whatever node its endpoint is said to be on.
    for (node, family) in ["n1", "n2"].into_iter().flat_map(|node| Family::ALL.map(|family| (node, family))) {
        setup.serve_from(node, 1, &[BACKEND]);
        let mut sources = std::collections::BTreeSet::new();
        for port in 40_000..40_200 {
            let client = pod_at(family, BACKEND, port);
            let ran = setup.node.run(POD_INGRESS, &syn(client, service_at(family, 1)).build()).unwrap();
            assert_eq!(ran.verdict, Verdict::Redirect);
            let sent = Packet::decode(&ran.frame).unwrap();
            assert!(sources.insert(sent.src), "{} stands in for two flows", sent.src);
            let reply = Packet::tcp(sent.dst, sent.src, flags::SYN | flags::ACK);
            let back = setup.node.run(POD_INGRESS, &reply.build()).unwrap();
            let back = Packet::decode(&back.frame).unwrap();
            assert_eq!((back.src, back.dst), (service_at(family, 1), client));
        }
        setup.node.forget_flows().unwrap();
    }
}

#[test]
fn a_pod_cannot_reach_itself_where_the_node_has_no_address() {
    if gate::skip(NEEDS) {
        return;
    }
    let mut setup = two_services();
    setup.node = TestNode::new(&[]).unwrap();
    setup.node.apply(&setup.cluster.plans()).unwrap();
    for family in Family::ALL {
        let packet = syn(pod_at(family, BACKEND, 40_000), service_at(family, 1));
        let ran = setup.node.run(POD_INGRESS, &packet.build()).unwrap();
        assert_eq!(ran.verdict, Verdict::Shot);
        setup.assert_counted(&[Reason::NoSnatSource]);
        assert_eq!(entries(&setup.node), []);
    }
}
