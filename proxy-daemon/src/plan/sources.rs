//! Which clients may use a Service's load balancer addresses, in one family (`spec.loadBalancerSourceRanges`).
//!
//! The rule is kube-proxy's: where the family has ranges, nobody else begins a flow to a load balancer address; other addresses of the Service
//! are not meant. Where it has none, everybody may. If a range has the node's own address, the load balancer's addresses are in it as well:
//! where such an address is bound on the node, it is the source of what the node sends there.

use std::collections::BTreeSet;

use ipnet::IpNet;

use super::NodeFacts;
use crate::model::{IpFamily, Service};

/// The networks whose clients may; none if everybody may.
pub(super) fn sources(service: &Service, facts: &NodeFacts, family: IpFamily) -> BTreeSet<IpNet> {
    let ranges = service.source_ranges.iter().filter(|range| IpFamily::of(range.network()) == family);
    let mut sources: BTreeSet<IpNet> = ranges.copied().collect();
    let has_node = facts.node_ip(family).is_some_and(|ip| sources.iter().any(|range| range.contains(&ip)));
    if has_node {
        sources.extend(service.load_balancer_ips.iter().filter(|ip| IpFamily::of(**ip) == family).map(|ip| IpNet::from(*ip)));
    }
    sources
}
