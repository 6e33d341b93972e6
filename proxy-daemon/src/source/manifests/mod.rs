//! A directory of manifests as a source, followed by inotify.
//!
//! A file counts as written when it is closed, moved into place or linked. Changes that come together are read together, after at most
//! [`LONGEST_WAIT`]. The directory itself may be moved away or made anew: what was in it stays until it is there again.

mod directory;
mod document;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeSet,
    ffi::OsString,
    fs,
    future::pending,
    io,
    os::unix::fs::MetadataExt as _,
    panic::resume_unwind,
    path::{Path, PathBuf},
    time::Duration,
};

use futures::StreamExt as _;
use inotify::{Event, EventMask, EventStream, Inotify, WatchMask};
use tokio::{
    sync::mpsc,
    task::{self, JoinError},
    time::{Instant, sleep, timeout, timeout_at},
};
use tracing::{info, warn};

use self::directory::Directory;
use super::Error;
use crate::{model::Change, source::Standing};

/// As long as events come closer together than this, they are read together,
const QUIET: Duration = Duration::from_millis(2);
/// but never later than this after the first.
const LONGEST_WAIT: Duration = Duration::from_millis(10);
/// How often a directory that is gone is looked for.
const LOOK_EVERY: Duration = Duration::from_millis(50);

const BUFFER: usize = 16 * 1024;

type Events = EventStream<[u8; BUFFER]>;

/// What has to be read again.
#[derive(Debug)]
enum Stale {
    Files(BTreeSet<OsString>),
    Everything,
    /// The directory is not where it was.
    Moved,
}

/// Starts to follow a directory. Only one that cannot be read at the start is an error.
pub(super) fn start(path: &Path, node_name: &str, standing: &Standing, changes: mpsc::Sender<Change>) -> Result<(), Error> {
    let error = |source| Error::Manifests { directory: path.to_owned(), source };
    // Watched before it is read, so that nothing falls in between.
    let events = watch(path).map_err(error)?;
    fs::read_dir(path).map_err(error)?;
    info!(directory = %path.display(), "following manifests");
    tokio::spawn(follow(path.to_owned(), events, Directory::new(path, node_name, standing), changes));
    Ok(())
}

async fn follow(path: PathBuf, mut events: Events, mut directory: Directory, changes: mpsc::Sender<Change>) {
    let (first, read) = blocking(directory, Directory::read_all).await;
    directory = first;
    let mut unsent = read;
    loop {
        for change in unsent {
            if changes.send(change).await.is_err() {
                return;
            }
        }
        let stale = tokio::select! {
            stale = next_stale(&path, &mut events) => stale,
            () = changes.closed() => return,
        };
        let (next, read) = match stale {
            Stale::Files(names) => blocking(directory, move |directory| directory.refresh(&names)).await,
            Stale::Everything => blocking(directory, Directory::refresh_all).await,
            Stale::Moved => {
                events = watch_again(&path).await;
                blocking(directory, Directory::refresh_all).await
            }
        };
        directory = next;
        unsent = read;
    }
}

/// Reads and parses where it does not keep the daemon from anything else.
async fn blocking<T: Send + 'static>(mut directory: Directory, read: impl FnOnce(&mut Directory) -> T + Send + 'static) -> (Directory, T) {
    let done = task::spawn_blocking(move || {
        let result = read(&mut directory);
        (directory, result)
    });
    match done.await.map_err(JoinError::try_into_panic) {
        Ok(done) => done,
        Err(Ok(panic)) => resume_unwind(panic),
        // Cancelled, which happens only when the runtime ends, and this task with it.
        Err(Err(_)) => pending().await,
    }
}

fn watch(path: &Path) -> io::Result<Events> {
    let inotify = Inotify::init()?;
    let contents = WatchMask::CREATE | WatchMask::CLOSE_WRITE | WatchMask::MOVE | WatchMask::DELETE | WatchMask::ATTRIB;
    let itself = WatchMask::DELETE_SELF | WatchMask::MOVE_SELF | WatchMask::ONLYDIR;
    inotify.watches().add(path, contents | itself)?;
    inotify.into_event_stream([0; BUFFER])
}

/// Waits until the directory is there again.
async fn watch_again(path: &Path) -> Events {
    if let Ok(events) = watch(path) {
        return events;
    }
    warn!(directory = %path.display(), "the directory of manifests is gone; what was in it stays in use");
    loop {
        sleep(LOOK_EVERY).await;
        if let Ok(events) = watch(path) {
            info!(directory = %path.display(), "the directory of manifests is back");
            return events;
        }
    }
}

/// Collects what a burst of events makes stale.
async fn next_stale(path: &Path, events: &mut Events) -> Stale {
    let mut stale = Stale::Files(BTreeSet::new());
    stale.add(path, events.next().await);
    let latest = Instant::now() + LONGEST_WAIT;
    while !matches!(stale, Stale::Moved) {
        match timeout_at(latest, timeout(QUIET, events.next())).await {
            Ok(Ok(event)) => stale.add(path, event),
            Ok(Err(_)) | Err(_) => break,
        }
    }
    stale
}

// === impl Stale ===

impl Stale {
    fn add(&mut self, path: &Path, event: Option<io::Result<Event<OsString>>>) {
        let Some(Ok(event)) = event else {
            *self = Self::Moved;
            return;
        };
        let gone = EventMask::DELETE_SELF | EventMask::MOVE_SELF | EventMask::IGNORED | EventMask::UNMOUNT;
        if event.mask.intersects(gone) {
            *self = Self::Moved;
        } else if event.mask.contains(EventMask::Q_OVERFLOW) {
            self.everything();
        } else if let Some(name) = event.name
            && (event.mask != EventMask::CREATE || is_complete_when_created(&path.join(&name)))
        {
            self.name(name, event.mask);
        }
    }

    fn name(&mut self, name: OsString, mask: EventMask) {
        if name.as_encoded_bytes().starts_with(b"..") {
            // Kubernetes replaces all files of a mounted volume by moving one link, `..data`.
            if mask.contains(EventMask::MOVED_TO) {
                self.everything();
            }
        } else if let Self::Files(names) = self {
            names.insert(name);
        }
    }

    fn everything(&mut self) {
        if matches!(self, Self::Files(_)) {
            *self = Self::Everything;
        }
    }
}

/// Whether a file that has just appeared is a link, which has nothing to wait for. Any other is written first and then closed.
fn is_complete_when_created(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_symlink() || metadata.nlink() > 1)
}
