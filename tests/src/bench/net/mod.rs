//! What streams, requests and connections through a Service reach, beside direct traffic and the real kube-proxy.
//!
//! Each contender has a node of its own on one testbed; the nodes are alike and measured by turns, so that whatever else the machine does
//! meets all of them. A figure is the median of its rounds; its ratio is to direct traffic of the same rounds.

use std::{fmt, num::NonZero, time::Duration};

use anyhow::Result;
use clap::ValueEnum as _;
use serde::Serialize;

use self::{
    scene::{Route, Scene},
    summary::Summary,
};

mod acceptor;
mod cpus;
mod first_packet;
mod flood;
mod measure;
mod responder;
mod running;
mod scene;
mod summary;

pub use self::{measure::Measure, summary::Table};

/// Who brings packets to a Service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Contender {
    /// Nobody: the client dials the pod.
    #[serde(rename = "direct")]
    Direct,
    /// As it runs by default: sockets of pods get the backend when they connect, datagrams and what comes from outside are translated.
    #[serde(rename = "shunt")]
    Shunt,
    /// With sockets of pods left alone, so that all packets are translated.
    #[serde(rename = "shunt, by packets")]
    ByPackets,
    #[serde(rename = "kube-proxy nftables")]
    Nftables,
    #[serde(rename = "kube-proxy iptables")]
    Iptables,
}

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

/// A figure.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// What was measured.
    pub measure: &'static str,
    /// Where the backend is, as seen from the client.
    pub route: &'static str,
    /// How many Services there were.
    pub services: u32,
    pub contender: Contender,
    pub unit: &'static str,
    /// The median of the rounds, the smallest and the largest.
    pub median: f64,
    pub min: f64,
    pub max: f64,
    /// The median's ratio to that of direct traffic.
    pub ratio: f64,
    /// The ratios to direct traffic in the same round: their median, the smallest and the largest.
    pub ratio_median: f64,
    pub ratio_min: f64,
    pub ratio_max: f64,
    /// What was measured in each round.
    pub rounds: Vec<f64>,
}

impl Contender {
    pub const ALL: [Self; 5] = [Self::Direct, Self::Shunt, Self::ByPackets, Self::Nftables, Self::Iptables];
    /// Those that differ for clients outside.
    const OUTSIDE: [Self; 4] = [Self::Direct, Self::Shunt, Self::Nftables, Self::Iptables];

    /// The name, as in a [`Row`].
    pub const fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Shunt => "shunt",
            Self::ByPackets => "shunt, by packets",
            Self::Nftables => "kube-proxy nftables",
            Self::Iptables => "kube-proxy iptables",
        }
    }
}

impl fmt::Display for Contender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
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
