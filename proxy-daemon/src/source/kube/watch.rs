//! One watch: from the client's events to changes of the model.

use std::{fmt::Debug, sync::Arc, time::Duration};

use futures::StreamExt as _;
use kube::{
    Api, Resource,
    runtime::watcher::{self, watcher},
};
use serde::de::DeserializeOwned;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep},
};
use tracing::{debug, info, warn};

use super::{
    backoff::Backoff,
    connection::{Connection, chain, is_away},
};
use crate::{
    model::{Change, Event, convert::Converted},
    source::problems::ProblemLog,
};

/// A server that has just started may refuse what it will soon allow, so only as many refusals in a row are worth a word.
const REFUSALS: u32 = 3;

/// The first and the longest time before a server that refused is asked again.
const ASK_AGAIN: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(10));

/// After what time a server that does not know a kind is asked again: it may have been replaced by a newer one.
const ASK_FOR_KIND: Duration = Duration::from_mins(10);

/// What is watched, and what becomes of it.
pub(super) struct Watch<K, T> {
    pub(super) kind: &'static str,
    pub(super) api: Api<K>,
    pub(super) config: watcher::Config,
    pub(super) convert: fn(&K) -> Converted<T>,
    pub(super) change: fn(Event<T>) -> Change,
    /// The object without which the first list is not complete.
    pub(super) required: Option<Arc<str>>,
    /// What it means that the server does not know the kind, if that may be.
    pub(super) if_unknown: Option<&'static str>,
}

/// Why a watch ended.
enum End {
    /// Nobody listens any more.
    Closed,
    /// The server does not send lists as streams.
    NoStreamingLists,
}

/// A watch under way.
struct Progress<K, T> {
    watch: Watch<K, T>,
    connection: Arc<Connection>,
    changes: mpsc::Sender<Change>,
    problems: ProblemLog,
    backoff: Backoff,
    /// The list that is coming in.
    list: Vec<T>,
    /// The first complete list was passed on.
    is_listed: bool,
    /// How often in a row the server refused.
    refused: u32,
    /// That the server does not know the kind was said.
    told_unknown: bool,
}

// === impl Watch ===

impl<K, T> Watch<K, T>
where
    K: Resource + Clone + Debug + DeserializeOwned + Send + 'static,
    T: Send,
{
    /// Runs until nobody listens any more.
    pub(super) async fn run(self, connection: Arc<Connection>, changes: mpsc::Sender<Change>) {
        let mut progress = Progress {
            problems: ProblemLog::new(self.kind, connection.standing().clone()),
            watch: self,
            connection,
            changes,
            backoff: Backoff::new(ASK_AGAIN.0, ASK_AGAIN.1),
            list: Vec::new(),
            is_listed: false,
            refused: 0,
            told_unknown: false,
        };
        let config = progress.watch.config.clone();
        if let End::NoStreamingLists = progress.follow(config.clone().streaming_lists()).await {
            debug!(kind = progress.watch.kind, "the API server has no streaming lists, listing in pages");
            progress.follow(config).await;
        }
    }
}

// === impl Progress ===

