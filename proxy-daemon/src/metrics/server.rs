//! What `--metrics-bind-address` answers: `/metrics`, and as with kube-proxy `/proxyMode` and a `/healthz` that only says that somebody is there.

use std::{future, sync::Arc};

use axum::{
    Router,
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse as _, Response},
    routing::get,
};
use prometheus_client::{encoding::prometheus_text, registry::Registry};

const TEXT: [(axum::http::HeaderName, &str); 1] = [(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")];

/// Answers all of it. `mode` is what `/proxyMode` tells.
pub fn router(registry: Arc<Registry>, mode: String) -> Router {
    Router::new()
        .route("/metrics", get(move || future::ready(metrics(&registry))))
        .route("/healthz", get(|| future::ready("ok")))
        .route("/proxyMode", get(move || future::ready(mode.clone())))
}

fn metrics(registry: &Registry) -> Response {
    let mut text = String::new();
    match prometheus_text::encode(&mut text, registry) {
        Ok(()) => (TEXT, text).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}
