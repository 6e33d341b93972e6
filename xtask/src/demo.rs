//! `cargo xtask demo`: brings what it needs and runs the demo, which checks what it shows.

use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result};

use crate::{
    build,
    door::{Door, heading},
    setup::{self, control_plane},
};

/// Passes its arguments on to the demo, and yields its verdict.
pub(crate) fn run(door: &Door, arguments: &[String]) -> Result<ExitCode> {
    setup::run(door, setup::ALL, false)?;
    build::shunt(door)?;
    heading("demo");
    // Not quietly: the demo itself takes minutes to be built the first time.
    let mut demo = Command::new("cargo");
    demo.current_dir(&door.root).args(["run", "--release", "--package", "shunt-tests", "--bin", "demo", "--"]).args(arguments);
    demo.env("SHUNT_BIN", door.shunt());
    control_plane::show_to(door, &mut demo)?;
    let status = demo.status().context("starting the demo")?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
