//! Every map. Names and sizes come from `proxy_common::maps`, which the daemon shares; sizes are set anew when the maps are made.
//!
//! All of them are pinned; `docs/maps.md` has the same list for people.

use aya_ebpf::{
    bindings::{BPF_F_MMAPABLE, BPF_F_NO_PREALLOC},
    btf_maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray},
    macros::btf_map,
};
use proxy_common::{
    Affinity, AffinityKey, Backend, BackendRef, Family, Flow, FlowKey, FragmentKey, FrontendKey, FrontendRef, FrontendRow, Networks,
    NodeIps, NodeRow, Ports, ServiceCounters, ServiceId, ServiceRow, SnatSource, SocketKey, SocketPeer, Undefined, V4, V6,
    filter::{Marks, ROWS as FILTER_ROWS},
    maps,
};

/// Flag of the maps that the daemon writes through memory, and not by system calls.
pub const MMAPABLE: usize = BPF_F_MMAPABLE as usize;

/// The map of a family's frontends.
pub type Frontends<F> = HashMap<FrontendKey<F>, FrontendRef, { maps::DEFAULT_FRONTENDS as usize }>;
/// The map of a family's backend slots. Memory-mapped by the daemon.
pub type Backends<F> = Array<Backend<F>, { maps::DEFAULT_BACKENDS as usize }, { MMAPABLE }>;
/// The map of a family's flows.
pub type Flows<F> = LruHashMap<FlowKey<F>, Flow<F>, { maps::DEFAULT_FLOWS as usize }>;
/// The map of the node's own addresses, by the device by which packets leave.
pub type Snat<F> = HashMap<u32, SnatSource<F>, { maps::DEVICES as usize }>;
/// The map of who may use load balancer addresses. What counts is whether there is an entry.
pub type Sources<F> = LpmTrie<SourceBits<F>, u8, { maps::DEFAULT_SOURCES as usize }>;
/// The map of session affinity.
pub type Affinities<F> = LruHashMap<AffinityKey<F>, Affinity<F>, { maps::DEFAULT_AFFINITY as usize }>;
/// The map of sockets that were given a backend.
pub type SocketPeers<F> = LruHashMap<SocketKey<F>, SocketPeer<F>, { maps::DEFAULT_SOCKETS as usize }>;
/// The map of datagrams in fragments.
pub type Fragments<F> = LruHashMap<FragmentKey<F>, Ports, { maps::FRAGMENTS as usize }>;
/// The map of Services' addresses beyond their ports.
pub type ClusterIps<F> = HashMap<<F as Family>::Addr, Undefined, { maps::DEFAULT_FRONTENDS as usize }>;
/// The map of the networks that Services have their addresses from.
pub type ServiceNetworks<F> = Array<Networks<F>, 1>;

/// What of a [`SourceKey`](proxy_common::SourceKey) comes behind the length of its prefix.
#[derive(Clone, Copy)]
#[repr(C, packed)]
pub struct SourceBits<F: Family> {
    /// The service port.
    pub service: ServiceId,
    /// The client.
    pub client: F::Addr,
}

/// Room for the entries of a new flow: the stack has none for two keys and two values of IPv6. It is also where one function of a program leaves
/// for the next what is no number.
#[repr(C)]
pub struct Scratch<F: Family> {
    /// The entry for the client's packets, or for the answers of a foreign flow.
    pub key: FlowKey<F>,
    /// Its value; and the tuple that a packet is to get, for the functions that translate it or send it on.
    pub flow: Flow<F>,
    /// The entry for the replies: while a source port is looked for, that of the port which is tried.
    pub reply_key: FlowKey<F>,
    /// Its value; and that of the other direction's entry, where that is made again.
    pub reply: Flow<F>,
    /// The entry of the other direction of a flow that is known.
    pub other_key: FlowKey<F>,
    /// Where a new flow goes: left by the function that chooses, for the one that begins.
    pub backend: Backend<F>,
}

/// A second, and what was done in it that has a limit.
#[repr(C)]
pub struct Limits {
    /// The second, by the kernel's jiffies.
    pub second: u32,
    /// How many ICMP errors were made.
    pub errors: u32,
    /// How many flows were begun.
    pub flows: u32,
}

/// The map that has the scratch room of each CPU.
pub type Scratches<F> = PerCpuArray<Scratch<F>, 1>;

/// Rows for the frontends of both families.
const ROWS: usize = 2 * maps::DEFAULT_FRONTENDS as usize;

/// What a client dials. Writer: daemon, inserts and removes only. Readers: ingress programs, once for each new flow.
#[btf_map]
pub static FRONTENDS_V4: Frontends<V4> = Frontends::<V4>::new();
/// The same for IPv6.
#[btf_map]
pub static FRONTENDS_V6: Frontends<V6> = Frontends::<V6>::new();

/// What may change of a frontend. Writer: daemon, aligned words through memory. Readers: ingress programs, once for each new flow.
#[btf_map]
pub static FRONTEND_ROWS: Array<FrontendRow, ROWS, MMAPABLE> = Array::new();

/// Slot ranges of backends. Writer: daemon, only slots that no published range holds. Readers: ingress programs, once for each new flow.
#[btf_map]
pub static BACKENDS_V4: Backends<V4> = Backends::<V4>::new();
/// The same for IPv6.
#[btf_map]
pub static BACKENDS_V6: Backends<V6> = Backends::<V6>::new();

/// Which lives of backends go on. Writer: daemon, one word at a time. Readers: ingress programs, for SYNs and datagrams of known flows.
#[btf_map]
pub static BACKEND_LIVE: Array<BackendRef, { maps::DEFAULT_BACKENDS as usize }, MMAPABLE> = Array::new();

