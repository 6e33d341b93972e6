//! What streams and short connections from pod to pod reach on a whole cluster, directly and through a Service, with kube-proxy and with Shunt.
//!
//! A cluster has one proxy, so each contender has a cluster of its own, one after the other. In each of them traffic through the Service and direct
//! traffic take turns: what can be compared between clusters is the ratio of the two.

use std::{
    env,
    path::PathBuf,
    process::{self, ExitCode},
};

use anyhow::{Result, ensure};

use self::{ground::Ground, measure::Measure, pods::Pods};
use super::{
    figures::{Contender, HEAD, Route, Summary},
    machine::Machine,
};
use crate::cluster::Proxy;

mod ground;
mod measure;
mod pods;

/// Whom Shunt is compared with.
const CONTENDERS: [(Contender, Proxy); 3] =
    [(Contender::Iptables, Proxy::KubeProxyIptables), (Contender::Nftables, Proxy::KubeProxyNftables), (Contender::Shunt, Proxy::Shunt)];

/// Of one client to one server: so many ports it has, and connection tracking remembers each for two minutes. Where they are all taken kube-proxy finds
/// none any more for what comes through the Service, and its connections wait.
const MOST_CONNECTIONS: usize = 25_000;

/// What is measured, and where.
#[derive(clap::Args)]
pub struct Options {
    /// Where to measure [default: kind where it works with Docker, else own]
    #[arg(long)]
    on: Option<Ground>,
    /// How often each way has its turn
    #[arg(long, default_value_t = 10)]
    rounds: usize,
    /// How long a stream lasts, in seconds
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    seconds: u32,
    /// How many connections are counted, one after the other
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..))]
    connections: u32,
}

/// Measures everything and prints the table.
pub fn run(options: &Options) -> Result<ExitCode> {
    let Options { on, rounds, seconds, connections } = options;
    let dialled = (2 * rounds).saturating_mul(*connections as usize);
    ensure!(
        dialled <= MOST_CONNECTIONS,
        "{dialled} connections are too many: no more than {MOST_CONNECTIONS} in all rounds, direct and through the Service"
    );
    let ground = on.unwrap_or_else(Ground::best);
    println!("{}", Machine::this());
    println!("{}", ground.describe());
    println!(
        "{rounds} rounds by turns, streams (iperf3) of {seconds} s, {connections} connections (ab); medians, their ratios to direct traffic on the same \
         cluster, and of the ratios of the rounds the median, the least and the most\n\n{HEAD}"
    );
    for (contender, proxy) in CONTENDERS {
        let cluster = ground.start(proxy, &folder())?;
        let pods = Pods::start(&cluster)?;
        for route in Route::ALL {
            for measure in [Measure::Stream { seconds: *seconds }, Measure::Connections { number: *connections }] {
                let mut summary = Summary::new(&[Contender::Direct, contender]);
                for round in 0..*rounds {
                    for turn in 0..2 {
                        let through = (round + turn) % 2;
                        let to = if through == 0 { pods.address(route) } else { pods.service(route) };
                        summary.note(through, measure.take(&pods, to)?);
                    }
                }
                summary.rows(measure.name(), route.name(), pods.services(), measure.unit()).iter().for_each(|row| println!("{row}"));
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn folder() -> PathBuf {
    env::temp_dir().join(format!("shunt-bench-{}", process::id()))
}
