//! The command line, exactly as it is typed. What it means is decided in `config`.

mod run;

use std::path::PathBuf;

use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};

pub use self::run::{ConntrackArgs, Masquerade, RunArgs, SocketLb, Xdp};

/// Shunt serves a node's Kubernetes Services with BPF programs, in place of kube-proxy.
#[derive(Clone, Debug, Parser)]
#[command(name = "shunt", version, propagate_version = true)]
pub struct Args {
    /// Where programs and maps are pinned
    #[arg(long, global = true, value_name = "DIR", default_value = "/sys/fs/bpf/shunt")]
    pub bpffs: PathBuf,

    /// Where the daemon can be asked
    #[arg(long, global = true, value_name = "SOCKET", default_value = "/run/shunt/shunt.sock")]
    pub socket: PathBuf,

    /// How much is logged
    #[command(flatten)]
    pub log: LogArgs,

    /// What to do
    #[command(subcommand)]
    pub command: Command,
}

/// How much is logged, to standard error.
#[derive(Clone, Debug, Default, ClapArgs)]
pub struct LogArgs {
    /// Verbosity as in kube-proxy: from 4 on decisions are logged, from 6 on everything
    #[arg(short, long, global = true, value_name = "LEVEL", default_value_t = 0)]
    pub v: u8,

    /// What is logged, as in `RUST_LOG`: a level, or MODULE=LEVEL,...; takes precedence over -v
    #[arg(long, global = true, value_name = "FILTER", env = "RUST_LOG", hide_env_values = true)]
    pub log_level: Option<String>,
}

/// A subcommand.
#[derive(Clone, Debug, Subcommand)]
#[expect(clippy::large_enum_variant, reason = "there is one of them in the life of a process")]
pub enum Command {
    /// Serve this node's Services until told to end; traffic goes on afterwards
    Run(RunArgs),
    /// Mount what `run` needs and is not mounted yet, set connection tracking's sysctls, and end: for a container of its own, which alone is privileged
    Prepare(ConntrackArgs),
    /// Show what is served, from the pinned maps: works while the daemon is down
    Show(ShowArgs),
    /// Look at the pinned maps as they are
    Map {
        /// What to do
        #[command(subcommand)]
        command: MapCommand,
    },
    /// Look at the pinned programs
    Prog {
        /// What to do
        #[command(subcommand)]
        command: ProgCommand,
    },
    /// Ask the running daemon for what helps to find a fault
    Debug {
        /// What to do
        #[command(subcommand)]
        command: DebugCommand,
    },
    /// Remove every program, map and pin of Shunt from this node, and nothing else
    Cleanup,
    /// Print the version
    Version(VersionArgs),
}

/// How data are printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// An aligned table, for people: its columns may change.
    #[default]
    Table,
    /// JSON, for programs.
    Json,
    /// YAML with the same fields.
    Yaml,
}

/// The arguments of `shunt show`.
#[derive(Clone, Debug, ClapArgs)]
pub struct ShowArgs {
    /// What to show
    pub what: Shown,

    /// How to write it
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    pub output: Format,
}

/// What `shunt show` can show.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Shown {
    /// Service ports
    Services,
    /// What clients dial
    Frontends,
    /// Where it leads
    Backends,
    /// What is under way
    Flows,
    /// Where programs are attached
    Devices,
    /// What was counted
    Counters,
    /// How this node is doing
    Status,
}

/// What `shunt map` can do.
#[derive(Clone, Debug, Subcommand)]
pub enum MapCommand {
    /// List the maps
    List {
        /// How to write it
        #[arg(short, long, value_name = "FORMAT", default_value = "table")]
        output: Format,
    },
    /// Write out every row of a map
    Dump {
        /// The map's name
        name: String,
        /// How to write it
        #[arg(short, long, value_name = "FORMAT", default_value = "table")]
        output: Format,
    },
}

/// What `shunt prog` can do.
#[derive(Clone, Debug, Subcommand)]
pub enum ProgCommand {
    /// List the programs
    List {
        /// How to write it
        #[arg(short, long, value_name = "FORMAT", default_value = "table")]
        output: Format,
    },
}

/// What `shunt debug` can do.
#[derive(Clone, Debug, Subcommand)]
pub enum DebugCommand {
    /// Have the programs log each packet of a Service in the daemon's log, as with --bpf-log: it slows packets down
    Log {
        /// Whether they are to
        state: Switch,
    },
}

/// On or off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Switch {
    /// From now on
    On,
    /// No longer
    Off,
}

/// The arguments of `shunt version`.
#[derive(Clone, Debug, ClapArgs)]
pub struct VersionArgs {
    /// Find out, too, what the running kernel has of what Shunt uses
    #[arg(long)]
    pub features: bool,

    /// How to write that
    #[arg(short, long, value_name = "FORMAT", default_value = "table", requires = "features")]
    pub output: Format,
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory as _, error::ErrorKind};

    use super::*;

    fn parse(line: &str) -> Result<Args, ErrorKind> {
        Args::try_parse_from(line.split(' ')).map_err(|error| error.kind())
    }

    fn run(line: &str) -> RunArgs {
        let Command::Run(args) = parse(line).unwrap().command else { panic!("not run") };
        args
    }

    #[test]
    fn the_definition_holds() {
        Args::command().debug_assert();
    }

    #[test]
    fn lists_may_be_written_in_one_or_apart() {
        let args = run("shunt run --uplinks eth*,bond0 --uplinks wlan0 --cluster-cidr 10.0.0.0/8,fd00::/8");
        assert_eq!(args.uplinks, ["eth*", "bond0", "wlan0"]);
        assert_eq!(args.cluster_cidr, ["10.0.0.0/8", "fd00::/8"]);
    }

    #[test]
    fn two_sources_are_one_too_many() {
        assert_eq!(parse("shunt run --kubeconfig f --manifests d").unwrap_err(), ErrorKind::ArgumentConflict);
    }

    #[test]
    fn flags_for_all_may_come_before_or_after() {
        for line in ["shunt --bpffs /b -v 4 show flows -o json", "shunt show flows -o json --bpffs /b --v=4"] {
            let args = parse(line).unwrap();
            assert_eq!((args.bpffs.to_str(), args.log.v), (Some("/b"), 4));
            assert!(matches!(args.command, Command::Show(ShowArgs { what: Shown::Flows, output: Format::Json })));
        }
    }

    #[test]
    fn wrong_usage_is_told_from_help() {
        assert_eq!(parse("shunt show nonsense").unwrap_err(), ErrorKind::InvalidValue);
        assert_eq!(Args::try_parse_from(["shunt", "show", "nonsense"]).unwrap_err().exit_code(), 2);
        assert_eq!(Args::try_parse_from(["shunt", "--help"]).unwrap_err().exit_code(), 0);
    }
}
