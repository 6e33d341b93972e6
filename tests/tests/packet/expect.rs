//! What the tests here ask of a packet and of the flow table, and the cluster that most of them use.

use std::net::SocketAddr;

use bytemuck::Pod;
use proxy_common::{Address as _, BackendRef, Flow, FlowKey, FlowState, Port, Protocol, ServiceId, Side, Tuple, V4, V6, reason::Reason};
use proxy_daemon::{maps::Direction, model::ServicePortName, net::Role};
use serde_json::{Value, json};
use shunt_tests::{
    Family, addr,
    objects::{Endpoint, Service},
    packet::{Packet, flags, verify_checksums},
    rows::Cluster,
    test_run::{OfFamily, TestNode, Verdict},
    tracer::{Hook, Plans},
};

pub(crate) const POD_INGRESS: Hook = Hook { role: Role::Workload, direction: Direction::Ingress };
pub(crate) const POD_EGRESS: Hook = Hook { role: Role::Workload, direction: Direction::Egress };

pub(crate) const UPLINK_INGRESS: Hook = Hook { role: Role::Uplink, direction: Direction::Ingress };
pub(crate) const UPLINK_EGRESS: Hook = Hook { role: Role::Uplink, direction: Direction::Egress };

pub(crate) const PORT: u16 = 80;
pub(crate) const TARGET: u16 = 8080;

/// A node's cluster and its programs, brought to the cluster's state.
pub(crate) struct Setup {
    pub(crate) cluster: Cluster,
    pub(crate) node: TestNode,
}

// === impl Setup ===

impl Setup {
    /// A node `n1` that knows nothing yet.
    pub(crate) fn new() -> Self {
        let cluster = Cluster::of_node("n1", &addr::node(1).both());
        let node = TestNode::new(cluster.node_ips()).unwrap();
        Self { cluster, node }
    }

    /// What the node has to do when the Service of that number has these pods of node `n1` and no others.
    pub(crate) fn plans_with(&mut self, service: u8, pods: &[u8]) -> Plans {
        let endpoints: Vec<_> = pods.iter().map(|pod| Endpoint::at(addr::pod(1, *pod), "n1")).collect();
        self.cluster.apply(dialled(service).with_endpoints(&endpoints));
        self.cluster.plans()
    }

    /// The same for a Service that also has the external IPs of that number.
    pub(crate) fn plans_with_external(&mut self, service: u8, external_ips: u8, pods: &[u8]) -> Plans {
        let endpoints: Vec<_> = pods.iter().map(|pod| Endpoint::at(addr::pod(1, *pod), "n1")).collect();
        self.cluster.apply(dialled(service).external_ips(addr::external_ips(external_ips)).with_endpoints(&endpoints));
        self.cluster.plans()
    }

    /// Gives the Service of that number these pods of node `n1`, and takes all other backends from it.
    pub(crate) fn serve(&mut self, service: u8, pods: &[u8]) {
        self.serve_draining(service, pods, &[]);
    }

    /// The same where the API says that the pods are on that node.
    pub(crate) fn serve_from(&mut self, node: &str, service: u8, pods: &[u8]) {
        let endpoints: Vec<_> = pods.iter().map(|pod| Endpoint::at(addr::pod(1, *pod), node)).collect();
        self.cluster.apply(dialled(service).with_endpoints(&endpoints));
        self.node.apply(&self.cluster.plans()).unwrap();
    }

    /// The same for a Service that also has the external IPs of that number.
    pub(crate) fn serve_external(&mut self, service: u8, external_ips: u8, pods: &[u8]) {
        let plans = self.plans_with_external(service, external_ips, pods);
        self.node.apply(&plans).unwrap();
    }

    /// The same, with pods that finish what they have begun and take nothing new.
    pub(crate) fn serve_draining(&mut self, service: u8, pods: &[u8], draining: &[u8]) {
        let terminating = json!({"ready": false, "serving": true, "terminating": true});
        let pods = pods.iter().map(|pod| (*pod, json!({})));
        let draining = draining.iter().map(|pod| (*pod, terminating.clone()));
        self.serve_as(service, &pods.chain(draining).collect::<Vec<_>>());
    }

