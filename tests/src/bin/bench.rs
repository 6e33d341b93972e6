//! The benches: what Shunt costs on this machine, as tables and as JSON.

use std::{fs, path::PathBuf, process::ExitCode};

use anyhow::{Context as _, Result};
use clap::{Parser, Subcommand};
use shunt_tests::bench::packet;

/// Measures Shunt on this machine.
#[derive(Parser)]
#[command(name = "bench", bin_name = "cargo xtask bench")]
struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// What a packet costs in each path through the programs, beside the least that it could cost.
    Packet {
        /// Write the figures to this file as well.
        #[arg(long, value_name = "FILE")]
        json: Option<PathBuf>,
        /// Only paths whose names contain this.
        #[arg(long, value_name = "NAME", default_value = "")]
        filter: String,
        /// Packets a run.
        #[arg(long, value_name = "N", default_value_t = packet::Options::default().repeat, value_parser = clap::value_parser!(u32).range(1..))]
        repeat: u32,
        /// Runs of each path, by turns with its floor.
        #[arg(long, value_name = "N", default_value_t = packet::Options::default().runs, value_parser = clap::value_parser!(u32).range(1..))]
        runs: u32,
    },
}

fn main() -> ExitCode {
    match run(Args::parse().what) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(what: What) -> Result<()> {
    let What::Packet { json, filter, repeat, runs } = what;
    let options = packet::Options { filter, repeat, runs, ..packet::Options::default() };
    println!("{}", packet::Table(&options));
    let rows = packet::run(&options, |row| println!("{row}"))?;
    if let Some(file) = json {
        let text = serde_json::to_string_pretty(&rows).context("writing the figures as JSON")?;
        fs::write(&file, text + "\n").with_context(|| format!("writing {}", file.display()))?;
    }
    Ok(())
}
