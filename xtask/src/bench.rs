//! `cargo xtask bench`: brings what it needs and runs the benches, which check what they measure.

use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result};

use crate::{
    door::{Door, heading},
    setup::{self, Part},
};

/// Passes its arguments on to the benches, and yields their verdict. They run where the user is, so that a file's name means what it says.
pub(crate) fn run(door: &Door, arguments: &[String]) -> Result<ExitCode> {
    setup::run(door, &[Part::Packages, Part::Bpf], false)?;
    heading("bench");
    let mut bench = Command::new("cargo");
    bench.args(["run", "--quiet", "--release", "--package", "shunt-tests", "--bin", "bench"]);
    bench.arg("--manifest-path").arg(door.root.join("Cargo.toml")).arg("--").args(arguments);
    let status = bench.status().context("starting the benches")?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
