//! A testbed by hand: build one and look around in it, or see and sweep what is left of others.
//!
//! `testbed hold [routed|bridge|vxlan|ipip]` keeps two nodes with a pod each until its input ends, `testbed leftovers`
//! lists what bears a testbed's name and fails when that is anything, `testbed sweep` removes what belongs to dead
//! processes. Exit status: 0 done, 1 failed, 2 wrong usage.

use std::{
    io::{self, Read as _},
    process::ExitCode,
};

use anyhow::{Context as _, Result};
use shunt_tests::{Cni, Host, Pod, Testbed, leftovers, traffic::EchoServer};

/// Where the pods' servers listen.
const PORT: u16 = 8080;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let done = match args[..] {
        ["hold", "routed"] => hold(Cni::Routed),
        ["hold"] | ["hold", "bridge"] => hold(Cni::Bridge),
        ["hold", "vxlan"] => hold(Cni::Vxlan),
        ["hold", "ipip"] => hold(Cni::Ipip),
        ["leftovers"] => return print(&leftovers::list(), ExitCode::FAILURE),
        ["sweep"] => return print(&leftovers::sweep(), ExitCode::SUCCESS),
        _ => {
            eprintln!("usage: testbed hold [routed|bridge|vxlan|ipip] | leftovers | sweep");
            return ExitCode::from(2);
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("testbed: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Prints one a line; with any, the exit status is `found`.
fn print(all: &[leftovers::Leftover], found: ExitCode) -> ExitCode {
    for leftover in all {
        println!("{leftover}");
    }
    if all.is_empty() { ExitCode::SUCCESS } else { found }
}

/// Builds a testbed, says what is in it, and waits for the end of the input.
fn hold(cni: Cni) -> Result<()> {
    let bed = Testbed::builder().style(cni).build()?;
    let pods: Vec<Pod> = bed.nodes().iter().map(|node| node.pod("a")).collect::<Result<_>>()?;
    let servers = pods.iter().map(|pod| EchoServer::start(pod, PORT));
    let _servers = servers.collect::<Result<Vec<_>>>()?;
    describe(bed.client());
    bed.nodes().iter().for_each(describe);
    pods.iter().for_each(describe);
    println!("pods serve port {PORT}; ready");
    io::stdin().read_to_end(&mut Vec::new()).context("reading the input")?;
    Ok(())
}

fn describe(host: &impl Host) {
    let [v4, v6] = host.addrs().both();
    println!("{:8} {v4:15} {v6:20} ip netns exec {} bash", host.name(), host.netns().name());
}
