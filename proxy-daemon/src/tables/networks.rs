//! The networks that Services have their addresses from: the rows of `NETWORKS_V4` and `NETWORKS_V6`.

use std::collections::BTreeSet;

use bytemuck::Zeroable as _;
use ipnet::IpNet;
use proxy_common::{Address as _, Family, MAX_NETWORKS, Network, Networks, V4, V6};

use super::change::Change;
use crate::model::IpFamily;

/// What the two rows hold; nothing if that is not known.
#[derive(Clone, Debug, Default)]
pub(super) struct ServiceNetworks {
    pub(super) v4: Option<Networks<V4>>,
    pub(super) v6: Option<Networks<V6>>,
}

impl ServiceNetworks {
    /// Brings the rows to these networks. Of more than fit the first ones count.
    pub(super) fn set(&mut self, networks: &BTreeSet<IpNet>) -> Vec<Change> {
        let (v4, v6) = (row::<V4>(networks), row::<V6>(networks));
        let mut changes = Vec::new();
        if self.v4.replace(v4) != Some(v4) {
            changes.push(Change::Networks4(v4));
        }
        if self.v6.replace(v6) != Some(v6) {
            changes.push(Change::Networks6(v6));
        }
        changes
    }
}

/// The row that no address is in.
pub fn no_networks<F: Family>() -> Networks<F> {
    Networks { all: nowhere(), each: [nowhere(); MAX_NETWORKS] }
}

/// The networks that do not fit.
pub fn overflow(networks: &BTreeSet<IpNet>) -> Vec<IpNet> {
    let of = |family| networks.iter().filter(move |network| IpFamily::of(network.network()) == family).skip(MAX_NETWORKS);
    of(IpFamily::V4).chain(of(IpFamily::V6)).copied().collect()
}

fn row<F: Family>(networks: &BTreeSet<IpNet>) -> Networks<F> {
    let ours: Vec<&IpNet> = networks.iter().filter(|network| F::Addr::from_ip(network.network()).is_some()).take(MAX_NETWORKS).collect();
    let mut row = no_networks();
    let Some((first, rest)) = ours.split_first() else { return row };
    let mut all = **first;
    for network in rest {
        while !all.contains(*network) {
            let Some(wider) = all.supernet() else { break };
            all = wider;
        }
    }
    row.all = one(&all);
    for (place, network) in row.each.iter_mut().zip(&ours) {
        *place = one(network);
    }
    row
}

fn one<F: Family>(network: &IpNet) -> Network<F> {
    let addr = |ip| F::Addr::from_ip(ip).unwrap_or_else(F::Addr::zeroed);
    Network { base: addr(network.network()), mask: addr(network.netmask()) }
}

/// A network that no address is in: its base has bits outside of its mask.
fn nowhere<F: Family>() -> Network<F> {
    let mut base = F::Addr::zeroed();
    bytemuck::bytes_of_mut(&mut base).fill(u8::MAX);
    Network { base, mask: F::Addr::zeroed() }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    fn networks(texts: &[&str]) -> BTreeSet<IpNet> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    /// Whether an address is in a network, by the bits of both as programs compare them.
    fn has<F: Family>(network: &Network<F>, addr: IpAddr) -> bool {
        let addr = F::Addr::from_ip(addr).unwrap();
        let [addr, base, mask] = [&addr, &network.base, &network.mask].map(bytemuck::bytes_of);
        addr.iter().zip(mask).zip(base).all(|((addr, mask), base)| addr & mask == *base)
    }

    fn is_in<F: Family>(row: &Networks<F>, addr: &str) -> [bool; 2] {
        let addr = addr.parse().unwrap();
        [has(&row.all, addr), row.each.iter().any(|network| has(network, addr))]
    }

    #[test]
    fn an_address_is_in_a_row_if_it_is_in_one_of_its_networks() {
        let all = networks(&["10.96.0.0/12", "10.200.0.0/24", "fd00:96::/112"]);
        let v4 = row::<V4>(&all);
        for (addr, expected) in [
            ("10.96.0.0", [true, true]),
            ("10.111.255.255", [true, true]),
            ("10.200.0.7", [true, true]),
            ("10.200.1.0", [true, false]),
            ("10.0.0.1", [true, false]),
            ("9.255.255.255", [false, false]),
            ("11.96.0.1", [false, false]),
        ] {
            assert_eq!(is_in(&v4, addr), expected, "{addr}");
        }
        let v6 = row::<V6>(&all);
        assert_eq!([is_in(&v6, "fd00:96::ffff"), is_in(&v6, "fd00:96::1:0")], [[true, true], [false, false]]);
    }

    #[test]
    fn without_networks_no_address_is_in_one() {
        for addr in ["0.0.0.0", "255.255.255.255", "10.96.0.1"] {
            assert_eq!(is_in(&row::<V4>(&networks(&["fd00::/8"])), addr), [false, false]);
        }
        for addr in ["::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "fd00::1"] {
            assert_eq!(is_in(&row::<V6>(&networks(&[])), addr), [false, false]);
        }
    }

    #[test]
    fn of_more_networks_than_fit_the_first_ones_count() {
        let all = networks(&["10.5.0.0/16", "10.1.0.0/16", "10.4.0.0/16", "10.3.0.0/16", "10.2.0.0/16", "fd00::/64"]);
        assert_eq!(overflow(&all), [IpNet::from("10.5.0.0/16".parse::<ipnet::Ipv4Net>().unwrap())]);
        let row = row::<V4>(&all);
        assert_eq!([is_in(&row, "10.4.0.1")[1], is_in(&row, "10.5.0.1")[1]], [true, false]);
    }

    #[test]
    fn rows_are_written_when_they_change() {
        let mut rows = ServiceNetworks::default();
        let one = networks(&["10.96.0.0/12"]);
        assert_eq!(rows.set(&one), [Change::Networks4(row(&one)), Change::Networks6(no_networks())]);
        assert_eq!(rows.set(&one), []);
        assert_eq!(rows.set(&networks(&[])), [Change::Networks4(no_networks())]);
    }
}
