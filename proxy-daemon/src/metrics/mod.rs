//! What Prometheus gets: how the control path does, and what the tables hold.
//!
//! In: what stages note as they work, and the pinned maps at the moment of a scrape. Out: text on `--metrics-bind-address`. Names that begin with
//! `kubeproxy_` mean what they mean there; all others begin with `shunt_`, and with `process_` where every client library has them.

mod kernel;
mod process;
mod server;
mod source;
#[cfg(test)]
mod tests;

use std::time::{Duration, SystemTime};

use prometheus_client::{
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
        info::Info,
    },
    registry::Registry,
};

pub use self::{kernel::Kernel, server::router};
use crate::{
    maps::KernelMaps,
    model::IpFamily,
    reconcile::{Phases, Round},
    source::Standing,
    tables::{Fill, Usage},
};

/// One label: its name and value.
type Label = [(&'static str, &'static str); 1];
type SecondsGauge = Gauge<f64, std::sync::atomic::AtomicU64>;

/// What stages note. A clone is of the same.
#[derive(Clone, Debug)]
pub struct Metrics {
    started: SystemTime,
    sync_duration: Family<Label, Histogram, fn() -> Histogram>,
    phases: Family<Label, Histogram, fn() -> Histogram>,
    programming: Family<Label, Histogram, fn() -> Histogram>,
    last_sync: Family<Label, SecondsGauge>,
    last_queued: Family<Label, SecondsGauge>,
    changes: [Changes; 2],
    no_local_endpoints: Family<[(&'static str, &'static str); 2], Gauge>,
    healthz: Family<[(&'static str, u16); 1], Counter>,
    livez: Family<[(&'static str, u16); 1], Counter>,
    synced: Gauge,
    unserved: Gauge,
    entries: Family<Label, Gauge>,
    max_entries: Family<Label, Gauge>,
}

/// What a change is about, for whoever counts them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    /// A Service.
    Service,
    /// A slice of endpoints.
    Endpoints,
}

/// Changes of one subject.
#[derive(Clone, Debug, Default)]
struct Changes {
    seen: Counter,
    pending: Gauge,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            started: SystemTime::now(),
            sync_duration: Family::new_with_constructor(sync_histogram),
            phases: Family::new_with_constructor(phase_histogram),
            programming: Family::new_with_constructor(programming_histogram),
            last_sync: Family::default(),
            last_queued: Family::default(),
            changes: [Changes::default(), Changes::default()],
            no_local_endpoints: Family::default(),
            healthz: Family::default(),
            livez: Family::default(),
            synced: Gauge::default(),
            unserved: Gauge::default(),
            entries: Family::default(),
            max_entries: Family::default(),
        }
    }
}

/// As in kube-proxy.
fn sync_histogram() -> Histogram {
    Histogram::new(exponential_buckets(0.001, 2.0, 15))
}

/// One endpoint's change takes microseconds.
fn phase_histogram() -> Histogram {
    Histogram::new(exponential_buckets(0.000_01, 4.0, 10))
}

/// As in kube-proxy: it is what Kubernetes' own objective for the time to program a network is computed from.
fn programming_histogram() -> Histogram {
    let every = |from: u16, to: u16, step: u16| (from..=to).step_by(step.into()).map(f64::from);
    Histogram::new([0.0, 0.25, 0.5].into_iter().chain(every(1, 59, 1)).chain(every(60, 115, 5)).chain(every(120, 300, 30)))
}

fn family_label(family: IpFamily) -> Label {
    [("ip_family", family_name(family))]
}

const fn family_name(family: IpFamily) -> &'static str {
    match family {
        IpFamily::V4 => "IPv4",
        IpFamily::V6 => "IPv6",
    }
}

// === impl Metrics: what stages note ===

impl Metrics {
    /// A change has come.
    pub fn note_change(&self, subject: Subject) {
        let changes = self.changes(subject);
        changes.seen.inc();
        changes.pending.inc();
    }

    /// What has come is to be applied.
    pub fn note_queued(&self) {
        Self::note_time(&self.last_queued);
    }

    /// All that has come is applied. `triggers`: when it was triggered, where that is known.
    pub fn note_applied(&self, triggers: impl IntoIterator<Item = (IpFamily, SystemTime)>) {
        let now = SystemTime::now();
        for changes in &self.changes {
            changes.pending.set(0);
        }
        Self::note_time(&self.last_sync);
        // What has happened before there was anybody to see it says nothing about him (kube-proxy's rule).
        for (family, triggered) in triggers.into_iter().filter(|(_, triggered)| *triggered >= self.started) {
            let passed = now.duration_since(triggered).unwrap_or_default();
            self.programming.get_or_create(&family_label(family)).observe(passed.as_secs_f64());
        }
    }

