//! Every map. Names and sizes come from `proxy_common::maps`, which the daemon shares; sizes are set anew when the maps are made.
//!
//! All of them are pinned; `docs/maps.md` has the same list for people.

use aya_ebpf::{
    bindings::{BPF_F_MMAPABLE, BPF_F_NO_PREALLOC},
    btf_maps::{Array, HashMap, LruHashMap, PerCpuArray},
    macros::btf_map,
};
use proxy_common::{
    Backend, BackendRef, Family, Flow, FlowKey, FrontendKey, FrontendRef, FrontendRow, NodeRow, ServiceCounters, ServiceId, ServiceRow,
    SnatSource, V4, V6,
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
/// The map of the node's own address.
pub type Snat<F> = Array<SnatSource<F>, 1>;

/// Room for the entries of a new flow: the stack has none for two keys and two values of IPv6.
#[repr(C)]
pub struct Scratch<F: Family> {
    /// The entry for the client's packets.
    pub key: FlowKey<F>,
    /// Its value.
    pub flow: Flow<F>,
    /// The entry for the replies.
    pub reply_key: FlowKey<F>,
    /// Its value.
    pub reply: Flow<F>,
    /// The entry of another flow.
    pub other_key: FlowKey<F>,
}

/// A second, and how many ICMP errors were made in it.
#[repr(C)]
pub struct Refusals {
    /// The second, by the kernel's jiffies.
    pub second: u32,
    /// How many.
    pub made: u32,
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

/// Room for the entries of a flow that is being recorded. Each CPU uses its own; nothing is kept from one packet to the next.
#[btf_map]
pub static SCRATCH_V4: Scratches<V4> = Scratches::<V4>::new();
/// The same for IPv6.
#[btf_map]
pub static SCRATCH_V6: Scratches<V6> = Scratches::<V6>::new();

/// What stands in for a pod that reaches itself. Writer: daemon. Readers: workload ingress, once for each such flow.
#[btf_map]
pub static SNAT_V4: Snat<V4> = Snat::<V4>::new();
/// The same for IPv6.
#[btf_map]
pub static SNAT_V6: Snat<V6> = Snat::<V6>::new();

/// How many ICMP errors a CPU has made in a second. Each CPU uses its own.
#[btf_map]
pub static REFUSALS: PerCpuArray<Refusals, 1> = PerCpuArray::new();

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
