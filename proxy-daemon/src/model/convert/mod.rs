//! From objects of the Kubernetes API to the model's types; the only place that knows the former.
//!
//! Conversion never fails as a whole and never panics. What cannot be understood is left out and named as a [`Problem`]; what is not
//! meant for us, such as a headless Service, is left out silently. The caller says each problem of an object once.

mod endpoint_slice;
mod node;
mod service;
mod service_cidr;

use std::net::{IpAddr, Ipv4Addr};

use ipnet::{IpNet, Ipv4Net};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use proxy_common::Protocol;

pub use self::{endpoint_slice::endpoint_slice, node::node, service::service, service_cidr::service_cidr};
use super::ObjectName;

/// What became of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Converted<T> {
    /// The object's name.
    pub name: ObjectName,
    /// What is left of it; nothing if it is not to be served.
    pub object: Option<T>,
    /// What was left out and why.
    pub problems: Vec<Problem>,
}

/// Why an object, or a part of it, is not served.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum Problem {
    /// An address cannot be parsed.
    #[error("{field}: {value:?} is not an IP address")]
    NotAnAddress {
        /// Where it stands.
        field: &'static str,
        /// What stands there.
        value: String,
    },
    /// An address that must not be served, or sent to.
    #[error("{field}: {addr} is loopback, link-local, multicast or unspecified, which is not allowed here")]
    AddressNotAllowed {
        /// Where it stands.
        field: &'static str,
        /// The address.
        addr: IpAddr,
    },
    /// An address of the other family than the object declares.
    #[error("{field}: {addr} is not an {declared} address, which addressType promises")]
    WrongFamily {
        /// Where it stands.
        field: &'static str,
        /// The address.
        addr: IpAddr,
        /// The family that was promised.
        declared: super::IpFamily,
    },
    /// A port number that cannot be.
    #[error("{field}: {value} is not a port number between 1 and 65535")]
    NotAPort {
        /// Where it stands.
        field: &'static str,
        /// What stands there.
        value: i32,
    },
    /// A slice's port without a number, which would mean every port.
    #[error("ports: port {name:?} has no number")]
    NoPortNumber {
        /// The port's name.
        name: String,
    },
    /// A protocol that no service can have.
    #[error("ports: port {port:?} has the unknown protocol {protocol:?}")]
    UnknownProtocol {
        /// The port's name.
        port: String,
        /// What stands there.
        protocol: String,
    },
    /// A second port of the same name and protocol.
    #[error("spec.ports: there are two {protocol} ports named {port:?}, the first one counts")]
    DuplicatePort {
        /// The port's name.
        port: String,
        /// The protocol.
        protocol: Protocol,
    },
    /// A value that the field cannot have.
    #[error("{field}: unknown value {value:?}")]
    UnknownValue {
        /// Where it stands.
        field: &'static str,
        /// What stands there.
        value: String,
    },
    /// An affinity timeout outside of the API's bounds.
    #[error("spec.sessionAffinityConfig.clientIP.timeoutSeconds: {0} is not between 1 and 86400, the default is used")]
    AffinityTimeout(i32),
    /// A network cannot be parsed.
    #[error("{field}: {value:?} is not a network such as 192.0.2.0/24 or 2001:db8::/32")]
    NotANetwork {
        /// Where it stands.
        field: &'static str,
        /// What stands there.
        value: String,
    },
    /// A slice that says of no Service that it belongs to it.
    #[error("the label kubernetes.io/service-name is missing, so these endpoints belong to no Service")]
    NoServiceLabel,
    /// Endpoints without any address.
    #[error("endpoints: an endpoint has no address")]
    NoAddress,
}

/// The label by which Services and slices are left to another proxy, whatever its value.
const LABEL_PROXY_NAME: &str = "service.kubernetes.io/service-proxy-name";
/// The label on the slices of headless Services, whatever its value.
const LABEL_HEADLESS: &str = "service.kubernetes.io/headless";
/// On slices: when the pod, or whatever it was, has changed.
const ANNOTATION_TRIGGERED: &str = "endpoints.kubernetes.io/last-change-trigger-time";
const LABEL_SERVICE_NAME: &str = "kubernetes.io/service-name";
const LABEL_ZONE: &str = "topology.kubernetes.io/zone";

fn object_name(metadata: &ObjectMeta) -> ObjectName {
    ObjectName::new(metadata.namespace.as_deref().unwrap_or(""), metadata.name.as_deref().unwrap_or(""))
}

fn label<'a>(metadata: &'a ObjectMeta, key: &str) -> Option<&'a str> {
    metadata.labels.as_ref()?.get(key).map(String::as_str)
}

/// Parses an address in any form the API has ever accepted, and brings it into its canonical one.
fn address(field: &'static str, value: &str) -> Result<IpAddr, Problem> {
    let addr = value.parse().ok().or_else(|| ipv4_with_leading_zeros(value));
    let addr: IpAddr = addr.ok_or_else(|| Problem::NotAnAddress { field, value: value.to_owned() })?;
    Ok(addr.to_canonical())
}

