//! The thread that answers over HTTP: how this node is doing, and what Prometheus gathers. It has a runtime of its own, so that it answers, and can say
//! so, while the control path is busy or stands still.

use std::{future, sync::Arc, thread};

use anyhow::{Context as _, Result};
use axum::Router;
use prometheus_client::registry::Registry;
use tokio::{runtime, sync::watch};

use crate::{
    health::{self, Checks, Health},
    http::{self, Place},
    metrics::{self, Metrics},
};

/// Where to listen, and what to say there that is not known to others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Telemetry {
    /// Where `/healthz` and `/livez` are answered, if anywhere.
    pub healthz: Option<Place>,
    /// Where `/metrics` is answered, if anywhere.
    pub metrics: Option<Place>,
    /// What `/proxyMode` tells.
    pub mode: String,
}

/// Starts the thread.
pub fn spawn(
    telemetry: Telemetry,
    health: &Arc<Health>,
    metrics: &Metrics,
    registry: Registry,
    checks: watch::Receiver<Checks>,
) -> Result<()> {
    let starting = "starting the thread that answers over HTTP";
    let runtime = runtime::Builder::new_current_thread().enable_all().build().context(starting)?;
    let proxy = health::router(health, metrics);
    let prometheus = metrics::router(Arc::new(registry), telemetry.mode);
    let services = health::serve_services(checks, Arc::clone(health));
    let work = async move {
        tokio::join!(
            serve("health (--healthz-bind-address)", telemetry.healthz, proxy),
            serve("metrics (--metrics-bind-address)", telemetry.metrics, prometheus),
            services
        );
    };
    thread::Builder::new().name("shunt-http".to_owned()).spawn(move || runtime.block_on(work)).context(starting)?;
    Ok(())
}

async fn serve(what: &str, place: Option<Place>, router: Router) {
    match place {
        Some(place) => match http::serve(what, place, |_| router.clone()).await {},
        None => future::pending().await,
    }
}
