//! Addresses of Services beyond what the Services define: other ports of a ClusterIP, and addresses that no Service has.

use std::net::{IpAddr, SocketAddr};

use proxy_common::{Protocol, reason::Reason};
use shunt_tests::{
    Family, addr, gate,
    packet::{L4, Packet, flags, verify_checksums},
    rows,
    test_run::{NEEDS, Ran, Verdict},
};

use crate::expect::{POD_EGRESS, POD_INGRESS, PORT, Setup, UPLINK_INGRESS, pod_at, service_at};

const NETWORKS: [&str; 2] = ["10.96.0.0/12", "fd00:10:96::/112"];

fn with_networks() -> Setup {
    let mut setup = Setup::new();
    setup.serve(1, &[10]);
    setup.node.set_networks(&NETWORKS.map(|network| network.parse().unwrap())).unwrap();
    setup
}

fn openings(src: SocketAddr, dst: SocketAddr) -> [Packet; 2] {
    [Protocol::Tcp, Protocol::Udp].map(|protocol| rows::opening(protocol, src, dst))
}

fn echo(src: SocketAddr, dst: SocketAddr) -> Packet {
    let kind = if src.is_ipv4() { 8 } else { 128 };
    let no_port = |end: SocketAddr| SocketAddr::new(end.ip(), 0);
    Packet { l4: L4::Icmp { kind, code: 0, rest: [0, 1, 0, 1] }, ..Packet::udp(no_port(src), no_port(dst)) }.payload("ping")
}

#[test]
fn what_a_cluster_ip_does_not_define_is_refused() {
    if gate::skip(NEEDS) {
        return;
    }
    let mut setup = with_networks();
    for family in Family::ALL {
        let client = pod_at(family, 3, 40_000);
        let undefined = SocketAddr::new(service_at(family, 1).ip(), PORT + 1);
        let [tcp, udp] = openings(client, undefined);
        for hook in [POD_INGRESS, UPLINK_INGRESS] {
            for (packet, reason) in
                [(&tcp, Reason::RejectReset), (&udp, Reason::RejectUnreachable), (&echo(client, undefined), Reason::RejectUnreachable)]
            {
                let ran = setup.node.run(hook, &packet.build()).unwrap();
                assert_eq!(ran.verdict, Verdict::Redirect, "{packet:?}");
                verify_checksums(&ran.frame).unwrap();
                let answer = Packet::decode(&ran.frame).unwrap();
                assert_eq!((answer.src.ip(), answer.dst.ip()), (undefined.ip(), client.ip()));
                setup.assert_counted(&[reason]);
            }
        }
        setup.backend(&openings(client, service_at(family, 1))[0]);
        setup.ignore_counted();
        setup.node.forget_flows().unwrap();
    }
}

#[test]
fn addresses_that_no_service_has_are_dropped() {
    if gate::skip(NEEDS) {
        return;
    }
    let mut setup = with_networks();
    for family in Family::ALL {
        let client = pod_at(family, 3, 40_000);
        let nobody = addr::cluster_ips(99).at(family, PORT);
        let [tcp, udp] = openings(client, nobody);
        for (hook, packet) in [POD_INGRESS, UPLINK_INGRESS].into_iter().flat_map(|hook| [&tcp, &udp].map(|packet| (hook, packet))) {
            assert_eq!(setup.node.run(hook, &packet.build()).unwrap().verdict, Verdict::Shot);
            setup.assert_counted(&[Reason::Unallocated]);
        }
        assert_eq!(setup.node.run(POD_INGRESS, &echo(client, nobody).build()).unwrap().verdict, Verdict::Shot);
        setup.assert_counted(&[Reason::Unallocated]);
    }
}

/// A host outside may have its address there all the same, and dials a pod or a node port: what it has begun is answered.
#[test]
fn answers_to_an_address_that_no_service_has_pass() {
    if gate::skip(NEEDS) {
        return;
    }
    let mut setup = with_networks();
    for family in Family::ALL {
        let pod = pod_at(family, 3, 8080);
        let host = addr::cluster_ips(99).at(family, 40_000);
        let echo = echo(pod, host);
        let L4::Icmp { kind, code, rest } = echo.l4 else { unreachable!("an echo request") };
        // The number of an echo reply is that of the request and eight, or one.
        let reply = L4::Icmp { kind: if kind == 8 { 0 } else { kind + 1 }, code, rest };
        let [accepting, data] = [flags::SYN | flags::ACK, flags::ACK].map(|bits| Packet::tcp(pod, host, bits));
        for (packet, reason) in
            [(accepting, Reason::NoService), (data, Reason::NoService), (Packet { l4: reply, ..echo }, Reason::OtherProtocol)]
        {
            let frame = packet.build();
            assert_eq!(setup.node.run(POD_INGRESS, &frame).unwrap(), Ran { verdict: Verdict::Next, frame });
            setup.assert_counted(&[reason]);
        }
    }
}

/// Servers before 1.33 and manifests do not say which networks Services have their addresses from.
#[test]
fn other_ports_of_a_cluster_ip_are_refused_also_where_no_network_is_known() {
    if gate::skip(NEEDS) {
        return;
    }
    let mut setup = Setup::new();
    setup.serve(1, &[10]);
    for family in Family::ALL {
        let client = pod_at(family, 3, 40_000);
        let undefined = SocketAddr::new(service_at(family, 1).ip(), PORT + 1);
        let ran = setup.node.run(POD_INGRESS, &openings(client, undefined)[0].build()).unwrap();
        assert_eq!(ran.verdict, Verdict::Redirect);
        setup.assert_counted(&[Reason::RejectReset]);
        let frame = openings(client, addr::cluster_ips(99).at(family, PORT))[0].build();
        assert_eq!(setup.node.run(POD_INGRESS, &frame).unwrap(), Ran { verdict: Verdict::Next, frame });
        setup.assert_counted(&[Reason::NoService]);
    }
}

#[test]
fn everything_else_passes_untouched() {
    if gate::skip(NEEDS) {
        return;
    }
    let mut setup = with_networks();
    for family in Family::ALL {
        let client = pod_at(family, 3, 40_000);
        let beyond: IpAddr = if family == Family::V4 { "10.112.0.1" } else { "fd00:10:97::1" }.parse().unwrap();
        let others = [pod_at(family, 77, PORT), addr::node(2).at(family, PORT), SocketAddr::new(beyond, PORT)];
        for packet in others.into_iter().flat_map(|other| openings(client, other)) {
            for hook in [POD_INGRESS, UPLINK_INGRESS] {
                let frame = packet.build();
                assert_eq!(setup.node.run(hook, &frame).unwrap(), Ran { verdict: Verdict::Next, frame });
                setup.assert_counted(&[Reason::NoService]);
            }
        }
        // On its way out a packet to a Service's address is somebody else's affair.
        let frame = openings(client, addr::cluster_ips(99).at(family, PORT))[0].build();
        assert_eq!(setup.node.run(POD_EGRESS, &frame).unwrap(), Ran { verdict: Verdict::Next, frame });
        setup.ignore_counted();
    }
}
