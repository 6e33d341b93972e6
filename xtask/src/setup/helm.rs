//! Helm, for the tests of the chart: the one on PATH, else one that is built from the Go module in tests/helm and kept in our cache.

use std::{env, path::PathBuf, process::Command};

use anyhow::{Context as _, Result};

use super::go::Module;
use crate::{
    bpf_toolchain::{cache_dir, on_path},
    door::{Door, found, heading, missing},
};

const MODULE: Module = Module { folder: "tests/helm", pinned: "helm.sh/helm/v3" };
const HELM: &str = "helm";

fn folder(door: &Door) -> Result<PathBuf> {
    Ok(cache_dir()?.join(format!("helm-{}", MODULE.version(door)?)))
}

/// Puts it in a program's reach, if it is in our cache.
pub(crate) fn show_to(door: &Door, command: &mut Command) -> Result<()> {
    let folder = folder(door)?;
    if on_path(HELM).is_none() && folder.join(HELM).is_file() {
        let path = env::var_os("PATH").unwrap_or_default();
        let path = env::join_paths(env::split_paths(&path).chain([folder])).context("adding helm to PATH")?;
        command.env("PATH", path);
    }
    Ok(())
}

pub(super) fn set_up(door: &Door) -> Result<()> {
    heading("helm");
    let own = folder(door)?.join(HELM);
    if let Some(helm) = on_path(HELM).or_else(|| own.is_file().then(|| own.clone())) {
        found(&format!("{}", helm.display()));
        return Ok(());
    }
    // What cannot be had is no reason to stop: the tests that want it say so themselves.
    if let Err(error) = MODULE.build(door, &[format!("{}/cmd/{HELM}", MODULE.pinned)], "", &folder(door)?) {
        missing(&format!("{HELM}, for the tests of the chart: {error:#}"));
    }
    Ok(())
}
