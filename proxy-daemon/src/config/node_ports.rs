//! `--nodeport-addresses`: networks and the words that kube-proxy knows, in any mixture.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use proxy_common::Sockets;

use super::Error;
use crate::plan::NodePortAddresses;

/// Reads the list. Without one it is `primary`.
///
/// Loopback is served where sockets are, for no packet gets there: without a list, as kube-proxy has it with iptables, or where the list has it.
pub(super) fn node_port_addresses(typed: &[String], sockets: Sockets) -> Result<NodePortAddresses, Error> {
    let mut addresses = NodePortAddresses { primary: typed.is_empty(), ..NodePortAddresses::default() };
    for value in typed {
        let networks = match value.trim() {
            "primary" => {
                addresses.primary = true;
                Vec::new()
            }
            "localhost" => networks(["127.0.0.0/8", "::1/128"]),
            "all" => networks(["0.0.0.0/0", "::/0"]),
            other => {
                let network: IpNet = other.parse().map_err(|source| Error::NodePortAddresses { value: value.clone(), source })?;
                vec![network.trunc()]
            }
        };
        addresses.networks.extend(networks);
    }
    if sockets != Sockets::NONE {
        let has = |addr: &IpAddr| typed.is_empty() || addresses.networks.iter().any(|network| network.contains(addr));
        let loopback: [IpAddr; 2] = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
        addresses.loopback = loopback.into_iter().filter(has).collect();
    }
    Ok(addresses)
}

fn networks(texts: [&str; 2]) -> Vec<IpNet> {
    texts.iter().filter_map(|text| text.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<NodePortAddresses, Error> {
        let typed: Vec<String> = text.split(',').filter(|_| !text.is_empty()).map(str::to_owned).collect();
        node_port_addresses(&typed, Sockets::NONE)
    }

    #[test]
    fn words_and_networks_may_be_mixed() {
        let texts = |text| {
            let NodePortAddresses { primary, networks, .. } = read(text).unwrap();
            (primary, networks.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "))
        };
        assert_eq!(texts(""), (true, String::new()));
        assert_eq!(texts("primary"), (true, String::new()));
        assert_eq!(texts("all"), (false, "0.0.0.0/0 ::/0".to_owned()));
        assert_eq!(texts("primary, 10.1.2.3/8,localhost"), (true, "10.0.0.0/8 127.0.0.0/8 ::1/128".to_owned()));
        assert!(read("localhost").unwrap().name_loopback() && !read("all").unwrap().name_loopback());
    }

    #[test]
    fn loopback_is_served_where_sockets_are() {
        let loopback = |typed: &[&str], sockets| {
            let typed: Vec<String> = typed.iter().map(|&text| text.to_owned()).collect();
            let addresses = node_port_addresses(&typed, sockets).unwrap();
            addresses.loopback.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
        };
        for (typed, expected) in [
            (&[][..], "127.0.0.1 ::1"),
            (&["all"], "127.0.0.1 ::1"),
            (&["primary", "127.0.0.0/8"], "127.0.0.1"),
            (&["primary"], ""),
            (&["192.0.2.0/24"], ""),
        ] {
            assert_eq!(loopback(typed, Sockets::HOST), expected, "{typed:?}");
            assert_eq!(loopback(typed, Sockets::NONE), "", "{typed:?}");
        }
    }

    #[test]
    fn what_is_neither_is_named() {
        for wrong in ["10.0.0.1", "any", " ", "10.0.0.0/8,,primary"] {
            let error = read(wrong).unwrap_err().to_string();
            assert!(error.starts_with("--nodeport-addresses") && error.contains("primary"), "{error}");
        }
    }
}
