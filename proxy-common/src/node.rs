//! What the programs and the command line know of the node itself.

use core::net::{IpAddr, Ipv6Addr};

use crate::{Family, Port, V4, V6, layout::pod};

/// Up to 63 bytes of text, filled up with zeros.
pub type Text64 = [u8; 64];

/// The only row of `NODE`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct NodeRow {
    /// The seed of the flow hash, drawn when the maps were made and kept as long as they are, so that a flow whose entry was lost is
    /// given the same backend again.
    pub seed: u64,
    /// [`crate::maps::LAYOUT_VERSION`] of the program that wrote the row last.
    pub layout_version: u32,
    /// 1 once the daemon that wrote the row last has brought the maps to a complete state of the cluster; 0 while it has not yet.
    pub synced: u32,
    /// The process id of the daemon that wrote the row last, in its own process-id namespace.
    pub pid: u32,
    /// The frequency of the kernel's jiffies, in hertz.
    pub hz: u32,
    /// The node's name.
    pub name: Text64,
}

pod!(NodeRow: 88 { seed, layout_version, synced, pid, hz, name });

/// The only row of `NODE_IPS`: the addresses of the Node object as they were known last. A daemon that has not heard of its Node yet goes by them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct NodeIps {
    /// Those of IPv4 mapped to IPv6; filled up with zeros.
    mapped: [[u8; 16]; Self::MAX],
}

impl NodeIps {
    /// How many have room: one of each family is usual.
    pub const MAX: usize = 4;

    /// These addresses, as many as have room.
    #[must_use]
    pub fn new(ips: impl IntoIterator<Item = IpAddr>) -> Self {
        let mut mapped = [[0; 16]; Self::MAX];
        for (place, ip) in mapped.iter_mut().zip(ips) {
            *place = match ip {
                IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
                IpAddr::V6(ip) => ip.octets(),
            };
        }
        Self { mapped }
    }

    /// The addresses, in the Node object's order.
    pub fn iter(&self) -> impl Iterator<Item = IpAddr> {
        let ips = self.mapped.iter().map(|bytes| Ipv6Addr::from(*bytes));
        ips.take_while(|ip| !ip.is_unspecified()).map(|ip| IpAddr::V6(ip).to_canonical())
    }
}

pod!(NodeIps: 64 { mapped });

/// A value of `SNAT_V4` and `SNAT_V6`: what the node uses as source where it has to stand in for the client.
///
/// The key is the index of the device by which the packet leaves, as the kernel would choose it there; [`ANY_DEVICE`] has what stands in where a
/// device has no entry. The daemon writes the latter before the first program runs, and all of them again when the node's addresses change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct SnatSource<F: Family> {
    /// The address; unset (zero) when the node has none of this family.
    pub addr: F::Addr,
    /// The first port that may be used as a source.
    pub first_port: Port,
    /// The last port that may be used as a source.
    pub last_port: Port,
    /// The largest packet that the device takes, network header included; zero where it is not known.
    pub mtu: u16,
    /// One where packets leave the device without an Ethernet header, zero where they have one. Rows of layout version 3 that are older have an
    /// MTU of 32 bits instead, of which this is the upper half, always zero: they read as Ethernet's until the daemon writes them again.
    pub bare: u16,
}

/// The key of the address for devices without an entry of their own.
pub const ANY_DEVICE: u32 = 0;

/// The step in which programs try source ports one after another, modulo how many there are: a prime, so that they reach every port of a range
/// whose number of ports is no multiple of it. The daemon gives them no other.
pub const PORT_STEP: u32 = 7919;

pod!(SnatSource<V4>: 12 { addr, first_port, last_port, mtu, bare });
pod!(SnatSource<V6>: 24 { addr, first_port, last_port, mtu, bare });

#[cfg(test)]
mod tests {
    use bytemuck::Zeroable as _;

    use super::*;

    #[test]
    fn addresses_of_the_node_are_noted_as_they_are() {
        let ips: [IpAddr; 5] = ["192.0.2.1", "2001:db8::1", "0.0.0.1", "::1", "192.0.2.9"].map(|ip| ip.parse().unwrap());
        assert_eq!(NodeIps::zeroed().iter().count(), 0);
        for count in 0..=ips.len() {
            let noted = NodeIps::new(ips[..count].iter().copied());
            assert!(noted.iter().eq(ips.iter().copied().take(count.min(NodeIps::MAX))), "{count}");
        }
    }
}
