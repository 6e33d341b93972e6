//! Addresses that clients dial.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
};

use proxy_common::Protocol;

/// An address family. Each is judged on its own, also in a service that has both.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum IpFamily {
    /// RFC 791.
    V4,
    /// RFC 8200.
    V6,
}

/// What a client dials: an address, a port and a protocol, each pair of which at most one service port serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FrontendAddr {
    /// The address; an IPv4 address is never written as an IPv6 one.
    pub addr: IpAddr,
    /// The port in host order, never zero.
    pub port: u16,
    /// The protocol.
    pub protocol: Protocol,
}

impl IpFamily {
    /// Both, in the order in which they are planned.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// The family of an address.
    pub const fn of(addr: IpAddr) -> Self {
        match addr {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }
}

impl fmt::Display for IpFamily {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

/// `10.0.0.1:80/TCP`, `[fd00::1]:80/TCP`.
impl fmt::Display for FrontendAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", SocketAddr::new(self.addr, self.port), self.protocol)
    }
}
