//! The developer's single door: `cargo xtask <verb>`.
//!
//! Each verb brings what it needs by itself, so that one command is enough on a fresh clone.

use std::{path::PathBuf, process::ExitCode};

use anyhow::Result;
use clap::{Parser, Subcommand};

mod bench;
mod bpf_toolchain;
mod build;
mod ci;
mod cluster;
mod debian;
mod demo;
mod door;
mod fuzz;
mod image;
mod inspect;
mod kernels;
mod leftovers;
mod mutants;
mod setup;
mod test;
mod tidy;

use door::Door;
use setup::Part;
use test::Selection;

/// Builds, tests and shows Shunt.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Install what building and testing need; what is there already stays as it is.
    Setup {
        /// Only these parts.
        parts: Vec<Part>,
        /// Build bpf-linker against rustc's own LLVM even when one is on PATH.
        #[arg(long)]
        own_linker: bool,
    },
    /// Build target/release/shunt: one static file with the BPF objects inside.
    Build,
    /// Make an OCI archive with the daemon in it, for `ctr`, `docker` or `kind` to load.
    Image(image::Selection),
    /// Watch connections pass through a real Service, each claim checked.
    Demo {
        /// What the demo itself understands.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Measure Shunt on this machine, beside the least that it could cost.
    Bench {
        /// What the benches themselves understand: `packet --help` says it.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// A real cluster on this machine, with kubelets and containers but without a service proxy: up, down, kubectl, e2e.
    Cluster {
        /// What the cluster's program understands: `--help` says it.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Run the tests of all levels and count them.
    Test(Selection),
    /// Run the tests on a real control plane only.
    E2e(Selection),
    /// Try millions of random and damaged frames, on the packet core or through the real programs.
    Fuzz(fuzz::Selection),
    /// Run the tests that meet the kernel on other kernels, in virtual machines.
    Kernels(kernels::Selection),
    /// Break rules on purpose, one at a time, and see whether a test fails.
    Mutants(mutants::Selection),
    /// Check the built BPF objects, and print the size of each program.
    Inspect {
        /// An object to check instead of the newest built ones.
        object: Option<PathBuf>,
    },
    /// Check the conventions that no compiler checks.
    Tidy,
    /// Check format, conventions and clippy's lints, those of the BPF programs too.
    Lint,
    /// Run everything that continuous integration runs.
    Ci,
}

fn main() -> ExitCode {
    let verb = Args::parse().verb;
    let outcome = door::prepare_environment().and_then(|()| Door::new()).and_then(|door| dispatch(&door, verb));
    outcome.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}

fn dispatch(door: &Door, verb: Verb) -> Result<ExitCode> {
    match verb {
        Verb::Setup { parts, own_linker } => setup::run(door, &parts, own_linker)?,
        Verb::Build => build::run(door)?,
        Verb::Image(selection) => image::run(door, &selection)?,
        Verb::Inspect { object } => inspect::run(door, object.as_deref())?,
        Verb::Tidy => tidy::run(door)?,
        Verb::Lint => ci::lint(door)?,
        Verb::Cluster { arguments } => return cluster::run(door, &arguments),
        Verb::Demo { arguments } => return demo::run(door, &arguments),
        Verb::Bench { arguments } => return bench::run(door, &arguments),
        Verb::Test(selection) => return test::run(door, &selection),
        Verb::Fuzz(selection) => return fuzz::run(door, &selection),
        Verb::E2e(selection) => return test::end_to_end(door, &selection),
        Verb::Kernels(selection) => return kernels::run(door, &selection),
        Verb::Mutants(selection) => return mutants::run(door, &selection),
        Verb::Ci => return ci::run(door),
    }
    Ok(ExitCode::SUCCESS)
}
