//! SCTP: the checksum covers the ports and no addresses, and an association has a beginning and an end as a connection has.

use std::net::SocketAddr;

use proxy_common::{FlowState, reason::Reason};
use shunt_tests::{
    Family, addr, gate,
    objects::{Endpoint, Service},
    packet::{L4, Packet},
    rows::frames,
    test_run::{NEEDS, TestNode, Verdict},
    tracer::Hook,
};

use crate::expect::{POD_EGRESS, POD_INGRESS, Setup, forward, pod_at, service_at};

const CLIENT: u8 = 3;
const BACKEND: u8 = 10;
const SCTP: u8 = 132;
/// Where the checksum is in the common header.
const CHECKSUM: usize = 8;

const DATA: u8 = 0;
const INIT: u8 = 1;
const INIT_ACK: u8 = 2;
const ABORT: u8 = 6;
const SHUTDOWN: u8 = 7;
const SHUTDOWN_COMPLETE: u8 = 14;

/// CRC-32C, bit by bit (RFC 9260, appendix A).
fn crc(bytes: &[u8]) -> u32 {
    let step =
        |crc: u32, byte: &u8| (0..8).fold(crc ^ u32::from(*byte), |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 });
    !bytes.iter().fold(u32::MAX, step)
}

/// A packet with one chunk and its checksum.
fn sctp(src: SocketAddr, dst: SocketAddr, chunk: u8, body: &[u8]) -> Packet {
    let len = u16::try_from(4 + body.len()).unwrap();
    let mut payload = [src.port().to_be_bytes(), dst.port().to_be_bytes()].concat();
    payload.extend([0xde, 0xad, 0xbe, 0xef, 0, 0, 0, 0, chunk, 0]);
    payload.extend(len.to_be_bytes());
    payload.extend(body);
    let checksum = crc(&payload);
    payload[CHECKSUM..CHECKSUM + 4].copy_from_slice(&checksum.to_le_bytes());
    let mut packet = Packet { l4: L4::Other(SCTP), ..Packet::udp(src, dst) }.payload(payload);
    packet.src.set_port(0);
    packet.dst.set_port(0);
    packet
}

fn serve(setup: &mut Setup, service: u8, port: u16, target: u16, pods: &[u8]) {
    let endpoints: Vec<_> = pods.iter().map(|pod| Endpoint::at(addr::pod(1, *pod), "n1")).collect();
    let service = Service::named(&format!("s{service}")).cluster_ips(addr::cluster_ips(service)).sctp(port, target);
    setup.cluster.apply(service.with_endpoints(&endpoints));
    let plans = setup.cluster.plans();
    setup.node.apply(&plans).unwrap();
}

#[track_caller]
fn run(node: &mut TestNode, hook: Hook, packet: &Packet) -> Packet {
    let ran = node.run(hook, &packet.build()).unwrap();
    assert_eq!(ran.verdict, Verdict::Next);
    Packet::decode(&ran.frame).unwrap()
}

#[test]
fn packets_go_there_and_back_with_right_checksums() {
    if gate::skip(NEEDS) {
        return;
    }
    let mut setup = Setup::new();
    // With the backend's port and with another one.
    for (service, target) in [(1, 80), (2, 3868)] {
        serve(&mut setup, service, 80, target, &[BACKEND]);
        for (family, body) in Family::ALL.into_iter().flat_map(|family| [0, 1, 16, 255, 1400].map(|len| (family, vec![0x5a; len]))) {
            let (client, service) = (pod_at(family, CLIENT, 40_000), service_at(family, service));
            let backend = pod_at(family, BACKEND, target);
            assert_eq!(run(&mut setup.node, POD_INGRESS, &sctp(client, service, INIT, &body)), sctp(client, backend, INIT, &body));
            setup.assert_counted(&[Reason::NewFlow]);
            let answer = run(&mut setup.node, POD_EGRESS, &sctp(backend, client, INIT_ACK, &body));
            assert_eq!(answer, sctp(service, client, INIT_ACK, &body));
            assert_eq!(run(&mut setup.node, POD_INGRESS, &sctp(client, service, DATA, &body)), sctp(client, backend, DATA, &body));
            setup.assert_counted(&[]);
            setup.node.forget_flows().unwrap();
        }
    }
}

/// A pod's packets have none where its device is to compute it.
#[test]
fn a_checksum_that_is_left_to_the_device_stays_so() {
    if gate::skip(NEEDS) {
        return;
    }
    let mut setup = Setup::new();
    serve(&mut setup, 1, 80, 3868, &[BACKEND]);
    for family in Family::ALL {
        let (client, service) = (pod_at(family, CLIENT, 40_000), service_at(family, 1));
        let mut packet = sctp(client, service, INIT, b"hello");
        packet.payload[CHECKSUM..CHECKSUM + 4].fill(0);
        let there = run(&mut setup.node, POD_INGRESS, &packet);
        assert_eq!(there.payload[CHECKSUM..CHECKSUM + 4], [0; 4]);
        assert_eq!(there.payload[2..4], 3868_u16.to_be_bytes());
    }
}

