//! What the nodes of a cluster run, in a folder of our cache: of Kubernetes by version, from the Go modules in tests/cluster and tests/coredns; containerd,
//! its runtime and the CNI plugins from Debian.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, ensure};
use xshell::cmd;

use super::images;
use crate::{
    bpf_toolchain::cache_dir,
    build,
    debian::{Suite, output, own_suite},
    door::{Door, doing, done, found, heading},
    setup::go::Module,
};

const KUBERNETES: Module = Module { folder: "tests/cluster", pinned: "k8s.io/kubernetes" };
const COREDNS: Module = Module { folder: "tests/coredns", pinned: "github.com/coredns/coredns" };
/// Where they are built from.
const PACKAGES: [&str; 5] = [
    "k8s.io/kubernetes/cmd/kubelet",
    "k8s.io/kubernetes/cmd/kube-scheduler",
    "k8s.io/kubernetes/test/images/agnhost",
    "k8s.io/kubernetes/test/images/regression-issue-74839",
    "github.com/onsi/ginkgo/v2/ginkgo",
];
/// Upstream's end-to-end tests, which are one test program.
const TESTS: &str = "k8s.io/kubernetes/test/e2e";
const TESTS_NAME: &str = "e2e.test";
/// Debian's stable containerd is older than the kubelet wants; this suite's, which is written in Go, runs on stable as well.
const NEWER: (&str, [&str; 2]) = ("sid", ["containerd", "containernetworking-plugins"]);
/// It needs the C library of its suite.
const RUNC: &str = "runc";
/// What of these packages is wanted, and where it goes.
const FILES: [(&str, &str); 9] = [
    ("usr/bin/containerd", "containerd"),
    ("usr/bin/containerd-shim-runc-v2", "containerd-shim-runc-v2"),
    ("usr/bin/ctr", "ctr"),
    ("usr/sbin/runc", "runc"),
    ("usr/lib/cni/bridge", "cni/bridge"),
    ("usr/lib/cni/ptp", "cni/ptp"),
    ("usr/lib/cni/host-local", "cni/host-local"),
    ("usr/lib/cni/loopback", "cni/loopback"),
    ("usr/lib/cni/portmap", "cni/portmap"),
];

/// The folder, which is there after [`bring`].
pub(super) fn folder(door: &Door) -> Result<PathBuf> {
    Ok(cache_dir()?.join(format!("cluster-{}", KUBERNETES.version(door)?)))
}

/// Brings what is missing.
pub(super) fn bring(door: &Door) -> Result<()> {
    heading("cluster");
    let folder = folder(door)?;
    fs::create_dir_all(folder.join("cni")).with_context(|| format!("making {}", folder.display()))?;
    go_programs(door, &folder)?;
    if !folder.join("pause").is_file() {
        // Our own, of a few lines.
        fs::copy(build::guest(door, "pause")?, folder.join("pause")).context("keeping pause")?;
    }
    if FILES.iter().any(|(_, name)| !folder.join(name).is_file()) {
        debian_programs(door, &folder)?;
    }
    images::bring(door, &folder, || KUBERNETES.source(door))?;
    found(&format!("{}", folder.display()));
    Ok(())
}

fn go_programs(door: &Door, folder: &Path) -> Result<()> {
    let version = KUBERNETES.version(door)?;
    let stamp = format!("-X k8s.io/component-base/version.gitVersion={version}");
    let absent = |package: &&str| !folder.join(package.rsplit('/').next().unwrap_or_default()).is_file();
    let packages: Vec<String> = PACKAGES.iter().filter(|package| absent(package)).map(|package| (*package).to_owned()).collect();
    if !packages.is_empty() {
        KUBERNETES.build(door, &packages, &stamp, folder)?;
    }
    if !folder.join(TESTS_NAME).is_file() {
        KUBERNETES.build_test(door, TESTS, TESTS_NAME, &stamp, folder)?;
    }
    if !folder.join("coredns").is_file() {
        COREDNS.build(door, &[COREDNS.pinned.to_owned()], "", folder)?;
    }
    Ok(())
}

fn debian_programs(door: &Door, folder: &Path) -> Result<()> {
    let (own, (newer, packages)) = (own_suite(), NEWER);
    doing(&format!("fetching {} from Debian's {newer}, and {RUNC} from its {own}", packages.join(", ")));
    let work = door.sh.create_temp_dir()?;
    let suite = Suite::open(&door.sh, newer)?;
    packages.into_iter().try_for_each(|package| suite.unpack(package, work.path()))?;
    Suite::open(&door.sh, &own)?.unpack(RUNC, work.path())?;
    // One that wants other libraries than this machine has says so now.
    let runc = work.path().join("usr/sbin/runc");
    output(cmd!(door.sh, "{runc} --version")).context("trying runc")?;
    for (file, name) in FILES {
        let (from, unfinished) = (work.path().join(file), folder.join(format!("{name}.new")));
        ensure!(from.is_file(), "Debian's packages have no {file}");
        fs::copy(&from, &unfinished).with_context(|| format!("copying {file}"))?;
        fs::rename(&unfinished, folder.join(name)).with_context(|| format!("putting {name} in its place"))?;
    }
    done(&format!("containerd, runc and CNI plugins in {}", folder.display()));
    Ok(())
}
