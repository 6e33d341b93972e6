//! The table of situations that any service proxy has to judge alike.
//!
//! This node is `n1` in zone `a` unless a row says otherwise. An endpoint is written `NAME STATE[@l|@r] [z:ZONE+..] [n:NODE+..]`, where
//! the state is `r` ready, `u` unready, `st` serving and terminating, `nt` terminating and not serving; `@l` runs on this node, `@r` on
//! another. A list that the policies do not ask for is `n/a`, an empty one `-`.

use std::{net::SocketAddr, sync::Arc};

use super::*;

const CLUSTER: Wanted = Wanted { cluster: true, local: false };
const LOCAL: Wanted = Wanted { cluster: false, local: true };
const BOTH: Wanted = Wanted { cluster: true, local: true };
const ZONE_A: Option<&str> = Some("a");

struct Row {
    id: &'static str,
    wanted: Wanted,
    zone: Option<&'static str>,
    endpoints: &'static str,
    cluster: &'static str,
    local: &'static str,
    /// Everything the data path must hold: the union of both.
    used: &'static str,
    any: bool,
}

const fn row(
    id: &'static str,
    wanted: Wanted,
    zone: Option<&'static str>,
    endpoints: &'static str,
    expected: [&'static str; 3],
    any: bool,
) -> Row {
    let [cluster, local, used] = expected;
    Row { id, wanted, zone, endpoints, cluster, local, used, any }
}

const SPREAD: &str = "e1 r z:a, e2 r z:b, e3 r z:c, e4 r z:a";
const HINTED: &str = "e3 r@l z:a, e4 r@l z:b, e5 r@r z:b, e6 r@r z:a";

const TABLE: &[Row] = &[
    row("S1", CLUSTER, ZONE_A, "", ["-", "n/a", "-"], false),
    row("S2", CLUSTER, ZONE_A, SPREAD, ["e1,e4", "n/a", "e1,e4"], true),
    row("S3 and S4: no zone label, or an empty one", CLUSTER, None, SPREAD, ["e1,e2,e3,e4", "n/a", "e1,e2,e3,e4"], true),
    row("S5", CLUSTER, Some("b"), "e1 r z:a, e2 r z:a", ["e1,e2", "n/a", "e1,e2"], true),
    row("S6", CLUSTER, ZONE_A, "e1 r z:a, e2 r z:b, e3 r, e4 r z:a", ["e1,e2,e3,e4", "n/a", "e1,e2,e3,e4"], true),
    row("S7", CLUSTER, ZONE_A, "e1 u z:a, e2 r z:b, e3 r z:b, e4 r z:a", ["e4", "n/a", "e4"], true),
    row("S8", CLUSTER, ZONE_A, "e1 u z:a, e2 r z:b, e3 r z:c, e4 u z:a", ["e2,e3", "n/a", "e2,e3"], true),
    row("S9", CLUSTER, Some("c"), "e1 r z:a+b+c, e2 r z:b+c, e3 r z:b+d, e4 r z:c", ["e1,e2,e4", "n/a", "e1,e2,e4"], true),
    row("S10", CLUSTER, ZONE_A, "e1 r z:a, e2 u, e3 r z:b", ["e1", "n/a", "e1"], true),
    row("S11", CLUSTER, ZONE_A, "e1 r n:n1 z:a, e2 r n:n2 z:a, e3 r n:n3 z:b", ["e1", "n/a", "e1"], true),
    row("S12", CLUSTER, ZONE_A, "e1 r n:n2 z:a, e2 r n:n3 z:b", ["e1", "n/a", "e1"], true),
    row("S13", CLUSTER, ZONE_A, "e1 r n:n1 z:a, e2 r z:a, e3 r n:n3 z:b", ["e1,e2", "n/a", "e1,e2"], true),
    row("S14", CLUSTER, ZONE_A, "e1 r n:n2 z:b, e2 r n:n3 z:c", ["e1,e2", "n/a", "e1,e2"], true),
    row("S15", CLUSTER, ZONE_A, "e1 u n:n1, e2 r n:n2", ["e2", "n/a", "e2"], true),
    row("S16 and S17", BOTH, ZONE_A, HINTED, ["e3,e6", "e3,e4", "e3,e4,e6"], true),
    row("S18", LOCAL, ZONE_A, "", ["n/a", "-", "-"], false),
    row("S19", LOCAL, ZONE_A, "e1 r@r, e2 r@r", ["n/a", "-", "-"], true),
    row("S20", LOCAL, ZONE_A, "e1 r@l, e2 r@l", ["n/a", "e1,e2", "e1,e2"], true),
    row("S21", LOCAL, ZONE_A, "e1 r@l, e2 r@r", ["n/a", "e1", "e1"], true),
    row("S22", CLUSTER, ZONE_A, "e1 u, e2 u", ["-", "n/a", "-"], false),
    row("S23", CLUSTER, ZONE_A, "e1 r, e2 u", ["e1", "n/a", "e1"], true),
    row("S24", CLUSTER, ZONE_A, "e1 r, e2 st", ["e1", "n/a", "e1"], true),
    row("S25", CLUSTER, ZONE_A, "e1 st, e2 st", ["e1,e2", "n/a", "e1,e2"], true),
    row("S26", CLUSTER, ZONE_A, "e1 st, e2 nt", ["e1", "n/a", "e1"], true),
    row("S27", CLUSTER, ZONE_A, "e1 nt, e2 nt", ["-", "n/a", "-"], false),
    row("S28", CLUSTER, ZONE_A, "e1 st z:b, e2 st z:a", ["e1,e2", "n/a", "e1,e2"], true),
    row("S29 to S31", BOTH, ZONE_A, "e1 r@l, e2 r@r", ["e1,e2", "e1", "e1,e2"], true),
    row("S32", BOTH, ZONE_A, "e1 r@r, e2 r@r", ["e1,e2", "-", "e1,e2"], true),
    row("S33", BOTH, ZONE_A, "e1 st@r, e2 st@r", ["e1,e2", "-", "e1,e2"], true),
    row("S34", BOTH, ZONE_A, "e0 r@r, e1 nt@l, e2 st@l, e3 st@r", ["e0", "e2", "e0,e2"], true),
    row("S35", CLUSTER, ZONE_A, "e1 r@l, e2 r@r", ["e1,e2", "n/a", "e1,e2"], true),
    row("S36", LOCAL, ZONE_A, "e1 st@l, e2 r@r", ["n/a", "e1", "e1"], true),
    row("S37", LOCAL, ZONE_A, "e1 st@l, e2 r@l", ["n/a", "e2", "e2"], true),
    row("S38", LOCAL, ZONE_A, "e1 nt@l, e2 u@l, e3 st@r", ["n/a", "-", "-"], true),
];

#[test]
fn every_situation_is_judged_as_by_kube_proxy() {
    for row in TABLE {
        let endpoints: Vec<(String, bool, Endpoint)> = row.endpoints.split(", ").filter_map(endpoint).collect();
        let candidates: Vec<_> = endpoints
            .iter()
            .map(|(_, is_local, endpoint)| Candidate { addr: SocketAddr::new(endpoint.addr, 80), endpoint, is_local: *is_local })
            .collect();
        let selection = select(&candidates, row.wanted, Place { node: "n1", zone: row.zone });

        let names = |wanted: bool, used: &dyn Fn(&Candidate<'_>) -> bool| {
            let names: Vec<_> =
                endpoints.iter().zip(&candidates).filter(|(_, candidate)| used(candidate)).map(|((name, ..), _)| name.as_str()).collect();
            if !wanted {
                "n/a".to_owned()
            } else if names.is_empty() {
                "-".to_owned()
            } else {
                names.join(",")
            }
        };
        let has = |list: &[Candidate<'_>], wanted: &Candidate<'_>| list.iter().any(|found| found.addr == wanted.addr);
        let cluster = names(row.wanted.cluster, &|candidate| has(&selection.cluster, candidate));
        let local = names(row.wanted.local, &|candidate| has(&selection.local, candidate));
        let used = names(true, &|candidate| has(&selection.cluster, candidate) || has(&selection.local, candidate));
        let Row { id, endpoints: text, .. } = row;
        assert_eq!([&*cluster, &*local, &*used], [row.cluster, row.local, row.used], "{id}: {text}");
        assert_eq!(selection.any, row.any, "{id}: {text}");
    }
}

/// The name of an endpoint, whether it runs on this node, and what is known of it; nothing for an empty text.
pub(in crate::plan) fn endpoint(text: &str) -> Option<(String, bool, Endpoint)> {
    let mut words = text.split_whitespace();
    let name = words.next()?;
    let (state, place) = words.next().map(|word| word.split_once('@').unwrap_or((word, "r")))?;
    let (ready, serving, terminating) = match state {
        "r" => (true, true, false),
        "u" => (false, false, false),
        "st" => (false, true, true),
        "nt" => (false, false, true),
        other => panic!("unknown state {other}"),
    };
    let hints: Vec<&str> = words.collect();
    let of_kind = |kind: &str| -> Box<[Arc<str>]> {
        let named = hints.iter().filter_map(|hint| hint.strip_prefix(kind));
        named.flat_map(|names| names.split('+')).map(Arc::from).collect()
    };
    let number: u8 = name[1..].parse().unwrap();
    let endpoint = Endpoint {
        addr: [10, 0, 0, number].into(),
        ready,
        serving,
        terminating,
        node: None,
        zone_hints: of_kind("z:"),
        node_hints: of_kind("n:"),
    };
    Some((name.to_owned(), place == "l", endpoint))
}
