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

/// Whether the server was between two clients: it is busy until a stream has ended on its side, closes what it listens at, and listens anew. Who calls
/// meanwhile is sent away, reset or refused before anything is measured: a few in ten thousand, dialled directly as through any proxy.
pub(super) fn is_too_early(report: &str) -> bool {
    let errors = [
        "the server is busy running a test",
        "unable to receive control message: Connection reset by peer",
        "unable to connect to server: Connection refused",
    ];
    errors.iter().any(|error| report.contains(error))
}

/// Reads it from what `iperf3 --json` prints.
pub(super) fn received(report: &str) -> Result<Received> {
    let report: Report = serde_json::from_str(report).with_context(|| format!("iperf3 says {report}"))?;
    Ok(report.end.sum_received)
}
