//! Backends: where a service's traffic goes.

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
    /// Always zero.
    pub flags: u16,
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
    pub fn new(addr: F::Addr, port: Port, reference: BackendRef, owner: ServiceId) -> Self {
        Self { addr, port, flags: 0, reference, owner, pad: bytemuck::Zeroable::zeroed() }
    }
}
