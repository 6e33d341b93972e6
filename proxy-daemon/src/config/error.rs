//! What can be wrong with the command line, each with what to type instead.

use std::io;

use super::HOSTNAME;

/// What is wrong with the command line. Wrong usage, except where the system is to blame.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Something that is no network.
    #[error("--cluster-cidr {value}: not a network such as 10.244.0.0/16 or fd00:10:244::/56")]
    Cidr {
        /// What was typed.
        value: String,
        /// What is wrong with it.
        source: ipnet::AddrParseError,
    },
    /// Something that names no addresses.
    #[error("--nodeport-addresses {value}: neither a network such as 192.0.2.0/24 nor one of primary, localhost and all")]
    NodePortAddresses {
        /// What was typed.
        value: String,
        /// What is wrong with it.
        source: ipnet::AddrParseError,
    },
    /// A range of source ports that does not work.
    #[error("--snat-ports {value}: {why}, give FIRST-LAST such as 1024-29999")]
    SnatPorts {
        /// What was typed.
        value: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A size that does not work.
    #[error("--{flag} {value}: must be between {min} and {max}")]
    Size {
        /// The flag.
        flag: &'static str,
        /// What was typed.
        value: u32,
        /// The smallest size.
        min: u32,
        /// The largest size.
        max: u32,
    },
    /// Something that no server can be asked at.
    #[error("--api-servers {value}: not a URL such as https://192.0.2.1:6443, nor a host or an address with or without a port")]
    ApiServer {
        /// What was typed.
        value: String,
    },
    /// Something that is no time.
    #[error("--{flag} {value}: not a time such as 90s, 1h or 24h0m0s")]
    Duration {
        /// The flag.
        flag: &'static str,
        /// What was typed.
        value: String,
    },
    /// Something that is no place to listen.
    #[error("--{flag} {value}: not an address such as 0.0.0.0, 127.0.0.1:10249 or [::]:10256")]
    Listen {
        /// The flag.
        flag: &'static str,
        /// What was typed.
        value: String,
    },
    /// A pattern that no device can match.
    #[error("--{flag}: a device name is missing between the commas")]
    EmptyGlob {
        /// The flag.
        flag: &'static str,
    },
    /// A name that no Node can have.
    #[error("{value:?} is no name of a Node: give --hostname-override NODE")]
    NodeName {
        /// The name that was typed, or that the host has.
        value: String,
    },
    /// The host does not tell its name.
    #[error("cannot read the host's name from {HOSTNAME}: give --hostname-override NODE")]
    Hostname(#[source] io::Error),
}
