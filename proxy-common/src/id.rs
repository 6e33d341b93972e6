//! Ids and indices. Each is a type of its own, so that a row is never looked up by a slot.

use bytemuck::{Pod, Zeroable};

/// The id of one service port (namespace, name, port name, protocol) on this node. Zero is no service.
///
/// Ids stay the same across restarts of the daemon; they are at most [`ServiceId::MAX`], because flows keep them in 24 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Pod, Zeroable)]
#[repr(transparent)]
pub struct ServiceId(pub u32);

impl ServiceId {
    /// No service.
    pub const NONE: Self = Self(0);
    /// How many bits an id takes in a key.
    pub const BITS: u32 = u32::BITS;
    /// The largest id.
    pub const MAX: u32 = (1 << 24) - 1;
}

/// The index of a row in `FRONTEND_ROWS`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Pod, Zeroable)]
#[repr(transparent)]
pub struct RowIndex(pub u32);

/// Names one life of one backend of one service port: an index into `BACKEND_LIVE` and the generation of that index.
///
/// The row at the index holds this same value while the backend lives and another (or zero) afterwards, so a flow asks with one
/// array read whether its backend is still there. Bits 0..20 are the index, bits 20..32 the generation, which is never zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Pod, Zeroable)]
#[repr(transparent)]
pub struct BackendRef(pub u32);

impl BackendRef {
    /// No backend.
    pub const NONE: Self = Self(0);
    /// The number of indices that fit.
    pub const MAX_INDICES: u32 = 1 << 20;
    /// The largest generation.
    pub const MAX_GENERATION: u32 = (1 << 12) - 1;

    /// From an index below [`Self::MAX_INDICES`] and a generation in `1..=MAX_GENERATION`; other bits are cut off.
    pub const fn new(index: u32, generation: u32) -> Self {
        Self(index & (Self::MAX_INDICES - 1) | generation << 20)
    }

    /// The index into `BACKEND_LIVE`.
    #[inline(always)]
    pub const fn index(self) -> u32 {
        self.0 & (Self::MAX_INDICES - 1)
    }

    /// The generation of the index.
    #[inline(always)]
    pub const fn generation(self) -> u32 {
        self.0 >> 20
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backend_reference_keeps_both_parts() {
        let reference = BackendRef::new(BackendRef::MAX_INDICES - 1, BackendRef::MAX_GENERATION);
        assert_eq!(reference.index(), BackendRef::MAX_INDICES - 1);
        assert_eq!(reference.generation(), BackendRef::MAX_GENERATION);
        assert_ne!(BackendRef::new(0, 1), BackendRef::NONE);
    }
}