    /// The same with pods under these conditions.
    pub(crate) fn serve_as(&mut self, service: u8, pods: &[(u8, Value)]) {
        let endpoints: Vec<_> = pods.iter().map(|(pod, _)| Endpoint::at(addr::pod(1, *pod), "n1")).collect();
        let mut objects = dialled(service).with_endpoints(&endpoints);
        for slice in &mut objects[1..] {
            for (index, (_, conditions)) in pods.iter().enumerate() {
                slice["endpoints"][index]["conditions"] = conditions.clone();
            }
        }
        self.cluster.apply(objects);
        self.node.apply(&self.cluster.plans()).unwrap();
    }

    /// Runs a packet that must go on translated, with right checksums: the packet as it is then.
    #[track_caller]
    pub(crate) fn translated(&mut self, hook: Hook, packet: &Packet) -> Packet {
        let ran = self.node.run(hook, &packet.build()).unwrap();
        assert_eq!(ran.verdict, Verdict::Next, "{packet:?}");
        verify_checksums(&ran.frame).unwrap();
        let translated = Packet::decode(&ran.frame).unwrap();
        assert_ne!((translated.src, translated.dst), (packet.src, packet.dst), "nothing was translated");
        translated
    }

    /// Runs a packet that must go on as it is.
    #[track_caller]
    pub(crate) fn passed(&mut self, hook: Hook, packet: &Packet) {
        let frame = packet.build();
        let ran = self.node.run(hook, &frame).unwrap();
        assert_eq!((ran.verdict, ran.frame), (Verdict::Next, frame), "{packet:?}");
    }

    /// Runs a client's packet: the backend that gets it. The client's own address and port are kept.
    #[track_caller]
    pub(crate) fn backend(&mut self, packet: &Packet) -> SocketAddr {
        let translated = self.translated(POD_INGRESS, packet);
        assert_eq!(translated, packet.clone().to(translated.dst), "only the destination changes");
        translated.dst
    }

    /// What was counted since the last call, once each.
    #[track_caller]
    pub(crate) fn assert_counted(&mut self, reasons: &[Reason]) {
        let mut expected: Vec<_> = reasons.iter().map(|reason| (*reason, 1)).collect();
        expected.sort_unstable();
        assert_eq!(self.node.take_counted().unwrap(), expected);
    }

    /// Forgets what was counted.
    pub(crate) fn ignore_counted(&mut self) {
        drop(self.node.take_counted().unwrap());
    }
}

/// A Service with a ClusterIP.
pub(crate) fn dialled(number: u8) -> Service {
    Service::named(&format!("s{number}")).cluster_ips(addr::cluster_ips(number)).port(PORT, TARGET)
}

/// The name of such a Service's port.
pub(crate) fn port_name(service: u8, protocol: Protocol) -> ServicePortName {
    let port = format!("{}-{PORT}", protocol.name().to_lowercase());
    ServicePortName::new("default", &format!("s{service}"), &port, protocol)
}

/// Where a client dials the Service of that number.
pub(crate) fn service_at(family: Family, service: u8) -> SocketAddr {
    addr::cluster_ips(service).at(family, PORT)
}

pub(crate) fn pod_at(family: Family, pod: u8, port: u16) -> SocketAddr {
    addr::pod(1, pod).at(family, port)
}

pub(crate) fn syn(src: SocketAddr, dst: SocketAddr) -> Packet {
    Packet::tcp(src, dst, flags::SYN)
}

/// The answer to a SYN, by which a connection is accepted.
pub(crate) fn accept(src: SocketAddr, dst: SocketAddr) -> Packet {
    Packet::tcp(src, dst, flags::SYN | flags::ACK)
}

pub(crate) fn data(src: SocketAddr, dst: SocketAddr) -> Packet {
    Packet::tcp(src, dst, flags::ACK | flags::PSH).payload("data")
}

pub(crate) fn datagram(src: SocketAddr, dst: SocketAddr) -> Packet {
    Packet::udp(src, dst).payload("datagram")
}

