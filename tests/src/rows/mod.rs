//! The table of packets and outcomes: plain data, run through the [tracer](crate::tracer) and through the real programs.
//!
//! Every row is a packet of no known flow on the node `n1` of one small [`cluster`]. The packets stand in both families and, where that
//! makes a difference, for TCP and UDP.

mod cluster;
pub mod frames;
mod from_outside;
mod from_pods;
mod untouched;

use std::{collections::BTreeSet, net::SocketAddr};

use proxy_common::{Protocol, reason::Reason};
use proxy_daemon::{maps::Direction, net::Role};
use serde_json::json;

pub use self::cluster::Cluster;
use crate::{
    addr::{self, Addrs, Family},
    objects::{Endpoint, Service},
    packet::{Packet, flags},
    tracer::{Hook, Outcome, Refusal, Seen, Source, Target, Transport},
};

/// A packet and what must become of it.
#[derive(Clone, Debug)]
pub struct Row {
    /// What it shows.
    pub name: String,
    /// Where the packet is seen.
    pub hook: Hook,
    /// The packet in words.
    pub seen: Seen,
    /// The packet in bytes, with an Ethernet header.
    pub frame: Vec<u8>,
    /// What must become of it.
    pub expected: Outcome,
    /// What must be counted, once each, and nothing else.
    pub counted: Vec<Reason>,
}

/// Every row.
pub fn all() -> Vec<Row> {
    [from_pods::rows(), from_outside::rows(), untouched::rows()].concat()
}

const POD_INGRESS: Hook = Hook { role: Role::Workload, direction: Direction::Ingress };
const UPLINK_INGRESS: Hook = Hook { role: Role::Uplink, direction: Direction::Ingress };

/// The port of every Service, and what its backends listen on.
const PORT: u16 = 80;
const TARGET: u16 = 8080;
/// The node port of the Service with that number.
fn node_port(service: u8) -> u16 {
    addr::node_port(service)
}

// The Services of the cluster. The number is in their addresses and node ports.

/// One backend here, one on another node.
const WEB: u8 = 1;
/// Nobody.
const EMPTY: u8 = 2;
/// Backends on another node only, and `internalTrafficPolicy: Local`.
const INTERNAL_LOCAL_ELSEWHERE: u8 = 3;
/// Backends on another node only, and `externalTrafficPolicy: Local`.
const EXTERNAL_LOCAL_ELSEWHERE: u8 = 4;
/// One backend here, one on another node, and both policies `Local`.
const LOCAL: u8 = 5;
/// The pod [`itself`].
const SELF: u8 = 6;
/// A backend on another node only, and no policies.
const ELSEWHERE: u8 = 7;
/// A pod with the node's own address.
const HOST_NETWORK: u8 = 8;

fn here() -> Addrs {
    addr::pod(1, 5)
}

fn elsewhere() -> Addrs {
    addr::pod(2, 6)
}

fn itself() -> Addrs {
    addr::pod(1, 9)
}

/// A pod of the node that serves nothing.
fn pod() -> Addrs {
    addr::pod(1, 3)
}

/// A client outside the cluster.
///
/// Its addresses have the ethertype of their family where a frame without an Ethernet header is looked at for it: the kernel's test run
/// takes the protocol of every packet from the bytes 12 and 13.
fn client() -> Addrs {
    Addrs::new("8.0.0.10", "2001:db8:86dd::10")
}

/// The cluster of the rows, seen from `n1`.
pub fn cluster() -> Cluster {
    let here = || Endpoint::at(here(), "n1");
    let elsewhere = || Endpoint::at(elsewhere(), "n2");
    let mut cluster = Cluster::of_node("n1", &addr::node(1).both());
    cluster.apply(service(WEB).with_endpoints(&[here(), elsewhere()]));
    cluster.apply(service(EMPTY).with_endpoints(&[]));
    cluster.apply(service(INTERNAL_LOCAL_ELSEWHERE).with("internalTrafficPolicy", json!("Local")).with_endpoints(&[elsewhere()]));
    cluster.apply(service(EXTERNAL_LOCAL_ELSEWHERE).with("externalTrafficPolicy", json!("Local")).with_endpoints(&[elsewhere()]));
    let local = service(LOCAL).with("internalTrafficPolicy", json!("Local")).with("externalTrafficPolicy", json!("Local"));
    cluster.apply(local.with_endpoints(&[here(), elsewhere()]));
    cluster.apply(service(SELF).with_endpoints(&[Endpoint::at(itself(), "n1")]));
    cluster.apply(service(ELSEWHERE).with_endpoints(&[elsewhere()]));
    cluster.apply(service(HOST_NETWORK).with_endpoints(&[Endpoint::at(addr::node(1), "n1")]));
    cluster
}

