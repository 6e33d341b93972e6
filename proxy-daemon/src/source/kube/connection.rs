//! Whether the API server answers: said once when it stops, and once when it is back, for all watches together.
//!
//! A watch that is open again says nothing until something changes, so a server that was lost is asked whether it is back.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use k8s_openapi::api::core::v1::Service;
use kube::{Api, Client, api::ListParams};
use tokio::time::{Instant, sleep};
use tracing::{info, warn};

const PROBE_EVERY: Duration = Duration::from_secs(1);

/// Shared by all watches of one server.
pub(super) struct Connection {
    client: Client,
    is_lost: AtomicBool,
}

// === impl Connection ===

impl Connection {
    pub(super) fn new(client: Client) -> Self {
        Self { client, is_lost: AtomicBool::new(false) }
    }

    /// Notes that the server did not answer. The first to notice says so, and waits for its return.
    pub(super) fn lost(self: &Arc<Self>, error: &kube::Error) {
        if self.is_lost.swap(true, Ordering::Relaxed) {
            return;
        }
        warn!(error = %chain(error), "the API server does not answer; what is known stays in use");
        let connection = Arc::clone(self);
        tokio::spawn(async move { connection.wait_for_return().await });
    }

    async fn wait_for_return(&self) {
        let since = Instant::now();
        loop {
            sleep(PROBE_EVERY).await;
            if self.is_ready().await {
                self.is_lost.store(false, Ordering::Relaxed);
                info!(elapsed = ?since.elapsed(), "the API server is back");
                return;
            }
        }
    }

    /// Asks for what the watches need: a server that has just started answers simpler questions earlier.
    async fn is_ready(&self) -> bool {
        let services = Api::<Service>::all(self.client.clone());
        match services.list_metadata(&ListParams::default().limit(1)).await {
            Ok(_) => true,
            // It may refuse, but then it is there.
            Err(error) => !is_away(&error),
        }
    }
}

/// Whether an error means that the server cannot answer at present, rather than that it does not want to.
pub(super) fn is_away(error: &kube::Error) -> bool {
    if let kube::Error::Api(status) = error { status.code >= 500 || status.code == 429 } else { true }
}

/// An error with its causes, which the client's own texts often leave out.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}
