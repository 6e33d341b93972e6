//! The testbed's address plan, both families side by side.
//!
//! | what | IPv4 | IPv6 |
//! |---|---|---|
//! | underlay segment, router at 1, node *n* at 1*n* | 172.30.0.0/24 | fd30::/64 |
//! | pods of node *n* | 10.244.*n*.0/24 | fd00:244:0:*n*::/64 |
//! | Services' ClusterIPs | 10.96.0.0/16 | fd00:10:96::/112 |
//! | the client outside | 192.0.2.10 | 2001:db8::10 |
//! | external IPs, routed to the first node | 198.51.100.0/24 | 2001:db8:e::/64 |
//! | load balancer IPs, routed to the first node | 203.0.113.0/24 | 2001:db8:1b::/64 |

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

/// All pods' addresses, as `--cluster-cidr` takes them.
pub const CLUSTER_CIDR: &str = "10.244.0.0/16,fd00:244::/48";
pub const EXTERNAL_NETS: [&str; 2] = ["198.51.100.0/24", "2001:db8:e::/64"];
pub const LOAD_BALANCER_NETS: [&str; 2] = ["203.0.113.0/24", "2001:db8:1b::/64"];

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    V4,
    V6,
}

impl Family {
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

/// One address of each family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addrs {
    pub v4: Ipv4Addr,
    pub v6: Ipv6Addr,
}

impl Addrs {
    /// Reads the two addresses.
    ///
    /// # Panics
    /// When one is malformed: addresses are written in the code.
    pub fn new(v4: &str, v6: &str) -> Self {
        Self { v4: v4.parse().expect("a well-formed IPv4 address"), v6: v6.parse().expect("a well-formed IPv6 address") }
    }

    pub fn of(self, family: Family) -> IpAddr {
        match family {
            Family::V4 => self.v4.into(),
            Family::V6 => self.v6.into(),
        }
    }

    pub fn at(self, family: Family, port: u16) -> SocketAddr {
        SocketAddr::new(self.of(family), port)
    }

    pub fn both(self) -> [IpAddr; 2] {
        Family::ALL.map(|family| self.of(family))
    }

    pub fn contains(self, addr: IpAddr) -> bool {
        self.both().contains(&addr)
    }
}

/// The `ClusterIP`s of the test's Service number `n`.
pub fn cluster_ips(n: u8) -> Addrs {
    Addrs::new(&format!("10.96.0.{n}"), &format!("fd00:10:96::{n}"))
}

/// External IPs, routed to the first node.
pub fn external_ips(n: u8) -> Addrs {
    Addrs::new(&format!("198.51.100.{n}"), &format!("2001:db8:e::{n}"))
}

/// Load balancer IPs, routed to the first node.
pub fn load_balancer_ips(n: u8) -> Addrs {
    Addrs::new(&format!("203.0.113.{n}"), &format!("2001:db8:1b::{n}"))
}

/// The NodePort of the test's Service number `n`.
pub fn node_port(n: u8) -> u16 {
    30_000 + u16::from(n)
}

pub(crate) fn router() -> Addrs {
    Addrs::new("172.30.0.1", "fd30::1")
}

pub fn client() -> Addrs {
    Addrs::new("192.0.2.10", "2001:db8::10")
}

/// The router's side of the client's network.
pub(crate) fn client_gateway() -> Addrs {
    Addrs::new("192.0.2.1", "2001:db8::1")
}

/// The address of node `index`, counted from 1.
pub fn node(index: u8) -> Addrs {
    let host = 10 + index;
    Addrs::new(&format!("172.30.0.{host}"), &format!("fd30::{host}"))
}

/// An address out of a node's pod networks; 1 is the gateway where the CNI style has one.
pub fn pod(node: u8, host: u8) -> Addrs {
    Addrs::new(&format!("10.244.{node}.{host}"), &format!("fd00:244:0:{node}::{host}"))
}

/// A node's pod networks.
pub(crate) fn pod_cidrs(node: u8) -> [String; 2] {
    [format!("10.244.{node}.0/24"), format!("fd00:244:0:{node}::/64")]
}
