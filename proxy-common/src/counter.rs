//! What is counted per service.

use crate::layout::pod;

/// A row of the per-CPU array `SERVICE_STATS`, indexed by service id. Each CPU writes its own copy; readers add them up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct ServiceCounters {
    /// Flows that were started.
    pub flows: u64,
    /// Packets translated, both directions.
    pub packets: u64,
    /// Bytes of these packets, link-layer header included.
    pub bytes: u64,
}

pod!(ServiceCounters: 24 { flows, packets, bytes });
