//! Addresses of Services beyond their ports: what becomes of packets there that are for no frontend.

use bytemuck::{Pod, Zeroable};

use crate::{Family, V4, V6, layout::pod};

/// The value of `CLUSTER_IPS_V4` and `CLUSTER_IPS_V6`, whose key is the address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(transparent)]
pub struct Undefined(pub u32);

impl Undefined {
    /// A ClusterIP of a Service that is served here: what it does not define is refused.
    pub const REFUSE: Self = Self(1);
    /// An address that a device of this node has too (a DNS cache on each node), or that is of another proxy's Service: it is left alone.
    pub const LEAVE: Self = Self(2);
}

/// How many networks of Services each family may have.
pub const MAX_NETWORKS: usize = 4;

/// A network: an address is in it if its bits under `mask` are `base`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C, align(8))]
pub struct Network<F: Family> {
    /// The first address.
    pub base: F::Addr,
    /// Ones where the prefix is.
    pub mask: F::Addr,
}

pod!(Network<V4>: 8 { base, mask });
pod!(Network<V6>: 32 { base, mask });

/// The only row of `NETWORKS_V4` (40 bytes) and `NETWORKS_V6` (160 bytes): where Services have their ClusterIPs from (`ServiceCIDR`). Packets to
/// an address there that no Service has are dropped.
///
/// Written by the daemon while programs read: a network that comes or goes may be seen half-way, which only concerns packets to addresses
/// that nobody serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C, align(8))]
pub struct Networks<F: Family> {
    /// Contains all of them; a base with bits outside of its mask, which no address is in, where there are none.
    pub all: Network<F>,
    /// Each by itself; those that are not used are as `all` where there are none.
    pub each: [Network<F>; MAX_NETWORKS],
}

pod!(Networks<V4>: 40 { all, each });
pod!(Networks<V6>: 160 { all, each });