impl<K, T> Progress<K, T>
where
    K: Resource + Clone + Debug + DeserializeOwned + Send + 'static,
    T: Send,
{
    async fn follow(&mut self, config: watcher::Config) -> End {
        let is_streaming = config.initial_list_strategy == watcher::InitialListStrategy::StreamingList;
        let mut events = watcher(self.watch.api.clone(), config).boxed();
        loop {
            let event = tokio::select! {
                event = events.next() => event,
                () = self.changes.closed() => return End::Closed,
            };
            let change = match event {
                None => return End::Closed,
                Some(Ok(event)) => self.accept(event),
                Some(Err(error)) if is_streaming && is_unknown_request(&error) => return End::NoStreamingLists,
                Some(Err(error)) if self.watch.if_unknown.is_some() && is_unknown_kind(&error) => {
                    self.tell_unknown();
                    self.pause_for(ASK_FOR_KIND).await;
                    None
                }
                Some(Err(error)) => {
                    self.report(&error);
                    self.pause().await;
                    None
                }
            };
            if let Some(change) = change
                && self.changes.send(change).await.is_err()
            {
                return End::Closed;
            }
        }
    }

    /// Turns an event into a change, if it completes one.
    fn accept(&mut self, event: watcher::Event<K>) -> Option<Change> {
        let event = match event {
            watcher::Event::Init => {
                self.problems.begin_list();
                self.list.clear();
                return None;
            }
            watcher::Event::InitApply(object) => {
                let converted = self.convert(&object);
                self.list.extend(converted.object);
                return None;
            }
            watcher::Event::InitDone => {
                self.accepted();
                self.problems.end_list();
                let list = std::mem::take(&mut self.list);
                if list.is_empty() && self.is_waited_for() {
                    return None;
                }
                self.is_listed = true;
                Event::Reset(list)
            }
            watcher::Event::Apply(object) => {
                self.accepted();
                let Converted { name, object, .. } = self.convert(&object);
                match object {
                    Some(object) if !self.is_listed => {
                        self.is_listed = true;
                        Event::Reset(vec![object])
                    }
                    Some(object) => Event::Applied(object),
                    None => Event::Deleted(name),
                }
            }
            watcher::Event::Delete(object) => {
                let name = (self.watch.convert)(&object).name;
                self.problems.forget(&name);
                Event::Deleted(name)
            }
        };
        Some((self.watch.change)(event))
    }

    fn convert(&mut self, object: &K) -> Converted<T> {
        let converted = (self.watch.convert)(object);
        self.problems.observe(&converted.name, &converted.problems);
        converted
    }

    /// Waits before the server is asked again: a while, and until it is there.
    async fn pause(&mut self) {
        let again = async {
            sleep(self.backoff.wait(Instant::now())).await;
            self.connection.returned().await;
        };
        tokio::select! {
            () = again => {}
            () = self.changes.closed() => {}
        }
    }

    async fn pause_for(&self, time: Duration) {
        tokio::select! {
            () = sleep(time) => {}
            () = self.changes.closed() => {}
        }
    }

    /// Says once that the server does not know the kind.
    fn tell_unknown(&mut self) {
        if let Some(meaning) = self.watch.if_unknown.filter(|_| !std::mem::replace(&mut self.told_unknown, true)) {
            info!(kind = self.watch.kind, "the API server does not know this kind: {meaning}");
        }
    }

    /// Whether the first list has to wait for an object that is not there yet: a node may start before its Node object exists.
    fn is_waited_for(&self) -> bool {
        let Some(name) = self.watch.required.as_ref().filter(|_| !self.is_listed) else { return false };
        warn!(
            kind = self.watch.kind,
            object = %name,
            "there is no such object yet; waiting for it (is it another name, to be given by --hostname-override?)"
        );
        true
    }

    /// Notes that the server does what it is asked.
    fn accepted(&mut self) {
        self.connection.answered();
        if std::mem::take(&mut self.refused) >= REFUSALS {
            info!(kind = self.watch.kind, "the API server now does as it is asked");
        }
    }

    /// Says what is wrong, if it is news.
    fn report(&mut self, error: &watcher::Error) {
        let kind = self.watch.kind;
        let text = chain(error);
        match error {
            watcher::Error::InitialListFailed(error) | watcher::Error::WatchStartFailed(error) | watcher::Error::WatchFailed(error)
                if is_away(error) =>
            {
                debug!(kind, error = text, "asking again later");
                self.connection.lost(error);
                return;
            }
            // Too old a version to go on from: listing anew is the way on, not a problem.
            watcher::Error::WatchError(status) if status.code == 410 => {
                debug!(kind, error = text, "listing again");
                return;
            }
            watcher::Error::InitialListFailed(_)
            | watcher::Error::WatchStartFailed(_)
            | watcher::Error::WatchFailed(_)
            | watcher::Error::WatchError(_)
            | watcher::Error::NoResourceVersion => {}
        }
        self.refused = self.refused.saturating_add(1);
        if self.refused != REFUSALS {
            debug!(kind, error = text, times = self.refused, "the watch failed");
        } else if is_forbidden(error) {
            warn!(
                kind,
                error = text,
                "the API server refuses the watch; does the account have the rights of the role system:node-proxier?"
            );
        } else {
            warn!(kind, error = text, "the watch fails again and again; what is known stays in use");
        }
    }
}

/// Whether it was a matter of rights.
fn is_forbidden(error: &watcher::Error) -> bool {
    let (watcher::Error::InitialListFailed(kube::Error::Api(status))
    | watcher::Error::WatchStartFailed(kube::Error::Api(status))
    | watcher::Error::WatchFailed(kube::Error::Api(status))
    | watcher::Error::WatchError(status)) = error
    else {
        return false;
    };
    matches!(status.code, 401 | 403)
}

/// Whether the server has no such kind.
fn is_unknown_kind(error: &watcher::Error) -> bool {
    let (watcher::Error::InitialListFailed(error) | watcher::Error::WatchStartFailed(error)) = error else { return false };
    matches!(error, kube::Error::Api(status) if status.code == 404)
}

/// Whether the server does not know what it was asked, as older ones do not know of lists that come as streams.
fn is_unknown_request(error: &watcher::Error) -> bool {
    let watcher::Error::WatchStartFailed(kube::Error::Api(status)) = error else { return false };
    status.code == 400 || status.code == 422
}
