//! Backends: where a service's traffic goes.

use bytemuck::{Pod, Zeroable};

use crate::{BackendRef, Family, Port, ServiceId, V4, V6, layout::pod};

/// A slot of `BACKENDS_V4` (16 bytes) or `BACKENDS_V6` (32 bytes).
///
/// Written by the daemon before the range that holds it is published, never while it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C, align(8))]
pub struct Backend<F: Family> {
    /// The endpoint's address.
    pub addr: F::Addr,
    /// The endpoint's port.
    pub port: Port,
    /// See [`BackendFlags`].
    pub flags: BackendFlags,
    /// This life of the backend: a flow keeps it, to ask later whether the backend is still there.
    pub reference: BackendRef,
    /// The service port that owns the slot; a reader that finds another is reading a slot that was given away.
    pub owner: ServiceId,
    /// Always zero.
    pub pad: F::RowPad,
}

pod!(Backend<V4>: 16 { addr, port, flags, reference, owner, pad });
pod!(Backend<V6>: 32 { addr, port, flags, reference, owner, pad });

impl<F: Family> Backend<F> {
    /// The slot of one backend.
    pub fn new(addr: F::Addr, port: Port, flags: BackendFlags, reference: BackendRef, owner: ServiceId) -> Self {
        Self { addr, port, flags, reference, owner, pad: Zeroable::zeroed() }
    }
}

/// What else is to be known of a backend: a set of flags.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(transparent)]
pub struct BackendFlags(pub u16);

impl BackendFlags {
    /// Nothing: the backend is on this node.
    pub const NONE: Self = Self(0);
    /// The backend is on another node, by its endpoint's `nodeName`, or nobody knows where. Its answers to a client outside come back
    /// through this node only if the node stands in for that client.
    pub const ELSEWHERE: Self = Self(1);

    /// Whether any of `other` is in this set.
    #[inline(always)]
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }
}
