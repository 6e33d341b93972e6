//! `cargo xtask bench`: brings what it needs and runs the benches, which check what they measure.

use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result};

use crate::{
    build, cluster,
    door::{Door, heading},
    setup::{self, Part, control_plane},
};

/// Passes its arguments on to the benches, and yields their verdict. They run where the user is, so that a file's name means what it says.
pub(crate) fn run(door: &Door, arguments: &[String]) -> Result<ExitCode> {
    if let Some((what, options)) = arguments.split_first()
        && what == "kind"
    {
        return cluster::run(door, &[&[cluster::BENCH.to_owned()], options].concat());
    }
    setup::run(door, &[Part::Packages, Part::Bpf], false)?;
    let mut bench = Command::new("cargo");
    bench.args(["run", "--quiet", "--release", "--package", "shunt-tests", "--bin", "bench"]);
    bench.arg("--manifest-path").arg(door.root.join("Cargo.toml")).arg("--").args(arguments);
    if arguments.first().is_some_and(|what| what == "net") {
        setup::run(door, &[Part::ControlPlane, Part::Bench], false)?;
        build::shunt(door)?;
        bench.env("SHUNT_BIN", door.shunt());
        control_plane::show_to(door, &mut bench)?;
    }
    heading("bench");
    let status = bench.status().context("starting the benches")?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