/// Which addresses and ports may be known. Writers: programs and the daemon, one byte at a time. Readers: all programs, once for each packet.
#[btf_map]
pub static FILTER: Array<Marks, { FILTER_ROWS as usize }, MMAPABLE> = Array::new();

/// Known flows, two entries each. Writers: programs; the daemon removes what has expired. Evicts what was used least recently.
#[btf_map]
pub static FLOWS_V4: Flows<V4> = Flows::<V4>::new();
/// The same for IPv6.
#[btf_map]
pub static FLOWS_V6: Flows<V6> = Flows::<V6>::new();

/// Sockets that have dialled from a network namespace that is not known yet. Writers: programs of sockets; removed by a program of a pod's device.
#[btf_map]
pub static CALLERS: LruHashMap<u64, u64, { maps::DIALLING as usize }> = LruHashMap::new();

/// Network namespaces that are pods'. Writers: programs of pods' devices.
#[btf_map]
pub static PODS: LruHashMap<u64, u32, { maps::POD_NAMESPACES as usize }> = LruHashMap::new();

/// Sockets that were given a backend. Writers: programs of sockets, for each connect and for the first datagram to a peer; the daemon removes what is
/// over. Readers: programs of sockets. Evicts what was used least recently.
#[btf_map]
pub static SOCKETS_V4: SocketPeers<V4> = SocketPeers::<V4>::new();
/// The same for IPv6.
#[btf_map]
pub static SOCKETS_V6: SocketPeers<V6> = SocketPeers::<V6>::new();

/// Room for the entries of a flow that is being recorded. Each CPU uses its own; nothing is kept from one packet to the next.
#[btf_map]
pub static SCRATCH_V4: Scratches<V4> = Scratches::<V4>::new();
/// The same for IPv6.
#[btf_map]
pub static SCRATCH_V6: Scratches<V6> = Scratches::<V6>::new();

/// Who may use load balancer addresses. Writer: daemon. Readers: ingress programs, once for each new flow to such an address of a service that
/// has limits.
#[btf_map]
pub static SOURCES_V4: Sources<V4> = Sources::<V4>::new();
/// The same for IPv6.
#[btf_map]
pub static SOURCES_V6: Sources<V6> = Sources::<V6>::new();

/// The backends that clients of services with session affinity had last. Writers: ingress programs, once for each new flow to such a service.
/// Evicts what was used least recently.
#[btf_map]
pub static AFFINITY_V4: Affinities<V4> = Affinities::<V4>::new();
/// The same for IPv6.
#[btf_map]
pub static AFFINITY_V6: Affinities<V6> = Affinities::<V6>::new();

/// The ports of datagrams in fragments. Writers: programs, for first fragments of known flows. Readers: programs, once for each other fragment.
/// Evicts what was used least recently.
#[btf_map]
pub static FRAGMENTS_V4: Fragments<V4> = Fragments::<V4>::new();
/// The same for IPv6.
#[btf_map]
pub static FRAGMENTS_V6: Fragments<V6> = Fragments::<V6>::new();

/// Services' addresses beyond their ports. Writer: daemon. Readers: ingress programs, for packets into one of the networks below, and for
/// fragments of which the first has not been seen.
#[btf_map]
pub static CLUSTER_IPS_V4: ClusterIps<V4> = ClusterIps::<V4>::new();
/// The same for IPv6.
#[btf_map]
pub static CLUSTER_IPS_V6: ClusterIps<V6> = ClusterIps::<V6>::new();

/// The networks that Services have their addresses from. Writer: daemon. Readers: ingress programs, once for each packet of no service.
#[btf_map]
pub static NETWORKS_V4: ServiceNetworks<V4> = ServiceNetworks::<V4>::new();
/// The same for IPv6.
#[btf_map]
pub static NETWORKS_V6: ServiceNetworks<V6> = ServiceNetworks::<V6>::new();

/// What stands in for clients. Writer: daemon. Readers: ingress programs, once for each flow whose client the node stands in for.
#[btf_map]
pub static SNAT_V4: Snat<V4> = Snat::<V4>::new();
/// The same for IPv6.
#[btf_map]
pub static SNAT_V6: Snat<V6> = Snat::<V6>::new();

/// Where the search for a source port went on from last. Writers: ingress programs of all CPUs; a value that is lost costs a try.
#[btf_map]
pub static SNAT_CURSOR: Array<u32, 1> = Array::new();

/// What a CPU has done in a second that has a limit. Each CPU uses its own.
#[btf_map]
pub static LIMITS: PerCpuArray<Limits, 1> = PerCpuArray::new();

/// Names of service ids. Writer: daemon. No program reads it: it is here to be made and pinned with the others.
#[btf_map]
pub static SERVICES: HashMap<ServiceId, ServiceRow, { maps::DEFAULT_SERVICES as usize }, { BPF_F_NO_PREALLOC as usize }> = HashMap::new();

/// Counters of each service. Writers: programs, each CPU its own copy.
#[btf_map]
pub static SERVICE_STATS: PerCpuArray<ServiceCounters, { maps::DEFAULT_SERVICES as usize }> = PerCpuArray::new();

/// Counters of each reason. Writers: programs, each CPU its own copy.
#[btf_map]
pub static REASONS: PerCpuArray<u64, { maps::REASON_ROWS as usize }> = PerCpuArray::new();

/// Facts about the node. Writer: daemon. No program reads it.
#[btf_map]
pub static NODE: Array<NodeRow, 1> = Array::new();

/// The addresses that the Node object had last. Writer: daemon. No program reads it.
#[btf_map]
pub static NODE_IPS: Array<NodeIps, 1> = Array::new();
