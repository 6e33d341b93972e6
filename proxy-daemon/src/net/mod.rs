//! The node's network as netlink tells it; nothing else speaks netlink.
//!
//! In: the links, addresses and routes of the daemon's own network namespace, what the operator said about devices ([`Rules`]) and
//! the Node's `InternalIP`s. Out, from [`follow`]: a [`DeviceEvent`] for each device that programs belong on or no longer belong on, and
//! the node's [`LocalAddresses`]. Which devices those are is decided in `classify.rs`.
//!
//! Attaching programs is not done here.

mod addresses;
mod classify;
mod devices;
mod filters;
mod follow;
mod glob;
mod message;
#[cfg(test)]
mod namespace_tests;
mod namespaces;
mod ports;
mod sock_diag;
mod socket;
mod table;
#[cfg(test)]
pub(crate) mod testing;

use std::{io, time::Duration};

pub use self::{
    addresses::{DeviceSource, LocalAddress, LocalAddresses},
    classify::Rules,
    devices::{Device, DeviceEvent, Role},
    filters::{BpfFilter, bpf_filters, ingress_qdisc},
    follow::{Network, follow},
    glob::Glob,
    namespaces::in_each_other,
    ports::{NODE_PORTS, SnatPorts},
    sock_diag::{close_udp, closes_udp},
};

/// Why the network cannot be followed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("opening a netlink socket")]
    Socket(#[source] io::Error),
    #[error("netlink request {request}")]
    Request { request: &'static str, source: rtnetlink::Error },
    #[error("netlink request {request} had no answer for {} s", after.as_secs())]
    Timeout { request: &'static str, after: Duration },
    #[error("the netlink socket broke")]
    Broken,
    #[error("starting the network thread")]
    Thread(#[source] io::Error),
    #[error("reading {path}")]
    Read { path: &'static str, source: io::Error },
    #[error("{path} is not a range of ports: {text:?}")]
    PortRange { path: &'static str, text: String },
}
