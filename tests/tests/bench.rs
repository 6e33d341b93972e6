//! The benches measure what they say: every path on few packets, whose verdicts, bytes and counters are checked as in a long run.

#[cfg(test)]
mod tests {
    use shunt_tests::{
        bench::packet::{self, Options},
        gate,
        test_run::NEEDS,
    };

    const PATHS: [&str; 12] = [
        "tc-floor-nat",
        "tc-clusterip-known",
        "tc-clusterip-known-read",
        "tc-clusterip-known-helpers",
        "tc-reply-known",
        "tc-udp-known",
        "tc-new-flow",
        "tc-other",
        "tc-other-egress",
        "xdp-floor-nat",
        "xdp-nodeport-known",
        "xdp-other",
    ];

    #[test]
    fn every_path_is_the_one_that_its_name_says() {
        if gate::skip(NEEDS) {
            return;
        }
        let options = Options { repeat: 3000, layouts: 1, runs: 1, flows: vec![1024], ..Options::default() };
        let rows = packet::run(&options, |_| {}).unwrap();
        assert!(rows.iter().all(|row| row.repeats == 3000 && row.ns_min > 0.0 && row.floor_ns > 0.0), "{rows:?}");
        let found: Vec<&str> = rows.iter().map(|row| row.path.as_str()).collect();
        let expected: Vec<String> = PATHS.iter().flat_map(|path| [(*path).to_owned(), format!("{path}-v6")]).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn a_name_that_no_path_has_is_an_error() {
        if gate::skip(NEEDS) {
            return;
        }
        let options = Options { filter: "no-such-path".to_owned(), ..Options::default() };
        packet::run(&options, |_| {}).unwrap_err();
    }
}