#[test]
fn an_association_stays_with_its_backend_until_it_ends() {
    if gate::skip(NEEDS) {
        return;
    }
    let mut setup = Setup::new();
    for family in Family::ALL {
        serve(&mut setup, 1, 80, 3868, &[BACKEND]);
        let (client, service) = (pod_at(family, CLIENT, 40_000), service_at(family, 1));
        let [old, new] = [BACKEND, BACKEND + 1].map(|pod| pod_at(family, pod, 3868));
        run(&mut setup.node, POD_INGRESS, &sctp(client, service, INIT, b""));
        serve(&mut setup, 1, 80, 3868, &[BACKEND + 1]);
        assert_eq!(run(&mut setup.node, POD_INGRESS, &sctp(client, service, DATA, b"")), sctp(client, old, DATA, b""));
        assert_eq!(run(&mut setup.node, POD_INGRESS, &sctp(client, service, INIT, b"")), sctp(client, new, INIT, b""));
        let state = |setup: &Setup| forward(&setup.node, client, service).state;
        run(&mut setup.node, POD_INGRESS, &sctp(client, service, DATA, b""));
        assert_eq!(state(&setup), FlowState::ESTABLISHED);
        run(&mut setup.node, POD_INGRESS, &sctp(client, service, SHUTDOWN, b""));
        assert!(state(&setup).has(FlowState::FIN));
        run(&mut setup.node, POD_EGRESS, &sctp(new, client, SHUTDOWN_COMPLETE, b""));
        run(&mut setup.node, POD_INGRESS, &sctp(client, service, ABORT, b""));
        assert!(state(&setup).has(FlowState::RST));
        setup.node.forget_flows().unwrap();
    }
}

/// The checksum covers what is yet to come: only where the port stays as it is does it, too.
#[test]
fn the_first_fragment_of_a_packet_goes_on_if_its_checksum_may_stay() {
    if gate::skip(NEEDS) {
        return;
    }
    let mut setup = Setup::new();
    serve(&mut setup, 1, 80, 3868, &[BACKEND]);
    serve(&mut setup, 2, 80, 80, &[BACKEND]);
    for family in Family::ALL {
        let fragments = |service| {
            let packet = sctp(pod_at(family, CLIENT, 40_000), service_at(family, service), DATA, &[7; 3000]);
            frames::fragments(&packet, 1400, 7)
        };
        setup.ignore_counted();
        assert_eq!(setup.node.run(POD_INGRESS, &fragments(1)[0]).unwrap().verdict, Verdict::Shot);
        assert!(setup.node.take_counted().unwrap().contains(&(Reason::FragmentLost, 1)));
        let there: Vec<_> = fragments(2).iter().map(|frame| setup.node.run(POD_INGRESS, frame).unwrap().frame).collect();
        let whole = frames::joined(&there);
        assert_eq!(Packet::decode(&whole).unwrap().dst.ip(), pod_at(family, BACKEND, 0).ip());
        let sctp = &whole[frames::transport(&Packet::udp(pod_at(family, CLIENT, 0), pod_at(family, BACKEND, 0)))..];
        let zeroed = [&sctp[..CHECKSUM], &[0; 4], &sctp[CHECKSUM + 4..]].concat();
        assert_eq!(sctp[CHECKSUM..CHECKSUM + 4], crc(&zeroed).to_le_bytes());
        setup.node.forget_flows().unwrap();
    }
}

#[test]
fn an_association_to_nobody_is_refused() {
    if gate::skip(NEEDS) {
        return;
    }
    let mut setup = Setup::new();
    serve(&mut setup, 1, 80, 3868, &[]);
    for family in Family::ALL {
        let packet = sctp(pod_at(family, CLIENT, 40_000), service_at(family, 1), INIT, b"hello");
        setup.ignore_counted();
        let ran = setup.node.run(POD_INGRESS, &packet.build()).unwrap();
        assert_eq!(ran.verdict, Verdict::Redirect);
        shunt_tests::packet::verify_checksums(&ran.frame).unwrap();
        let answer = Packet::decode(&ran.frame).unwrap();
        let at = frames::transport(&packet) - 14;
        assert_eq!(answer.payload, packet.build()[14..][..at + 12], "all of the header");
        setup.assert_counted(&[Reason::RejectUnreachable]);
    }
}

/// Anybody can begin one in another's name, and the answer is longer.
#[test]
fn refusals_of_associations_are_limited() {
    const ATTEMPTS: usize = 5000;
    if gate::skip(NEEDS) {
        return;
    }
    let mut setup = Setup::new();
    serve(&mut setup, 1, 80, 3868, &[]);
    let frame = sctp(pod_at(Family::V4, CLIENT, 40_000), service_at(Family::V4, 1), INIT, b"").build();
    let limited = (0..ATTEMPTS).filter(|_| setup.node.run(POD_INGRESS, &frame).unwrap().verdict == Verdict::Shot).count();
    assert!(limited > 0, "each of {ATTEMPTS} was answered");
    assert!(setup.node.take_counted().unwrap().contains(&(Reason::RefusalsLimited, u64::try_from(limited).unwrap())));
}
