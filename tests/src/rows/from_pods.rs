//! Packets of pods of this node: clients inside the cluster.

use proxy_common::{Protocol, reason::Reason};

use super::{
    ELSEWHERE, EMPTY, EXTERNAL_LOCAL_ELSEWHERE, HOST_NETWORK, INTERNAL_LOCAL_ELSEWHERE, LOCAL, POD_INGRESS, PORT, Row, Rows, SELF, TARGET,
    WEB, back_to, dropped, elsewhere, families_and_protocols, frontends, here, itself, no_service, node_port, opening, pod, refused, to,
    unanswered, unreachable,
};
use crate::{
    addr::{self, Family},
    packet::{L4, Packet, flags},
};

const CLIENT_PORT: u16 = 40_000;

pub(super) fn rows() -> Vec<Row> {
    let mut rows = Rows::default();
    for (family, protocol) in families_and_protocols() {
        rows.reach_every_frontend(family, protocol);
        rows.reach_what_policy_leaves(family, protocol);
        rows.reach_themselves(family, protocol);
        rows.reach_no_service(family, protocol);
    }
    rows.send_datagrams_without_checksums();
    for family in Family::ALL {
        rows.are_in_mid_stream(family);
        rows.are_late_at_an_empty_service(family);
    }
    rows.0
}

impl Rows {
    fn reach_every_frontend(&mut self, family: Family, protocol: Protocol) {
        let client = pod().at(family, CLIENT_PORT);
        let [here, elsewhere] = [here(), elsewhere()].map(|backend| backend.at(family, TARGET));
        let node = addr::node(1).at(family, TARGET);
        for (service, backends) in [(WEB, &[here, elsewhere][..]), (ELSEWHERE, &[elsewhere]), (HOST_NETWORK, &[node])] {
            for (kind, dst) in frontends(service, family) {
                let name = format!("a pod reaches s{service} by {kind}, {family} {protocol}");
                self.add(name, POD_INGRESS, &opening(protocol, client, dst), to(backends));
            }
        }
        for (kind, dst) in frontends(EMPTY, family) {
            let name = format!("a pod is refused where nobody serves, by {kind}, {family} {protocol}");
            self.add(name, POD_INGRESS, &opening(protocol, client, dst), refused(protocol));
        }
    }

    /// `internalTrafficPolicy` is about the ClusterIP alone, and `externalTrafficPolicy` is not about pods: at external addresses they
    /// get all endpoints.
    fn reach_what_policy_leaves(&mut self, family: Family, protocol: Protocol) {
        let client = pod().at(family, CLIENT_PORT);
        let [here, elsewhere] = [here(), elsewhere()].map(|backend| backend.at(family, TARGET));
        let mut add = |what: &str, service: u8, of_cluster_ip: (_, _), of_others: (_, _)| {
            for (index, (kind, dst)) in frontends(service, family).into_iter().enumerate() {
                let expected = if index == 0 { &of_cluster_ip } else { &of_others }.clone();
                let name = format!("a pod and {what}, by {kind}, {family} {protocol}");
                self.add(name, POD_INGRESS, &opening(protocol, client, dst), expected);
            }
        };
        add("internal policy Local, backends elsewhere", INTERNAL_LOCAL_ELSEWHERE, dropped(), to(&[elsewhere]));
        add("external policy Local, backends elsewhere", EXTERNAL_LOCAL_ELSEWHERE, to(&[elsewhere]), to(&[elsewhere]));
        add("both policies Local", LOCAL, to(&[here]), to(&[here, elsewhere]));
    }

    /// RFC 768: zero is no checksum, and none is made.
    fn send_datagrams_without_checksums(&mut self) {
        let (client, dst) = (pod().at(Family::V4, CLIENT_PORT), addr::cluster_ips(WEB).at(Family::V4, PORT));
        let packet = Packet { l4: L4::Udp { checksum: false }, ..Packet::udp(client, dst) };
        let backends = [here(), elsewhere()].map(|backend| backend.at(Family::V4, TARGET));
        self.add("a pod's datagram without a checksum".to_owned(), POD_INGRESS, &packet, to(&backends));
        let dst = addr::cluster_ips(EMPTY).at(Family::V4, PORT);
        self.add("one where nobody serves".to_owned(), POD_INGRESS, &packet.to(dst), unreachable());
    }

