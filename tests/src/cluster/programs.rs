//! Where a cluster's programs lie: in `SHUNT_CLUSTER`, else where `cargo xtask cluster` puts them.

use std::{
    env,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

use crate::cache;

/// What a folder must have to be one of these.
const NEEDED: [&str; 12] = [
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
    REGISTRIES,
];
const IMAGES: &str = "images.tar";
const REGISTRIES: &str = "registries.yaml";
/// The sandbox of every pod, by the name that it has in the archive.
pub(super) const PAUSE: &str = "shunt.test/pause:1";

/// The folder.
#[derive(Clone, Debug)]
pub(super) struct Programs(PathBuf);

impl Programs {
    pub(super) fn find() -> Result<Self> {
        let folders = [env::var_os("SHUNT_CLUSTER").map(PathBuf::from), cache::folder("cluster", "cluster")];
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

    /// Where upstream's tests are told to look for images: a registry that exists nowhere, whose images every node has.
    pub(super) fn registries(&self) -> PathBuf {
        self.0.join(REGISTRIES)
    }

    /// The images that every node has from the start.
    pub(super) fn images(&self) -> PathBuf {
        self.0.join(IMAGES)
    }
}
