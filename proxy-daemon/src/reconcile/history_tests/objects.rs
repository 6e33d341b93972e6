//! API objects that meet again and claim what others have: there are few names and addresses. And what chance makes of them.

use serde_json::{Value, json};

pub(super) fn service(chance: &mut Chance) -> Value {
    let name = chance.below(4);
    let port = |chance: &mut Chance, name| {
        // A frontend may be the very address and port at which node ports are served.
        let (port, node_port) = ([80, 81, 30_000][chance.below(3)], [0, 30_000, 30_001][chance.below(3)]);
        json!({"name": name, "protocol": chance.of(&["TCP", "UDP", "SCTP"]), "port": port, "nodePort": node_port})
    };
    json!({
        "metadata": {
            "name": format!("s{name}"), "namespace": "d",
            "creationTimestamp": chance.of(&["2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"]),
            "labels": ([json!({}), json!({}), json!({}), json!({"service.kubernetes.io/service-proxy-name": "other"})][chance.below(4)]),
        },
        "spec": {
            "type": chance.of(&["ClusterIP", "NodePort", "LoadBalancer"]),
            "clusterIPs": [format!("10.96.0.{}", chance.below(4)), format!("fd00::{}", chance.below(4))],
            "externalIPs": [chance.of(&["198.51.100.1", "10.96.0.1", "fd00::1", "192.0.2.1"])],
            "internalTrafficPolicy": chance.of(&["Cluster", "Local"]),
            "externalTrafficPolicy": chance.of(&["Cluster", "Local"]),
            "loadBalancerSourceRanges": ([json!([]), json!(["10.0.0.0/8", "fd00::/8"]), json!(["192.0.2.0/24"])][chance.below(3)]),
            "sessionAffinity": chance.of(&["None", "ClientIP"]),
            "ports": [port(chance, "a"), port(chance, "b")],
        },
        "status": {"loadBalancer": {"ingress": [{"ip": chance.of(&["203.0.113.1", "10.96.0.2"])}]}},
    })
}

pub(super) fn slice(chance: &mut Chance) -> Value {
    let family = chance.below(2);
    let host = |chance: &mut Chance| [format!("10.1.0.{}", 1 + chance.below(5)), format!("fd01::{}", 1 + chance.below(5))][family].clone();
    let endpoint = |chance: &mut Chance| {
        json!({
            "addresses": [host(chance)],
            "conditions": {"ready": chance.below(3) > 0, "serving": chance.below(3) > 0, "terminating": chance.below(3) == 0},
            "nodeName": ([json!("n1"), json!("n2"), json!(null)][chance.below(3)]),
            "hints": {"forZones": [{"name": chance.of(&["a", "b"])}]},
        })
    };
    let endpoints: Vec<_> = (0..chance.below(5)).map(|_| endpoint(chance)).collect();
    let port = |name: &str, protocol| json!({"name": name, "port": 8080, "protocol": protocol});
    json!({
        "metadata": {
            "name": format!("e{}", chance.below(6)), "namespace": "d",
            "labels": {"kubernetes.io/service-name": format!("s{}", chance.below(4))},
        },
        "addressType": (["IPv4", "IPv6"][family]),
        "endpoints": endpoints,
        "ports": [port("a", chance.of(&["TCP", "UDP"])), port("b", chance.of(&["TCP", "UDP"]))],
    })
}

pub(super) fn node(chance: &mut Chance) -> Value {
    json!({
        "metadata": {"name": "n1", "labels": {"topology.kubernetes.io/zone": chance.of(&["a", "b"])}},
        "status": {"addresses": [
            {"type": chance.of(&["InternalIP", "ExternalIP"]), "address": chance.of(&["192.0.2.1", "192.0.2.2", "2001:db8::1"])},
        ]},
    })
}

/// Puts garbage in the place of some part of an object.
pub(super) fn spoil(object: &mut Value, chance: &mut Chance) {
    let long = "x".repeat(300);
    let garbage = [
        json!(null),
        json!(true),
        json!(-1),
        json!(0),
        json!(65_536),
        json!(1_u64 << 40),
        json!(1.5),
        json!(""),
        json!("None"),
        json!("127.0.0.1"),
        json!("010.096.000.001"),
        json!("ff02::1"),
        json!("::ffff:10.96.0.1"),
        json!("10.0.0.0/8"),
        json!("a\u{0}b\u{7f}\u{2603}"),
        json!(long),
        json!([]),
        json!({}),
        json!([null]),
    ];
    let mut place = object;
    // The deeper it is, the likelier it is that this is the place.
    while chance.below(4) > 0 {
        let children: Vec<&mut Value> = match place {
            Value::Object(fields) => fields.values_mut().collect(),
            Value::Array(items) => items.iter_mut().collect(),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => break,
        };
        let n = children.len().max(1);
        let Some(child) = children.into_iter().nth(chance.below(n)) else { return };
        place = child;
    }
    *place = garbage[chance.below(garbage.len())].clone();
}

/// Random numbers, the same ones in every run (`SplitMix64`).
pub(super) struct Chance(pub(super) u64);

// === impl Chance ===

impl Chance {
    /// A number below `end`.
    pub(super) fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((word ^ (word >> 31)) % end as u64).unwrap()
    }

    fn of(&mut self, choices: &[&'static str]) -> &'static str {
        choices[self.below(choices.len())]
    }

    pub(super) fn shuffle<T>(&mut self, all: &mut [T]) {
        for at in (1..all.len()).rev() {
            all.swap(at, self.below(at + 1));
        }
    }

    /// Most of these, in any order.
    pub(super) fn some_of<'a, T: Clone + 'a>(&mut self, all: impl Iterator<Item = &'a T>) -> Vec<T> {
        let mut some: Vec<_> = all.filter(|_| self.below(5) > 0).cloned().collect();
        self.shuffle(&mut some);
        some
    }
}
