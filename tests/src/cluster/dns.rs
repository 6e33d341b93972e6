//! The cluster's DNS: `CoreDNS`, as clusters have it. It asks the API server at its own address, for nobody need serve Services yet.

use anyhow::{Context as _, Result};
use serde_json::Value;

use super::settings::DNS;
use crate::{addr::Addrs, manifests};

/// The objects. `API_SERVER` and `DNS_ADDRESS` stand for addresses.
const OBJECTS: &str = include_str!("dns.yaml");

pub(super) fn objects(api_server: Addrs) -> Result<Vec<Value>> {
    let text = OBJECTS.replace("API_SERVER", &api_server.v4.to_string()).replace("DNS_ADDRESS", DNS);
    manifests::parse(&text).context("reading the objects of the cluster's DNS")
}
