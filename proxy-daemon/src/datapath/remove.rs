//! Takes away all that is ours and nothing else.

use std::{fs, io, path::Path};

use anyhow::{Context as _, Result};

use super::hook;
use crate::maps::Pins;

/// Removes programs from the devices of this network namespace, and everything pinned. Yields how many hooks were freed.
///
/// Filters are ours without pins as well: those may have been taken away by hand. A clsact qdisc stays: others may have filters in it, and
/// an empty one does nothing.
pub fn remove_all(pins: &Pins) -> Result<usize> {
    let filters = hook::filters()?;
    for (ifindex, direction) in &filters {
        hook::remove_filter(*ifindex, *direction)?;
    }
    let mut freed = filters.len();
    if pins.version().exists() {
        let links = hook::pinned_links(pins).unwrap_or_default();
        for (ifindex, direction) in &links {
            hook::unpin(pins, *ifindex, *direction)?;
        }
        freed += links.len();
        remove_dir(&pins.version())?;
    }
    // The folder itself only if it is empty: it is the user's.
    match fs::remove_dir(pins.root()) {
        Err(error) if !matches!(error.kind(), io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::NotFound | io::ErrorKind::ResourceBusy) => {
            Err(error).with_context(|| format!("removing {}", pins.root().display()))?;
        }
        _ => {}
    }
    Ok(freed)
}

/// Removes a folder of pins. `remove_dir_all` is of no use: bpffs does not tell the type of its entries in time.
fn remove_dir(dir: &Path) -> Result<()> {
    let reading = || format!("reading {}", dir.display());
    for entry in fs::read_dir(dir).with_context(reading)? {
        let path = entry.with_context(reading)?.path();
        if path.is_dir() {
            remove_dir(&path)?;
        } else {
            fs::remove_file(&path).with_context(|| format!("removing {}", path.display()))?;
        }
    }
    fs::remove_dir(dir).with_context(|| format!("removing {}", dir.display()))
}
