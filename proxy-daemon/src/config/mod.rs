//! What the command line means: the only place for defaults that are not flags' own, for ranges and for checks across fields.

mod api_servers;
mod conntrack;
mod error;
mod listen;
mod node_ports;

use std::{fs, net::Ipv4Addr, ops::RangeInclusive, path::PathBuf};

use ipnet::IpNet;
use proxy_common::{BackendRef, Sockets};

pub use self::{conntrack::conntrack, error::Error};
/// As it is typed: it has no other meaning.
pub use crate::args::Xdp;
use crate::{
    args::{Masquerade, RunArgs, SocketLb},
    conntrack::Conntrack,
    http::Place,
    net::{Glob, NODE_PORTS, Rules},
    plan::{NodePortAddresses, Settings},
    telemetry::Telemetry,
};

/// Where a host's name is, for the network namespace it was given in.
const HOSTNAME: &str = "/proc/sys/kernel/hostname";

/// Where kube-proxy answers, and who asks looks.
const HEALTHZ_PORT: u16 = 10_256;
const METRICS_PORT: u16 = 10_249;

/// Everything `shunt run` was told, valid.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where Services come from.
    pub source: Source,
    /// The URLs of the API servers to ask in turn; the source's own, if there are none.
    pub api_servers: Vec<String>,
    /// The name of the own Node.
    pub node_name: String,
    /// The networks of all nodes' pods.
    pub cluster_cidrs: Vec<IpNet>,
    /// Where programs and maps are pinned.
    pub bpffs: PathBuf,
    /// Where the daemon can be asked.
    pub socket: PathBuf,
    /// Whose sockets are served where they call.
    pub sockets: Sockets,
    /// The cgroup whose processes those are, if it is not the root.
    pub cgroup: Option<PathBuf>,
    /// The devices to the outside; found if empty.
    pub uplinks: Vec<Glob>,
    /// The devices of pods; found if empty.
    pub workload_devices: Vec<Glob>,
    /// For which clients the node stands in with its own address.
    pub masquerade: Masquerade,
    /// Whether it stands in for everybody who dials a ClusterIP.
    pub masquerade_all: bool,
    /// Whether packets to addresses that Services have theirs from, and none has, are dropped.
    pub drop_unallocated: bool,
    /// Where node ports are served.
    pub node_port_addresses: NodePortAddresses,
    /// The source ports of flows in which the node stands in for a client; found if there are none.
    pub snat_ports: Option<RangeInclusive<u16>>,
    /// How large maps are made.
    pub sizes: Sizes,
    /// How many flows a CPU begins at most in a second.
    pub new_flows: u32,
    /// How XDP is used on uplinks.
    pub xdp: Xdp,
    /// What is asked of connection tracking.
    pub conntrack: Conntrack,
    /// Where the daemon answers over HTTP.
    pub telemetry: Telemetry,
    /// Whether to load the programs that log.
    pub bpf_log: bool,
}

/// Where Services come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// The API server that this file names.
    Kubeconfig(PathBuf),
    /// The API server of the cluster this pod runs in.
    InCluster,
    /// The manifests in this directory.
    Manifests(PathBuf),
}

/// How large maps are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Frontends of each family.
    pub frontends: u32,
    /// Backend slots of each family.
    pub backends: u32,
    /// Flow entries of each family.
    pub flows: u32,
    /// Service ports.
    pub services: u32,
    /// Networks of each family that may use load balancer addresses, of all services.
    pub sources: u32,
    /// Clients of each family that services with session affinity remember.
    pub affinity: u32,
    /// Entries of each family for sockets that were given a backend.
    pub sockets: u32,
}

// === impl Config ===

