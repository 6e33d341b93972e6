//! Where the control plane's programs lie: in `KUBEBUILDER_ASSETS`, else where `cargo xtask setup` puts them.

use std::{env, path::PathBuf};

use anyhow::{Context as _, Result};

use crate::cache;

const PROGRAMS: [&str; 4] = ["etcd", "kube-apiserver", "kube-controller-manager", "kube-proxy"];

/// A folder that has all of the programs.
#[derive(Clone, Debug)]
pub(super) struct Binaries(PathBuf);

impl Binaries {
    pub(super) fn find() -> Result<Self> {
        let folders = [env::var_os("KUBEBUILDER_ASSETS").map(PathBuf::from), cache::folder("control-plane", "control-plane")];
        let found = folders.into_iter().flatten().find(|folder| PROGRAMS.iter().all(|program| folder.join(program).is_file()));
        let found = found.context("no control plane: `cargo xtask setup` brings it, or KUBEBUILDER_ASSETS names a folder that has")?;
        Ok(Self(found))
    }

    pub(super) fn path(&self, program: &str) -> PathBuf {
        self.0.join(program)
    }

    /// The kubectl that came with the others, else the one on the path.
    pub(super) fn kubectl(&self) -> Result<PathBuf> {
        let on_path = env::split_paths(&env::var_os("PATH").unwrap_or_default()).map(|folder| folder.join("kubectl")).collect::<Vec<_>>();
        let found = std::iter::once(self.path("kubectl")).chain(on_path).find(|program| program.is_file());
        found.context("there is no kubectl")
    }
}
