//! What is written to the kernel's maps, step by step, and what is read back from them.

use proxy_common::{Backend, BackendRef, FrontendRef, FrontendRow, RangeWord, RowFlags, RowIndex, ServiceId, ServiceRow, V4, V6};

use crate::model::FrontendAddr;

/// One write to one map. Changes are applied in the order in which they come; every prefix of them leaves a valid state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Names an id, or takes the name away.
    Service {
        /// The key.
        id: ServiceId,
        /// The name; `None` removes the entry.
        row: Option<Box<ServiceRow>>,
    },
    /// Begins a life of a backend, or ends it with [`BackendRef::NONE`].
    Live {
        /// The index in `BACKEND_LIVE`.
        index: u32,
        /// The value.
        reference: BackendRef,
    },
    /// Fills a slot range of IPv4 that no program reads.
    Backends4 {
        /// The first slot.
        base: u32,
        /// The values, one a slot.
        slots: Vec<Backend<V4>>,
    },
    /// Fills a slot range of IPv6 that no program reads.
    Backends6 {
        /// The first slot.
        base: u32,
        /// The values, one a slot.
        slots: Vec<Backend<V6>>,
    },
    /// Writes a whole row that no program reads: for a new frontend, or to clear what an old one left.
    Row {
        /// The index.
        row: RowIndex,
        /// The value.
        value: FrontendRow,
    },
    /// Stores one word of a row that programs read. What was written to slots before must be visible before it.
    Publish {
        /// The index.
        row: RowIndex,
        /// Which word.
        scope: Scope,
        /// The value.
        word: RangeWord,
    },
    /// Stores the flags of a row that programs read.
    RowFlags {
        /// The index.
        row: RowIndex,
        /// The value.
        flags: RowFlags,
    },
    /// Stores the affinity timeout of a row that programs read.
    Affinity {
        /// The index.
        row: RowIndex,
        /// The value.
        secs: u32,
    },
    /// Makes a frontend known. Its key is not in the map.
    InsertFrontend {
        /// The key.
        addr: FrontendAddr,
        /// The value, which stays what it is as long as the entry is there.
        value: FrontendRef,
    },
    /// Makes a frontend unknown.
    RemoveFrontend {
        /// The key.
        addr: FrontendAddr,
    },
}

/// For which clients a word of a row is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    /// Inside the cluster.
    Internal,
    /// Outside.
    External,
}

/// What the maps hold, in any order. Entries that are all zeros, as rows and slots are that were never written, may be left out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// `SERVICES`.
    pub services: Vec<(ServiceId, ServiceRow)>,
    /// `FRONTENDS_V4` and `FRONTENDS_V6`.
    pub frontends: Vec<(FrontendAddr, FrontendRef)>,
    /// `FRONTEND_ROWS`.
    pub rows: Vec<(RowIndex, FrontendRow)>,
    /// `BACKENDS_V4`: every slot with an owner, also those that no row names any more.
    pub backends4: Vec<(u32, Backend<V4>)>,
    /// `BACKENDS_V6`, likewise.
    pub backends6: Vec<(u32, Backend<V6>)>,
    /// `BACKEND_LIVE`.
    pub live: Vec<(u32, BackendRef)>,
}