impl Config {
    /// Checks what was typed.
    pub fn new(bpffs: PathBuf, socket: PathBuf, args: RunArgs) -> Result<Self, Error> {
        let sizes = Sizes {
            frontends: in_range("frontends", args.frontends, 16, 1 << 20)?,
            backends: in_range("backends", args.backends, 16, BackendRef::MAX_INDICES)?,
            flows: in_range("flows", args.flows, 1 << 10, 1 << 26)?,
            services: in_range("services", args.services, 16, 1 << 20)?,
            sources: in_range("source-ranges", args.source_ranges, 16, 1 << 22)?,
            affinity: in_range("affinity", args.affinity, 16, 1 << 24)?,
            sockets: in_range("sockets", args.sockets, 1 << 10, 1 << 24)?,
        };
        let sockets = sockets(args.socket_lb);
        Ok(Self {
            source: match (args.kubeconfig, args.manifests) {
                (_, Some(directory)) => Source::Manifests(directory),
                (Some(file), None) => Source::Kubeconfig(file),
                (None, None) => Source::InCluster,
            },
            api_servers: api_servers::api_servers(&args.api_servers)?,
            node_name: node_name(args.hostname_override)?,
            cluster_cidrs: args.cluster_cidr.into_iter().map(cidr).collect::<Result<_, _>>()?,
            bpffs,
            socket,
            sockets,
            cgroup: args.cgroup,
            uplinks: globs("uplinks", &args.uplinks)?,
            workload_devices: globs("workload-devices", &args.workload_devices)?,
            masquerade: args.masquerade,
            masquerade_all: args.masquerade_all,
            drop_unallocated: args.drop_unallocated,
            node_port_addresses: node_ports::node_port_addresses(&args.nodeport_addresses, sockets)?,
            snat_ports: args.snat_ports.map(snat_ports).transpose()?,
            sizes,
            new_flows: in_range("new-flows", args.new_flows, 1, u32::MAX)?,
            xdp: args.xdp,
            conntrack: conntrack(args.conntrack)?,
            telemetry: Telemetry {
                healthz: listen::place(
                    "healthz-bind-address",
                    args.healthz_bind_address.as_deref(),
                    HEALTHZ_PORT,
                    Place::Everywhere(HEALTHZ_PORT),
                )?,
                metrics: listen::place(
                    "metrics-bind-address",
                    args.metrics_bind_address.as_deref(),
                    METRICS_PORT,
                    Place::At((Ipv4Addr::LOCALHOST, METRICS_PORT).into()),
                )?,
                mode: args.proxy_mode,
            },
            bpf_log: args.bpf_log,
        })
    }

    /// What the operator says of how Services are served.
    pub fn settings(&self) -> Settings {
        Settings {
            masquerade_as_kube_proxy: self.masquerade == Masquerade::KubeProxy,
            masquerade_all: self.masquerade_all,
            cluster_cidrs: self.cluster_cidrs.clone(),
            drop_unallocated: self.drop_unallocated,
            node_ports: self.node_port_addresses.clone(),
        }
    }

    /// What the operator says about devices.
    pub fn rules(&self) -> Rules {
        Rules { uplinks: self.uplinks.clone(), workload_devices: self.workload_devices.clone(), cluster_cidrs: self.cluster_cidrs.clone() }
    }
}

const fn sockets(mode: SocketLb) -> Sockets {
    match mode {
        SocketLb::Off => Sockets::NONE,
        SocketLb::Host => Sockets::HOST,
        SocketLb::Auto => Sockets::HOST.with(Sockets::PODS_TCP),
        SocketLb::All => Sockets::HOST.with(Sockets::PODS_TCP).with(Sockets::PODS_UDP),
    }
}

fn in_range(flag: &'static str, value: u32, min: u32, max: u32) -> Result<u32, Error> {
    if (min..=max).contains(&value) { Ok(value) } else { Err(Error::Size { flag, value, min, max }) }
}

fn cidr(value: String) -> Result<IpNet, Error> {
    match value.trim().parse::<IpNet>() {
        Ok(network) => Ok(network.trunc()),
        Err(source) => Err(Error::Cidr { value, source }),
    }
}

/// The fewest source ports that are of use.
const LEAST_PORTS: usize = 1000;

fn snat_ports(value: String) -> Result<RangeInclusive<u16>, Error> {
    let ends = value.trim().split_once('-').and_then(|(first, last)| Some((first.parse::<u16>().ok()?, last.parse::<u16>().ok()?)));
    let why = match ends {
        Some((first, last)) if (first..=last).len() < LEAST_PORTS => "at least 1000 ports are needed",
        Some((first, _)) if first < 1024 => "ports below 1024 are the node's own",
        Some((first, last)) if first <= *NODE_PORTS.end() && *NODE_PORTS.start() <= last => "node ports (30000-32767) are among them",
        Some((first, last)) => return Ok(first..=last),
        None => "not a range of ports",
    };
    Err(Error::SnatPorts { value, why })
}

fn globs(flag: &'static str, patterns: &[String]) -> Result<Vec<Glob>, Error> {
    let glob = |pattern: &String| {
        let Ok(glob) = pattern.trim().parse::<Glob>();
        if pattern.trim().is_empty() { Err(Error::EmptyGlob { flag }) } else { Ok(glob) }
    };
    patterns.iter().map(glob).collect()
}

