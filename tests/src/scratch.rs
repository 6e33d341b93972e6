//! Directories a testbed owns outside its namespaces: pins on bpffs, a cgroup, files. Each goes with its guard.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use nix::{
    fcntl::{Flock, FlockArg},
    mount::{MsFlags, mount},
};

use crate::{name::BedName, wait};

const BPFFS: &str = "/sys/fs/bpf";
/// Prefix of the testbed's cgroups, before the name of the part.
const CGROUP_PREFIX: &str = "shunt-test-";

/// The three kinds of directory, which differ in where they lie and in how they are emptied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A directory of pinned BPF objects.
    Pins,
    /// A threaded child of the test's own cgroup, of version 2: its threads can be processes of any node.
    Cgroup,
    /// A plain directory for manifests, logs and the like.
    Files,
}

/// A directory that is removed, with all in it, when the guard is dropped.
#[derive(Debug)]
pub(crate) struct Scratch {
    kind: Kind,
    path: PathBuf,
}

impl Scratch {
    /// Makes the directory for one part of a testbed.
    pub(crate) fn create(kind: Kind, bed: &BedName, part: &str) -> Result<Self> {
        if kind == Kind::Pins {
            mount_bpffs()?;
        }
        let name = format!("{}{}", kind.prefix(), bed.part(part));
        let path = kind.parent()?.join(name);
        fs::create_dir(&path).with_context(|| format!("making {}", path.display()))?;
        let scratch = Self { kind, path };
        if kind == Kind::Cgroup {
            take_threads(&scratch.path)?;
        }
        Ok(scratch)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        self.kind.remove(&self.path);
    }
}

impl Kind {
    /// Where directories of this kind lie.
    pub(crate) fn parent(self) -> Result<PathBuf> {
        match self {
            Self::Pins => Ok(PathBuf::from(BPFFS)),
            Self::Files => Ok(std::env::temp_dir()),
            Self::Cgroup => own_cgroup(),
        }
    }

    /// What precedes the testbed's name in this kind's names.
    pub(crate) fn prefix(self) -> &'static str {
        match self {
            Self::Cgroup => CGROUP_PREFIX,
            Self::Pins | Self::Files => "",
        }
    }

    /// Removes a directory with all in it; what is gone already is as it should be.
    pub(crate) fn remove(self, path: &Path) {
        match self {
            Self::Pins | Self::Files => drop(fs::remove_dir_all(path)),
            Self::Cgroup => remove_cgroup(path),
        }
    }
}

/// Makes a cgroup below another one, which goes with that.
pub(crate) fn cgroup_below(parent: &Path, name: &str) -> Result<PathBuf> {
    let path = parent.join(name);
    fs::create_dir(&path).with_context(|| format!("making {}", path.display()))?;
    take_threads(&path)?;
    Ok(path)
}

fn take_threads(cgroup: &Path) -> Result<()> {
    let kind = cgroup.join("cgroup.type");
    fs::write(&kind, "threaded").with_context(|| format!("writing {}", kind.display()))
}

/// Removes a cgroup with those below it, when all that ran there has ended.
pub(crate) fn remove_cgroup(path: &Path) {
    for child in fs::read_dir(path).into_iter().flatten().flatten() {
        if child.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_cgroup(&child.path());
        }
    }
    let gone = wait::until("an empty cgroup", Duration::from_secs(20), || match fs::remove_dir(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => bail!(error),
        Ok(()) | Err(_) => Ok(()),
    });
    drop(gone);
}

/// The cgroup of version 2 that this process is in.
pub(crate) fn own_cgroup() -> Result<PathBuf> {
    let mounts = mounts()?;
    // Elsewhere on hybrid systems.
    let root = mounts.into_iter().find(|mount| mount.filesystem == "cgroup2").context("no cgroup v2 hierarchy is mounted")?;
    let own = fs::read_to_string("/proc/self/cgroup").context("reading which cgroups this process is in")?;
    let own = own.lines().find_map(|line| line.strip_prefix("0::/")).context("this process is in no cgroup of version 2")?;
    Ok(root.path.join(own))
}

/// Mounts bpffs at its usual place unless it is there; the lock keeps two processes from stacking two of them.
fn mount_bpffs() -> Result<()> {
    let directory = fs::File::open(BPFFS).context("opening /sys/fs/bpf")?;
    let lock = Flock::lock(directory, FlockArg::LockExclusive);
    let _lock = lock.map_err(|(_, error)| error).context("locking /sys/fs/bpf")?;
    let is_bpffs = |mount: &Mount| mount.filesystem == "bpf" && mount.path == Path::new(BPFFS);
    if mounts()?.iter().any(is_bpffs) {
        return Ok(());
    }
    mount(Some("bpf"), BPFFS, Some("bpf"), MsFlags::empty(), None::<&str>).context("mounting bpffs")
}

struct Mount {
    path: PathBuf,
    filesystem: String,
}

fn mounts() -> Result<Vec<Mount>> {
    let table = fs::read_to_string("/proc/self/mountinfo").context("reading the mount table")?;
    let mount = |line: &str| {
        let (place, kind) = line.split_once(" - ")?;
        let path = PathBuf::from(place.split(' ').nth(4)?);
        Some(Mount { path, filesystem: kind.split(' ').next()?.to_owned() })
    };
    Ok(table.lines().filter_map(mount).collect())
}
