//! `cargo xtask ci`: all that continuous integration checks, the cheapest first.

use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use xshell::cmd;

use crate::{
    bpf_toolchain::Compiler,
    build,
    door::{Door, heading},
    fuzz, inspect, setup,
    test::{self, Selection},
    tidy,
};

pub(crate) fn run(door: &Door) -> Result<ExitCode> {
    lint(door)?;
    setup::run(door, setup::ALL, false)?;
    build::shunt(door)?;
    inspect::run(door, None)?;
    if fuzz::run(door, &fuzz::Selection::SHORT)? != ExitCode::SUCCESS {
        bail!("the fuzzer found something");
    }
    test::all_levels(door, &Selection::STRICT)
}

/// `cargo xtask lint`: format, conventions, and clippy on all that is compiled, for either target.
pub(crate) fn lint(door: &Door) -> Result<()> {
    let sh = &door.sh;
    heading("format");
    cmd!(sh, "cargo fmt --all --check").quiet().run().context("checking the format")?;
    tidy::run(door)?;
    setup::run(door, &[setup::Part::Packages, setup::Part::Bpf], false)?;
    heading("clippy");
    cmd!(sh, "cargo clippy --workspace --all-targets -- -D warnings").quiet().run().context("linting")?;
    // The fuzzer is left out of all other builds: its engine is C++.
    cmd!(sh, "cargo clippy --package proxy-ebpf-fuzz --features engine --bins -- -D warnings")
        .quiet()
        .run()
        .context("linting the fuzzer")?;
    lint_programs(door)
}

/// The programs exist for the BPF target only, so the lints of the workspace do not reach their entry files.
fn lint_programs(door: &Door) -> Result<()> {
    let compiler = Compiler::ready()?.context("no toolchain has the sources of core")?;
    let sh = &door.sh;
    let _toolchain = sh.push_env("RUSTUP_TOOLCHAIN", compiler.toolchain());
    let _unstable = sh.push_env("RUSTC_BOOTSTRAP", "1");
    for (bin, features) in [("shunt-bpf", "object"), ("shunt-bpf", "object,log"), ("shunt-bench-bpf", "bench")] {
        // A target folder of its own: RUSTC_BOOTSTRAP would make cargo build everything else anew.
        let folder = door.target().join("bpf");
        let lint = cmd!(sh, "cargo clippy --package proxy-ebpf --bin {bin} --features {features} --target-dir {folder}");
        let lint = lint.args(["--release", "--target", "bpfel-unknown-none", "-Z", "build-std=core", "--", "-D", "warnings"]);
        lint.quiet().run().context("linting the BPF programs")?;
    }
    Ok(())
}
