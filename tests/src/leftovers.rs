//! What testbeds left in the kernel and on disk, found by name; and the sweep of what nobody owns any more.
//!
//! A testbed removes its own when it is dropped, also by a panic. A killed process cannot: the next one that builds
//! a testbed sweeps for it. After a test run nothing at all should be listed.

use std::{fmt, fs, path::PathBuf};

use crate::{
    name,
    netns::{self, NETNS_DIR},
    scratch::Kind,
};

/// One thing with a testbed's name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leftover {
    what: What,
    name: String,
    path: PathBuf,
    /// The pid of the process that made it.
    pub owner: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    Namespace,
    Directory(Kind),
}

/// Namespaces come first: removing them ends the processes that use the rest.
const ALL: [What; 4] = [What::Namespace, What::Directory(Kind::Cgroup), What::Directory(Kind::Pins), What::Directory(Kind::Files)];

/// Lists everything that bears a testbed's name, whether its owner lives or not.
pub fn list() -> Vec<Leftover> {
    ALL.into_iter().flat_map(What::list).collect()
}

/// Removes what belongs to processes that are gone, and says what that was.
pub fn sweep() -> Vec<Leftover> {
    let mut orphans = list();
    orphans.retain(|leftover| !name::is_alive(leftover.owner));
    orphans.iter().for_each(Leftover::remove);
    orphans
}

// === impl Leftover ===

impl Leftover {
    fn remove(&self) {
        match self.what {
            What::Namespace => netns::remove(&self.name),
            What::Directory(kind) => kind.remove(&self.path),
        }
    }
}

impl fmt::Display for Leftover {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.what {
            What::Namespace => "namespace",
            What::Directory(Kind::Cgroup) => "cgroup",
            What::Directory(Kind::Pins) => "pins",
            What::Directory(Kind::Files) => "files",
        };
        write!(f, "{kind} {} of process {}", self.path.display(), self.owner)
    }
}

// === impl What ===

impl What {
    fn list(self) -> Vec<Leftover> {
        let (parent, prefix) = match self {
            Self::Namespace => (Ok(PathBuf::from(NETNS_DIR)), ""),
            Self::Directory(kind) => (kind.parent(), kind.prefix()),
        };
        let entries = parent.into_iter().flat_map(fs::read_dir).flatten().flatten();
        let leftover = |entry: fs::DirEntry| {
            let name = entry.file_name().into_string().ok()?;
            let owner = name::owner(name.strip_prefix(prefix)?)?;
            Some(Leftover { what: self, name, path: entry.path(), owner })
        };
        entries.filter_map(leftover).collect()
    }
}
