//! The cost of a packet: the real programs with maps filled as in production, run on packets of many flows by a driver that restores each
//! of them, next to floors which are the least that such a program can cost.
//!
//! In: which paths, how many packets a run, how many runs. Out: a [`Row`] for each path, number of flows and family. A figure is given only
//! where the last packet of every run is what must become of it, byte for byte, and the programs have counted what they must and no more.

mod check;
mod clock;
mod driver;
mod paths;
mod report;
mod sample;
mod scene;

use anyhow::{Context as _, Result, ensure};
use serde::Serialize;

use self::{
    clock::{Clock, Cost},
    paths::{PATHS, Path},
    scene::Scene,
};
use crate::{addr::Family, test_run::NEEDS};

pub use self::report::Table;

/// How to measure.
#[derive(Clone, Debug)]
pub struct Options {
    /// Only paths whose names contain this.
    pub filter: String,
    /// Packets a run. A run that ends within a tick of the scheduler is rarely disturbed, and the least of many runs never was.
    pub repeat: u32,
    /// How often a row is measured from new maps. How tables come to lie in memory decides which of their entries take caches from each other,
    /// for as long as they live.
    pub layouts: u32,
    /// Runs of the path and of its floor, by turns, in each layout.
    pub runs: u32,
    /// The numbers of flows that are measured, of those that a path has.
    pub flows: Vec<u32>,
}

impl Default for Options {
    fn default() -> Self {
        Self { filter: String::new(), repeat: 65_536, layouts: 5, runs: 20, flows: paths::KNOWN.to_vec() }
    }
}

/// What was measured of a path, in the layout whose ratio is the median. Times are of a packet, the driver's own share included, in nanoseconds.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    pub path: String,
    /// Among how many flows the packets are; where every packet is of a new one, how many the table holds.
    pub flows: u32,
    pub ns_min: f64,
    pub ns_median: f64,
    /// The minimum of the floor, measured by turns with the path.
    pub floor_ns: f64,
    /// The path's minimum as a multiple of the floor's.
    pub ratio: f64,
    /// Instructions of the kernel for a packet, the driver's own included; `None` on a machine that does not count them.
    pub instructions: Option<f64>,
    /// Packets a run.
    pub repeats: u32,
}

/// Measures every path that is asked for, and shows each row as soon as it is there.
pub fn run(options: &Options, mut show: impl FnMut(&Row)) -> Result<Vec<Row>> {
    for need in NEEDS {
        ensure!(need.is_met(), "this needs {need}: it loads BPF programs");
    }
    ensure!(options.repeat > 0 && options.layouts > 0 && options.runs > 0, "at least one run of one packet");
    let mut clock = Clock::on_one_cpu()?;
    let mut rows = Vec::new();
    for path in PATHS {
        for family in Family::ALL {
            let name = path.name(family);
            if !name.contains(&options.filter) {
                continue;
            }
            for flows in path.flows().iter().filter(|flows| options.flows.contains(flows)) {
                let row = measure(path, family, *flows, options, &mut clock).with_context(|| format!("{name} with {flows} flows"))?;
                show(&row);
                rows.push(row);
            }
        }
    }
    ensure!(!rows.is_empty(), "no path has {:?} in its name", options.filter);
    Ok(rows)
}

/// The layout in the middle.
fn measure(path: &Path, family: Family, flows: u32, options: &Options, clock: &mut Clock) -> Result<Row> {
    let rows: Result<Vec<Row>> = (0..options.layouts).map(|_| measure_layout(path, family, flows, options, clock)).collect();
    let mut rows = rows?;
    rows.sort_by(|a, b| a.ratio.total_cmp(&b.ratio));
    Ok(rows.swap_remove(rows.len() / 2))
}

/// Path and floor by turns, so that what else happens on the machine happens to both.
fn measure_layout(path: &Path, family: Family, flows: u32, options: &Options, clock: &mut Clock) -> Result<Row> {
    let mut scene = Scene::new(path, family, flows)?;
    // The first turn warms up: caches, and in the floors the table of flows.
    scene.warm_up(options.repeat.max(flows))?;
    let (mut costs, mut floors) = (Vec::new(), Vec::new());
    for _ in 0..options.runs {
        floors.push(clock.measure(options.repeat, || scene.run_floor(options.repeat))?);
        costs.push(clock.measure(options.repeat, || scene.run_path(options.repeat))?);
    }
    scene.check_counters(u64::from(options.runs) * u64::from(options.repeat))?;
    let (ns_min, floor_ns) = (clock::min(&costs, |cost| cost.ns), clock::min(&floors, |cost| cost.ns));
    let instructions: Option<Vec<f64>> = costs.iter().map(|cost| cost.instructions).collect();
    Ok(Row {
        path: path.name(family),
        flows,
        ns_min: rounded(ns_min),
        ns_median: rounded(median(&costs)),
        floor_ns: rounded(floor_ns),
        ratio: rounded(ns_min / floor_ns),
        instructions: instructions.map(|counts| rounded(clock::min(&counts, |count| *count))),
        repeats: options.repeat,
    })
}

fn median(costs: &[Cost]) -> f64 {
    let mut sorted: Vec<f64> = costs.iter().map(|cost| cost.ns).collect();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

/// Two decimals: more than any machine repeats.
fn rounded(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}