/// A Service with every kind of frontend.
pub fn service(number: u8) -> Service {
    Service::open(&format!("s{number}"), number, PORT, TARGET)
}

/// Where a Service is dialled, with a word for it.
fn frontends(service: u8, family: Family) -> [(&'static str, SocketAddr); 4] {
    [
        ("its ClusterIP", addr::cluster_ips(service).at(family, PORT)),
        ("a node port", addr::node(1).at(family, node_port(service))),
        ("an external IP", addr::external_ips(service).at(family, PORT)),
        ("a load balancer IP", addr::load_balancer_ips(service).at(family, PORT)),
    ]
}

/// The first packet of a flow: a connection attempt or a datagram.
pub fn opening(protocol: Protocol, src: SocketAddr, dst: SocketAddr) -> Packet {
    match protocol {
        Protocol::Tcp => Packet::tcp(src, dst, flags::SYN),
        Protocol::Udp | Protocol::Sctp => Packet::udp(src, dst).payload("datagram"),
    }
}

/// What is first seen of a new flow.
const NEW: &[Reason] = &[Reason::NewFlow];

const PROTOCOLS: [Protocol; 2] = [Protocol::Tcp, Protocol::Udp];

fn families_and_protocols() -> impl Iterator<Item = (Family, Protocol)> {
    Family::ALL.into_iter().flat_map(|family| PROTOCOLS.map(|protocol| (family, protocol)))
}

/// Rows, as they are made.
#[derive(Default)]
struct Rows(Vec<Row>);

impl Rows {
    fn add(&mut self, name: String, hook: Hook, packet: &Packet, (expected, counted): (Outcome, &[Reason])) {
        let counted = counted.to_vec();
        self.0.push(Row { name, hook, seen: seen(packet), frame: packet.build(), expected, counted });
    }
}

/// A packet in words.
fn seen(packet: &Packet) -> Seen {
    use crate::packet::L4;
    let transport = match packet.l4 {
        L4::Tcp { flags, .. } => Transport::Tcp { flags, has_data: !packet.payload.is_empty() },
        L4::Udp { .. } => Transport::Udp,
        L4::Icmp { .. } | L4::Other(_) => return Seen::OtherProtocol { dst: packet.dst.ip() },
    };
    Seen::Datagram { src: packet.src, dst: packet.dst, transport }
}

/// The packet goes to one of these, and the client's address is kept.
fn to(backends: &[SocketAddr]) -> (Outcome, &'static [Reason]) {
    let target = |backend: &SocketAddr| Target { backend: *backend, source: Source::Client };
    (Outcome::Translate(backends.iter().map(target).collect()), NEW)
}

/// The packet goes to one of these: under the client's address to those here, under the node's to those elsewhere.
fn from_outside_to(here: &[SocketAddr], elsewhere: &[SocketAddr]) -> (Outcome, &'static [Reason]) {
    let targets = |backends: &[SocketAddr], source| backends.iter().map(|backend| Target { backend: *backend, source }).collect();
    let mut all: BTreeSet<Target> = targets(here, Source::Client);
    all.append(&mut targets(elsewhere, Source::Masqueraded));
    (Outcome::Translate(all), NEW)
}

/// The packet goes back to the pod that sent it, under the node's address.
fn back_to(backend: SocketAddr) -> (Outcome, &'static [Reason]) {
    let target = Target { backend, source: Source::Node };
    (Outcome::Translate(BTreeSet::from([target])), &[Reason::Hairpin, Reason::NewFlow])
}

fn no_service() -> (Outcome, &'static [Reason]) {
    (Outcome::Pass(Reason::NoService), &[Reason::NoService])
}

fn dropped() -> (Outcome, &'static [Reason]) {
    (Outcome::Drop(Reason::PolicyDrop), &[Reason::PolicyDrop])
}

fn unanswered() -> (Outcome, &'static [Reason]) {
    (Outcome::Drop(Reason::Unanswered), &[Reason::Unanswered])
}

fn unreachable() -> (Outcome, &'static [Reason]) {
    (Outcome::Reject(Refusal::Unreachable), &[Reason::RejectUnreachable])
}

/// What an opening packet hears.
fn refused(protocol: Protocol) -> (Outcome, &'static [Reason]) {
    match protocol {
        Protocol::Tcp => (Outcome::Reject(Refusal::Reset), &[Reason::RejectReset]),
        Protocol::Udp | Protocol::Sctp => unreachable(),
    }
}
