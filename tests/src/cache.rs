//! Where the set-up keeps programs that are built from a Go module of the tests, by the version of Kubernetes that the module asks for.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

/// The folder `<cache>/shunt/<name>-<version>`, whether it is there or not. `module` is a folder of the tests.
pub(crate) fn folder(name: &str, module: &str) -> Option<PathBuf> {
    let module = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(module).join("go.mod")).ok()?;
    let version = module.lines().find_map(|line| line.trim().trim_start_matches("require ").strip_prefix("k8s.io/kubernetes "))?;
    let version = version.split_whitespace().next()?;
    let cache = env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = cache.or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".cache")))?;
    Some(cache.join(format!("shunt/{name}-{version}")))
}
