//! What streams, requests and connections through a Service reach, beside direct traffic and the real kube-proxy.
//!
//! Each contender has a node of its own on one testbed; the nodes are alike and measured by turns, so that whatever else the machine does
//! meets all of them. A figure is the median of its rounds; its ratio is to direct traffic of the same rounds.

use std::{fmt, num::NonZero, time::Duration};

use anyhow::Result;
use clap::ValueEnum as _;

use self::scene::Scene;
use super::{
    figures::{Contender, HEAD, Route, Row, Summary},
    machine::Machine,
};

mod acceptor;
mod cpus;
mod first_packet;
mod flood;
mod measure;
mod responder;
mod running;
mod scene;

pub use self::measure::Measure;

/// What is measured, and for how long.
#[derive(Clone, Debug)]
pub struct Options {
    /// How often each contender has its turn.
    pub rounds: usize,
    /// How long a turn lasts.
    pub turn: Duration,
    /// What is measured with these Services.
    pub measures: Vec<Measure>,
    /// How many Services there are, one run for each number.
    pub services: Vec<u32>,
    /// How many Services there are when the first packet of a flow is measured, which are read from manifests.
    pub first_packet: Vec<u32>,
    /// How many SYNs a second a stream is flooded with; none leaves this out.
    pub flood: Option<NonZero<u32>>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            rounds: 40,
            turn: Duration::from_millis(400),
            measures: Measure::value_variants().to_vec(),
            services: vec![1, 10_000],
            first_packet: vec![1, 10_000, 100_000],
            flood: NonZero::new(100_000),
        }
    }
}

/// The head of the table; [`Row`]s print as its lines.
pub struct Table<'a>(pub &'a Options);

impl fmt::Display for Table<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Options { rounds, turn, .. } = self.0;
        writeln!(f, "{}", Machine::this())?;
        writeln!(
            f,
            "{rounds} rounds by turns of {turn:?}; medians, their ratios to direct traffic, and of the ratios of the rounds the median, the least and the most\n"
        )?;
        f.write_str(HEAD)
    }
}

/// Measures everything, and tells of each figure as soon as it is known.
pub fn run(options: &Options, mut tell: impl FnMut(&Row)) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    let mut take = |new: Vec<Row>| {
        new.iter().for_each(&mut tell);
        rows.extend(new);
    };
    if !options.services.is_empty() {
        let mut scene = Scene::build()?;
        for &services in &options.services {
            scene.grow_to(services)?;
            for route in Route::ALL {
                for &measure in &options.measures {
                    let summary = by_turns(&scene, route, measure, options)?;
                    take(summary.rows(measure.name(), route.name(), services, measure.unit()));
                }
            }
        }
    }
    for &services in &options.first_packet {
        take(first_packet::measure(services, options)?);
    }
    if let Some(rate) = options.flood {
        take(flood::measure(rate, options)?);
    }
    Ok(rows)
}

/// Lets every contender have its turn in each round, another one first each time.
fn by_turns(scene: &Scene, route: Route, measure: Measure, options: &Options) -> Result<Summary> {
    let mut summary = Summary::new(&Contender::ALL);
    for round in 0..options.rounds {
        for turn in 0..Contender::ALL.len() {
            let contender = (round + turn) % Contender::ALL.len();
            summary.note(contender, measure.take(scene.place(contender), route, options.turn)?);
        }
    }
    Ok(summary)
}
