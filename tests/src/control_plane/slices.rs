//! What the controllers make of pods: the `EndpointSlices` of a Service, seen as soon as the API server tells.

use std::{
    collections::BTreeMap,
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
    Api, ResourceExt as _,
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
    /// The slices by name, as far as events have told.
    slices: BTreeMap<String, State>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// What became of a slice: its state, or nothing when it was deleted.
type Event = (String, Option<State>);

/// A slice as it is, and since when.
#[derive(Clone, Debug)]
struct State {
    since: Instant,
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
        Self { service: service.to_owned(), events, slices: BTreeMap::new(), stop: Some(stop), thread: Some(thread) }
    }

    /// Waits until the ready addresses of a slice are as wanted, and says since when they are.
    pub fn wait_for(&mut self, limit: Duration, is_wanted: impl Fn(&[IpAddr]) -> bool) -> Result<Instant> {
        let deadline = Instant::now() + limit;
        loop {
            // All that was told so far counts, so that what has been overtaken is not taken for the present.
            while let Ok(event) = self.events.try_recv() {
                self.note(event);
            }
            if let Some(state) = self.slices.values().find(|state| is_wanted(&state.ready)) {
                return Ok(state.since);
            }
            match self.events.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(event) => self.note(event),
                Err(RecvTimeoutError::Timeout) => {
                    bail!("the slices of {} did not become as wanted within {limit:?} but {:?}", self.service, self.slices)
                }
                Err(RecvTimeoutError::Disconnected) => bail!("the watch on the slices of {} ended", self.service),
            }
        }
    }

    fn note(&mut self, (name, state): Event) {
        match state {
            Some(state) => drop(self.slices.insert(name, state)),
            None => drop(self.slices.remove(&name)),
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
        let since = Instant::now();
        match event {
            WatchEvent::Added(slice) | WatchEvent::Modified(slice) => {
                let state = State { since, ready: ready(&slice) };
                events.send((slice.name_any(), Some(state)))?;
            }
            WatchEvent::Deleted(slice) => events.send((slice.name_any(), None))?,
            WatchEvent::Bookmark(_) => {}
            WatchEvent::Error(status) => bail!("the watch failed: {status}"),
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