    /// A round that has planned something has ended.
    pub fn note_round(&self, round: &Round, elapsed: Duration) {
        for family in IpFamily::ALL {
            self.sync_duration.get_or_create(&family_label(family)).observe(elapsed.as_secs_f64());
        }
        let Phases { plan, tables, maps } = round.phases;
        for (phase, took) in [("plan", plan), ("tables", tables), ("maps", maps)] {
            self.phases.get_or_create(&[("phase", phase)]).observe(took.as_secs_f64());
        }
    }

    /// What is in effect now.
    pub fn note_state(&self, synced: bool, unserved: usize, usage: Option<Usage>) {
        self.synced.set(synced.into());
        self.unserved.set(number(unserved));
        for (map, _, Fill { used, max }) in usage.iter().flat_map(Usage::fills) {
            self.note_fill(map, used.into(), max.into());
        }
    }

    /// How many service ports whose policy is `Local` have endpoints, but none here.
    pub fn note_no_local_endpoints(&self, family: IpFamily, policy: &'static str, ports: usize) {
        let labels = [("ip_family", family_name(family)), ("traffic_policy", policy)];
        self.no_local_endpoints.get_or_create(&labels).set(number(ports));
    }

    /// How full a map is.
    pub fn note_fill(&self, map: &'static str, entries: u64, max: u64) {
        self.entries.get_or_create(&[("map", map)]).set(entries.cast_signed());
        self.max_entries.get_or_create(&[("map", map)]).set(max.cast_signed());
    }

    /// An answer of `/healthz`.
    pub fn count_healthz(&self, code: u16) {
        self.healthz.get_or_create(&[("code", code)]).inc();
    }

    /// An answer of `/livez`.
    pub fn count_livez(&self, code: u16) {
        self.livez.get_or_create(&[("code", code)]).inc();
    }

    fn changes(&self, subject: Subject) -> &Changes {
        let [services, endpoints] = &self.changes;
        match subject {
            Subject::Service => services,
            Subject::Endpoints => endpoints,
        }
    }

    fn note_time(gauges: &Family<Label, SecondsGauge>) {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        for family in IpFamily::ALL {
            gauges.get_or_create(&family_label(family)).set(now.as_secs_f64());
        }
    }
}

fn number(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

// === impl Metrics: what is told ===

impl Metrics {
    /// All there is to tell, of these maps and of the source too.
    pub fn registry(&self, maps: KernelMaps, standing: Standing) -> Registry {
        let mut registry = Registry::default();
        self.register_kube_proxys(registry.sub_registry_with_prefix("kubeproxy"));
        self.register_own(registry.sub_registry_with_prefix("shunt"));
        registry.register_collector(Box::new(Kernel::new(maps)));
        registry.register_collector(Box::new(source::Source(standing)));
        registry.register_collector(Box::new(process::Process));
        registry
    }

    fn register_kube_proxys(&self, registry: &mut Registry) {
        let rules = |name: &str| format!("sync_proxy_rules_{name}");
        registry.register(rules("duration_seconds"), "How long a round took", self.sync_duration.clone());
        registry.register(
            "network_programming_duration_seconds",
            "From when a pod or a Service changed until it was in effect here",
            self.programming.clone(),
        );
        registry.register(rules("last_timestamp_seconds"), "When all changes were in effect last", self.last_sync.clone());
        registry.register(rules("last_queued_timestamp_seconds"), "When a change came last", self.last_queued.clone());
        let [services, endpoints] = &self.changes;
        for (subject, changes) in [("service", services), ("endpoint", endpoints)] {
            registry.register(rules(&format!("{subject}_changes")), "Changes that have come", changes.seen.clone());
            registry.register(rules(&format!("{subject}_changes_pending")), "Changes that are not in effect", changes.pending.clone());
        }
        registry.register(
            rules("no_local_endpoints_total"),
            "Service ports whose policy is Local and that have endpoints, but none on this node",
            self.no_local_endpoints.clone(),
        );
        registry.register("proxy_healthz", "Answers of /healthz", self.healthz.clone());
        registry.register("proxy_livez", "Answers of /livez", self.livez.clone());
    }

    fn register_own(&self, registry: &mut Registry) {
        registry.register("build", "What runs here", Info::new([("version", env!("CARGO_PKG_VERSION"))]));
        registry.register("synced", "1 when a complete state of the cluster is in effect", self.synced.clone());
        registry.register(
            "unserved_service_ports",
            "Service ports that are not served as they should be: they do not fit, or the kernel refuses a change",
            self.unserved.clone(),
        );
        registry.register("reconcile_phase_seconds", "How long the steps of a round took", self.phases.clone());
        registry.register("map_entries", "Entries of a map", self.entries.clone());
        registry.register("map_max_entries", "How many entries of a map there is room for", self.max_entries.clone());
    }
}
