//! A real cluster on this machine, which outlives the command that starts it.
//!
//! `cluster up` starts one, with the service proxy that is asked for, or none; `cluster down` ends it. In between `kubectl` asks it, `enter` runs a command
//! inside a node, `load` brings images, `e2e` and `renew` test it. `keep`, `node`, `serve` and `dial` are what these start themselves. Exit status: that of what was run, or 0 done, 1 failed, 2 wrong usage.

use std::{
    env,
    os::unix::process::CommandExt as _,
    path::PathBuf,
    process::{Command, ExitCode},
};

use anyhow::Result;
use clap::{Parser, Subcommand};
use shunt_tests::{
    bench::kind,
    cluster::{Plan, Plugin, Proxy, dial, e2e, init, keeper::Place, renew},
};

#[derive(Parser)]
#[command(name = "cargo xtask cluster", about = "A real cluster on this machine")]
struct Args {
    /// Where the cluster keeps what is its own.
    #[arg(long, env = "SHUNT_CLUSTER_DIR", default_value_os_t = env::temp_dir().join("shunt-cluster"), global = true)]
    dir: PathBuf,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Start a cluster and wait until its nodes and its DNS are ready
    Up(Shape),
    /// End it
    Down,
    /// Run kubectl with all rights
    Kubectl {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Run a command inside a node, a shell if none is given
    Enter {
        node: String,
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<String>,
    },
    /// Load an archive of images into every node
    Load { archive: PathBuf },
    /// Run upstream's own end-to-end tests against it
    E2e(e2e::Selection),
    /// Replace Shunt's pods, in every way there is, under new connections that must not notice
    Renew(renew::Options),
    /// Measure streams and short connections on clusters of each service proxy: `cargo xtask bench kind`
    Bench(kind::Options),
    #[command(hide = true)]
    Keep(Shape),
    #[command(hide = true)]
    Serve(dial::Server),
    #[command(hide = true)]
    Dial(dial::Client),
    #[command(hide = true)]
    Node { name: String, folder: PathBuf, programs: PathBuf, addresses: String },
}

/// What the cluster will look like.
#[derive(Clone, Copy, clap::Args)]
struct Shape {
    /// How many nodes
    #[arg(long, default_value_t = 3)]
    nodes: u8,
    /// Which CNI plugin gives pods their network
    #[arg(long, default_value = "bridge")]
    cni: Plugin,
    /// What serves the cluster's Services
    #[arg(long, default_value = "none")]
    proxy: Proxy,
}

impl Shape {
    fn plan(self) -> Plan {
        Plan { nodes: self.nodes, plugin: self.cni, proxy: self.proxy }
    }
}

fn main() -> ExitCode {
    match run(Args::parse()) {
        Ok(status) => status,
        Err(error) => {
            eprintln!("cluster: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: Args) -> Result<ExitCode> {
    let place = Place::at(&args.dir);
    match args.verb {
        Verb::Up(shape) => {
            place.start(shape.plan())?;
            let (Shape { nodes, proxy, .. }, dir) = (shape, args.dir.display());
            println!("up: {nodes} nodes, service proxy: {proxy}, in {dir}; ask it with `cargo xtask cluster kubectl get pods -A -o wide`");
        }
        Verb::Down => place.stop()?,
        Verb::Kubectl { arguments } => return Err(become_it(place.state()?.kubectl().args(arguments))),
        Verb::Enter { node, command } => {
            let mut inside = place.state()?.enter(&node)?;
            let command = if command.is_empty() { vec!["bash".to_owned()] } else { command };
            return Err(become_it(inside.args(command)));
        }
        Verb::Load { archive } => place.state()?.load(&archive)?,
        Verb::E2e(selection) => return e2e::run(&place, &selection),
        Verb::Renew(options) => return renew::run(&place, &options),
        Verb::Bench(options) => return kind::run(&options),
        Verb::Serve(server) => dial::serve(&server)?,
        Verb::Dial(client) => dial::dial(&client)?,
        Verb::Keep(shape) => place.keep(shape.plan())?,
        Verb::Node { name, folder, programs, addresses } => init::run(&name, &folder, &programs, &addresses)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Runs a command in this process's place; comes back only if that fails.
fn become_it(command: &mut Command) -> anyhow::Error {
    let error = command.exec();
    anyhow::Error::new(error).context(format!("running {command:?}"))
}
