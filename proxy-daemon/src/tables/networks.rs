//! The networks that Services have their addresses from: the rows of `NETWORKS_V4` and `NETWORKS_V6`.

use std::{collections::BTreeSet, net::IpAddr};

use bytemuck::Zeroable as _;
use ipnet::IpNet;
use proxy_common::{Address as _, Family, MAX_NETWORKS, Network, Networks, V4, V6};

use super::{by_family::ByFamily, change::Change};
use crate::model::IpFamily;

/// What the two rows hold, and why.
///
/// Programs look closer at packets for nobody into the network that contains everything: all that Services have their addresses from, and every
/// ClusterIP there has been, so that other ports of those are refused also where the networks are not known.
#[derive(Clone, Debug, Default)]
pub(super) struct ServiceNetworks {
    networks: BTreeSet<IpNet>,
    cluster_ips: ByFamily<Option<IpNet>>,
    /// Nothing if that is not known.
    v4: Option<Networks<V4>>,
    v6: Option<Networks<V6>>,
}

impl ServiceNetworks {
    /// Takes in rows that were found at the start.
    pub(super) fn find(v4: Option<Networks<V4>>, v6: Option<Networks<V6>>) -> Self {
        let mut this = Self { v4, v6, ..Self::default() };
        *this.cluster_ips.of_mut(IpFamily::V4) = v4.and_then(|row| read(&row.all));
        *this.cluster_ips.of_mut(IpFamily::V6) = v6.and_then(|row| read(&row.all));
        this
    }

    /// Brings the rows to these networks. Of more than fit the first ones count.
    pub(super) fn set(&mut self, networks: &BTreeSet<IpNet>) -> Vec<Change> {
        self.networks.clone_from(networks);
        IpFamily::ALL.into_iter().filter_map(|family| self.write(family)).collect()
    }

    /// Has packets for nobody to this ClusterIP looked at.
    pub(super) fn cover(&mut self, cluster_ip: IpAddr) -> Option<Change> {
        let family = IpFamily::of(cluster_ip);
        let covered = self.cluster_ips.of_mut(family);
        *covered = Some(widened(*covered, cluster_ip.into()));
        self.write(family)
    }

    /// Brings the row of a family to what it should be, if it is something else.
    fn write(&mut self, family: IpFamily) -> Option<Change> {
        let cluster_ips = *self.cluster_ips.of(family);
        match family {
            IpFamily::V4 => {
                let row = row(&self.networks, cluster_ips);
                (self.v4.replace(row) != Some(row)).then_some(Change::Networks4(row))
            }
            IpFamily::V6 => {
                let row = row(&self.networks, cluster_ips);
                (self.v6.replace(row) != Some(row)).then_some(Change::Networks6(row))
            }
        }
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

fn row<F: Family>(networks: &BTreeSet<IpNet>, cluster_ips: Option<IpNet>) -> Networks<F> {
    let ours: Vec<&IpNet> = networks.iter().filter(|network| F::Addr::from_ip(network.network()).is_some()).take(MAX_NETWORKS).collect();
    let mut row = no_networks();
    if let Some(all) = ours.iter().fold(cluster_ips, |all, network| Some(widened(all, **network))) {
        row.all = one(&all);
    }
    for (place, network) in row.each.iter_mut().zip(&ours) {
        *place = one(network);
    }
    row
}

/// The smallest network that contains both.
fn widened(all: Option<IpNet>, network: IpNet) -> IpNet {
    let mut all = all.unwrap_or(network);
    while !all.contains(&network) {
        let Some(wider) = all.supernet() else { break };
        all = wider;
    }
    all
}

/// The network that a row has, if it has one.
fn read<F: Family>(network: &Network<F>) -> Option<IpNet> {
    let bits = |addr: F::Addr| bytemuck::bytes_of(&addr).iter().map(|byte| byte.count_ones()).sum::<u32>();
    let prefix = u8::try_from(bits(network.mask)).ok()?;
    let read = IpNet::new(network.base.to_ip(), prefix).ok()?;
    // Not the row that no address is in.
    (one::<F>(&read) == *network).then_some(read.trunc())
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
        let v4 = row::<V4>(&all, None);
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
        let v6 = row::<V6>(&all, None);
        assert_eq!([is_in(&v6, "fd00:96::ffff"), is_in(&v6, "fd00:96::1:0")], [[true, true], [false, false]]);
    }

    #[test]
    fn without_networks_no_address_is_in_one() {
        for addr in ["0.0.0.0", "255.255.255.255", "10.96.0.1"] {
            assert_eq!(is_in(&row::<V4>(&networks(&["fd00::/8"]), None), addr), [false, false]);
        }
        for addr in ["::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "fd00::1"] {
            assert_eq!(is_in(&row::<V6>(&networks(&[]), None), addr), [false, false]);
        }
    }

    #[test]
    fn of_more_networks_than_fit_the_first_ones_count() {
        let all = networks(&["10.5.0.0/16", "10.1.0.0/16", "10.4.0.0/16", "10.3.0.0/16", "10.2.0.0/16", "fd00::/64"]);
        assert_eq!(overflow(&all), ["10.5.0.0/16".parse().unwrap()]);
        let of_both = [
            "10.1.0.0/16",
            "10.2.0.0/16",
            "10.3.0.0/16",
            "10.4.0.0/16",
            "10.5.0.0/16",
            "fd01::/64",
            "fd02::/64",
            "fd03::/64",
            "fd04::/64",
            "fd05::/64",
        ];
        assert_eq!(overflow(&networks(&of_both)), ["10.5.0.0/16", "fd05::/64"].map(|text| text.parse().unwrap()));
        let row = row::<V4>(&all, None);
        assert_eq!([is_in(&row, "10.4.0.1")[1], is_in(&row, "10.5.0.1")[1]], [true, false]);
    }

    #[test]
    fn rows_are_written_when_they_change() {
        let mut rows = ServiceNetworks::default();
        let one = networks(&["10.96.0.0/12"]);
        assert_eq!(rows.set(&one), [Change::Networks4(row(&one, None)), Change::Networks6(no_networks())]);
        assert_eq!(rows.set(&one), []);
        assert_eq!(rows.set(&networks(&[])), [Change::Networks4(no_networks())]);
    }

    #[test]
    fn the_network_of_everything_has_every_cluster_ip() {
        let mut rows = ServiceNetworks::default();
        let [first, second] = ["10.96.0.7", "10.96.0.1"].map(|addr| addr.parse().unwrap());
        assert!(rows.cover(first).is_some());
        assert_eq!(rows.cover(first), None);
        let Some(Change::Networks4(row)) = rows.cover(second) else { panic!("no change") };
        assert_eq!(["10.96.0.6", "10.96.0.8"].map(|addr| is_in(&row, addr)), [[true, false], [false, false]]);
        // What is known of the networks is added, and nothing of it forgotten by the next run.
        let [Change::Networks4(row), Change::Networks6(_)] = rows.set(&networks(&["10.97.0.0/24"]))[..] else { panic!("not two changes") };
        assert_eq!(["10.96.0.7", "10.97.0.1"].map(|addr| is_in(&row, addr)), [[true, false], [true, true]]);
        let mut next = ServiceNetworks::find(Some(row), Some(no_networks()));
        assert_eq!(next.set(&networks(&["10.97.0.0/24"])), []);
        assert_eq!(next.cover(first), None);
    }
}
