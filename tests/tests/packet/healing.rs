//! A flow of which one entry was evicted: the packets of the other direction make it again, at most once a second.

use std::net::SocketAddr;

use proxy_common::{FlowState, Protocol, Side, reason::Reason};
use shunt_tests::{Family, addr, gate, packet::Packet, packet::flags, test_run::NEEDS, test_run::Verdict};

use crate::expect::{
    Entry, POD_EGRESS, POD_INGRESS, Setup, age, data, datagram, entries, evict, is_just_now, pod_at, service_at, syn, undisturbed,
};

const CLIENT: u8 = 3;
const BACKEND: u8 = 10;

/// An established flow of one family with its two ends as the client sees them, and as the backend does.
struct Established {
    setup: Setup,
    /// The kernel's clock before its first packet, in jiffies.
    begun: u32,
    client: SocketAddr,
    service: SocketAddr,
    backend: SocketAddr,
}

impl Established {
    fn tcp(family: Family) -> Self {
        Self::new(family, syn, data)
    }

    fn new(family: Family, opening: fn(SocketAddr, SocketAddr) -> Packet, more: fn(SocketAddr, SocketAddr) -> Packet) -> Self {
        let mut setup = Setup::new();
        setup.serve(1, &[BACKEND]);
        let (client, service, backend) = (pod_at(family, CLIENT, 40_000), service_at(family, 1), pod_at(family, BACKEND, 8080));
        let begun = setup.node.clock().unwrap();
        setup.backend(&opening(client, service));
        setup.translated(POD_EGRESS, &opening(backend, client));
        setup.backend(&more(client, service));
        setup.translated(POD_EGRESS, &more(backend, client));
        setup.ignore_counted();
        Self { setup, begun, client, service, backend }
    }

    fn entries(&self) -> Vec<Entry> {
        entries(&self.setup.node)
    }
}

fn both_families(test: impl Fn(Family)) {
    Family::ALL.into_iter().for_each(test);
}

#[test]
fn the_entry_for_replies_is_made_again_by_the_client() {
    if gate::skip(NEEDS) {
        return;
    }
    both_families(|family| {
        let (mut flow, before) = looked_for_once_a_second(family);
        let (client, service, backend) = (flow.client, flow.service, flow.backend);
        age(&mut flow.setup.node);
        flow.setup.backend(&data(client, service));
        flow.setup.assert_counted(&[Reason::FlowHealed]);
        assert_eq!(flow.entries(), before);
        let answer = flow.setup.translated(POD_EGRESS, &data(backend, client));
        assert_eq!((answer.src, answer.dst), (service, client));
    });
}

/// A flow that has lost its entry for replies, of which another packet within the same second takes no notice; and what it had before.
fn looked_for_once_a_second(family: Family) -> (Established, Vec<Entry>) {
    undisturbed(|| {
        let mut flow = Established::tcp(family);
        let before = flow.entries();
        evict(&mut flow.setup.node, Side::Egress, Protocol::Tcp, flow.backend, flow.client);
        assert_eq!(flow.entries().len(), 1);
        flow.setup.backend(&data(flow.client, flow.service));
        is_just_now(&flow.setup.node, flow.begun).then(|| {
            flow.setup.assert_counted(&[]);
            assert_eq!(flow.entries().len(), 1, "it is looked for once a second only");
            (flow, before)
        })
    })
}

#[test]
fn the_entry_for_the_client_is_made_again_by_replies() {
    if gate::skip(NEEDS) {
        return;
    }
    both_families(|family| {
        let mut flow = Established::tcp(family);
        let (client, service, backend) = (flow.client, flow.service, flow.backend);
        let before = flow.entries();
        evict(&mut flow.setup.node, Side::Ingress, Protocol::Tcp, client, service);
        age(&mut flow.setup.node);
        flow.setup.translated(POD_EGRESS, &data(backend, client));
        flow.setup.assert_counted(&[Reason::FlowHealed]);
        assert_eq!(flow.entries(), before);
        assert_eq!(flow.setup.backend(&data(client, service)), backend);
        flow.setup.assert_counted(&[]);
    });
}

