//! Where a cluster's programs lie: in `SHUNT_CLUSTER`, else where `cargo xtask cluster` puts them.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

/// What a folder must have to be one of these.
const NEEDED: [&str; 11] = [
    "kubelet",
    "kube-scheduler",
    "containerd",
    "containerd-shim-runc-v2",
    "ctr",
    "runc",
    "cni/bridge",
    "cni/ptp",
    "cni/host-local",
    "cni/portmap",
    IMAGES,
];
const IMAGES: &str = "images.tar";
/// The sandbox of every pod, by the name that it has in the archive.
pub(super) const PAUSE: &str = "shunt.test/pause:1";

/// The folder.
#[derive(Clone, Debug)]
pub(super) struct Programs(PathBuf);

impl Programs {
    pub(super) fn find() -> Result<Self> {
        let folders = [env::var_os("SHUNT_CLUSTER").map(PathBuf::from), cached()];
        let found = folders.into_iter().flatten().find(|folder| NEEDED.iter().all(|needed| folder.join(needed).is_file()));
        Ok(Self(found.context("no programs of a cluster's nodes: `cargo xtask cluster up` brings them")?))
    }

    pub(super) fn at(folder: &Path) -> Self {
        Self(folder.to_owned())
    }

    pub(super) fn folder(&self) -> &Path {
        &self.0
    }

    pub(super) fn path(&self, program: &str) -> PathBuf {
        self.0.join(program)
    }

    /// The images that every node has from the start.
    pub(super) fn images(&self) -> PathBuf {
        self.0.join(IMAGES)
    }
}

/// The set-up's folder, named after the version that the Go module asks for.
fn cached() -> Option<PathBuf> {
    let module = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("cluster/go.mod")).ok()?;
    let version = module.lines().find_map(|line| line.trim().trim_start_matches("require ").strip_prefix("k8s.io/kubernetes "))?;
    let version = version.split_whitespace().next()?;
    let cache = env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = cache.or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".cache")))?;
    Some(cache.join(format!("shunt/cluster-{version}")))
}
