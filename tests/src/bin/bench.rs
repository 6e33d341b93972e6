//! The benches: what Shunt costs on this machine, as tables and as JSON.

use std::{fs, num::NonZero, path::PathBuf, process::ExitCode, time::Duration};

use anyhow::{Context as _, Result};
use clap::{Parser, Subcommand};
use serde::Serialize;
use shunt_tests::bench::{net, packet};

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
    Packet(Packet),
    /// What streams, requests and connections through a Service reach, beside direct traffic and the real kube-proxy.
    Net(Net),
}

#[derive(clap::Args)]
struct Packet {
    /// Write the figures to this file as well.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Only paths whose names contain this.
    #[arg(long, value_name = "NAME", default_value = "")]
    filter: String,
    /// Packets a run.
    #[arg(long, value_name = "N", default_value_t = packet::Options::default().repeat, value_parser = clap::value_parser!(u32).range(1..))]
    repeat: u32,
    /// How often each path is measured from new maps; the one in the middle counts.
    #[arg(long, value_name = "N", default_value_t = packet::Options::default().layouts, value_parser = clap::value_parser!(u32).range(1..))]
    layouts: u32,
    /// Runs of each path, by turns with its floor, in each layout.
    #[arg(long, value_name = "N", default_value_t = packet::Options::default().runs, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
}

#[derive(clap::Args)]
struct Net {
    /// Write the figures to this file as well.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// How often each contender has its turn.
    #[arg(long, value_name = "N", default_value_t = net::Options::default().rounds)]
    rounds: usize,
    /// How long a turn lasts; a flood is always watched for a second.
    #[arg(long, value_name = "SECONDS", default_value_t = net::Options::default().turn.as_secs_f64(), value_parser = seconds)]
    turn: f64,
    /// What is measured with these Services.
    #[arg(long = "measure", value_name = "WHAT", value_delimiter = ',', default_values_t = net::Options::default().measures)]
    measures: Vec<net::Measure>,
    /// How many Services there are, one run for each number.
    #[arg(long, value_name = "N", value_delimiter = ',', default_values_t = net::Options::default().services, num_args = 0..)]
    services: Vec<u32>,
    /// How many Services there are when the first packet of a flow is measured, one run for each number.
    #[arg(long, value_name = "N", value_delimiter = ',', default_values_t = net::Options::default().first_packet, num_args = 0..)]
    first_packet: Vec<u32>,
    /// How many SYNs a second a stream to a node port is flooded with; 0 leaves that out.
    #[arg(long, value_name = "N", default_value_t = net::Options::default().flood.map_or(0, NonZero::get))]
    flood: u32,
}

/// A time that is one: more than none, and no more than an hour.
fn seconds(text: &str) -> Result<f64, String> {
    let seconds: f64 = text.parse().map_err(|error| format!("{error}"))?;
    if seconds > 0.0 && seconds <= 3600.0 { Ok(seconds) } else { Err("more than 0 and at most 3600".into()) }
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
    match what {
        What::Packet(Packet { json, filter, repeat, layouts, runs }) => {
            let options = packet::Options { filter, repeat, layouts, runs, ..packet::Options::default() };
            println!("{}", packet::Table(&options));
            write(json, &packet::run(&options, |row| println!("{row}"))?)
        }
        What::Net(Net { json, rounds, turn, measures, services, first_packet, flood }) => {
            let options =
                net::Options { rounds, turn: Duration::from_secs_f64(turn), measures, services, first_packet, flood: NonZero::new(flood) };
            println!("{}", net::Table(&options));
            write(json, &net::run(&options, |row| println!("{row}"))?)
        }
    }
}

fn write(json: Option<PathBuf>, rows: &impl Serialize) -> Result<()> {
    let Some(file) = json else { return Ok(()) };
    let text = serde_json::to_string_pretty(rows).context("writing the figures as JSON")?;
    fs::write(&file, text + "\n").with_context(|| format!("writing {}", file.display()))
}
