//! A real control plane for the tests: etcd, kube-apiserver, kube-controller-manager and kubectl; and kube-proxy, to compare with.
//!
//! A complete folder named by `KUBEBUILDER_ASSETS` comes first. Else the Kubernetes binaries are built from the Go module
//! in tests/control-plane, which pins their version, and etcd comes from Debian. All of it is kept in our cache.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use super::go::Module;
use crate::{
    bpf_toolchain::cache_dir,
    debian::Suite,
    door::{Door, doing, done, found, heading, missing},
};

const MODULE: Module = Module { folder: "tests/control-plane", pinned: "k8s.io/kubernetes" };
const KUBERNETES: [&str; 4] = ["kube-apiserver", "kube-controller-manager", "kube-proxy", "kubectl"];
const ETCD: &str = "etcd";

/// Debian's stable etcd is older than Kubernetes wants; this suite's runs on stable as well.
const ETCD_SUITE: &str = "sid";

/// The folder that has the control plane, or will have it after set-up: `KUBEBUILDER_ASSETS`, else the cache.
fn folder(door: &Door) -> Result<PathBuf> {
    if let Some(assets) = env::var_os("KUBEBUILDER_ASSETS").map(PathBuf::from).filter(|dir| is_complete(dir)) {
        return Ok(assets);
    }
    Ok(cache_dir()?.join(format!("control-plane-{}", MODULE.version(door)?)))
}

/// Tells a program where the control plane is; where there is none it must do without.
pub(crate) fn show_to(door: &Door, command: &mut Command) -> Result<()> {
    let folder = folder(door)?;
    if is_complete(&folder) {
        command.env("KUBEBUILDER_ASSETS", folder);
    } else {
        command.env_remove("KUBEBUILDER_ASSETS");
    }
    Ok(())
}

/// Says whether everything the tests start is in this folder.
fn is_complete(folder: &Path) -> bool {
    absent(folder).is_empty()
}

pub(super) fn set_up(door: &Door) -> Result<()> {
    heading("control-plane");
    let folder = folder(door)?;
    if is_complete(&folder) {
        found(&format!("{}", folder.display()));
        return Ok(());
    }
    fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
    let (etcd, kubernetes): (Vec<_>, Vec<_>) = absent(&folder).into_iter().partition(|binary| *binary == ETCD);
    if !kubernetes.is_empty() {
        report(build(door, &kubernetes, &folder), &kubernetes.join(", "));
    }
    if !etcd.is_empty() {
        report(fetch_etcd(door, &folder), ETCD);
    }
    if !is_complete(&folder) {
        missing("=======================================================================");
        missing("NO CONTROL PLANE: tests against a real API server are skipped, and the demo");
        missing("runs from manifests. Install Go, or name a folder in KUBEBUILDER_ASSETS.");
        missing("=======================================================================");
    }
    Ok(())
}

/// What cannot be had is no reason to stop: the tests that want it say so themselves.
fn report(got: Result<()>, what: &str) {
    if let Err(error) = got {
        missing(&format!("{what}: {error:#}"));
    }
}

fn absent(folder: &Path) -> Vec<&'static str> {
    KUBERNETES.into_iter().chain([ETCD]).filter(|binary| !folder.join(binary).is_file()).collect()
}

fn build(door: &Door, binaries: &[&str], folder: &Path) -> Result<()> {
    let packages: Vec<String> = binaries.iter().map(|binary| format!("{}/cmd/{binary}", MODULE.pinned)).collect();
    let version = MODULE.version(door)?;
    MODULE.build(door, &packages, &format!("-X k8s.io/component-base/version.gitVersion={version}"), folder)
}

fn fetch_etcd(door: &Door, folder: &Path) -> Result<()> {
    doing(&format!("fetching etcd from Debian's {ETCD_SUITE}"));
    let work = door.sh.create_temp_dir()?;
    Suite::open(&door.sh, ETCD_SUITE)?.unpack("etcd-server", work.path())?;
    let unfinished = folder.join("etcd.new");
    fs::copy(work.path().join("usr/bin/etcd"), &unfinished).context("copying etcd")?;
    fs::rename(&unfinished, folder.join(ETCD)).context("putting it in its place")?;
    done(&format!("{}", folder.join(ETCD).display()));
    Ok(())
}
