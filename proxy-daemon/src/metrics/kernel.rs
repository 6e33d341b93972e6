//! What is read from the pinned maps at each scrape: what became of packets, and what each Service was given.

use std::{
    fmt,
    sync::{Mutex, PoisonError},
};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, NoLabelSet},
    metrics::MetricType,
};
use proxy_common::{Protocol, ServiceCounters, ServiceRow};

use crate::maps::{Error, KernelMaps};

const EVENTS: &str = "shunt_events";
const FLOWS: &str = "shunt_service_flows";
const PACKETS: &str = "shunt_service_packets";
const BYTES: &str = "shunt_service_bytes";
/// What a scrape shows of the maps.
#[cfg(test)]
pub(super) const NAMES: [&str; 4] = [EVENTS, FLOWS, PACKETS, BYTES];

/// The maps, for whoever scrapes.
pub struct Kernel(Mutex<KernelMaps>);

/// A Service that has counters.
struct Counted {
    labels: [(&'static str, String); 4],
    counters: ServiceCounters,
}

impl Kernel {
    /// Reads these maps.
    pub fn new(maps: KernelMaps) -> Self {
        Self(Mutex::new(maps))
    }

    fn encode_reasons(maps: &KernelMaps, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let reasons = read("what became of packets", maps.reasons());
        let mut metric = encoder.encode_descriptor(EVENTS, "What became of packets and calls, by reason", None, MetricType::Counter)?;
        for (reason, count) in reasons {
            let labels = [("reason", reason.name()), ("class", reason.class().name())];
            metric.encode_family(&labels)?.encode_counter::<NoLabelSet, _, f64>(&count, None)?;
        }
        Ok(())
    }

    fn encode_services(maps: &KernelMaps, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let services = read("what Services were given", services(maps));
        for (name, help, count) in [
            (FLOWS, "Flows that have begun", (|counters| counters.flows) as fn(&ServiceCounters) -> u64),
            (PACKETS, "Packets of flows, in both directions; none of sockets that were given a backend", |counters| counters.packets),
            (BYTES, "Bytes of these packets", |counters| counters.bytes),
        ] {
            let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            for Counted { labels, counters } in &services {
                metric.encode_family(labels)?.encode_counter::<NoLabelSet, _, f64>(&count(counters), None)?;
            }
        }
        Ok(())
    }
}

impl Collector for Kernel {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let maps = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Self::encode_reasons(&maps, &mut encoder)?;
        Self::encode_services(&maps, &mut encoder)
    }
}

impl fmt::Debug for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Kernel")
    }
}

/// What cannot be read is not shown; the rest is.
fn read<T>(what: &str, rows: Result<Vec<T>, Error>) -> Vec<T> {
    rows.unwrap_or_else(|error| {
        tracing::warn!(error = &error as &dyn std::error::Error, "{what} cannot be read for a scrape");
        Vec::new()
    })
}

fn services(maps: &KernelMaps) -> Result<Vec<Counted>, Error> {
    let rows = maps.service_rows()?;
    rows.iter().map(|(id, row)| Ok(Counted { labels: labels(row), counters: maps.service_counters(*id)? })).collect()
}

fn labels(row: &ServiceRow) -> [(&'static str, String); 4] {
    let (namespace, rest) = row.name().split_once('/').unwrap_or_default();
    let (name, port) = rest.split_once(':').unwrap_or((rest, ""));
    let protocol = Protocol::from_wire(row.protocol).map_or_else(|| row.protocol.to_string(), |protocol| protocol.name().to_owned());
    [("namespace", namespace.to_owned()), ("service", name.to_owned()), ("port", port.to_owned()), ("protocol", protocol)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_taken_apart() {
        let texts = |name| labels(&ServiceRow::new(name, Protocol::Udp).unwrap()).map(|(_, value)| value);
        assert_eq!(texts("kube-system/kube-dns:dns"), ["kube-system", "kube-dns", "dns", "UDP"]);
        assert_eq!(texts("default/web"), ["default", "web", "", "UDP"]);
    }
}
