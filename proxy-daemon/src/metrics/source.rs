//! How the source of Services stands, at the moment of a scrape.

use std::fmt;

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, NoLabelSet},
    metrics::MetricType,
};

use crate::source::Standing;

const NOT_UNDERSTOOD: &str = "shunt_not_understood";
const SERVER_UP: &str = "shunt_api_server_up";

/// The source, for whoever scrapes.
#[derive(Debug)]
pub(super) struct Source(pub(super) Standing);

impl Collector for Source {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let help = "Problems of objects that are not served as they stand";
        let mut metric = encoder.encode_descriptor(NOT_UNDERSTOOD, help, None, MetricType::Counter)?;
        for (kind, count) in self.0.problems() {
            metric.encode_family(&[("kind", kind)])?.encode_counter::<NoLabelSet, _, f64>(&count, None)?;
        }
        let Some(up) = self.0.is_server_up() else { return Ok(()) };
        let mut metric = encoder.encode_descriptor(SERVER_UP, "1 while the API server answers", None, MetricType::Gauge)?;
        metric.encode_gauge(&i64::from(up))
    }
}
