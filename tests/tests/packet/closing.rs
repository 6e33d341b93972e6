//! What the entries of a flow remember of what they have seen.

use std::net::SocketAddr;

use proxy_common::{FlowState, reason::Reason};
use shunt_tests::{
    Family, gate,
    packet::{L4, Packet, flags},
    test_run::{NEEDS, Ran, Verdict},
};

use crate::expect::{
    POD_EGRESS, POD_INGRESS, Setup, accept, age, data, datagram, entries, forward, is_just_now, pod_at, service_at, syn, touch, undisturbed,
};

const NEW: FlowState = FlowState::NEW;
const ESTABLISHED: FlowState = FlowState::ESTABLISHED;
const FIN: FlowState = FlowState::FIN;
const RST: FlowState = FlowState::RST;
const REPLY: FlowState = FlowState::REPLY;

/// A pod, the Service that it dials, and the Service's only backend.
fn parties(family: Family) -> [SocketAddr; 3] {
    [pod_at(family, 3, 40_000), service_at(family, 1), pod_at(family, 10, 8080)]
}

/// What the entries of both directions remember.
fn states(setup: &Setup, [client, service, backend]: [SocketAddr; 3]) -> [FlowState; 2] {
    [forward(&setup.node, client, service).state, forward(&setup.node, backend, client).state]
}

#[test]
fn a_connection_is_new_established_and_closing() {
    if gate::skip(NEEDS) {
        return;
    }
    let mut setup = Setup::new();
    setup.serve(1, &[10]);
    for family in Family::ALL {
        let [client, service, backend] = parties(family);
        let from_client = |bits| Packet::tcp(client, service, bits);
        let from_backend = |bits| Packet::tcp(backend, client, bits);

        setup.backend(&syn(client, service));
        assert_eq!(states(&setup, parties(family)), [NEW, REPLY]);
        setup.translated(POD_EGRESS, &from_backend(flags::SYN | flags::ACK));
        assert_eq!(states(&setup, parties(family)), [NEW, REPLY.with(ESTABLISHED)]);
        setup.backend(&data(client, service));
        assert_eq!(states(&setup, parties(family)), [ESTABLISHED, REPLY.with(ESTABLISHED)]);
        setup.translated(POD_EGRESS, &from_backend(flags::ACK));
        assert_eq!(states(&setup, parties(family)), [ESTABLISHED, REPLY.with(ESTABLISHED)]);
        setup.translated(POD_EGRESS, &from_backend(flags::FIN | flags::ACK));
        assert_eq!(states(&setup, parties(family)), [ESTABLISHED, REPLY.with(ESTABLISHED).with(FIN)]);
        setup.backend(&from_client(flags::FIN | flags::ACK));
        assert_eq!(states(&setup, parties(family))[0], ESTABLISHED.with(FIN));
        setup.backend(&data(client, service));
        assert_eq!(states(&setup, parties(family))[0], ESTABLISHED.with(FIN), "what was seen is not forgotten");
        setup.backend(&from_client(flags::RST));
        assert_eq!(states(&setup, parties(family))[0], ESTABLISHED.with(FIN).with(RST));
        setup.backend(&syn(client, service));
        assert_eq!(states(&setup, parties(family)), [NEW, REPLY], "a new connection on the same ports begins anew");
    }
}

/// Whether a segment is within the window is for who gets it to say; one that was not translated would be answered with a reset.
#[test]
fn segments_of_any_number_go_their_way() {
    if gate::skip(NEEDS) {
        return;
    }
    let mut setup = Setup::new();
    setup.serve(1, &[10]);
    for family in Family::ALL {
        let [client, service, backend] = parties(family);
        setup.backend(&syn(client, service));
        setup.translated(POD_EGRESS, &accept(backend, client));
        for number in [0, 1 << 31, u32::MAX] {
            let of_number = |src, dst| {
                let l4 = L4::Tcp { flags: flags::ACK, seq: number, ack: number ^ 0x5555_5555, window: 1, options: Vec::new() };
                Packet { l4, ..data(src, dst) }
            };
            let answer = setup.translated(POD_EGRESS, &of_number(backend, client));
            assert_eq!((answer.src, answer.dst), (service, client));
            assert_eq!(setup.backend(&of_number(client, service)), backend);
        }
    }
}

/// Anybody can send a RST in another's name, and its receiver may not believe it: who goes on has not ended.
#[test]
fn a_reset_that_changes_nothing_is_forgotten() {
    if gate::skip(NEEDS) {
        return;
    }
    let mut setup = Setup::new();
    setup.serve(1, &[10]);
    for family in Family::ALL {
        let [client, service, backend] = parties(family);
        setup.backend(&syn(client, service));
        setup.backend(&data(client, service));
        setup.translated(POD_EGRESS, &data(backend, client));
        setup.backend(&Packet::tcp(client, service, flags::RST));
        assert!(!forward(&setup.node, client, service).state.heals());
        setup.backend(&data(client, service));
        assert_eq!(forward(&setup.node, client, service).state, ESTABLISHED);
        setup.translated(POD_EGRESS, &Packet::tcp(backend, client, flags::RST));
        setup.translated(POD_EGRESS, &data(backend, client));
        assert_eq!(forward(&setup.node, backend, client).state, REPLY.with(ESTABLISHED));
    }
}