    fn reach_themselves(&mut self, family: Family, protocol: Protocol) {
        let client = itself().at(family, CLIENT_PORT);
        for (kind, dst) in frontends(SELF, family) {
            let name = format!("a pod reaches itself by {kind}, {family} {protocol}");
            self.add(name, POD_INGRESS, &opening(protocol, client, dst), back_to(itself().at(family, TARGET)));
        }
        let name = format!("another pod reaches it as any backend, {family} {protocol}");
        let packet = opening(protocol, pod().at(family, CLIENT_PORT), addr::cluster_ips(SELF).at(family, PORT));
        self.add(name, POD_INGRESS, &packet, to(&[itself().at(family, TARGET)]));
    }

    fn reach_no_service(&mut self, family: Family, protocol: Protocol) {
        let client = pod().at(family, CLIENT_PORT);
        let destinations = [
            ("a ClusterIP that is none", addr::cluster_ips(99).at(family, PORT)),
            ("a pod", here().at(family, TARGET)),
            ("a node port of another node", addr::node(2).at(family, node_port(WEB))),
            ("another port of its node", addr::node(1).at(family, node_port(99))),
        ];
        for (what, dst) in destinations {
            self.add(format!("a pod dials {what}, {family} {protocol}"), POD_INGRESS, &opening(protocol, client, dst), no_service());
        }
        let dst = addr::cluster_ips(WEB).at(family, PORT + 1);
        let name = format!("a pod dials another port of a ClusterIP, {family} {protocol}");
        self.add(name, POD_INGRESS, &opening(protocol, client, dst), refused(protocol));
    }

    /// What has no flow and is no beginning goes to a backend all the same: its entry may have been evicted, or another node may have had
    /// the flow. A reset is the last of its flow and leaves no record.
    fn are_in_mid_stream(&mut self, family: Family) {
        let (client, dst) = (pod().at(family, CLIENT_PORT), addr::cluster_ips(WEB).at(family, PORT));
        let backends = [here(), elsewhere()].map(|backend| backend.at(family, TARGET));
        let (outcome, _) = to(&backends);
        for (what, bits) in [("data", flags::ACK | flags::PSH), ("a FIN", flags::FIN | flags::ACK), ("a SYN-ACK", flags::SYN | flags::ACK)]
        {
            let packet = Packet::tcp(client, dst, bits);
            let expected = (outcome.clone(), &[Reason::Midstream, Reason::NewFlow][..]);
            self.add(format!("{what} of no known flow, {family}"), POD_INGRESS, &packet, expected);
        }
        for (what, bits) in [("a reset", flags::RST), ("a reset that acknowledges", flags::RST | flags::ACK)] {
            let packet = Packet::tcp(client, dst, bits);
            let expected = (outcome.clone(), &[Reason::Midstream][..]);
            self.add(format!("{what} of no known flow, {family}"), POD_INGRESS, &packet, expected);
        }
    }

    fn are_late_at_an_empty_service(&mut self, family: Family) {
        let (client, dst) = (pod().at(family, CLIENT_PORT), addr::cluster_ips(EMPTY).at(family, PORT));
        for words in [1, 5, 10] {
            let mut packet = Packet::tcp(client, dst, flags::SYN);
            if let L4::Tcp { options, .. } = &mut packet.l4 {
                options.extend([2, 4, 5, 0xb4].repeat(words));
            }
            let name = format!("a SYN with {words} words of options where nobody serves, {family}");
            self.add(name, POD_INGRESS, &packet, refused(Protocol::Tcp));
        }
        let early = Packet::tcp(client, dst, flags::SYN).payload("early data");
        self.add(format!("a SYN with data where nobody serves, {family}"), POD_INGRESS, &early, unreachable());
        for (what, bits) in [("data", flags::ACK | flags::PSH), ("a FIN", flags::FIN | flags::ACK)] {
            let packet = Packet::tcp(client, dst, bits).payload("late");
            self.add(format!("{what} where nobody serves, {family}"), POD_INGRESS, &packet, unreachable());
        }
        let packet = Packet::tcp(client, dst, flags::RST);
        self.add(format!("a reset where nobody serves, {family}"), POD_INGRESS, &packet, unanswered());
    }
}
