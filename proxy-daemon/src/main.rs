//! `shunt`: reads the command line, does what it says, and tells the shell how it went: 0 done, 1 failed, 2 wrong usage.

use std::{
    panic,
    process::{self, ExitCode},
};

use anyhow::{Context as _, Result};
use clap::Parser as _;
use proxy_daemon::{
    admin,
    args::{Args, Command, DebugCommand, Switch},
    cli,
    config::{self, Config},
    datapath, logging,
    maps::Pins,
    run,
};

const FAILED: u8 = 1;
const WRONG_USAGE: u8 = 2;

fn main() -> ExitCode {
    let args = Args::parse();
    if let Err(error) = logging::init(&args.log) {
        return complain(&error.into(), WRONG_USAGE);
    }
    match dispatch(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let usage = error.downcast_ref::<config::Error>().is_some_and(|error| !matches!(error, config::Error::Hostname(_)));
            complain(&error, if usage { WRONG_USAGE } else { FAILED })
        }
    }
}

fn dispatch(args: Args) -> Result<()> {
    let pins = Pins::new(args.bpffs.clone());
    match args.command {
        Command::Run(run) => daemon(Config::new(args.bpffs, args.socket, run)?),
        Command::Prepare(conntrack) => {
            let conntrack = config::conntrack(conntrack)?;
            datapath::mount_all(&pins)?;
            conntrack.apply();
            Ok(())
        }
        Command::Show(show) => cli::show(&pins, &show),
        Command::Map { command } => cli::map(&pins, &command),
        Command::Prog { command } => cli::prog(&pins, &command),
        Command::Debug { command: DebugCommand::Log { state } } => {
            print(&admin::ask(&args.socket, admin::Request::Log { on: state == Switch::On })?);
            Ok(())
        }
        Command::Cleanup => cli::cleanup(&pins),
        Command::Version(version) if version.features => cli::features(version.output),
        Command::Version(_) => {
            print(&cli::version());
            Ok(())
        }
    }
}

fn daemon(config: Config) -> Result<()> {
    end_at_any_panic();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("starting the runtime")?;
    let result = runtime.block_on(run::run(config));
    // Whatever still runs has nothing to finish that the next daemon does not find.
    runtime.shutdown_background();
    result
}

/// Whichever thread or task panics: what it did nobody else does, and a daemon that is started again finds everything as it was.
fn end_at_any_panic() {
    let report = panic::take_hook();
    panic::set_hook(Box::new(move |panic| {
        report(panic);
        process::abort();
    }));
}

#[expect(clippy::print_stdout, reason = "this is the data that was asked for")]
fn print(text: &str) {
    println!("{text}");
}

#[expect(clippy::print_stderr, reason = "this is the message to the user, whatever is logged")]
fn complain(error: &anyhow::Error, status: u8) -> ExitCode {
    eprintln!("shunt: {error:#}");
    ExitCode::from(status)
}