/// The set has changed meanwhile: what is made again is the flow's own backend, not the one that a hash would pick now.
#[test]
fn a_flow_that_was_made_again_keeps_its_backend() {
    if gate::skip(NEEDS) {
        return;
    }
    both_families(|family| {
        let mut flow = Established::tcp(family);
        let (client, service, backend) = (flow.client, flow.service, flow.backend);
        flow.setup.serve_draining(1, &[11, 12], &[BACKEND]);
        evict(&mut flow.setup.node, Side::Ingress, Protocol::Tcp, client, service);
        age(&mut flow.setup.node);
        flow.setup.translated(POD_EGRESS, &data(backend, client));
        assert_eq!(flow.setup.backend(&data(client, service)), backend);
    });
}

#[test]
fn a_whole_flow_is_left_as_it_is() {
    if gate::skip(NEEDS) {
        return;
    }
    both_families(|family| {
        let mut flow = Established::tcp(family);
        let before = flow.entries();
        age(&mut flow.setup.node);
        flow.setup.backend(&data(flow.client, flow.service));
        flow.setup.translated(POD_EGRESS, &data(flow.backend, flow.client));
        flow.setup.assert_counted(&[]);
        assert_eq!(flow.entries(), before);
    });
}

#[test]
fn a_half_of_a_closing_flow_is_not_made_again() {
    if gate::skip(NEEDS) {
        return;
    }
    both_families(|family| {
        let mut flow = Established::tcp(family);
        let (client, service, backend) = (flow.client, flow.service, flow.backend);
        flow.setup.backend(&Packet::tcp(client, service, flags::FIN | flags::ACK));
        evict(&mut flow.setup.node, Side::Egress, Protocol::Tcp, backend, client);
        age(&mut flow.setup.node);
        flow.setup.backend(&data(client, service));
        flow.setup.assert_counted(&[]);
        assert_eq!(flow.entries().len(), 1);
    });
}

#[test]
fn datagrams_heal_their_flow_too() {
    if gate::skip(NEEDS) {
        return;
    }
    both_families(|family| {
        let mut flow = Established::new(family, datagram, datagram);
        let (client, service, backend) = (flow.client, flow.service, flow.backend);
        evict(&mut flow.setup.node, Side::Egress, Protocol::Udp, backend, client);
        age(&mut flow.setup.node);
        flow.setup.backend(&datagram(client, service));
        flow.setup.assert_counted(&[Reason::FlowHealed]);
        assert!(flow.entries().iter().any(|entry| entry.state.has(FlowState::REPLY)));
        flow.setup.translated(POD_EGRESS, &datagram(backend, client));
    });
}

/// Both entries of a pod that reaches itself are for the same hook; each of them finds the other there.
#[test]
fn a_pod_that_reaches_itself_heals_its_flow() {
    if gate::skip(NEEDS) {
        return;
    }
    both_families(|family| {
        let mut setup = Setup::new();
        setup.serve(1, &[BACKEND]);
        let (client, service, backend) = (pod_at(family, BACKEND, 40_000), service_at(family, 1), pod_at(family, BACKEND, 8080));
        let sent = |setup: &mut Setup, src, dst| {
            let ran = setup.node.run(POD_INGRESS, &data(src, dst).build()).unwrap();
            assert_eq!(ran.verdict, Verdict::Redirect);
            Packet::decode(&ran.frame).unwrap()
        };
        let masqueraded = sent(&mut setup, client, service).src;
        assert_eq!(masqueraded.ip(), addr::node(1).of(family));
        let whole = entries(&setup.node);
        for (lost, kept) in [((backend, masqueraded), (client, service)), ((client, service), (backend, masqueraded))] {
            evict(&mut setup.node, Side::Ingress, Protocol::Tcp, lost.0, lost.1);
            age(&mut setup.node);
            setup.ignore_counted();
            sent(&mut setup, kept.0, kept.1);
            setup.assert_counted(&[Reason::FlowHealed]);
            let ends = |entries: &[Entry]| entries.iter().map(|entry| (entry.from, entry.to)).collect::<Vec<_>>();
            assert_eq!(ends(&entries(&setup.node)), ends(&whole));
        }
    });
}
