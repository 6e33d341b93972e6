//! What `shunt show counters` prints: what became of packets, by reason, and what each service was given.

use proxy_common::{ServiceCounters, ServiceId, reason::Reason};
use serde::Serialize;

use super::{
    output::{self, Row, Show},
    state::State,
    views,
};

/// All counters, summed up over the CPUs.
#[derive(Debug, Serialize)]
pub(super) struct Counters {
    reasons: Vec<ReasonView>,
    services: Vec<ServiceCountersView>,
}

#[derive(Debug, Serialize)]
struct ReasonView {
    reason: &'static str,
    class: &'static str,
    count: u64,
    help: &'static str,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
struct ServiceCountersView {
    service: String,
    protocol: String,
    service_id: u32,
    flows: u64,
    packets: u64,
    bytes: u64,
}

impl Counters {
    /// `service` reads the row of an id: only those with a name are asked for.
    pub(super) fn new(
        state: &State,
        reasons: &[(Reason, u64)],
        service: impl Fn(ServiceId) -> anyhow::Result<ServiceCounters>,
    ) -> anyhow::Result<Self> {
        let view = |&(reason, count): &(Reason, u64)| ReasonView {
            reason: reason.name(),
            class: reason.class().name(),
            count,
            help: reason.help(),
        };
        let services = state.services.iter().map(|(&id, row)| {
            let ServiceCounters { flows, packets, bytes } = service(id)?;
            let protocol = views::protocol(row.protocol);
            Ok(ServiceCountersView { service: row.name().to_owned(), protocol, service_id: id.0, flows, packets, bytes })
        });
        let mut services: Vec<_> = services.collect::<anyhow::Result<_>>()?;
        services.sort();
        Ok(Self { reasons: reasons.iter().map(view).collect(), services })
    }
}

impl Show for Counters {
    fn table(&self) -> String {
        format!("{}\n{}", output::table(&self.reasons), output::table(&self.services))
    }
}

impl Row for ReasonView {
    const COLUMNS: &'static [&'static str] = &["REASON", "CLASS", "COUNT", "MEANING"];

    fn cells(&self) -> Vec<String> {
        vec![self.reason.to_owned(), self.class.to_owned(), self.count.to_string(), self.help.to_owned()]
    }
}

impl Row for ServiceCountersView {
    const COLUMNS: &'static [&'static str] = &["SERVICE", "PROTOCOL", "FLOWS", "PACKETS", "BYTES"];

    fn cells(&self) -> Vec<String> {
        let numbers = [self.flows, self.packets, self.bytes].map(|number| number.to_string());
        [self.service.clone(), self.protocol.clone()].into_iter().chain(numbers).collect()
    }
}

#[cfg(test)]
mod tests {
    use proxy_common::{Protocol, ServiceRow};

    use super::*;
    use crate::{args::Format, cli::output::render};

    #[test]
    fn every_reason_and_every_service_is_listed() {
        let mut state = State::default();
        state.services.insert(ServiceId(2), ServiceRow::new("default/web", Protocol::Tcp).unwrap());
        let reasons: Vec<(Reason, u64)> = Reason::ALL.iter().map(|&reason| (reason, u64::from(reason.index()))).collect();
        let service = |id: ServiceId| Ok(ServiceCounters { flows: id.0.into(), packets: 20, bytes: 3000 });
        let counters = Counters::new(&state, &reasons, service);
        let counters = counters.unwrap();
        assert_eq!(counters.reasons.len(), Reason::ALL.len());
        let table = render(&counters, Format::Table);
        assert!(
            table.contains("\n\nSERVICE       PROTOCOL   FLOWS   PACKETS   BYTES\ndefault/web   TCP        2       20        3000\n"),
            "{table}"
        );
        let json: serde_json::Value = serde_json::from_str(&render(&counters, Format::Json)).unwrap();
        assert_eq!(json["reasons"][4]["reason"], "no_service");
        assert_eq!(json["services"][0]["bytes"], 3000);
    }
}
