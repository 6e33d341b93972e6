//! Session affinity: which backend a client of a service port had last.

use crate::{Family, Port, ServiceId, V4, V6, layout::pod};

/// The key of `AFFINITY_V4` (8 bytes) and `AFFINITY_V6` (24 bytes). All addresses of a service port share the entry (kube-proxy's rule).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(C, align(8))]
pub struct AffinityKey<F: Family> {
    /// The client, as the node sees it before it stands in for anybody.
    pub client: F::Addr,
    /// The service port.
    pub service: ServiceId,
    /// Always zero.
    pub pad: F::RowPad,
}

pod!(AffinityKey<V4>: 8 { client, service, pad });
pod!(AffinityKey<V6>: 24 { client, service, pad });

/// The value of `AFFINITY_V4` (16 bytes) and `AFFINITY_V6` (32 bytes). Programs write it, each field with one store; the last writer wins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C, align(8))]
pub struct Affinity<F: Family> {
    /// The backend's address.
    pub addr: F::Addr,
    /// The backend's port.
    pub port: Port,
    /// Always zero.
    pub pad: u16,
    /// When the client began a flow last: the low half of the kernel's `jiffies_64`.
    pub last_used: u32,
    /// Always zero.
    pub reserved: u32,
    /// Always zero.
    pub pad_word: F::RowPad,
}

pod!(Affinity<V4>: 16 { addr, port, pad, last_used, reserved, pad_word });
pod!(Affinity<V6>: 32 { addr, port, pad, last_used, reserved, pad_word });
