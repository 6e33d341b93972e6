//! Which clients may use a service's load balancer addresses (`spec.loadBalancerSourceRanges`).

use crate::{Address as _, Family, ServiceId, V4, V6, layout::pod};

/// The key of `SOURCES_V4` (12 bytes) and `SOURCES_V6` (24 bytes), which are tries: an entry is found by every client whose address
/// begins with the entry's prefix. The value is one byte that means nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(C)]
pub struct SourceKey<F: Family> {
    /// How many bits count, from the first of `service` on.
    pub prefix_len: u32,
    /// The service port.
    pub service: ServiceId,
    /// The network, or the client that is looked for.
    pub addr: F::Addr,
}

pod!(SourceKey<V4>: 12 { prefix_len, service, addr });
pod!(SourceKey<V6>: 24 { prefix_len, service, addr });

impl<F: Family> SourceKey<F> {
    /// The key of a network of `prefix_len` bits.
    pub fn network(service: ServiceId, addr: F::Addr, prefix_len: u8) -> Self {
        Self { prefix_len: ServiceId::BITS + u32::from(prefix_len), service, addr }
    }

    /// The key by which a client is looked for.
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "an address has 4 or 16 bytes")]
    pub fn client(service: ServiceId, addr: F::Addr) -> Self {
        Self { prefix_len: ServiceId::BITS + F::Addr::LEN as u32 * 8, service, addr }
    }
}
