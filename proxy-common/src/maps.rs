//! Names and sizes of the maps, once.
//!
//! The kernel keeps 15 bytes of a name. `docs/maps.md` has a row for each map: key, value, unit, writer, readers, eviction, memory.

/// The version of all types in pinned maps. Maps of another version are not read: they are made anew beside the old ones.
pub const LAYOUT_VERSION: u32 = 5;

/// The most frontends of a family, unless the flag says otherwise.
pub const DEFAULT_FRONTENDS: u32 = 65_536;
/// The most backend slots of a family, unless the flag says otherwise.
pub const DEFAULT_BACKENDS: u32 = 262_144;
/// The most flow entries of a family, unless the flag says otherwise; a flow has two.
pub const DEFAULT_FLOWS: u32 = 262_144;
/// The most service ports, unless the flag says otherwise.
pub const DEFAULT_SERVICES: u32 = 32_768;
/// The most networks of clients, of all services, that may use load balancer addresses.
pub const DEFAULT_SOURCES: u32 = 65_536;
/// How many clients of services with session affinity are remembered, of each family.
pub const DEFAULT_AFFINITY: u32 = 65_536;
/// The most entries of sockets of a family, unless the flag says otherwise; a socket has one, and one that sends to several Services two more for each.
pub const DEFAULT_SOCKETS: u32 = 65_536;
/// How many sockets are remembered that have dialled from a network namespace that is not known yet.
pub const DIALLING: u32 = 1024;
/// How many network namespaces are known to be pods'.
pub const POD_NAMESPACES: u32 = 4096;
/// How many datagrams in fragments are under way, of each family.
pub const FRAGMENTS: u32 = 8192;
/// The most devices by which packets leave.
pub const DEVICES: u32 = 1024;
/// The rows of `REASONS`: more than there are reasons, so that a version with more of them finds room in the map that is pinned.
pub const REASON_ROWS: u32 = 256;

/// The frontends of IPv4: `FrontendKey` to `FrontendRef`.
pub const FRONTENDS_V4: &str = "FRONTENDS_V4";
/// The frontends of IPv6.
pub const FRONTENDS_V6: &str = "FRONTENDS_V6";
/// The rows of the frontends of both families: `FrontendRow`, memory-mapped.
pub const FRONTEND_ROWS: &str = "FRONTEND_ROWS";
/// The backend slots of IPv4: `Backend`, memory-mapped.
pub const BACKENDS_V4: &str = "BACKENDS_V4";
/// The backend slots of IPv6.
pub const BACKENDS_V6: &str = "BACKENDS_V6";
/// Which backends live: `BackendRef`, memory-mapped.
pub const BACKEND_LIVE: &str = "BACKEND_LIVE";
/// Which addresses and ports may be known: `Marks`, memory-mapped.
pub const FILTER: &str = "FILTER";
/// The flows of IPv4: `FlowKey` to `Flow`.
pub const FLOWS_V4: &str = "FLOWS_V4";
/// The flows of IPv6.
pub const FLOWS_V6: &str = "FLOWS_V6";
/// Sockets of IPv4 that were given a backend: `SocketKey` to `SocketPeer`.
pub const SOCKETS_V4: &str = "SOCKETS_V4";
/// Sockets of IPv6 that were given a backend.
pub const SOCKETS_V6: &str = "SOCKETS_V6";
/// Sockets that have dialled a Service from a network namespace that is not known yet, by their cookies: the cookie of that namespace.
pub const CALLERS: &str = "CALLERS";
/// Network namespaces that are pods', by their cookies: a word that means nothing.
pub const PODS: &str = "PODS";
/// Who may use load balancer addresses of IPv4: a trie of `SourceKey`.
pub const SOURCES_V4: &str = "SOURCES_V4";
/// The same of IPv6.
pub const SOURCES_V6: &str = "SOURCES_V6";
/// Session affinity of IPv4: `AffinityKey` to `Affinity`.
pub const AFFINITY_V4: &str = "AFFINITY_V4";
/// Session affinity of IPv6.
pub const AFFINITY_V6: &str = "AFFINITY_V6";
/// Datagrams in fragments of IPv4: `FragmentKey` to `Ports`.
pub const FRAGMENTS_V4: &str = "FRAGMENTS_V4";
/// Datagrams in fragments of IPv6.
pub const FRAGMENTS_V6: &str = "FRAGMENTS_V6";
/// Services' addresses of IPv4 beyond their ports: the address to `Undefined`.
pub const CLUSTER_IPS_V4: &str = "CLUSTER_IPS_V4";
/// Services' addresses of IPv6 beyond their ports.
pub const CLUSTER_IPS_V6: &str = "CLUSTER_IPS_V6";
/// Where Services have their addresses of IPv4 from: `Networks`.
pub const NETWORKS_V4: &str = "NETWORKS_V4";
/// Where Services have their addresses of IPv6 from.
pub const NETWORKS_V6: &str = "NETWORKS_V6";
/// The node's own addresses of IPv4: a device's index to `SnatSource`.
pub const SNAT_V4: &str = "SNAT_V4";
/// The node's own addresses of IPv6.
pub const SNAT_V6: &str = "SNAT_V6";
/// Room for a new flow of IPv4, for programs only.
pub const SCRATCH_V4: &str = "SCRATCH_V4";
/// Room for a new flow of IPv6, for programs only.
pub const SCRATCH_V6: &str = "SCRATCH_V6";
/// Where the search for a source port went on from last, for programs only.
pub const SNAT_CURSOR: &str = "SNAT_CURSOR";
/// How many ICMP errors each CPU has made of late, and how many flows it has begun, for programs only.
pub const LIMITS: &str = "LIMITS";
/// The names of service ids: `ServiceRow`.
pub const SERVICES: &str = "SERVICES";
/// Counters per service: `ServiceCounters` on each CPU.
pub const SERVICE_STATS: &str = "SERVICE_STATS";
/// Counters per reason: `u64` on each CPU.
pub const REASONS: &str = "REASONS";
/// Facts about the node: `NodeRow`.
pub const NODE: &str = "NODE";
/// The addresses that the Node object had last: `NodeIps`.
pub const NODE_IPS: &str = "NODE_IPS";

/// Every map.
pub const ALL: [&str; 34] = [
    FRONTENDS_V4,
    FRONTENDS_V6,
    FRONTEND_ROWS,
    BACKENDS_V4,
    BACKENDS_V6,
    BACKEND_LIVE,
    FILTER,
    FLOWS_V4,
    FLOWS_V6,
    SOCKETS_V4,
    SOCKETS_V6,
    CALLERS,
    PODS,
    SOURCES_V4,
    SOURCES_V6,
    AFFINITY_V4,
    AFFINITY_V6,
    FRAGMENTS_V4,
    FRAGMENTS_V6,
    CLUSTER_IPS_V4,
    CLUSTER_IPS_V6,
    NETWORKS_V4,
    NETWORKS_V6,
    SNAT_V4,
    SNAT_V6,
    SCRATCH_V4,
    SCRATCH_V6,
    SNAT_CURSOR,
    LIMITS,
    SERVICES,
    SERVICE_STATS,
    REASONS,
    NODE,
    NODE_IPS,
];

#[cfg(test)]
mod tests {
    #[test]
    fn the_kernel_keeps_every_name_whole() {
        assert!(super::ALL.iter().all(|name| name.len() <= 15));
    }
}
