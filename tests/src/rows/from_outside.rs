//! Packets that arrive on an uplink: clients outside the cluster, and pods of other nodes.

use proxy_common::Protocol;

use super::{
    ELSEWHERE, EMPTY, EXTERNAL_LOCAL_ELSEWHERE, INTERNAL_LOCAL_ELSEWHERE, LOCAL, Row, Rows, TARGET, UPLINK_INGRESS, WEB, client, dropped,
    elsewhere, families_and_protocols, frontends, here, no_service, opening, refused, to,
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
    /// Whatever the policy, outside clients get the backends of this node: those on others are not used for them yet.
    fn come_in(&mut self, family: Family, protocol: Protocol) {
        let here = to(&[here().at(family, TARGET)]);
        let services = [
            ("all backends", WEB, here.clone()),
            ("both policies Local", LOCAL, here),
            ("backends elsewhere", ELSEWHERE, dropped()),
            ("external policy Local, backends elsewhere", EXTERNAL_LOCAL_ELSEWHERE, dropped()),
            ("internal policy Local, backends elsewhere", INTERNAL_LOCAL_ELSEWHERE, dropped()),
            ("no backends", EMPTY, refused(protocol)),
        ];
        for (what, service, expected) in services {
            for (kind, dst) in frontends(service, family) {
                let name = format!("from outside to {what} by {kind}, {family} {protocol}");
                self.add(name, UPLINK_INGRESS, &opening(protocol, client().at(family, CLIENT_PORT), dst), expected.clone());
            }
        }
        let name = format!("a pod of another node reaches a node port, {family} {protocol}");
        let [_, (_, dst), ..] = frontends(WEB, family);
        self.add(
            name,
            UPLINK_INGRESS,
            &opening(protocol, elsewhere().at(family, CLIENT_PORT), dst),
            to(&[super::here().at(family, TARGET)]),
        );
    }

    fn go_by(&mut self, family: Family, protocol: Protocol) {
        for (what, dst) in [("a pod", here().at(family, TARGET)), ("the node", addr::node(1).at(family, 22))] {
            let name = format!("from outside straight to {what}, {family} {protocol}");
            self.add(name, UPLINK_INGRESS, &opening(protocol, client().at(family, CLIENT_PORT), dst), no_service());
        }
    }
}
