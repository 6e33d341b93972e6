//! Packets that arrive on an uplink: clients outside the cluster, and pods of other nodes.

use proxy_common::Protocol;

use super::{
    ELSEWHERE, EMPTY, EXTERNAL_LOCAL_ELSEWHERE, INTERNAL_LOCAL_ELSEWHERE, LOCAL, PORT, Row, Rows, TARGET, UPLINK_INGRESS, WEB, client,
    dropped, elsewhere, families_and_protocols, from_outside_to, frontends, here, no_service, opening, refused, to,
};
use crate::{addr, addr::Family};

const CLIENT_PORT: u16 = 50_000;

pub(super) fn rows() -> Vec<Row> {
    let mut rows = Rows::default();
    for (family, protocol) in families_and_protocols() {
        rows.come_in(family, protocol);
        rows.go_by(family, protocol);
    }
    rows.0
}

impl Rows {
    /// Outside clients get every backend that the policy gives them. For those on other nodes the node stands in for them.
    fn come_in(&mut self, family: Family, protocol: Protocol) {
        let (here, elsewhere) = (here().at(family, TARGET), elsewhere().at(family, TARGET));
        let services = [
            ("all backends", WEB, from_outside_to(&[here], &[elsewhere])),
            ("both policies Local", LOCAL, to(&[here])),
            ("backends elsewhere", ELSEWHERE, from_outside_to(&[], &[elsewhere])),
            ("external policy Local, backends elsewhere", EXTERNAL_LOCAL_ELSEWHERE, dropped()),
            ("no backends", EMPTY, refused(protocol)),
        ];
        for (what, service, expected) in services {
            for (kind, dst) in frontends(service, family) {
                // The policy is not about a ClusterIP, whoever dials it.
                let is_cluster_ip = dst == addr::cluster_ips(service).at(family, PORT);
                let expected = if service == EXTERNAL_LOCAL_ELSEWHERE && is_cluster_ip {
                    from_outside_to(&[], &[elsewhere])
                } else {
                    expected.clone()
                };
                let name = format!("from outside to {what} by {kind}, {family} {protocol}");
                self.add(name, UPLINK_INGRESS, &opening(protocol, client().at(family, CLIENT_PORT), dst), expected);
            }
        }
        for (kind, dst) in frontends(INTERNAL_LOCAL_ELSEWHERE, family) {
            let is_cluster_ip = dst == addr::cluster_ips(INTERNAL_LOCAL_ELSEWHERE).at(family, PORT);
            let expected = if is_cluster_ip { dropped() } else { from_outside_to(&[], &[elsewhere]) };
            let name = format!("from outside to internal policy Local, backends elsewhere by {kind}, {family} {protocol}");
            self.add(name, UPLINK_INGRESS, &opening(protocol, client().at(family, CLIENT_PORT), dst), expected);
        }
        let name = format!("a pod of another node reaches a node port, {family} {protocol}");
        let [_, (_, dst), ..] = frontends(WEB, family);
        self.add(
            name,
            UPLINK_INGRESS,
            &opening(protocol, super::elsewhere().at(family, CLIENT_PORT), dst),
            from_outside_to(&[here], &[elsewhere]),
        );
    }

    fn go_by(&mut self, family: Family, protocol: Protocol) {
        for (what, dst) in [("a pod", here().at(family, TARGET)), ("the node", addr::node(1).at(family, 22))] {
            let name = format!("from outside straight to {what}, {family} {protocol}");
            self.add(name, UPLINK_INGRESS, &opening(protocol, client().at(family, CLIENT_PORT), dst), no_service());
        }
    }
}
