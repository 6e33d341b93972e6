//! `/healthz` and `/livez` (kube-proxy's `healthzBindAddress`). The first is for load balancers, the second for the kubelet: it does not ask after the
//! Node.

use std::{sync::Arc, time::Instant};

use axum::{
    Json, Router,
    http::{
        StatusCode,
        header::{HeaderName, X_CONTENT_TYPE_OPTIONS},
    },
    response::IntoResponse,
    routing::get,
};

use super::Health;
use crate::metrics::Metrics;

/// Beside every answer that is JSON.
pub(super) const NO_SNIFFING: [(HeaderName, &str); 1] = [(X_CONTENT_TYPE_OPTIONS, "nosniff")];

/// Answers both, and counts the answers.
pub fn router(health: Arc<Health>, metrics: Metrics) -> Router {
    let (health_too, metrics_too) = (Arc::clone(&health), metrics.clone());
    let healthz = async move || {
        let eligible = health.is_eligible();
        let (status, answer) = answer(&health, Some(eligible));
        metrics.count_healthz(status.as_u16());
        answer
    };
    let livez = async move || {
        let (status, answer) = answer(&health_too, None);
        metrics_too.count_livez(status.as_u16());
        answer
    };
    Router::new().route("/healthz", get(healthz)).route("/livez", get(livez))
}

/// `eligible`: whether traffic may be sent to this node, where that is asked for.
fn answer(health: &Health, eligible: Option<bool>) -> (StatusCode, impl IntoResponse + use<>) {
    let mut report = health.report(Instant::now());
    report.node_eligible = eligible;
    let status = status(report.healthy && eligible != Some(false));
    (status, (status, NO_SNIFFING, Json(report)))
}

/// What says in HTTP whether to send traffic.
pub(super) fn status(good: bool) -> StatusCode {
    if good { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }
}
