//! `cargo xtask cluster`: a real cluster on this machine. Brings the programs that its nodes run; the rest is the program `cluster` of the tests.

use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result};
use xshell::cmd;

use crate::{
    door::Door,
    setup::{self, Part, control_plane},
};

mod images;
mod programs;

pub(crate) fn run(door: &Door, arguments: &[String]) -> Result<ExitCode> {
    // What only looks at a cluster that is up needs nothing new.
    let starts = arguments.iter().any(|argument| argument == "up" || argument == "e2e");
    if starts {
        setup::run(door, &[Part::Packages, Part::Bpf, Part::ControlPlane, Part::Cluster], false)?;
        programs::bring(door)?;
    }
    cmd!(door.sh, "cargo build --quiet --package shunt-tests --bin cluster").quiet().run()?;
    let mut cluster = Command::new(door.target().join("debug/cluster"));
    cluster.args(arguments).env("SHUNT_CLUSTER", programs::folder(door)?);
    control_plane::show_to(door, &mut cluster)?;
    let status = cluster.status().context("running the cluster's program")?;
    Ok(status.code().map_or(ExitCode::FAILURE, |code| ExitCode::from(u8::try_from(code).unwrap_or(1))))
}
