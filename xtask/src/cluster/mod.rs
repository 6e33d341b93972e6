//! `cargo xtask cluster`: a real cluster on this machine. Brings the programs that its nodes run; the rest is the program `cluster` of the tests.

use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result};
use xshell::cmd;

use crate::{
    door::Door,
    image,
    setup::{self, Part, control_plane},
};

mod images;
mod programs;

/// What starts something on nodes.
const STARTS: [&str; 4] = ["up", "e2e", "renew", BENCH];
/// What only looks at a cluster that is up needs nothing new. What comes after these is for others to read.
const LOOKS: [&str; 4] = ["down", "kubectl", "enter", "load"];
/// What measures it: `cargo xtask bench kind`.
pub(crate) const BENCH: &str = "bench";

pub(crate) fn run(door: &Door, arguments: &[String]) -> Result<ExitCode> {
    let verb = arguments.iter().map(String::as_str).find(|argument| STARTS.contains(argument) || LOOKS.contains(argument));
    let starts = verb.filter(|verb| STARTS.contains(verb));
    if starts.is_some() {
        setup::run(door, &[Part::Packages, Part::Bpf, Part::ControlPlane, Part::Cluster], false)?;
        programs::bring(door)?;
    }
    cmd!(door.sh, "cargo build --quiet --package shunt-tests --bin cluster").quiet().run()?;
    let mut cluster = Command::new(door.target().join("debug/cluster"));
    cluster.args(arguments).env("SHUNT_CLUSTER", programs::folder(door)?);
    let has_shunt =
        || arguments.iter().any(|argument| argument == "--proxy=shunt") || arguments.windows(2).any(|two| two == ["--proxy", "shunt"]);
    if starts.is_some_and(|verb| verb == BENCH || has_shunt()) {
        cluster.env("SHUNT_IMAGE", image::of_this_machine(door)?);
    }
    control_plane::show_to(door, &mut cluster)?;
    let status = cluster.status().context("running the cluster's program")?;
    Ok(status.code().map_or(ExitCode::FAILURE, |code| ExitCode::from(u8::try_from(code).unwrap_or(1))))
}
