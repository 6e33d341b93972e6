//! The flags of `shunt run`, and those that `shunt prepare` has of them.

use std::path::PathBuf;

use clap::{ArgAction, Args as ClapArgs, ValueEnum};
use proxy_common::maps;

/// The flags of `shunt run`.
#[derive(Clone, Debug, ClapArgs)]
pub struct RunArgs {
    /// Take Services from the API server this file names; without it and --manifests, from the cluster this pod runs in
    #[arg(long, value_name = "FILE", conflicts_with = "manifests")]
    pub kubeconfig: Option<PathBuf>,

    /// The API servers, asked in turn while one does not answer, in place of the one that --kubeconfig or the pod's environment names
    #[arg(long, alias = "master", value_name = "URL", value_delimiter = ',', env = "SHUNT_API_SERVERS", conflicts_with = "manifests")]
    pub api_servers: Vec<String>,

    /// Take Services from the manifests in this directory, and follow them as they change
    #[arg(long, value_name = "DIR")]
    pub manifests: Option<PathBuf>,

    /// The name of this node's Node object, if it is not the host's name
    #[arg(long, value_name = "NODE")]
    pub hostname_override: Option<String>,

    /// The networks of all nodes' pods
    #[arg(long, value_name = "CIDR", value_delimiter = ',')]
    pub cluster_cidr: Vec<String>,

    /// Whose sockets get their backend when they call, before any packet is made
    #[arg(long, value_name = "MODE", default_value = "auto")]
    pub socket_lb: SocketLb,

    /// The cgroup whose processes those are [default: the root]
    #[arg(long, value_name = "DIR")]
    pub cgroup: Option<PathBuf>,

    /// The devices to the outside [default: found by addresses and routes]
    #[arg(long, value_name = "GLOB", value_delimiter = ',')]
    pub uplinks: Vec<String>,

    /// The devices of pods [default: found by where their other end is]
    #[arg(long, value_name = "GLOB", value_delimiter = ',')]
    pub workload_devices: Vec<String>,

    /// Translate what comes from outside before the kernel makes socket buffers of it, where the device allows
    #[arg(long, value_name = "MODE", default_value = "off")]
    pub xdp: Xdp,

    /// For which clients the node stands in with its own address
    #[arg(long, value_name = "MODE", default_value = "auto")]
    pub masquerade: Masquerade,

    /// Stand in for every client that dials a ClusterIP, as kube-proxy does with the same flag
    #[arg(long)]
    pub masquerade_all: bool,

    /// Drop packets to addresses of a ServiceCIDR that no Service has, as kube-proxy does with nftables
    #[arg(long, value_name = "BOOL", default_value_t = true, action = ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    pub drop_unallocated: bool,

    /// The node's addresses at which node ports are served: networks, or primary, localhost, all, as in kube-proxy [default: primary]
    #[arg(long, value_name = "CIDR", value_delimiter = ',')]
    pub nodeport_addresses: Vec<String>,

    /// The source ports of flows in which the node stands in for a client [default: what its own sockets and node ports leave over]
    #[arg(long, value_name = "FIRST-LAST")]
    pub snat_ports: Option<String>,

    /// Flow entries of each family; a flow has two
    #[arg(long, value_name = "N", default_value_t = maps::DEFAULT_FLOWS)]
    pub flows: u32,

    /// Frontends of each family
    #[arg(long, value_name = "N", default_value_t = maps::DEFAULT_FRONTENDS)]
    pub frontends: u32,

    /// Backend slots of each family
    #[arg(long, value_name = "N", default_value_t = maps::DEFAULT_BACKENDS)]
    pub backends: u32,

    /// Service ports
    #[arg(long, value_name = "N", default_value_t = maps::DEFAULT_SERVICES)]
    pub services: u32,

    /// Networks of each family in the loadBalancerSourceRanges of all Services
    #[arg(long, value_name = "N", default_value_t = maps::DEFAULT_SOURCES)]
    pub source_ranges: u32,

    /// Clients of each family whose backend is remembered, of all Services with session affinity
    #[arg(long, value_name = "N", default_value_t = maps::DEFAULT_AFFINITY)]
    pub affinity: u32,

    /// Entries of each family for sockets that were given a backend
    #[arg(long, value_name = "N", default_value_t = maps::DEFAULT_SOCKETS)]
    pub sockets: u32,

    /// New flows that a CPU takes in a second; more are dropped, so that a flood of them leaves known flows alone
    #[arg(long, value_name = "N", default_value_t = 65_536)]
    pub new_flows: u32,

    /// Where /healthz and /livez are answered; nowhere if empty [default: port 10256 of every address]
    #[arg(long, value_name = "IP[:PORT]")]
    pub healthz_bind_address: Option<String>,

    /// Where /metrics and /proxyMode are answered; nowhere if empty [default: 127.0.0.1:10249]
    #[arg(long, value_name = "IP[:PORT]")]
    pub metrics_bind_address: Option<String>,

    /// What /proxyMode answers, for whoever knows kube-proxy's modes only
    #[arg(long, value_name = "NAME", default_value = "ebpf")]
    pub proxy_mode: String,

    /// What is asked of connection tracking
    #[command(flatten)]
    pub conntrack: ConntrackArgs,

    /// Load the programs that log what they decide: for debugging, they are slow
    #[arg(long)]
    pub bpf_log: bool,
}

/// What is asked of the kernel's connection tracking, as with kube-proxy.
#[derive(Clone, Debug, ClapArgs)]
pub struct ConntrackArgs {
    /// Connections that connection tracking has room for at least, for each CPU; 0 leaves what there is
    #[arg(long, value_name = "N", default_value_t = 32_768)]
    pub conntrack_max_per_core: u32,

    /// The same, however few CPUs there are
    #[arg(long, value_name = "N", default_value_t = 131_072)]
    pub conntrack_min: u32,

    /// How long it remembers a TCP connection that is silent; 0 leaves what there is, here and below
    #[arg(long, value_name = "TIME", default_value = "24h")]
    pub conntrack_tcp_timeout_established: String,

    /// The same, of one that is half closed
    #[arg(long, value_name = "TIME", default_value = "1h")]
    pub conntrack_tcp_timeout_close_wait: String,

    /// Have it let TCP packets out of window through
    #[arg(long)]
    pub conntrack_tcp_be_liberal: bool,

    /// How long it remembers a UDP datagram
    #[arg(long, value_name = "TIME", default_value = "0s")]
    pub conntrack_udp_timeout: String,

    /// How long it remembers a stream of them
    #[arg(long, value_name = "TIME", default_value = "0s")]
    pub conntrack_udp_timeout_stream: String,
}

/// For which clients the node stands in with its own address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Masquerade {
    /// Those outside whose backend is on another node, and pods that reach themselves: where answers would not come back otherwise
    Auto,
    /// All for whom kube-proxy does, so that backends see the same addresses
    KubeProxy,
}

/// Whose sockets are served where they call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum SocketLb {
    /// Those of the node's own processes and of hostNetwork pods, and pods' TCP; pods' UDP stays with packets, where a flow moves when its backend goes
    Auto,
    /// Those of all, pods' UDP as well
    All,
    /// Those of the node's own processes and of hostNetwork pods
    Host,
    /// Nobody's: the node's own processes do not reach Services
    Off,
}

/// How XDP is used on uplinks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Xdp {
    /// Not at all: tc does everything
    Off,
    /// In the kernel's stack: works on any device, saves little
    Generic,
    /// In the device's driver
    Native,
}

impl Xdp {
    /// The name, as it is typed and pinned.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Generic => "generic",
            Self::Native => "native",
        }
    }
}
