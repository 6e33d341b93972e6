//! The demo: builds a scene, runs its checks, prints what was measured and what `shunt show` says.
//!
//! Only what every check has in common is here; `checks` says what is promised.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use self::{report::Report, scene::Scene};
use crate::{control_plane, daemon, gate, host::Host as _, process};

mod checks;
mod cluster;
mod interrupt;
mod picture;
mod report;
mod scene;

/// How many rows of a long table are shown.
const ROWS: usize = 12;
const SHOWN: [&str; 7] = ["services", "frontends", "backends", "flows", "devices", "counters", "status"];

/// Where Services come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum From {
    /// An API server if there is one on this machine, else manifests.
    Best,
    Manifests,
}

/// Runs it all, and says whether every check held.
pub fn run(from: From) -> Result<bool> {
    for need in gate::DAEMON {
        ensure!(need.is_met(), "this needs {need}: it makes network namespaces and loads BPF programs");
    }
    daemon::find_binary()?;
    interrupt::listen()?;
    let is_real = from == From::Best && control_plane::is_available();
    if !is_real {
        explain(from);
    }
    let mut scene = Scene::build(is_real).context("building the scene")?;
    println!("\n{}", picture::draw(&scene));
    let mut report = Report::default();
    checks::run(&mut scene, &mut report);
    if !interrupt::came() {
        show(&scene)?;
    }
    println!("\n{report}");
    Ok(report.is_good())
}

fn explain(from: From) {
    match from {
        From::Best => println!(
            "NO CONTROL PLANE on this machine: `cargo xtask setup` builds one where Go is installed, KUBEBUILDER_ASSETS names one.\n\
             The same runs from a directory of manifests instead."
        ),
        From::Manifests => println!("Services come from a directory of manifests, as asked."),
    }
}

/// Prints what the first node's daemon shows, as a table.
fn show(scene: &Scene) -> Result<()> {
    let daemon = scene.daemon();
    for what in SHOWN {
        let mut command = daemon.node().netns().command(daemon::find_binary()?);
        let table = process::output(command.args(["show", what, "--bpffs"]).arg(daemon.bpffs()))?;
        println!("\n$ shunt show {what}    (on {})", daemon.node().name());
        let limit = if what == "flows" { ROWS } else { usize::MAX };
        table.lines().take(limit).for_each(|line| println!("{line}"));
        if let more @ 1.. = table.lines().count().saturating_sub(limit) {
            println!("... and {more} more");
        }
    }
    Ok(())
}

/// Runs something, says what it was and how long it took.
fn step<T>(what: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let start = Instant::now();
    let value = work().with_context(|| what.to_owned())?;
    println!("   {what}: {}", time(start.elapsed()));
    Ok(value)
}

/// A duration in the unit that suits it.
fn time(time: Duration) -> String {
    match time.as_micros() {
        micros @ 0..1000 => format!("{micros} us"),
        1000..1_000_000 => format!("{:.1} ms", time.as_secs_f64() * 1e3),
        _ => format!("{:.1} s", time.as_secs_f64()),
    }
}
