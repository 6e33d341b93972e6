//! What the controllers make of pods: the `EndpointSlices` of a Service, seen as soon as the API server tells.

use std::{
    net::IpAddr,
    path::Path,
    sync::mpsc::{self, Receiver, RecvTimeoutError, Sender},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use futures::TryStreamExt as _;
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};
use kube::{
    Api,
    api::{WatchEvent, WatchParams},
};
use tokio::{runtime, sync::oneshot};

use super::api;
use crate::netns::Netns;

/// A watch that is open until it is dropped.
#[derive(Debug)]
pub struct SliceWatch {
    service: String,
    events: Receiver<Event>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// A slice as it became.
#[derive(Clone, Debug)]
struct Event {
    at: Instant,
    ready: Vec<IpAddr>,
}

// === impl SliceWatch ===

impl SliceWatch {
    /// Opens a watch on the slices of a Service in the namespace `default`, those that are there included.
    pub(super) fn open(netns: &Netns, kubeconfig: &Path, service: &str) -> Self {
        let (sender, events) = mpsc::channel();
        let (stop, stopped) = oneshot::channel();
        let (inside, file, name) = (netns.clone(), kubeconfig.to_owned(), service.to_owned());
        let thread = thread::spawn(move || {
            inside.run(|| {
                let runtime = runtime::Builder::new_current_thread().enable_all().build().expect("a runtime starts");
                runtime.block_on(async {
                    tokio::select! {
                        ended = follow(&file, &name, sender) => drop(ended),
                        _ = stopped => {}
                    }
                });
            });
        });
        Self { service: service.to_owned(), events, stop: Some(stop), thread: Some(thread) }
    }

    /// Waits for a slice whose ready addresses are as wanted, and says when it came. What came before is passed over.
    pub fn wait_for(&self, limit: Duration, mut is_wanted: impl FnMut(&[IpAddr]) -> bool) -> Result<Instant> {
        let deadline = Instant::now() + limit;
        let mut last = None;
        loop {
            match self.events.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(event) if is_wanted(&event.ready) => return Ok(event.at),
                Ok(event) => last = Some(event.ready),
                Err(RecvTimeoutError::Timeout) => {
                    bail!("the slices of {} did not become as wanted within {limit:?}; last seen: {last:?}", self.service)
                }
                Err(RecvTimeoutError::Disconnected) => bail!("the watch on the slices of {} ended", self.service),
            }
        }
    }
}

impl Drop for SliceWatch {
    fn drop(&mut self) {
        drop(self.stop.take());
        drop(self.thread.take().map(JoinHandle::join));
    }
}

async fn follow(kubeconfig: &Path, service: &str, events: Sender<Event>) -> Result<()> {
    let slices: Api<EndpointSlice> = Api::namespaced(api::client(kubeconfig).await?, "default");
    let of_service = WatchParams::default().labels(&format!("kubernetes.io/service-name={service}"));
    let mut stream = std::pin::pin!(slices.watch(&of_service, "0").await.context("opening a watch")?);
    while let Some(event) = stream.try_next().await? {
        let at = Instant::now();
        if let WatchEvent::Added(slice) | WatchEvent::Modified(slice) = event {
            events.send(Event { at, ready: ready(&slice) })?;
        }
    }
    Ok(())
}

fn ready(slice: &EndpointSlice) -> Vec<IpAddr> {
    // What is not said counts as ready.
    let is_ready = |endpoint: &&Endpoint| endpoint.conditions.as_ref().is_none_or(|conditions| conditions.ready != Some(false));
    let endpoints = slice.endpoints.iter().filter(is_ready);
    endpoints.flat_map(|endpoint| &endpoint.addresses).filter_map(|address| address.parse().ok()).collect()
}