pub(crate) fn tuple<F: OfFamily>(src: SocketAddr, dst: SocketAddr) -> Tuple<F> {
    let addr = |end: SocketAddr| F::Addr::from_ip(end.ip()).unwrap();
    let port = |end: SocketAddr| Port::from_host(end.port());
    Tuple { src: addr(src), dst: addr(dst), src_port: port(src), dst_port: port(dst) }
}

/// A flow entry, as far as a test cares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) side: Side,
    pub(crate) protocol: Protocol,
    pub(crate) from: (SocketAddr, SocketAddr),
    pub(crate) to: (SocketAddr, SocketAddr),
    pub(crate) state: FlowState,
}

/// The entries of both families, IPv4 first, each in the order of its key.
pub(crate) fn entries(node: &TestNode) -> Vec<Entry> {
    let mut all = entries_of::<V4>(node);
    all.extend(entries_of::<V6>(node));
    all
}

fn entries_of<F: OfFamily>(node: &TestNode) -> Vec<Entry>
where
    FlowKey<F>: Pod,
    Flow<F>: Pod,
{
    node.flows::<F>().iter().map(|(key, flow)| entry(key, flow)).collect()
}

fn entry<F: OfFamily>(key: &FlowKey<F>, flow: &Flow<F>) -> Entry {
    let is_services = flow.owner.service() != ServiceId::NONE;
    assert_eq!(flow.backend != BackendRef::NONE, is_services, "who has a Service has a backend of it, and nobody else");
    Entry {
        side: if key.side == 0 { Side::Ingress } else { Side::Egress },
        protocol: Protocol::from_wire(key.protocol).unwrap(),
        from: ends(&key.tuple()),
        to: ends(&flow.tuple()),
        state: flow.owner.state(),
    }
}

fn ends<F: OfFamily>(tuple: &Tuple<F>) -> (SocketAddr, SocketAddr) {
    let end = |addr: F::Addr, port: Port| SocketAddr::new(addr.to_ip(), port.to_host());
    (end(tuple.src, tuple.src_port), end(tuple.dst, tuple.dst_port))
}

/// The entry of the client's packets, which go from here to there.
#[track_caller]
pub(crate) fn forward(node: &TestNode, src: SocketAddr, dst: SocketAddr) -> Entry {
    let found = entries(node).into_iter().find(|entry| entry.from == (src, dst));
    found.unwrap_or_else(|| panic!("no entry for {src} to {dst} in {:#?}", entries(node)))
}

/// Removes the entry of packets that go from here to there.
pub(crate) fn evict(node: &mut TestNode, side: Side, protocol: Protocol, src: SocketAddr, dst: SocketAddr) {
    if src.is_ipv4() {
        node.remove_flow(&FlowKey::<V4>::new(tuple(src, dst), protocol, side)).unwrap();
    } else {
        node.remove_flow(&FlowKey::<V6>::new(tuple(src, dst), protocol, side)).unwrap();
    }
}

/// Makes every flow so old that its next packet looks after its partner.
pub(crate) fn age(node: &mut TestNode) {
    node.age_flows(2).unwrap();
}

/// Nothing has been silent for long, however slow the machine is; says when that was.
pub(crate) fn touch(node: &mut TestNode) -> u32 {
    node.touch_flows().unwrap()
}

/// Whether less than a second has gone by, for the programs.
pub(crate) fn is_just_now(node: &TestNode, since: u32) -> bool {
    node.clock().unwrap().wrapping_sub(since) < node.hz().unwrap()
}

/// Does what needs less than a second until it took no longer: nothing is the result if it did. A machine may pause for a second at any time, and
/// what it did then proves nothing.
#[track_caller]
pub(crate) fn undisturbed<T>(mut attempt: impl FnMut() -> Option<T>) -> T {
    const ATTEMPTS: usize = 20;
    (0..ATTEMPTS).find_map(|_| attempt()).unwrap_or_else(|| panic!("so few packets took a second, {ATTEMPTS} times"))
}
