//! `cargo xtask setup`: installs what building and testing need, and says what was there already.

use std::fs;

use anyhow::{Context as _, Result};
use clap::ValueEnum;

use crate::{bpf_toolchain::cache_dir, door::Door};

mod bpf;
pub(crate) mod control_plane;
pub(crate) mod go;
pub(crate) mod helm;
mod packages;

/// What can be set up on its own.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Part {
    /// Debian packages with the commands that building and testing call.
    Packages,
    /// The sources of core and bpf-linker, which turn Rust into BPF.
    Bpf,
    /// etcd, the Kubernetes API server and controller manager, kubectl, and kube-proxy, which tests and benches compare with.
    ControlPlane,
    /// Helm, for the tests of the chart.
    Helm,
    /// Programs that tests run as they are: curl, dig, dnsmasq, iperf3, nc, and a compiler for the C library musl.
    Programs,
    /// What makes images for the pods of a cluster.
    Cluster,
    /// What the benches measure with, and what kube-proxy needs in one of its modes: iperf3, iptables, conntrack.
    Bench,
}

pub(crate) const ALL: &[Part] = &[Part::Packages, Part::Bpf, Part::ControlPlane, Part::Helm, Part::Programs];

/// Sets up the named parts, all of them when none is named.
pub(crate) fn run(door: &Door, parts: &[Part], own_linker: bool) -> Result<()> {
    let parts = if parts.is_empty() { ALL } else { parts };
    // Two set-ups at once would fight over the same folders.
    let cache = cache_dir()?;
    fs::create_dir_all(&cache).with_context(|| format!("making {}", cache.display()))?;
    let lock = fs::File::create(cache.join("setup.lock")).context("opening the lock of the set-up")?;
    lock.lock().context("waiting for another set-up")?;
    for part in parts {
        match part {
            Part::Packages => packages::set_up(door, packages::COMMANDS),
            Part::Bpf => bpf::set_up(door, own_linker)?,
            Part::ControlPlane => control_plane::set_up(door)?,
            Part::Helm => helm::set_up(door)?,
            Part::Programs => packages::set_up(door, packages::PROGRAMS),
            Part::Cluster => packages::set_up(door, packages::CLUSTER_COMMANDS),
            Part::Bench => packages::set_up(door, packages::BENCH_COMMANDS),
        }
    }
    Ok(())
}
