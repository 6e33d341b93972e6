//! What the daemon's walk through the flow tables removes, and what it leaves.

use std::net::SocketAddr;

use bytemuck::Pod;
use proxy_common::{Flow, FlowKey, FrontendKey, Protocol, Side, V4, V6};
use shunt_tests::{
    Family, addr, gate,
    packet::{Packet, flags},
    test_run::{NEEDS, OfFamily, TestNode},
};

use crate::expect::{
    Entry, POD_EGRESS, POD_INGRESS, Setup, age, data, datagram, entries, evict, forward, is_just_now, pod_at, service_at, syn, touch,
    undisturbed,
};

const MINUTE: u32 = 60;
const HOUR: u32 = 60 * MINUTE;

/// Walks through both families' flows as so many seconds after the last was used: how many were removed.
fn expire(node: &mut TestNode, secs: u32) -> u64 {
    expire_of::<V4>(node, secs) + expire_of::<V6>(node, secs)
}

fn expire_of<F: OfFamily>(node: &mut TestNode, secs: u32) -> u64
where
    FlowKey<F>: Pod,
    Flow<F>: Pod,
    FrontendKey<F>: Pod,
{
    let mut expiry = node.expiry::<F>(secs).unwrap();
    let expired = expiry.walk(|_, _| Ok(())).unwrap().expired;
    expiry.remove(&expired).unwrap()
}

/// One flow of that family from a pod to the service of one other pod.
struct OneFlow {
    setup: Setup,
    client: SocketAddr,
    service: SocketAddr,
    backend: SocketAddr,
}

impl OneFlow {
    fn new(family: Family) -> Self {
        let mut setup = Setup::new();
        setup.serve(1, &[10]);
        Self { setup, client: pod_at(family, 3, 40_000), service: service_at(family, 1), backend: pod_at(family, 10, 8080) }
    }

    fn ask(&mut self, bits: u8) {
        self.setup.backend(&Packet::tcp(self.client, self.service, bits));
    }

    fn answer(&mut self, bits: u8) {
        self.setup.translated(POD_EGRESS, &Packet::tcp(self.backend, self.client, bits));
    }

    fn entries(&self) -> Vec<Entry> {
        entries(&self.setup.node)
    }

    /// The flow is there as long as its silence is a second shorter than this, and then no more.
    #[track_caller]
    fn assert_lasts(&mut self, secs: u32) {
        assert_eq!(expire(&mut self.setup.node, secs - 1), 0);
        assert_eq!(self.entries().len(), 2);
        assert_eq!(expire(&mut self.setup.node, secs), 1);
        assert_eq!(self.entries(), []);
    }
}

#[test]
fn connections_last_by_what_was_seen_of_them() {
    if gate::skip(NEEDS) {
        return;
    }
    const SYN: u8 = flags::SYN;
    const ACK: u8 = flags::ACK;
    const FIN: u8 = flags::FIN | ACK;
    let opened: [(bool, u8); 3] = [(true, SYN), (false, SYN | ACK), (true, ACK)];
    let cases: [(&[(bool, u8)], u32); 8] = [
        (&[(true, SYN)], 2 * MINUTE),
        (&[(true, ACK)], 2 * MINUTE),
        (&[(true, FIN)], 2 * MINUTE),
        (&[(true, flags::FIN)], 2 * MINUTE),
        (&opened, 24 * HOUR),
        (&[opened[0], opened[1], opened[2], (false, FIN)], HOUR),
        (&[opened[0], opened[1], opened[2], (false, FIN), (true, FIN)], 2 * MINUTE),
        (&[opened[0], (false, flags::RST | ACK)], 10),
    ];
    for family in Family::ALL {
        for (packets, lasts) in cases {
            let mut flow = OneFlow::new(family);
            for (by_client, bits) in packets {
                if *by_client { flow.ask(*bits) } else { flow.answer(*bits) }
            }
            flow.assert_lasts(lasts);
        }
    }
}

#[test]
fn datagrams_last_by_how_long_they_were_answered() {
    if gate::skip(NEEDS) {
        return;
    }
    /// What happens to a flow.
    #[derive(Clone, Copy)]
    enum Event {
        Question,
        Answer,
        TwoSeconds,
    }
    use Event::{Answer, Question, TwoSeconds};
    let cases: [(&[Event], u32); 5] = [
        (&[Question, Question], 30),
        (&[Question, TwoSeconds, Question], 30),
        (&[Question, Answer, Question, Answer], 30),
        (&[Question, Answer, TwoSeconds, Question, Answer], 2 * MINUTE),
        (&[Question, Answer, TwoSeconds, Answer, Answer], 2 * MINUTE),
    ];
    for (family, (events, lasts)) in Family::ALL.into_iter().flat_map(|family| cases.map(|case| (family, case))) {
        let mut flow = undisturbed(|| {
            let mut flow = OneFlow::new(family);
            let (client, service, backend) = (flow.client, flow.service, flow.backend);
            let mut silent = false;
            for event in events {
                let since = (!silent).then(|| touch(&mut flow.setup.node));
                silent |= matches!(event, TwoSeconds);
                match event {
                    Question => drop(flow.setup.backend(&datagram(client, service))),
                    Answer => drop(flow.setup.translated(POD_EGRESS, &datagram(backend, client))),
                    TwoSeconds => age(&mut flow.setup.node),
                }
                if since.is_some_and(|since| !is_just_now(&flow.setup.node, since)) {
                    return None;
                }
            }
            Some(flow)
        });
        flow.assert_lasts(lasts);
    }
}

