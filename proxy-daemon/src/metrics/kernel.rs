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
use proxy_common::ServiceCounters;

use crate::{
    maps::{Error, KernelMaps},
    model::ServicePortName,
    tables::name_of,
};

const EVENTS: &str = "shunt_events";
const FLOWS: &str = "shunt_service_flows";
const PACKETS: &str = "shunt_service_packets";
const BYTES: &str = "shunt_service_bytes";
/// What a scrape shows of the maps.
#[cfg(test)]
pub(super) const NAMES: [&str; 4] = [EVENTS, FLOWS, PACKETS, BYTES];

/// The maps, for whoever scrapes.
pub struct Kernel(Mutex<KernelMaps>);

/// What was counted for a service port.
type Counted = (ServicePortName, ServiceCounters);

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
            for (port, counters) in &services {
                metric.encode_family(&labels(port))?.encode_counter::<NoLabelSet, _, f64>(&count(counters), None)?;
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
    // A row without a name is none of ours.
    let named = rows.iter().filter_map(|(id, row)| Some((*id, name_of(row)?)));
    named.map(|(id, name)| Ok((name, maps.service_counters(id)?))).collect()
}

fn labels(port: &ServicePortName) -> [(&'static str, &str); 4] {
    [("namespace", &port.namespace), ("service", &port.name), ("port", &port.port), ("protocol", port.protocol.name())]
}
