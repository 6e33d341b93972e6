//! What a scrape shows, and that what is deployed asks for nothing else.

use std::{collections::BTreeSet, fs, path::Path};

use prometheus_client::encoding::prometheus_text;

use super::*;

/// A registry without maps in which everything has been noted once.
fn scraped(metrics: &Metrics) -> String {
    let usage = Usage::default();
    for subject in [Subject::Service, Subject::Endpoints] {
        metrics.note_change(subject);
    }
    metrics.note_queued();
    metrics.note_round(&Round::default(), Duration::from_millis(3));
    metrics.note_state(true, 2, Some(usage));
    metrics.note_no_local_endpoints(IpFamily::V6, "external", 1);
    metrics.count_healthz(200);
    metrics.count_livez(503);
    let mut registry = Registry::default();
    let standing = Standing::default();
    standing.count_problem("Service");
    standing.note_server(true);
    registry.register_collector(Box::new(source::Source(standing)));
    registry.register_collector(Box::new(process::Process));
    metrics.register_kube_proxys(registry.sub_registry_with_prefix("kubeproxy"));
    metrics.register_own(registry.sub_registry_with_prefix("shunt"));
    let mut text = String::new();
    prometheus_text::encode(&mut text, &registry).unwrap();
    text
}

#[test]
fn what_is_waiting_and_what_is_in_effect_can_be_told_apart() {
    let metrics = Metrics::default();
    let text = scraped(&metrics);
    for line in [
        "kubeproxy_sync_proxy_rules_endpoint_changes_total 1",
        "kubeproxy_sync_proxy_rules_endpoint_changes_pending 1",
        "kubeproxy_sync_proxy_rules_no_local_endpoints_total{ip_family=\"IPv6\",traffic_policy=\"external\"} 1",
        "kubeproxy_proxy_livez_total{code=\"503\"} 1",
        "shunt_unserved_service_ports 2",
        "shunt_api_server_up 1",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
    }
    assert!(!text.contains("network_programming_duration_seconds_count"), "nothing was triggered yet");
    let [before, after] = [metrics.started - Duration::from_secs(1), metrics.started + Duration::from_millis(1)];
    metrics.note_applied([(IpFamily::V4, before), (IpFamily::V4, after)]);
    let text = scraped(&metrics);
    assert!(text.contains("kubeproxy_network_programming_duration_seconds_count{ip_family=\"IPv4\"} 1\n"), "{text}");
}

/// Every name that a scrape may show.
fn names() -> BTreeSet<String> {
    let metrics = Metrics::default();
    metrics.note_applied([(IpFamily::V4, SystemTime::now())]);
    let text = scraped(&metrics);
    let samples = text.lines().filter(|line| !line.starts_with('#'));
    let own = samples.filter_map(|line| line.split(['{', ' ']).next()).map(str::to_owned);
    own.chain(kernel::NAMES.map(|name| format!("{name}_total"))).collect()
}

/// Whatever looks like one of our metrics in a text.
fn asked_for(text: &str) -> impl Iterator<Item = &str> {
    let words = text.split(|char: char| !(char.is_ascii_alphanumeric() || char == '_'));
    words.filter(|word| ["shunt_", "kubeproxy_", "process_"].iter().any(|prefix| word.starts_with(prefix)))
}

#[test]
fn dashboard_and_alerts_ask_for_what_there_is() {
    let deploy = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/monitoring");
    let names = names();
    let mut asked = 0;
    for file in fs::read_dir(deploy).unwrap() {
        let file = file.unwrap().path();
        let text = fs::read_to_string(&file).unwrap();
        for name in asked_for(&text) {
            assert!(names.contains(name), "{}: there is no {name}, only\n{names:#?}", file.display());
            asked += 1;
        }
    }
    assert!(asked > 10, "only {asked}");
}

#[test]
fn reasons_that_are_asked_for_exist() {
    let alerts = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/monitoring/alerts.yaml")).unwrap();
    let asked = alerts.split("reason=~\"").skip(1).flat_map(|rest| rest.split('"').next().unwrap_or_default().split('|'));
    let asked: Vec<&str> = asked.collect();
    assert!(!asked.is_empty());
    for name in asked {
        assert!(proxy_common::reason::Reason::ALL.iter().any(|reason| reason.name() == name), "{name}");
    }
}
