//! Names and sizes of the maps, once.
//!
//! The kernel keeps 15 bytes of a name. `docs/maps.md` has a row for each map: key, value, unit, writer, readers, eviction, memory.

/// The version of all types in pinned maps. Maps of another version are not read: they are made anew beside the old ones.
pub const LAYOUT_VERSION: u32 = 2;

/// The most frontends of a family, unless the flag says otherwise.
pub const DEFAULT_FRONTENDS: u32 = 65_536;
/// The most backend slots of a family, unless the flag says otherwise.
pub const DEFAULT_BACKENDS: u32 = 262_144;
/// The most flow entries of a family, unless the flag says otherwise; a flow has two.
pub const DEFAULT_FLOWS: u32 = 262_144;
/// The most service ports, unless the flag says otherwise.
pub const DEFAULT_SERVICES: u32 = 32_768;
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
/// The node's own address of IPv4: `SnatSource`.
pub const SNAT_V4: &str = "SNAT_V4";
/// The node's own address of IPv6.
pub const SNAT_V6: &str = "SNAT_V6";
/// Room for a new flow of IPv4, for programs only.
pub const SCRATCH_V4: &str = "SCRATCH_V4";
/// Room for a new flow of IPv6, for programs only.
pub const SCRATCH_V6: &str = "SCRATCH_V6";
/// How many ICMP errors each CPU has made of late, for programs only.
pub const REFUSALS: &str = "REFUSALS";
/// The names of service ids: `ServiceRow`.
pub const SERVICES: &str = "SERVICES";
/// Counters per service: `ServiceCounters` on each CPU.
pub const SERVICE_STATS: &str = "SERVICE_STATS";
/// Counters per reason: `u64` on each CPU.
pub const REASONS: &str = "REASONS";
/// Facts about the node: `NodeRow`.
pub const NODE: &str = "NODE";

/// Every map.
pub const ALL: [&str; 18] = [
    FRONTENDS_V4,
    FRONTENDS_V6,
    FRONTEND_ROWS,
    BACKENDS_V4,
    BACKENDS_V6,
    BACKEND_LIVE,
    FILTER,
    FLOWS_V4,
    FLOWS_V6,
    SNAT_V4,
    SNAT_V6,
    SCRATCH_V4,
    SCRATCH_V6,
    REFUSALS,
    SERVICES,
    SERVICE_STATS,
    REASONS,
    NODE,
];

#[cfg(test)]
mod tests {
    #[test]
    fn the_kernel_keeps_every_name_whole() {
        assert!(super::ALL.iter().all(|name| name.len() <= 15));
    }
}
