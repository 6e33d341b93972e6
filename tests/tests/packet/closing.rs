//! What the entries of a flow remember of what they have seen.

use proxy_common::FlowState;
use shunt_tests::{
    Family, gate,
    packet::{Packet, flags},
    test_run::NEEDS,
};

use crate::expect::{POD_EGRESS, Setup, data, datagram, forward, pod_at, service_at, syn};

const NEW: FlowState = FlowState::NEW;
const ESTABLISHED: FlowState = FlowState::ESTABLISHED;
const FIN: FlowState = FlowState::FIN;
const RST: FlowState = FlowState::RST;
const REPLY: FlowState = FlowState::REPLY;

#[test]
fn a_connection_is_new_established_and_closing() {
    if gate::skip(NEEDS) {
        return;
    }
    let mut setup = Setup::new();
    setup.serve(1, &[10]);
    for family in Family::ALL {
        let (client, service, backend) = (pod_at(family, 3, 40_000), service_at(family, 1), pod_at(family, 10, 8080));
        let states = |setup: &Setup| [forward(&setup.node, client, service).state, forward(&setup.node, backend, client).state];
        let from_client = |bits| Packet::tcp(client, service, bits);
        let from_backend = |bits| Packet::tcp(backend, client, bits);

        setup.backend(&syn(client, service));
        assert_eq!(states(&setup), [NEW, REPLY]);
        setup.translated(POD_EGRESS, &from_backend(flags::SYN | flags::ACK));
        assert_eq!(states(&setup), [NEW, REPLY]);
        setup.backend(&data(client, service));
        assert_eq!(states(&setup), [ESTABLISHED, REPLY]);
        setup.translated(POD_EGRESS, &from_backend(flags::ACK));
        assert_eq!(states(&setup), [ESTABLISHED, REPLY.with(ESTABLISHED)]);
        setup.translated(POD_EGRESS, &from_backend(flags::FIN | flags::ACK));
        assert_eq!(states(&setup), [ESTABLISHED, REPLY.with(ESTABLISHED).with(FIN)]);
        setup.backend(&from_client(flags::FIN | flags::ACK));
        assert_eq!(states(&setup)[0], ESTABLISHED.with(FIN));
        setup.backend(&data(client, service));
        assert_eq!(states(&setup)[0], ESTABLISHED.with(FIN), "what was seen is not forgotten");
        setup.backend(&from_client(flags::RST));
        assert_eq!(states(&setup)[0], ESTABLISHED.with(FIN).with(RST));
        setup.backend(&syn(client, service));
        setup.translated(POD_EGRESS, &from_backend(flags::SYN | flags::ACK));
        assert_eq!(states(&setup), [NEW, REPLY], "a new connection on the same ports begins anew");
    }
}

#[test]
fn datagrams_are_answered_or_not() {
    if gate::skip(NEEDS) {
        return;
    }
    let mut setup = Setup::new();
    setup.serve(1, &[10]);
    for family in Family::ALL {
        let (client, service, backend) = (pod_at(family, 3, 40_000), service_at(family, 1), pod_at(family, 10, 8080));
        let states = |setup: &Setup| [forward(&setup.node, client, service).state, forward(&setup.node, backend, client).state];
        setup.backend(&datagram(client, service));
        assert_eq!(states(&setup), [NEW, REPLY]);
        setup.backend(&datagram(client, service));
        assert_eq!(states(&setup), [ESTABLISHED, REPLY]);
        setup.translated(POD_EGRESS, &datagram(backend, client));
        assert_eq!(states(&setup), [ESTABLISHED, REPLY.with(ESTABLISHED)]);
    }
}
