//! What every verb starts from: a shell in the root of the work tree, the folders, and one way to report progress.

use std::{
    env,
    path::{Path, PathBuf},
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use xshell::Shell;

/// The work tree and a shell that stands in its root.
pub(crate) struct Door {
    pub(crate) sh: Shell,
    pub(crate) root: PathBuf,
}

impl Door {
    pub(crate) fn new() -> Result<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("xtask lies in no work tree")?.to_owned();
        let sh = Shell::new()?;
        sh.change_dir(&root);
        Ok(Self { sh, root })
    }

    /// Cargo's target folder, wherever the user wants it.
    pub(crate) fn target(&self) -> PathBuf {
        self.root.join(env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into()))
    }

    /// The binary that `build` leaves and that tests and demo run.
    pub(crate) fn shunt(&self) -> PathBuf {
        self.target().join("release/shunt")
    }
}

/// Makes the environment what it would be without the outer `cargo run`, and puts administrators' commands in reach.
///
/// Build scripts that watch cargo's own variables would otherwise run anew each time a user changes between `cargo` and
/// `cargo xtask`.
pub(crate) fn prepare_environment() -> Result<()> {
    let added = |name: &str| {
        ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_", "CARGO_CRATE_"].iter().any(|prefix| name.starts_with(prefix))
            || ["CARGO", "CARGO_PRIMARY_PACKAGE", "LD_LIBRARY_PATH"].contains(&name)
    };
    let names: Vec<String> = env::vars_os().filter_map(|(name, _)| name.into_string().ok()).collect();
    for name in names.iter().filter(|name| added(name)) {
        // SAFETY: called first thing in `main`, before any thread is started.
        unsafe { env::remove_var(name) }
    }
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = env::split_paths(&path).chain(["/usr/sbin", "/sbin"].map(PathBuf::from));
    let path = env::join_paths(folders).context("adding the administrators' commands to PATH")?;
    // SAFETY: as above.
    unsafe { env::set_var("PATH", path) }
    Ok(())
}

/// Opens a part of the work.
pub(crate) fn heading(text: &str) {
    println!("== {text}");
}

/// Reports something that is there already.
pub(crate) fn found(text: &str) {
    println!("   found    {text}");
}

/// Announces something that takes its time.
pub(crate) fn doing(text: &str) {
    println!("   ...      {text}");
}

/// Does something that is silent for minutes, and says now and then that it is still at it.
pub(crate) fn patiently<T>(work: impl FnOnce() -> T) -> T {
    const PATIENCE: Duration = Duration::from_secs(30);
    let started = Instant::now();
    thread::scope(|scope| {
        let (finished, wait) = mpsc::channel::<()>();
        scope.spawn(move || {
            while wait.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Timeout) {
                doing(&format!("still at it after {} s", started.elapsed().as_secs()));
            }
        });
        let result = work();
        drop(finished);
        result
    })
}

/// Reports something that was done.
pub(crate) fn done(text: &str) {
    println!("   done     {text}");
}

/// Reports something that is missing and that the work can go on without.
pub(crate) fn missing(text: &str) {
    println!("   MISSING  {text}");
}
