//! Frontends: what a client dials.
//!
//! A frontend is looked up in a hash by [`FrontendKey`]; the value, [`FrontendRef`], changes only when another service port gets the frontend, and
//! points at a [`FrontendRow`] in a memory-mapped array, which holds all that does change. Rewriting a hash entry under traffic makes
//! concurrent look-ups miss the key, if seldom; storing a word into an array row does not.

use bytemuck::{Pod, Zeroable};

use crate::{
    Family, Port, Protocol, RangeWord, RowIndex, ServiceId, V4, V6,
    filter::{About, Place},
    layout::pod,
};

/// The key of `FRONTENDS_V4` (8 bytes) and `FRONTENDS_V6` (24 bytes).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(C, align(8))]
pub struct FrontendKey<F: Family> {
    /// The address the client dials.
    pub addr: F::Addr,
    /// The port the client dials.
    pub port: Port,
    /// The number of the [`Protocol`].
    pub protocol: u8,
    pad: u8,
    pad_word: F::RowPad,
}

pod!(FrontendKey<V4>: 8 { addr, port, protocol, pad, pad_word });
pod!(FrontendKey<V6>: 24 { addr, port, protocol, pad, pad_word });

impl<F: Family> FrontendKey<F> {
    /// The key of one frontend.
    #[inline(always)]
    pub fn new(addr: F::Addr, port: Port, protocol: Protocol) -> Self {
        F::frontend_key(addr, port, protocol.to_wire())
    }

    /// The place in the service filter that must be marked while the frontend is there.
    #[inline(always)]
    pub fn place(&self) -> Place {
        Place::of(About::Entering, self.addr, self.port)
    }
}

/// The value of `FRONTENDS_V4` and `FRONTENDS_V6`. Written once, before the frontend is looked up for the first time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C, align(8))]
pub struct FrontendRef {
    /// The service port that the frontend belongs to.
    pub service: ServiceId,
    /// Its row in `FRONTEND_ROWS`.
    pub row: RowIndex,
}

pod!(FrontendRef: 8 { service, row });

/// A row of `FRONTEND_ROWS`, shared by both families.
///
/// The daemon stores each field by itself, aligned, while programs read; no two fields have to agree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C, align(8))]
pub struct FrontendRow {
    /// The backends for clients inside the cluster: pods of this node.
    pub internal: RangeWord,
    /// The backends for clients outside: what arrives on an uplink.
    pub external: RangeWord,
    /// See [`RowFlags`].
    pub flags: RowFlags,
    /// Session affinity: how long a client stays with its backend, in seconds; 0 without affinity.
    pub affinity_secs: u32,
    /// The service port that owns the row, 0 when the row is free.
    pub owner: ServiceId,
    /// Always zero.
    pub pad: u32,
}

pod!(FrontendRow: 32 { internal, external, flags, affinity_secs, owner, pad });

/// What kind of frontend a row belongs to, in bits 0..8, for people who look at the map; and what else holds for its new flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(transparent)]
pub struct RowFlags(pub u32);

impl RowFlags {
    /// A ClusterIP.
    pub const CLUSTER_IP: Self = Self(1);
    /// A node port on one of the node's addresses.
    pub const NODE_PORT: Self = Self(2);
    /// An entry of `spec.externalIPs`.
    pub const EXTERNAL_IP: Self = Self(3);
    /// An entry of `status.loadBalancer.ingress`.
    pub const LOAD_BALANCER_IP: Self = Self(4);

    /// Only clients that `SOURCES_V4` or `SOURCES_V6` has for the service may begin flows.
    pub const SOURCE_RANGES: Self = Self(1 << 8);
    /// The node stands in for clients inside the cluster, wherever the backend is.
    pub const MASQUERADE_INTERNAL: Self = Self(1 << 9);
    /// The node stands in for clients outside, wherever the backend is.
    pub const MASQUERADE_EXTERNAL: Self = Self(1 << 10);

    /// Both sets together.
    #[inline(always)]
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether any of `other` is in this set.
    #[inline(always)]
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// The kind alone.
    #[inline(always)]
    #[must_use]
    pub const fn kind(self) -> Self {
        Self(self.0 & 0xff)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Addr4;

    #[test]
    fn a_key_has_the_documented_bytes() {
        let key = FrontendKey::<V4>::new(Addr4::from_wire([10, 96, 0, 1]), Port::from_host(443), Protocol::Tcp);
        assert_eq!(bytemuck::bytes_of(&key), [10, 96, 0, 1, 0x01, 0xbb, 6, 0]);
    }
}