/// The name in the form kube-proxy looks for: trimmed and in lower case.
fn node_name(typed: Option<String>) -> Result<String, Error> {
    let value = match typed {
        Some(typed) => typed,
        None => fs::read_to_string(HOSTNAME).map_err(Error::Hostname)?,
    };
    let name = value.trim().to_lowercase();
    let is_valid = !name.is_empty()
        && name.len() <= 253
        && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-' || byte == b'.');
    if is_valid { Ok(name) } else { Err(Error::NodeName { value }) }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::args::{Args, Command};

    fn args(line: &str) -> RunArgs {
        let args = Args::try_parse_from(["shunt", "run"].into_iter().chain(line.split_whitespace())).unwrap();
        let Command::Run(run) = args.command else { panic!("not run") };
        run
    }

    fn config(line: &str) -> Result<Config, Error> {
        Config::new("/bpffs".into(), "/socket".into(), args(line))
    }

    fn error(line: &str) -> String {
        config(line).unwrap_err().to_string()
    }

    #[test]
    fn without_a_source_it_is_the_cluster_of_the_pod() {
        assert_eq!(config("").unwrap().source, Source::InCluster);
        assert_eq!(config("--manifests /m").unwrap().source, Source::Manifests("/m".into()));
        assert_eq!(config("--kubeconfig /k").unwrap().source, Source::Kubeconfig("/k".into()));
    }

    #[test]
    fn the_node_name_is_looked_for_in_lower_case() {
        assert_eq!(config("--hostname-override Node-1.Example").unwrap().node_name, "node-1.example");
        assert!(error("--hostname-override no/name").contains("--hostname-override"));
    }

    #[test]
    fn sizes_have_bounds_that_the_message_names() {
        assert_eq!(config("--backends 1048576").unwrap().sizes.backends, 1 << 20);
        assert_eq!(error("--backends 1048577"), "--backends 1048577: must be between 16 and 1048576");
        assert_eq!(error("--flows 0"), "--flows 0: must be between 1024 and 67108864");
    }

    #[test]
    fn networks_lose_their_host_bits() {
        let cidrs = config("--cluster-cidr 10.244.1.7/16,fd00:1::1/64").unwrap().cluster_cidrs;
        assert_eq!(cidrs.iter().map(ToString::to_string).collect::<Vec<_>>(), ["10.244.0.0/16", "fd00:1::/64"]);
        assert!(error("--cluster-cidr 10.244.0.0").starts_with("--cluster-cidr 10.244.0.0: not a network"));
    }

    #[test]
    fn the_node_stands_in_for_whom_it_must_unless_it_is_told_to_for_more() {
        let settings = |line| config(&format!("--socket-lb off {line}")).unwrap().settings();
        assert_eq!(settings(""), Settings { drop_unallocated: true, ..Settings::default() });
        assert_eq!(settings("--drop-unallocated=false"), Settings::default());
        let all = settings("--masquerade kube-proxy --masquerade-all --cluster-cidr 10.244.0.0/16");
        assert!(all.masquerade_as_kube_proxy && all.masquerade_all && all.cluster_cidrs.len() == 1);
    }

    #[test]
    fn source_ports_are_a_range_without_node_ports() {
        assert_eq!(config("--snat-ports 33000-65535").unwrap().snat_ports, Some(33_000..=65_535));
        for (typed, expected) in [("1024-2023", 1024..=2023), ("28000-29999", 28_000..=29_999), ("32768-33767", 32_768..=33_767)] {
            assert_eq!(config(&format!("--snat-ports {typed}")).unwrap().snat_ports, Some(expected), "{typed}");
        }
        assert_eq!(config("").unwrap().snat_ports, None);
        for wrong in [
            "1024",
            "x-y",
            "2000-1024",
            "0-2000",
            "1024-30000",
            "32767-40000",
            "5000-5100",
            "1024-70000",
            "1023-2023",
            "1024-2022",
            "29001-30000",
            "32767-33766",
        ] {
            assert!(error(&format!("--snat-ports {wrong}")).starts_with(&format!("--snat-ports {wrong}: ")), "{wrong}");
        }
    }

    #[test]
    fn an_empty_pattern_is_a_slip() {
        assert!(error("--uplinks eth0,,eth1").starts_with("--uplinks"));
    }
}
