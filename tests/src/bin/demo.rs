//! The demo: a cluster's network on this machine, Shunt on its nodes, and every promise checked with real packets.
//!
//! `demo [--manifests]`; by default Services come from a real API server if the machine has one. Exit status: 0 every
//! check held, 1 one did not or the demo could not run, 2 wrong usage.

use std::process::ExitCode;

use shunt_tests::demo::{self, From};

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let from = match args[..] {
        [] => From::Best,
        ["--manifests"] => From::Manifests,
        _ => {
            eprintln!("usage: demo [--manifests]");
            return ExitCode::from(2);
        }
    };
    match demo::run(from) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("demo: {error:#}");
            ExitCode::FAILURE
        }
    }
}
