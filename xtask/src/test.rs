//! `cargo xtask test` and `e2e`: every level of tests, one count at the end, nothing left behind.
//!
//! Tests say why they are skipped on standard error, as `SKIP: <test>: <what is missing>`; the harness itself counts
//! them as passed. Here they count as what they are.

use std::{
    fmt,
    io::{BufRead as _, BufReader, Read},
    process::{Command, ExitCode, Stdio},
    thread,
};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use crate::{
    build,
    door::{Door, heading},
    leftovers::Leftovers,
    setup::{self, control_plane, helm},
};

/// Test programs that need neither root nor BPF, of whichever package.
const UNPRIVILEGED: [&str; 2] = ["golden", "trace"];

/// Which tests to run, and how strictly.
#[derive(clap::Args)]
pub(crate) struct Selection {
    /// Leave out the test programs that need root: packets, testbed and control plane.
    #[arg(long)]
    no_root: bool,
    /// Count every skipped test as a failure, as continuous integration does.
    #[arg(long, env = "SHUNT_REQUIRE_ALL", value_parser = clap::builder::FalseyValueParser::new())]
    require_all: bool,
    /// Only tests whose names contain this.
    filter: Option<String>,
}

impl Selection {
    /// Everything, and no skips.
    pub(crate) const STRICT: Self = Self { no_root: false, require_all: true, filter: None };
}

/// What a run of tests came to.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Count {
    pub(crate) passed: usize,
    pub(crate) failed: usize,
    pub(crate) skipped: usize,
}

/// Brings what the tests need and runs all levels.
pub(crate) fn run(door: &Door, selection: &Selection) -> Result<ExitCode> {
    prepare(door)?;
    all_levels(door, selection)
}

/// Brings what the tests need and runs those on a real control plane.
pub(crate) fn end_to_end(door: &Door, selection: &Selection) -> Result<ExitCode> {
    prepare(door)?;
    cargo_test(door, &["--package", "shunt-tests", "--test", "e2e"].map(str::to_owned), selection)
}

/// Runs the tests that send random frames through the real programs, with so many frames in all.
pub(crate) fn programs(door: &Door, frames: u64) -> Result<ExitCode> {
    setup::run(door, &[setup::Part::Packages, setup::Part::Bpf], false)?;
    let selection = Selection { no_root: false, require_all: true, filter: Some("garbage::".to_owned()) };
    let arguments = ["--package", "shunt-tests", "--test", "packet"].map(str::to_owned);
    let mut tests = command(door, &arguments, &selection)?;
    tests.env("SHUNT_GARBAGE", frames.to_string());
    count(door, tests, &selection)
}

fn prepare(door: &Door) -> Result<()> {
    setup::run(door, setup::ALL, false)?;
    build::shunt(door)
}

/// Runs all levels; what they need is there.
pub(crate) fn all_levels(door: &Door, selection: &Selection) -> Result<ExitCode> {
    let mut arguments = vec!["--workspace".to_owned()];
    if selection.no_root {
        arguments.extend(["--lib", "--bins"].map(str::to_owned));
        arguments.extend(UNPRIVILEGED.iter().flat_map(|test| ["--test", *test]).map(str::to_owned));
    }
    cargo_test(door, &arguments, selection)
}

fn cargo_test(door: &Door, arguments: &[String], selection: &Selection) -> Result<ExitCode> {
    count(door, command(door, arguments, selection)?, selection)
}

fn count(door: &Door, tests: Command, selection: &Selection) -> Result<ExitCode> {
    heading("test");
    let before = Leftovers::sweep_and_list(door)?;
    let (count, succeeded) = watch(tests)?;
    let left = Leftovers::list(door)?.since(&before);
    for leftover in &left {
        println!("LEFT BEHIND: {leftover}");
    }
    println!("\n{count}");
    let good = succeeded && count.failed == 0 && left.is_empty() && !(selection.require_all && count.skipped > 0);
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn command(door: &Door, arguments: &[String], selection: &Selection) -> Result<Command> {
    let mut command = Command::new("cargo");
    command.current_dir(&door.root).args(["test", "--no-fail-fast"]).args(arguments);
    command.arg("--").args(&selection.filter);
    command.env("SHUNT_BIN", door.shunt()).env("SHUNT_REQUIRE_ALL", if selection.require_all { "1" } else { "0" });
    control_plane::show_to(door, &mut command)?;
    helm::show_to(door, &mut command)?;
    Ok(command)
}

/// Runs the tests, shows what they print, and counts. Also says whether cargo was content: it is not when something did
/// not even compile.
fn watch(mut command: Command) -> Result<(Count, bool)> {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().context("starting cargo test")?;
    let stdout = child.stdout.take().context("cargo test has no standard output")?;
    let stderr = child.stderr.take().context("cargo test has no standard error")?;
    let skips = thread::spawn(move || read_lines(stderr, |line| eprintln!("{line}")));
    let mut count = read_lines(stdout, |line| println!("{line}"));
    let skips = skips.join().ok().context("reading what cargo test says")?;
    count.add_skips(skips.skipped);
    let status = child.wait().context("waiting for cargo test")?;
    Ok((count, status.success()))
}

fn read_lines(stream: impl Read, show: impl Fn(&str)) -> Count {
    let mut count = Count::default();
    for line in BufReader::new(stream).split(b'\n').map_while(Result::ok) {
        let line = String::from_utf8_lossy(&line);
        show(&line);
        count.read(&line);
    }
    count
}

impl Count {
    /// Counts in what a test program has written to standard output and standard error.
    pub(crate) fn of(out: &[u8], err: &[u8]) -> Self {
        let mut count = read_lines(out, |_| {});
        count.add_skips(read_lines(err, |_| {}).skipped);
        count
    }

    /// Adds what a line says: a harness's closing line, or a test's skip.
    fn read(&mut self, line: &str) {
        if line.starts_with("SKIP: ") {
            self.skipped += 1;
        }
        let Some(result) = line.strip_prefix("test result: ") else { return };
        let number_of = |what: &str| {
            let words: Vec<&str> = result.split([' ', ';', '.']).filter(|word| !word.is_empty()).collect();
            words.windows(2).find(|pair| pair[1] == what).and_then(|pair| pair[0].parse().ok()).unwrap_or(0)
        };
        self.passed += number_of("passed");
        self.failed += number_of("failed");
        self.skipped += number_of("ignored");
    }

    /// Moves tests that skipped themselves out of those that passed.
    fn add_skips(&mut self, skips: usize) {
        self.skipped += skips;
        self.passed = self.passed.saturating_sub(skips);
    }
}

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed, {} skipped", self.passed, self.failed, self.skipped)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_results_of_all_programs_are_summed() {
        let text = "test a ... ok\n\
                    test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s\n\
                    test result: FAILED. 2 passed; 1 failed; 0 ignored; 0 measured; 5 filtered out; finished in 1.20s\n";
        let count = read_lines(text.as_bytes(), |_| {});
        assert_eq!(count, Count { passed: 5, failed: 1, skipped: 1 });
    }

    #[test]
    fn a_test_that_skipped_itself_has_not_passed() {
        let mut count = Count { passed: 5, failed: 0, skipped: 0 };
        let skips = read_lines("Compiling x\nSKIP: a::b: root\nSKIP: a::c: root\n".as_bytes(), |_| {});
        count.add_skips(skips.skipped);
        assert_eq!(count.to_string(), "3 passed, 0 failed, 2 skipped");
    }
}
