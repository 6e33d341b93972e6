//! The own Node.

use std::{net::IpAddr, sync::Arc};

use k8s_openapi::api::core::v1 as api;

use super::{Converted, LABEL_ZONE, address, collect, label, object_name};
use crate::model::{IpFamily, NodeInfo};

/// The taint by which an autoscaler says which node it will delete, whatever its effect.
const TAINT_LEAVING: &str = "ToBeDeletedByClusterAutoscaler";

/// Converts a Node.
pub fn node(node: &api::Node) -> Converted<NodeInfo> {
    let name = object_name(&node.metadata);
    let mut problems = Vec::new();
    let listed = node.status.as_ref().and_then(|status| status.addresses.as_deref()).unwrap_or_default();
    let of_type = |wanted| listed.iter().filter(move |entry| entry.type_ == wanted).map(|entry| entry.address.as_str());
    let texts = of_type("InternalIP").chain(of_type("ExternalIP"));
    let addrs = collect(&mut problems, texts.map(|text| address("status.addresses", text)));
    let object = NodeInfo {
        name: Arc::clone(&name.name),
        zone: label(&node.metadata, LABEL_ZONE).filter(|zone| !zone.is_empty()).map(Arc::from),
        node_ips: one_of_each_family(&addrs),
        is_leaving: node.metadata.deletion_timestamp.is_some() || taints(node).any(|taint| taint.key == TAINT_LEAVING),
    };
    Converted { name, object: Some(object), problems }
}

fn taints(node: &api::Node) -> impl Iterator<Item = &api::Taint> {
    node.spec.iter().flat_map(|spec| spec.taints.iter().flatten())
}

fn one_of_each_family(addrs: &[IpAddr]) -> Vec<IpAddr> {
    let Some(primary) = addrs.first() else { return Vec::new() };
    let other = addrs.iter().find(|addr| IpFamily::of(**addr) != IpFamily::of(*primary));
    [primary].into_iter().chain(other).copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn internal_addresses_come_first_and_one_of_each_family() {
        let text = "metadata: {name: n1, labels: {topology.kubernetes.io/zone: \"\"}}\nstatus: {addresses: [\
                    {type: ExternalIP, address: 203.0.113.1}, {type: Hostname, address: n1}, \
                    {type: InternalIP, address: \"fd00::1\"}, {type: InternalIP, address: 192.0.2.1}, \
                    {type: InternalIP, address: 192.0.2.2}]}";
        let node = node(&serde_yaml_ng::from_str(text).unwrap()).object.unwrap();
        assert_eq!(node.node_ips, ["fd00::1".parse::<IpAddr>().unwrap(), "192.0.2.1".parse().unwrap()]);
        assert_eq!(node.zone, None, "an empty label is none");
    }

    #[test]
    fn who_is_deleted_or_will_be_is_leaving_and_who_is_cordoned_is_not() {
        for (text, leaves) in [
            ("metadata: {name: n1}", false),
            ("metadata: {name: n1, deletionTimestamp: \"2026-01-01T00:00:00Z\"}", true),
            ("metadata: {name: n1}\nspec: {taints: [{key: ToBeDeletedByClusterAutoscaler, effect: NoSchedule}]}", true),
            (
                "metadata: {name: n1}\nspec: {unschedulable: true, taints: [{key: node.kubernetes.io/unschedulable, effect: NoSchedule}]}",
                false,
            ),
        ] {
            let node = node(&serde_yaml_ng::from_str(text).unwrap()).object.unwrap();
            assert_eq!(node.is_leaving, leaves, "{text}");
        }
    }
}
