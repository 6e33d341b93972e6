//! A backend, and where it is.

use std::{fmt, net::SocketAddr};

use super::{NodeFacts, endpoints::Candidate};

/// Who may serve a new flow.
///
/// The order is that of the addresses as numbers, then of the ports: programs look for an address and port in a set by halving it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Backend {
    /// Its address and port.
    pub addr: SocketAddr,
    /// It is on another node, or nobody says where it is. Its answers to clients outside come back through this node only if the node stands
    /// in for them.
    pub is_elsewhere: bool,
}

impl Backend {
    /// An endpoint is here if its `nodeName` says so. One that has an address of this node is here whatever is said of it: packets to it do
    /// not leave the node.
    pub(super) fn new(candidate: &Candidate<'_>, facts: &NodeFacts) -> Self {
        let is_here = candidate.is_local || facts.has_address(candidate.addr.ip());
        Self { addr: candidate.addr, is_elsewhere: !is_here }
    }
}

/// `10.244.1.2:8080`, `10.244.2.2:8080(elsewhere)`.
impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.addr, f)?;
        if self.is_elsewhere { f.write_str("(elsewhere)") } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    /// What the programs compare: the address as it stands in a packet, read as one number, then the port.
    fn number(backend: &Backend) -> (u128, u16) {
        let ip = match backend.addr.ip() {
            IpAddr::V4(ip) => u128::from(u32::from_be_bytes(ip.octets())),
            IpAddr::V6(ip) => u128::from_be_bytes(ip.octets()),
        };
        (ip, backend.addr.port())
    }

    #[test]
    fn backends_are_in_the_order_in_which_programs_look_for_them() {
        let families = [
            ["9.255.255.255:9", "10.0.0.2:80", "10.0.0.2:443", "10.0.0.10:1", "10.0.1.1:1", "192.0.2.1:1"],
            ["[fd00::2]:80", "[fd00::2]:443", "[fd00::10]:1", "[fd00::1:0]:1", "[fd00:0:0:1::]:1", "[fe00::]:1"],
        ];
        for texts in families {
            let sorted = texts.map(|text| Backend { addr: text.parse().unwrap(), is_elsewhere: text.len() % 2 == 0 });
            assert!(sorted.iter().is_sorted() && sorted.iter().map(number).is_sorted());
        }
    }
}
