//! Addresses of Services beyond what the Services define: a port that a ClusterIP does not have, and addresses that no Service has.
//!
//! kube-proxy's nftables mode refuses the first and drops the second, which come from the networks that a `ServiceCIDR` names; without that,
//! such packets would leave by the default route, or go round in circles between this node and its router.

use proxy_common::{Address as _, Family, Network, Undefined, reason::Reason};

use crate::{
    ip::Ip,
    verdict::{End, News},
};

/// What becomes of a packet that no frontend is there for: the one look at it that every packet of no service gets.
#[inline(always)]
pub fn nobody<F: Ip>(dst: F::Addr) -> End {
    let Some(networks) = F::networks().get(0) else { return End::pass(Reason::NoService) };
    if contains(&networks.all, dst) { End::ASIDE } else { End::pass(Reason::NoService) }
}

/// Judges a packet that no frontend is there for, and that is to pass for `otherwise` if it concerns no Service. What no Service has is dropped only
/// for who `begins` something there: a host may have its address in a `ServiceCIDR`, and what it has begun is answered.
#[inline(always)]
pub fn judge<F: Ip>(dst: F::Addr, begins: bool, otherwise: Reason) -> End {
    // SAFETY: a word that is written once, before it is found.
    match unsafe { F::cluster_ips().get(&dst) } {
        Some(&Undefined::REFUSE) => return End::tell(News::Refused),
        Some(_) => return End::pass(otherwise),
        None if !begins => return End::pass(otherwise),
        None => {}
    }
    let Some(networks) = F::networks().get(0) else { return End::pass(otherwise) };
    let is_unallocated = networks.each.iter().any(|network| contains(network, dst));
    if is_unallocated { End::drop(Reason::Unallocated) } else { End::pass(otherwise) }
}

/// Whether an address is that of a Service which is served here.
#[inline(always)]
pub fn is_cluster_ip<F: Ip>(addr: F::Addr) -> bool {
    // SAFETY: as in `judge`.
    let undefined = unsafe { F::cluster_ips().get(&addr) };
    undefined == Some(&Undefined::REFUSE)
}

#[inline(always)]
fn contains<F: Family>(network: &Network<F>, addr: F::Addr) -> bool {
    let ([a, b], [base_a, base_b], [mask_a, mask_b]) = (addr.words(), network.base.words(), network.mask.words());
    a & mask_a == base_a && b & mask_b == base_b
}

#[cfg(test)]
mod tests {
    use proxy_common::{Addr4, Addr6, V4, V6};

    use super::*;

    fn addr<A: proxy_common::Address>(text: &str) -> A {
        A::from_ip(text.parse().unwrap()).unwrap()
    }

    #[test]
    fn a_network_contains_the_addresses_with_its_prefix() {
        let v4 = Network::<V4> { base: addr("10.96.0.0"), mask: addr("255.240.0.0") };
        let v6 = Network::<V6> { base: addr("fd00:10:96::"), mask: addr("ffff:ffff:ffff:ffff:ffff:ffff:ffff:0") };
        for (text, is_in) in [("10.96.0.1", true), ("10.111.255.255", true), ("10.112.0.0", false), ("11.96.0.1", false)] {
            assert_eq!(contains(&v4, addr::<Addr4>(text)), is_in, "{text}");
        }
        for (text, is_in) in [("fd00:10:96::ffff", true), ("fd00:10:96::1:0", false), ("fd00:10:97::1", false)] {
            assert_eq!(contains(&v6, addr::<Addr6>(text)), is_in, "{text}");
        }
    }

    #[test]
    fn a_base_outside_of_the_mask_contains_nothing() {
        let nothing = Network::<V4> { base: addr("255.255.255.255"), mask: addr("0.0.0.0") };
        for text in ["0.0.0.0", "10.96.0.1", "255.255.255.255"] {
            assert!(!contains(&nothing, addr::<Addr4>(text)));
        }
    }
}
