//! Where the control plane's programs lie: in `KUBEBUILDER_ASSETS`, else where `cargo xtask setup` puts them.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, ensure};

const PROGRAMS: [&str; 4] = ["etcd", "kube-apiserver", "kube-controller-manager", "kube-proxy"];

/// A folder that has all of the programs.
#[derive(Clone, Debug)]
pub(super) struct Binaries(PathBuf);

impl Binaries {
    pub(super) fn find() -> Result<Self> {
        let folders = [env::var_os("KUBEBUILDER_ASSETS").map(PathBuf::from), cached()];
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

/// The set-up's folder, named after the version that the Go module of the control plane asks for.
fn cached() -> Option<PathBuf> {
    let module = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("control-plane/go.mod")).ok()?;
    let version = module.lines().find_map(|line| line.trim().trim_start_matches("require ").strip_prefix("k8s.io/kubernetes "))?;
    let version = version.split_whitespace().next()?;
    let cache = env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = cache.or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".cache")))?;
    Some(cache.join(format!("shunt/control-plane-{version}")))
}

/// Reads a file of the project, named from its root.
pub(super) fn project_file(path: &str) -> Result<PathBuf> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path);
    ensure!(file.is_file(), "there is no {}", file.display());
    Ok(file)
}
