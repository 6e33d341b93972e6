//! `/healthz` and `/livez` (kube-proxy's `healthzBindAddress`), and `/readyz`. The first is for load balancers, the others are for the kubelet and do
//! not ask after the Node.

use std::{future, sync::Arc, time::Instant};

use axum::{
    Json, Router,
    http::{
        StatusCode,
        header::{HeaderName, X_CONTENT_TYPE_OPTIONS},
    },
    response::{IntoResponse as _, Response},
    routing::get,
};

use super::{Health, Report};
use crate::metrics::Metrics;

/// Beside every answer that is JSON.
pub(super) const NO_SNIFFING: [(HeaderName, &str); 1] = [(X_CONTENT_TYPE_OPTIONS, "nosniff")];

/// Answers all of them, and counts the answers that kube-proxy counts.
pub fn router(health: &Arc<Health>, metrics: &Metrics) -> Router {
    let ask = |question: fn(&Health, &Metrics) -> Response| {
        let (health, metrics) = (Arc::clone(health), metrics.clone());
        get(move || future::ready(question(&health, &metrics)))
    };
    Router::new().route("/healthz", ask(healthz)).route("/livez", ask(livez)).route("/readyz", ask(readyz))
}

/// Whether traffic may be sent to this node: kube-proxy says so before it has served anything, Shunt does not.
fn healthz(health: &Health, metrics: &Metrics) -> Response {
    let mut report = health.report(Instant::now());
    report.node_eligible = Some(health.is_synced() && health.is_eligible());
    let status = status(report.healthy && report.node_eligible == Some(true));
    metrics.count_healthz(status.as_u16());
    answer(status, report)
}

/// Whether the daemon does its work.
fn livez(health: &Health, metrics: &Metrics) -> Response {
    let report = health.report(Instant::now());
    let status = status(report.healthy);
    metrics.count_livez(status.as_u16());
    answer(status, report)
}

/// Whether it does, and a complete state is in effect: whether a rolling update may go on to the next node.
fn readyz(health: &Health, _: &Metrics) -> Response {
    let report = health.report(Instant::now());
    answer(status(report.healthy && health.is_synced()), report)
}

fn answer(status: StatusCode, report: Report) -> Response {
    (status, NO_SNIFFING, Json(report)).into_response()
}

/// What says in HTTP whether to send traffic.
pub(super) fn status(good: bool) -> StatusCode {
    if good { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }
}
