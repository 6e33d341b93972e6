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
use xshell::cmd;

use crate::{
    bpf_toolchain::{cache_dir, on_path},
    debian::{Suite, output},
    door::{Door, doing, done, found, heading, missing, patiently},
};

const KUBERNETES: [&str; 4] = ["kube-apiserver", "kube-controller-manager", "kube-proxy", "kubectl"];
const ETCD: &str = "etcd";

/// Debian's stable etcd is older than Kubernetes wants; this suite's runs on stable as well.
const ETCD_SUITE: &str = "sid";

/// The folder that has the control plane, or will have it after set-up: `KUBEBUILDER_ASSETS`, else the cache.
fn folder(door: &Door) -> Result<PathBuf> {
    if let Some(assets) = env::var_os("KUBEBUILDER_ASSETS").map(PathBuf::from).filter(|dir| is_complete(dir)) {
        return Ok(assets);
    }
    Ok(cache_dir()?.join(format!("control-plane-{}", version(door)?)))
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

/// The version of Kubernetes that the Go module asks for.
fn version(door: &Door) -> Result<String> {
    let path = door.root.join("tests/control-plane/go.mod");
    let module = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    kubernetes_version(&module).with_context(|| format!("{} does not require k8s.io/kubernetes", path.display()))
}

fn kubernetes_version(module: &str) -> Option<String> {
    module.lines().find_map(|line| {
        let line = line.trim().trim_start_matches("require ");
        let version = line.strip_prefix("k8s.io/kubernetes ")?;
        version.split_whitespace().next().map(str::to_owned)
    })
}

fn build(door: &Door, binaries: &[&str], folder: &Path) -> Result<()> {
    on_path("go").context("there is no Go to build it with")?;
    let version = version(door)?;
    doing(&format!("building {} {version} with Go (five minutes or so, the first time)", binaries.join(", ")));
    let sh = &door.sh;
    let _here = sh.push_dir(door.root.join("tests/control-plane"));
    let _static = sh.push_env("CGO_ENABLED", "0");
    let flags = format!("-ldflags=-s -w -X k8s.io/component-base/version.gitVersion={version}");
    let packages: Vec<String> = binaries.iter().map(|binary| format!("k8s.io/kubernetes/cmd/{binary}")).collect();
    // Built beside and moved, so that what is there is always whole.
    let work = folder.join("work");
    fs::create_dir_all(&work).with_context(|| format!("making {}", work.display()))?;
    patiently(|| output(cmd!(sh, "go build -buildvcs=false {flags} -o {work} {packages...}")))?;
    for binary in binaries {
        fs::rename(work.join(binary), folder.join(binary)).with_context(|| format!("putting {binary} in its place"))?;
    }
    fs::remove_dir_all(&work).context("removing the empty folder of the build")?;
    done(&format!("{} in {}", binaries.join(", "), folder.display()));
    Ok(())
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

#[cfg(test)]
mod tests {
    use super::kubernetes_version;

    #[test]
    fn the_version_is_read_from_either_form_of_require() {
        assert_eq!(kubernetes_version("require k8s.io/kubernetes v1.2.3\n").as_deref(), Some("v1.2.3"));
        let block = "tool (\n\tk8s.io/kubernetes/cmd/kubectl\n)\nrequire (\n\tk8s.io/kubernetes v1.2.4 // indirect\n)\n";
        assert_eq!(kubernetes_version(block).as_deref(), Some("v1.2.4"));
        assert_eq!(kubernetes_version("module x\n"), None);
    }
}