/// An address that packets may be sent to in the name of a Service.
fn unicast_address(field: &'static str, value: &str) -> Result<IpAddr, Problem> {
    let addr = address(field, value)?;
    let link_local = match addr {
        IpAddr::V4(addr) => addr.is_link_local() || addr.is_broadcast(),
        IpAddr::V6(addr) => addr.is_unicast_link_local(),
    };
    if link_local || addr.is_loopback() || addr.is_multicast() || addr.is_unspecified() {
        return Err(Problem::AddressNotAllowed { field, addr });
    }
    Ok(addr)
}

/// Parses a network in any form the API has ever accepted, with blanks around it and with bits beyond its prefix, which are cut off. One of
/// IPv4-mapped addresses is one of IPv4, as for kube-proxy.
fn network(field: &'static str, value: &str) -> Result<IpNet, Problem> {
    let parse = || {
        let (addr, prefix_len) = value.trim().split_once('/')?;
        let addr = addr.parse().ok().or_else(|| ipv4_with_leading_zeros(addr))?;
        let is_number = prefix_len.bytes().all(|byte| byte.is_ascii_digit());
        let prefix_len = prefix_len.parse().ok().filter(|_| is_number)?;
        Some(unmapped(IpNet::new(addr, prefix_len).ok()?.trunc()))
    };
    parse().ok_or_else(|| Problem::NotANetwork { field, value: value.to_owned() })
}

fn unmapped(network: IpNet) -> IpNet {
    let IpNet::V6(mapped) = network else { return network };
    let v4 = mapped.addr().to_ipv4_mapped().zip(mapped.prefix_len().checked_sub(96));
    v4.and_then(|(addr, prefix_len)| Ipv4Net::new(addr, prefix_len).ok()).map_or(network, IpNet::V4)
}

/// Old objects may hold `010.0.0.1`, which means 10.0.0.1 there.
fn ipv4_with_leading_zeros(value: &str) -> Option<IpAddr> {
    let octet = |text: &str| {
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        if digits { text.parse().ok() } else { None }
    };
    let octets: Option<Vec<u8>> = value.split('.').map(octet).collect();
    let octets: [u8; 4] = octets?.try_into().ok()?;
    Some(Ipv4Addr::from(octets).into())
}

fn port_number(field: &'static str, value: i32) -> Result<u16, Problem> {
    u16::try_from(value).ok().filter(|port| *port != 0).ok_or(Problem::NotAPort { field, value })
}

/// The protocol of a port; without one it is TCP.
fn protocol(port: &str, value: Option<&str>) -> Result<Protocol, Problem> {
    match value {
        None | Some("TCP" | "") => Ok(Protocol::Tcp),
        Some("UDP") => Ok(Protocol::Udp),
        Some("SCTP") => Ok(Protocol::Sctp),
        Some(other) => Err(Problem::UnknownProtocol { port: port.to_owned(), protocol: other.to_owned() }),
    }
}

/// Keeps what could be converted and notes the rest.
fn collect<T>(problems: &mut Vec<Problem>, results: impl IntoIterator<Item = Result<T, Problem>>) -> Vec<T> {
    results.into_iter().filter_map(|result| result.map_err(|problem| problems.push(problem)).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_parsed_leniently_and_made_canonical() {
        let parse = |text| address("field", text).unwrap().to_string();
        assert_eq!(parse("010.001.0.9"), "10.1.0.9");
        assert_eq!(parse("fd00:0:0:0:0:0:0:01"), "fd00::1");
        assert_eq!(parse("::ffff:10.0.0.1"), "10.0.0.1");
        for wrong in ["", "10.0.0", "10.0.0.256", "10.0.0.1.2", "10.0.0.+1", "ten", "10.0.0.1/24"] {
            assert!(address("field", wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn networks_are_parsed_leniently_and_lose_their_host_bits() {
        let parse = |text| network("field", text).unwrap().to_string();
        assert_eq!(parse(" 010.001.0.9/16\n"), "10.1.0.0/16");
        assert_eq!(parse("0.0.0.0/0"), "0.0.0.0/0");
        assert_eq!(parse("fd00:0::1/64"), "fd00::/64");
        assert_eq!(parse("::ffff:10.0.0.1/104"), "10.0.0.0/8");
        assert_eq!(parse("::ffff:10.0.0.1/96"), "0.0.0.0/0");
        assert_eq!(parse("::ffff:10.0.0.1/80"), "::/80");
        for wrong in ["", "10.0.0.1", "10.0.0.0/", "10.0.0.0/33", "10.0.0.0/+8", "10.0.0.0/8/8", "fd00::/129", "/8"] {
            assert!(network("field", wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn addresses_that_would_reach_the_node_itself_are_refused() {
        for wrong in ["127.0.0.1", "0.0.0.0", "169.254.169.254", "224.0.0.1", "255.255.255.255", "::1", "::", "fe80::1"] {
            assert!(unicast_address("field", wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn zero_is_no_port() {
        assert_eq!(port_number("field", 65535), Ok(65535));
        for wrong in [0, -1, 65536] {
            assert_eq!(port_number("field", wrong), Err(Problem::NotAPort { field: "field", value: wrong }));
        }
    }
}
