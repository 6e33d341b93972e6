//! Types shared by the BPF programs and the daemon: map keys and values, protocol numbers, reasons, limits.
//!
//! The rules of this crate:
//! * Everything in a map is `#[repr(C)]` without padding, and [`bytemuck::Pod`]. The `pod!` line beside each type names all its
//!   fields and proves its size for both families, so that hash keys compare equal byte by byte.
//! * Addresses and ports are in network byte order inside their newtypes ([`Addr4`], [`Addr6`], [`Port`]); everything else is in host order.
//!   Byte order is converted in `addr.rs` and `port.rs` and nowhere else.
//! * Zero means unset: no service has id 0, no live backend has reference 0.
//! * Changing a type that lives in a pinned map changes [`maps::LAYOUT_VERSION`].
#![no_std]
#![warn(missing_docs)]

mod addr;
mod affinity;
mod backend;
mod counter;
mod family;
pub mod filter;
mod flow;
mod fragment;
mod frontend;
mod hash;
mod id;
mod layout;
pub mod maps;
mod node;
mod pack;
mod port;
mod proto;
pub mod reason;
mod service;
mod slot;
mod socket;
mod source_range;
mod undefined;

pub use addr::{Addr4, Addr6, Address};
pub use affinity::{Affinity, AffinityKey};
pub use backend::{Backend, BackendFlags};
pub use counter::ServiceCounters;
pub use family::{Family, V4, V6};
pub use flow::{Flow, FlowKey, FlowOwner, FlowState, Side, Tuple};
pub use fragment::{FragmentKey, Ports};
pub use frontend::{FrontendKey, FrontendRef, FrontendRow, RowFlags};
pub use id::{BackendRef, RowIndex, ServiceId};
pub use node::{ANY_DEVICE, NodeIps, NodeRow, PORT_STEP, SnatSource, Text64};
pub use port::Port;
pub use proto::Protocol;
pub use service::ServiceRow;
pub use slot::{Range, RangeWord, SlotRange};
pub use socket::{By, SocketKey, SocketPeer, Sockets};
pub use source_range::SourceKey;
pub use undefined::{MAX_NETWORKS, Network, Networks, Undefined};

/// The number of a helper that no kernel has. The daemon puts the call of a kernel function in its place, see `datapath/kernel.rs` there.
pub const CAST_PLACEHOLDER: u32 = u32::from_le_bytes(*b"cast");
