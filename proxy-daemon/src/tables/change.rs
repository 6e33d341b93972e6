//! What is written to the kernel's maps, step by step, and what is read back from them.

use std::net::IpAddr;

use ipnet::IpNet;
use proxy_common::{
    Backend, BackendRef, FrontendRef, FrontendRow, Networks, RangeWord, RowFlags, RowIndex, ServiceId, ServiceRow, Undefined, V4, V6,
};

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
    /// Lets a network's clients use the limited frontends of a service port.
    InsertSource {
        /// The service port.
        id: ServiceId,
        /// The network, which is not let in yet.
        network: IpNet,
    },
    /// Lets them no longer.
    RemoveSource {
        /// The service port.
        id: ServiceId,
        /// The network, which was let in.
        network: IpNet,
    },
    /// Says what becomes of packets to a ClusterIP that are for no frontend.
    ClusterIp {
        /// The address.
        addr: IpAddr,
        /// The value; `None` removes the entry.
        undefined: Option<Undefined>,
    },
    /// Writes the networks that Services have their IPv4 addresses from.
    Networks4(Networks<V4>),
    /// Writes the networks that Services have their IPv6 addresses from.
    Networks6(Networks<V6>),
    /// Makes a frontend known, or has it change hands in one step.
    SetFrontend {
        /// The key.
        addr: FrontendAddr,
        /// The value, which stays what it is as long as the frontend is the same service port's.
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
    /// `SOURCES_V4` and `SOURCES_V6`.
    pub sources: Vec<(ServiceId, IpNet)>,
    /// `CLUSTER_IPS_V4` and `CLUSTER_IPS_V6`.
    pub cluster_ips: Vec<(IpAddr, Undefined)>,
    /// `NETWORKS_V4`.
    pub networks4: Option<Networks<V4>>,
    /// `NETWORKS_V6`.
    pub networks6: Option<Networks<V6>>,
}
