//! Whether the API server answers: said once when it stops, and once when it is back, for all watches together.
//!
//! While the server is away one request at a time looks for it, and the watches wait: so a cluster's nodes do not keep a server down
//! that tries to start, and all watches go on as soon as it is there. A watch that is open again says nothing until something
//! changes, so it could not tell.

use std::{sync::Arc, time::Duration};

use k8s_openapi::api::core::v1::Service;
use kube::{Api, Client, api::ListParams};
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};
use tracing::{debug, info, warn};

use super::backoff::Backoff;

/// The first and the longest time between two looks for a server that is away.
const LOOK_EVERY: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(4));

/// Shared by all watches of one server.
pub(super) struct Connection {
    client: Client,
    is_lost: watch::Sender<bool>,
}

// === impl Connection ===

impl Connection {
    pub(super) fn new(client: Client) -> Self {
        Self { client, is_lost: watch::Sender::new(false) }
    }

    /// Notes that the server did not answer. The first to notice says so and looks for it.
    pub(super) fn lost(self: &Arc<Self>, error: &kube::Error) {
        if self.is_lost.send_replace(true) {
            return;
        }
        warn!(error = chain(error), "the API server does not answer; what is known stays in use");
        let connection = Arc::clone(self);
        tokio::spawn(async move { connection.look().await });
    }

    /// Waits until the server is not known to be away.
    pub(super) async fn returned(&self) {
        // An error would mean that the sender is gone, but it is here.
        drop(self.is_lost.subscribe().wait_for(|is_lost| !is_lost).await);
    }

    async fn look(&self) {
        let since = Instant::now();
        let mut backoff = Backoff::new(LOOK_EVERY.0, LOOK_EVERY.1);
        loop {
            sleep(backoff.wait(Instant::now())).await;
            if self.is_there().await {
                info!(elapsed = ?since.elapsed(), "the API server is back");
                self.is_lost.send_replace(false);
                return;
            }
        }
    }

    /// Asks for what the watches need: a server that has just started answers simpler questions earlier.
    async fn is_there(&self) -> bool {
        let services = Api::<Service>::all(self.client.clone());
        let Err(error) = services.list_metadata(&ListParams::default().limit(1)).await else { return true };
        debug!(error = chain(&error), "looked for the API server");
        // It may refuse, but then it is there.
        !is_away(&error)
    }
}

/// Whether an error means that the server cannot answer at present, rather than that it does not want to.
pub(super) fn is_away(error: &kube::Error) -> bool {
    if let kube::Error::Api(status) = error { status.code >= 500 || status.code == 429 } else { true }
}

/// An error with its causes, each once: the client's own texts have some of them, but not all.
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
