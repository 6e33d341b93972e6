//! iperf3's report.

use anyhow::{Context as _, Result};
use serde::Deserialize;

#[derive(Deserialize)]
struct Report {
    end: End,
}

#[derive(Deserialize)]
struct End {
    sum_received: Received,
}

/// What came in at the other end.
#[derive(Deserialize)]
pub(super) struct Received {
    pub(super) bytes: f64,
    pub(super) seconds: f64,
}

/// Reads it from what `iperf3 --json` prints.
pub(super) fn received(report: &str) -> Result<Received> {
    let report: Report = serde_json::from_str(report).with_context(|| format!("iperf3 says {report}"))?;
    Ok(report.end.sum_received)
}
