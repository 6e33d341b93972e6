//! The developer's single door: `cargo xtask <verb>`.
//!
//! Each verb brings what it needs by itself, so that one command is enough on a fresh clone.

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

mod bpf_toolchain;
mod build;
mod debian;
mod door;
mod setup;

use door::Door;
use setup::Part;

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
}

fn main() -> ExitCode {
    door::forget_outer_cargo();
    match dispatch(Args::parse().verb) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(verb: Verb) -> Result<()> {
    let door = Door::new()?;
    match verb {
        Verb::Setup { parts, own_linker } => setup::run(&door, &parts, own_linker),
        Verb::Build => build::run(&door),
    }
}