#[test]
fn either_direction_keeps_a_flow() {
    if gate::skip(NEEDS) {
        return;
    }
    for family in Family::ALL {
        let mut flow = OneFlow::new(family);
        let (client, service, backend) = (flow.client, flow.service, flow.backend);
        flow.setup.backend(&datagram(client, service));
        flow.setup.translated(POD_EGRESS, &datagram(backend, client));
        for _ in 0..90 {
            age(&mut flow.setup.node);
            flow.setup.translated(POD_EGRESS, &datagram(backend, client));
        }
        assert_eq!(expire(&mut flow.setup.node, 0), 0);
    }
}

#[test]
fn a_flow_that_is_used_after_the_walk_stays() {
    if gate::skip(NEEDS) {
        return;
    }
    let mut flow = OneFlow::new(Family::V4);
    flow.ask(flags::SYN);
    let expired = flow.setup.node.expiry::<V4>(HOUR).unwrap().walk(|_, _| Ok(())).unwrap().expired;
    assert_eq!(expired.len(), 2);
    let before = flow.entries();
    assert_eq!(flow.setup.node.expiry::<V4>(0).unwrap().remove(&expired).unwrap(), 0);
    assert_eq!(flow.entries(), before);
    assert_eq!(flow.setup.node.expiry::<V4>(HOUR).unwrap().remove(&expired).unwrap(), 1, "both entries are one flow");
}

/// Half of the first flow is gone, and another flow has the other half's place: it must not be taken for its partner.
#[test]
fn the_entry_of_another_flow_stays() {
    if gate::skip(NEEDS) {
        return;
    }
    for family in Family::ALL {
        let mut setup = Setup::new();
        setup.serve(1, &[10]);
        setup.serve(2, &[10]);
        let (client, backend) = (pod_at(family, 3, 40_000), pod_at(family, 10, 8080));
        let [first, second] = [1, 2].map(|number| service_at(family, number));
        setup.backend(&syn(client, first));
        evict(&mut setup.node, Side::Egress, Protocol::Tcp, backend, client);
        setup.node.age_flows(HOUR).unwrap();
        setup.backend(&syn(client, second));
        assert_eq!(entries(&setup.node).len(), 3);
        assert_eq!(expire(&mut setup.node, 0), 1);
        assert_eq!(entries(&setup.node).len(), 2);
        assert_eq!(forward(&setup.node, backend, client).to, (second, client));
    }
}

#[test]
fn datagrams_of_a_frontend_that_is_gone_lose_their_flow() {
    if gate::skip(NEEDS) {
        return;
    }
    for family in Family::ALL {
        let mut setup = Setup::new();
        setup.serve(1, &[10]);
        setup.serve(2, &[11]);
        let client = pod_at(family, 3, 40_000);
        for number in [1, 2] {
            setup.backend(&datagram(client, service_at(family, number)));
            setup.backend(&syn(client, service_at(family, number)));
        }
        assert_eq!(expire(&mut setup.node, 0), 0);
        setup.cluster.delete_service("s1");
        setup.node.apply(&setup.cluster.plans()).unwrap();
        assert_eq!(expire(&mut setup.node, 0), 1);
        let left: Vec<_> = entries(&setup.node).iter().map(|entry| (entry.protocol, entry.from.1)).collect();
        assert!(!left.contains(&(Protocol::Udp, service_at(family, 1))));
        assert!(left.contains(&(Protocol::Tcp, service_at(family, 1))), "a connection goes on");
        assert_eq!(left.len(), 6);
    }
}

/// They have no frontend that could be gone.
#[test]
fn datagrams_without_a_service_keep_their_flow_where_there_is_none() {
    if gate::skip(NEEDS) {
        return;
    }
    for family in Family::ALL {
        let mut setup = Setup::new();
        setup.serve(1, &[10]);
        let (client, backend) = (pod_at(family, 3, 40_000), pod_at(family, 10, 8080));
        setup.backend(&datagram(client, service_at(family, 1)));
        let moved = setup.translated(POD_INGRESS, &datagram(client, backend));
        assert_eq!(expire(&mut setup.node, 0), 0);
        assert_eq!(setup.translated(POD_INGRESS, &datagram(client, backend)), moved);
        assert_eq!(expire(&mut setup.node, MINUTE), 2, "both go when they are silent");
    }
}

/// One Service gives an address up and another one takes it. Both have the same backend, so nobody's life has ended.
#[test]
fn datagrams_of_a_frontend_that_another_service_has_now_lose_their_flow() {
    if gate::skip(NEEDS) {
        return;
    }
    for family in Family::ALL {
        let mut setup = Setup::new();
        setup.serve_external(1, 9, &[10]);
        setup.serve(2, &[11]);
        let (client, shared) = (pod_at(family, 3, 40_000), addr::external_ips(9).at(family, 80));
        setup.backend(&datagram(client, shared));
        assert_eq!(expire(&mut setup.node, 0), 0);
        setup.serve(1, &[10]);
        setup.serve_external(2, 9, &[11]);
        assert_eq!(setup.backend(&datagram(client, shared)), pod_at(family, 10, 8080));
        assert_eq!(expire(&mut setup.node, 0), 1);
        assert_eq!(setup.backend(&datagram(client, shared)), pod_at(family, 11, 8080));
        setup.backend(&data(client, service_at(family, 2)));
    }
}
