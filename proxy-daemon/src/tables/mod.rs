//! What is in the kernel's maps, and the changes that bring it to a plan.
//!
//! In: a plan for one service port at a time, or nothing when it is gone. Out: [`Change`]s, whose cost follows what changed. No I/O:
//! whoever applies them does it in their order, and [`Tables`] is from then on what the maps hold.
//!
//! The law: applying the changes to the old state gives the new one, and *every prefix of them is a valid state*: each frontend
//! leads to its old backends or to its new ones, never to a mixture and never to slots of another service. With slot ranges
//! that means: fill a fresh range, publish it with one word, then retire the old range, which rests before it is used again because
//! a program may still be reading it.

mod change;

pub use change::{Change, Scope, Snapshot};
use proxy_common::SlotRange;

use crate::model::ServicePortName;

/// The sizes of the maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Frontends of each family.
    pub frontends: u32,
    /// Rows, for the frontends of both families.
    pub rows: u32,
    /// Backend slots of each family.
    pub backends: u32,
    /// Indices of `BACKEND_LIVE`, for both families.
    pub live: u32,
    /// Rows of `SERVICE_STATS`: ids are smaller than this.
    pub services: u32,
}

/// How much of a map is in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fill {
    /// What is in use. What rests is not.
    pub used: u32,
    /// What there is.
    pub max: u32,
}

/// How full the maps are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Frontends of IPv4.
    pub frontends4: Fill,
    /// Frontends of IPv6.
    pub frontends6: Fill,
    /// Frontend rows.
    pub rows: Fill,
    /// Backend slots of IPv4.
    pub slots4: Fill,
    /// Backend slots of IPv6.
    pub slots6: Fill,
    /// Backends that live.
    pub live: Fill,
    /// Service ids.
    pub services: Fill,
}

/// Why a service port cannot be brought to its plan. What was loaded of it before stays as it is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A map has no room.
    #[error("no room for more {what}: there is room for {max}, {flag} makes more")]
    Full {
        /// What there is no room for.
        what: &'static str,
        /// How many fit.
        max: u32,
        /// The flag that sets the size.
        flag: &'static str,
    },
    /// A backend set that no range can hold.
    #[error("{name} has {count} endpoints for one frontend, more than the {} that fit", SlotRange::MAX_COUNT)]
    TooManyBackends {
        /// The service port.
        name: ServicePortName,
        /// The number of backends.
        count: usize,
    },
    /// A name that does not fit into its row.
    #[error("the name {name} is too long")]
    Name {
        /// The service port.
        name: ServicePortName,
    },
}
