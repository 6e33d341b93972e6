//! Takes away all that is ours and nothing else.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};

use super::{hook, prepare::on_bpffs};
use crate::maps::{Pins, names_in};

/// Removes programs from the devices of this network namespace, and everything pinned, whichever version of the layout has pinned it. Yields
/// how many hooks were freed.
///
/// Filters are ours without pins as well: those may have been taken away by hand. A clsact qdisc stays: others may have filters in it, and
/// an empty one does nothing.
pub fn remove_all(pins: &Pins) -> Result<usize> {
    let filters = hook::filters()?;
    for (ifindex, direction) in &filters {
        hook::remove_filter(*ifindex, *direction)?;
    }
    let freed = filters.len() + remove_versions(&versions(pins)?)?;
    // The folder itself only if it is empty: it is the user's.
    match fs::remove_dir(pins.root()) {
        Err(error) if !matches!(error.kind(), io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::NotFound | io::ErrorKind::ResourceBusy) => {
            Err(error).with_context(|| format!("removing {}", pins.root().display()))?;
        }
        _ => {}
    }
    Ok(freed)
}

/// Removes what other versions of the layout have left: their programs would go on with tables that nobody keeps up.
pub fn remove_other_versions(pins: &Pins) -> Result<()> {
    let mut others = versions(pins)?;
    others.retain(|dir| *dir != pins.version());
    let hooks = remove_versions(&others)?;
    if !others.is_empty() {
        let dirs: Vec<_> = others.iter().map(|dir| dir.display().to_string()).collect();
        tracing::info!(hooks, "removed what other versions of shunt have left: {}", dirs.join(", "));
    }
    Ok(())
}

/// The versions' folders, of which nothing is removed outside of a BPF file system: there it cannot be ours.
fn versions(pins: &Pins) -> Result<Vec<PathBuf>> {
    let versions = pins.versions().with_context(|| format!("reading {}", pins.root().display()))?;
    if let Some(other) = versions.iter().find(|dir| !on_bpffs(dir)) {
        bail!("{} is not on a BPF file system: it is not shunt's", other.display());
    }
    Ok(versions)
}

/// Removes these versions, all their links first, so that no device has some of its programs for longer than need be. Yields how many links
/// there were.
fn remove_versions(versions: &[PathBuf]) -> Result<usize> {
    let mut links = 0;
    for dir in versions.iter().map(|version| Pins::links_in(version)).filter(|dir| dir.exists()) {
        for name in names_in(&dir)? {
            let link = dir.join(name);
            fs::remove_file(&link).with_context(|| format!("removing {}", link.display()))?;
            links += 1;
        }
    }
    versions.iter().try_for_each(|version| remove_dir(version))?;
    Ok(links)
}

/// Removes a folder of pins. `remove_dir_all` is of no use: bpffs does not tell the type of its entries in time.
fn remove_dir(dir: &Path) -> Result<()> {
    let reading = || format!("reading {}", dir.display());
    for entry in fs::read_dir(dir).with_context(reading)? {
        let path = entry.with_context(reading)?.path();
        if path.is_dir() && !path.is_symlink() {
            remove_dir(&path)?;
        } else {
            fs::remove_file(&path).with_context(|| format!("removing {}", path.display()))?;
        }
    }
    fs::remove_dir(dir).with_context(|| format!("removing {}", dir.display()))
}
