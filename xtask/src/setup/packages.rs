//! Debian packages with the commands that building, testing and the demo call.
//!
//! A package is wanted only when its command is missing, so a machine that has the commands from elsewhere stays as it is.

use anyhow::{Context as _, Result};
use xshell::cmd;

use crate::{
    bpf_toolchain::on_path,
    debian::output,
    door::{Door, doing, done, found, heading, missing},
};

/// A command, the Debian package that brings it, and who calls it.
type Wanted = (&'static str, &'static str, &'static str);

const COMMANDS: &[Wanted] = &[
    ("cc", "build-essential", "the Rust linker"),
    ("ip", "iproute2", "the testbed"),
    ("tc", "iproute2", "the testbed"),
    ("ethtool", "ethtool", "the testbed"),
    ("ping", "iputils-ping", "the testbed"),
    ("bpftool", "bpftool", "whoever looks into the kernel by hand"),
    ("tcpdump", "tcpdump", "whoever looks at packets by hand"),
    ("openssl", "openssl", "the control plane's certificates"),
];

pub(super) fn set_up(door: &Door) -> Result<()> {
    heading("packages");
    let (absent, present): (Vec<&Wanted>, Vec<&Wanted>) = COMMANDS.iter().partition(|(command, ..)| find(command).is_none());
    let names: Vec<&str> = present.iter().map(|(command, ..)| *command).collect();
    found(&names.join(", "));
    if absent.is_empty() {
        return Ok(());
    }
    if !may_install(door)? {
        for (command, package, caller) in absent {
            missing(&format!("{command}, which {caller} calls: install {package} (as root on Debian this is done here)"));
        }
        return Ok(());
    }
    let mut packages: Vec<&str> = absent.iter().map(|(_, package, _)| *package).collect();
    packages.dedup();
    install(door, &packages)
}

/// Administrators' commands lie in folders that a user's PATH need not have.
fn find(command: &str) -> Option<()> {
    let administrators = ["/usr/sbin", "/sbin"].iter().any(|folder| std::path::Path::new(folder).join(command).is_file());
    (administrators || on_path(command).is_some()).then_some(())
}

fn may_install(door: &Door) -> Result<bool> {
    let user = cmd!(door.sh, "id -u").quiet().read().context("asking who we are")?;
    Ok(user == "0" && on_path("apt-get").is_some())
}

fn install(door: &Door, packages: &[&str]) -> Result<()> {
    doing(&format!("installing {}", packages.join(", ")));
    let sh = &door.sh;
    let _quiet = sh.push_env("DEBIAN_FRONTEND", "noninteractive");
    output(cmd!(sh, "apt-get update -qq")).context("reading the package lists")?;
    output(cmd!(sh, "apt-get install -qq --no-install-recommends {packages...}")).context("installing packages")?;
    done(&packages.join(", "));
    Ok(())
}
