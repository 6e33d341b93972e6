//! Debian packages with the commands that building, testing and the demo call.
//!
//! A package is wanted only when its command is missing, so a machine that has the commands from elsewhere stays as it is.

use anyhow::{Context as _, Result, bail};
use xshell::cmd;

use crate::{
    bpf_toolchain::on_path,
    debian::output,
    door::{Door, doing, done, found, heading, missing, patiently},
};

/// A command, the Debian package that brings it, and who calls it.
pub(super) type Wanted = (&'static str, &'static str, &'static str);

pub(super) const COMMANDS: &[Wanted] = &[
    ("cc", "build-essential", "the Rust linker"),
    ("c++", "build-essential", "the fuzzer's engine"),
    ("ip", "iproute2", "the testbed"),
    ("bridge", "iproute2", "the testbed"),
    ("ethtool", "ethtool", "the testbed"),
    ("tc", "iproute2", "a test of programs that are not ours"),
    ("nft", "nftables", "the testbed"),
    ("openssl", "openssl", "the control plane's certificates"),
];

pub(super) const PROGRAMS: &[Wanted] = &[
    ("curl", "curl", "tests of unmodified programs"),
    ("dig", "bind9-dnsutils", "the same"),
    ("dnsmasq", "dnsmasq-base", "the same"),
    ("iperf3", "iperf3", "the same"),
    ("musl-gcc", "musl-tools", "the same"),
    ("nc", "netcat-openbsd", "the same"),
];

pub(super) const CLUSTER_COMMANDS: &[Wanted] = &[
    ("mmdebstrap", "mmdebstrap", "the images of a cluster's pods"),
    ("unshare", "util-linux", "a cluster's nodes"),
    ("iptables", "iptables", "the CNI plugin portmap"),
];

pub(super) const BENCH_COMMANDS: &[Wanted] = &[
    ("iperf3", "iperf3", "the benches' streams"),
    ("iptables", "iptables", "kube-proxy in one of its modes"),
    ("conntrack", "conntrack", "kube-proxy, and the benches' floods"),
];

pub(super) fn set_up(door: &Door, commands: &[Wanted]) {
    heading("packages");
    let (present, absent): (Vec<&Wanted>, Vec<&Wanted>) = commands.iter().partition(|(command, ..)| on_path(command).is_some());
    let names: Vec<&str> = present.iter().map(|(command, ..)| *command).collect();
    if !names.is_empty() {
        found(&names.join(", "));
    }
    if absent.is_empty() {
        return;
    }
    let mut packages: Vec<&str> = absent.iter().map(|(_, package, _)| *package).collect();
    packages.sort_unstable();
    packages.dedup();
    if let Err(error) = install(door, &packages) {
        // What is left can still be built, and tests that lack a command say so themselves.
        missing(&format!("{error:#}"));
        for (command, package, caller) in absent {
            missing(&format!("{command} of the package {package}, for {caller}"));
        }
    }
}

fn install(door: &Door, packages: &[&str]) -> Result<()> {
    let sh = &door.sh;
    on_path("apt-get").context("this is not a Debian machine: install the packages by hand")?;
    if cmd!(sh, "id -u").quiet().read().context("asking who we are")? != "0" {
        bail!("only root can install packages");
    }
    doing(&format!("installing {}", packages.join(", ")));
    let _quiet = sh.push_env("DEBIAN_FRONTEND", "noninteractive");
    output(cmd!(sh, "apt-get update -qq")).context("reading the package lists")?;
    patiently(|| output(cmd!(sh, "apt-get install -qq --no-install-recommends {packages...}"))).context("installing packages")?;
    done(&packages.join(", "));
    Ok(())
}