/// And so with a SYN: its receiver answers what it knows, of which the client that it was sent in the name of need not say anything.
#[test]
fn an_attempt_that_begins_nothing_ends_nothing() {
    if gate::skip(NEEDS) {
        return;
    }
    let mut setup = Setup::new();
    setup.serve(1, &[10]);
    for family in Family::ALL {
        let [client, service, backend] = parties(family);
        setup.backend(&syn(client, service));
        setup.translated(POD_EGRESS, &Packet::tcp(backend, client, flags::SYN | flags::ACK));
        setup.backend(&data(client, service));
        setup.backend(&syn(client, service));
        assert_eq!(states(&setup, parties(family)), [ESTABLISHED, REPLY.with(ESTABLISHED)]);
        setup.translated(POD_EGRESS, &data(backend, client));
        assert_eq!(states(&setup, parties(family)), [ESTABLISHED, REPLY.with(ESTABLISHED)]);
    }
}

/// Only an answer shows that there is a connection at all.
#[test]
fn what_begins_in_mid_stream_waits_for_its_answer() {
    if gate::skip(NEEDS) {
        return;
    }
    let mut setup = Setup::new();
    setup.serve(1, &[10]);
    for family in Family::ALL {
        let [client, service, backend] = parties(family);
        setup.backend(&data(client, service));
        assert_eq!(states(&setup, parties(family)), [ESTABLISHED, REPLY]);
        setup.translated(POD_EGRESS, &data(backend, client));
        assert_eq!(states(&setup, parties(family)), [ESTABLISHED, REPLY.with(ESTABLISHED)]);
        setup.node.forget_flows().unwrap();
        setup.backend(&Packet::tcp(client, service, flags::FIN | flags::ACK));
        assert_eq!(states(&setup, parties(family)), [ESTABLISHED.with(FIN), REPLY]);
    }
}

/// Nothing but the ports is the same: the new connection has the choice that any other has.
#[test]
fn a_connection_after_one_that_is_over_chooses_its_backend_anew() {
    if gate::skip(NEEDS) {
        return;
    }
    let fin = flags::FIN | flags::ACK;
    let ends: [(&[u8], &[u8]); 4] = [(&[fin], &[fin]), (&[flags::RST], &[]), (&[], &[flags::RST]), (&[fin], &[flags::RST])];
    for (family, (by_client, by_backend)) in Family::ALL.into_iter().flat_map(|family| ends.map(|end| (family, end))) {
        let mut setup = Setup::new();
        setup.serve(1, &[10]);
        let [client, service, backend] = parties(family);
        setup.backend(&syn(client, service));
        setup.serve_draining(1, &[11], &[10]);
        assert_eq!(setup.backend(&syn(client, service)), backend, "a repeated attempt stays");
        for bits in by_client {
            setup.backend(&Packet::tcp(client, service, *bits));
        }
        for bits in by_backend {
            setup.translated(POD_EGRESS, &Packet::tcp(backend, client, *bits));
        }
        setup.ignore_counted();
        assert_eq!(setup.backend(&syn(client, service)), pod_at(family, 11, 8080));
        setup.assert_counted(&[Reason::NewFlow]);
        assert_eq!(entries(&setup.node).len(), 2, "nothing is left of the old flow");
    }
}

/// The client's kernel may give a port again as soon as a connection to another destination is begun.
#[test]
fn a_connection_to_the_pod_itself_is_not_taken_for_one_that_is_over() {
    if gate::skip(NEEDS) {
        return;
    }
    let mut setup = Setup::new();
    setup.serve(1, &[10]);
    for family in Family::ALL {
        let [client, service, backend] = parties(family);
        setup.backend(&syn(client, service));
        let fin = flags::FIN | flags::ACK;
        setup.backend(&Packet::tcp(client, service, fin));
        setup.translated(POD_EGRESS, &Packet::tcp(backend, client, fin));
        let answer = Packet::tcp(backend, client, flags::SYN | flags::ACK);
        for (hook, packet) in [(POD_INGRESS, syn(client, backend)), (POD_EGRESS, answer)] {
            let frame = packet.build();
            assert_eq!(setup.node.run(hook, &frame).unwrap(), Ran { verdict: Verdict::Next, frame });
        }
        assert_eq!(entries(&setup.node), []);
    }
}

/// One side has nothing more to send, the other goes on: a SYN between them is none of a new connection.
#[test]
fn a_half_closed_connection_is_not_over() {
    if gate::skip(NEEDS) {
        return;
    }
    for family in Family::ALL {
        let mut setup = Setup::new();
        setup.serve(1, &[10]);
        let [client, service, backend] = parties(family);
        setup.backend(&syn(client, service));
        setup.backend(&Packet::tcp(client, service, flags::FIN | flags::ACK));
        setup.serve_draining(1, &[11], &[10]);
        assert_eq!(setup.backend(&syn(client, service)), backend);
    }
}

#[test]
fn datagrams_are_a_question_and_an_answer_or_more() {
    if gate::skip(NEEDS) {
        return;
    }
    let mut setup = Setup::new();
    setup.serve(1, &[10]);
    for family in Family::ALL {
        let [client, service, backend] = parties(family);
        undisturbed(|| {
            setup.node.forget_flows().unwrap();
            setup.backend(&datagram(client, service));
            assert_eq!(states(&setup, parties(family)), [NEW, REPLY]);
            let since = touch(&mut setup.node);
            setup.backend(&datagram(client, service));
            setup.translated(POD_EGRESS, &datagram(backend, client));
            is_just_now(&setup.node, since).then(|| assert_eq!(states(&setup, parties(family)), [NEW, REPLY]))
        });
        age(&mut setup.node);
        setup.backend(&datagram(client, service));
        assert_eq!(states(&setup, parties(family)), [ESTABLISHED, REPLY]);
        setup.translated(POD_EGRESS, &datagram(backend, client));
        assert_eq!(states(&setup, parties(family)), [ESTABLISHED, REPLY.with(ESTABLISHED)]);
    }
}
