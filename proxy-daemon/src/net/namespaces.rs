//! The network namespaces of this machine, as far as this process sees them: those that have a name, as pods' have, and those of processes.
//!
//! Names are below `/run/netns` (a container has that mounted), processes below `/proc` (a container has to be in the host's PID namespace).

use std::{collections::BTreeMap, fs, io, os::unix::fs::MetadataExt as _, path::PathBuf};

use nix::sched::{CloneFlags, setns};

const NAMES: [&str; 2] = ["/run/netns", "/run/docker/netns"];
const PROCESSES: &str = "/proc";
const OWN: &str = "/proc/thread-self/ns/net";

/// Does something in each network namespace but the calling thread's own. What cannot be entered, or has gone meanwhile, is passed over; what fails in
/// one does not keep the others. Yields how many were entered.
pub fn in_each_other(mut work: impl FnMut() -> io::Result<()>) -> io::Result<usize> {
    let own = fs::File::open(OWN)?;
    let (mut entered, mut result) = (0, Ok(()));
    for place in others(&own)? {
        let Ok(namespace) = fs::File::open(place) else { continue };
        if setns(namespace, CloneFlags::CLONE_NEWNET).is_err() {
            continue;
        }
        result = work().and(result);
        // Whatever came of it: this thread has work to do at home.
        setns(&own, CloneFlags::CLONE_NEWNET)?;
        entered += 1;
    }
    result.map(|()| entered)
}

/// A place in the file system for each.
fn others(own: &fs::File) -> io::Result<Vec<PathBuf>> {
    let own = own.metadata()?;
    let names = NAMES.into_iter().flat_map(|folder| entries(folder).map(|entry| entry.path()));
    let processes = entries(PROCESSES).map(|entry| entry.path().join("ns/net"));
    let mut places = BTreeMap::new();
    for place in names.chain(processes) {
        // What is no process has none, and others end meanwhile.
        if let Ok(found) = fs::metadata(&place) {
            places.entry((found.dev(), found.ino())).or_insert(place);
        }
    }
    places.remove(&(own.dev(), own.ino()));
    Ok(places.into_values().collect())
}

fn entries(folder: &str) -> impl Iterator<Item = fs::DirEntry> {
    fs::read_dir(folder).into_iter().flatten().flatten()
}
