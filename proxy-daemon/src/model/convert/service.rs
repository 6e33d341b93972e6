//! Services.

use std::{net::IpAddr, time::Duration};

use ipnet::IpNet;
use k8s_openapi::api::core::v1::{self as api, LoadBalancerIngress, ServiceSpec};

use super::{Converted, LABEL_PROXY_NAME, Problem, address, collect, label, network, object_name, port_number, protocol, unicast_address};
use crate::model::{Service, ServiceKind, ServicePort, TrafficPolicy};

const DEFAULT_AFFINITY: Duration = Duration::from_hours(3);

/// Converts a Service. Nothing is left of one that is headless or an `ExternalName`, and of another proxy's only its ClusterIPs.
pub fn service(service: &api::Service) -> Converted<Service> {
    let name = object_name(&service.metadata);
    let mut problems = Vec::new();
    let Some((spec, kind)) = service.spec.as_ref().and_then(|spec| Some((spec, kind(spec)?))) else {
        return Converted { name, object: None, problems };
    };
    let cluster_ips = collect(&mut problems, cluster_ips(spec));
    if cluster_ips.is_empty() {
        return Converted { name, object: None, problems };
    }
    if label(&service.metadata, LABEL_PROXY_NAME).is_some() {
        return Converted { object: Some(Service::of_another_proxy(name.clone(), cluster_ips)), name, problems };
    }
    let mut object = Service {
        created: service.metadata.creation_timestamp.as_ref().map(|time| time.0.as_second()),
        is_ours: true,
        kind,
        cluster_ips,
        external_ips: collect(&mut problems, external_ips(spec)),
        load_balancer_ips: collect(&mut problems, load_balancer_ips(service)),
        source_ranges: collect(&mut problems, source_ranges(spec)),
        internal_policy: policy(&mut problems, "spec.internalTrafficPolicy", spec.internal_traffic_policy.as_deref()),
        external_policy: policy(&mut problems, "spec.externalTrafficPolicy", spec.external_traffic_policy.as_deref()),
        affinity: affinity(&mut problems, spec),
        health_check_port: None,
        ports: ports(&mut problems, spec),
        name: name.clone(),
    };
    // It outlives, in the object, what it is for.
    if kind == ServiceKind::LoadBalancer && object.external_policy_is_local() {
        object.health_check_port = health_check_port(&mut problems, spec);
    }
    Converted { name, object: Some(object), problems }
}

/// The kind of a Service that may be served. An `ExternalName` is not, even when it still has a ClusterIP from before.
fn kind(spec: &ServiceSpec) -> Option<ServiceKind> {
    match spec.type_.as_deref() {
        None | Some("ClusterIP" | "") => Some(ServiceKind::ClusterIp),
        Some("NodePort") => Some(ServiceKind::NodePort),
        Some("LoadBalancer") => Some(ServiceKind::LoadBalancer),
        Some(_) => None,
    }
}

/// Zero is none.
fn health_check_port(problems: &mut Vec<Problem>, spec: &ServiceSpec) -> Option<u16> {
    let port = spec.health_check_node_port.filter(|port| *port != 0)?;
    collect(problems, [port_number("spec.healthCheckNodePort", port)]).pop()
}

/// `clusterIPs`, or `clusterIP` of objects from before there was more than one. `None` means headless.
fn cluster_ips(spec: &ServiceSpec) -> impl Iterator<Item = Result<IpAddr, Problem>> + '_ {
    let several = spec.cluster_ips.as_deref().unwrap_or_default();
    let single = spec.cluster_ip.as_slice();
    let headless = single.iter().chain(several).any(|ip| ip == "None");
    let ips = if headless {
        &[]
    } else if several.is_empty() {
        single
    } else {
        several
    };
    ips.iter().filter(|ip| !ip.is_empty()).map(|ip| unicast_or_link_local("spec.clusterIPs", ip))
}

/// A ClusterIP may be link-local, as some node-local resolvers have it.
fn unicast_or_link_local(field: &'static str, value: &str) -> Result<IpAddr, Problem> {
    let addr = address(field, value)?;
    if addr.is_loopback() || addr.is_multicast() || addr.is_unspecified() {
        return Err(Problem::AddressNotAllowed { field, addr });
    }
    Ok(addr)
}

fn external_ips(spec: &ServiceSpec) -> impl Iterator<Item = Result<IpAddr, Problem>> + '_ {
    let ips = spec.external_ips.as_deref().unwrap_or_default();
    ips.iter().map(|ip| unicast_address("spec.externalIPs", ip))
}

/// The addresses whose packets arrive at the node as they were sent. With `ipMode: Proxy` they end at the load balancer, so traffic
/// to it must leave the node untouched; an entry may also have a host name only.
fn load_balancer_ips(service: &api::Service) -> impl Iterator<Item = Result<IpAddr, Problem>> + '_ {
    let status = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let entries = status.and_then(|status| status.ingress.as_deref()).unwrap_or_default();
    let ends_here = |entry: &&LoadBalancerIngress| entry.ip_mode.as_deref().is_none_or(|mode| mode == "VIP");
    let ips = entries.iter().filter(ends_here).filter_map(|entry| entry.ip.as_deref());
    ips.filter(|ip| !ip.is_empty()).map(|ip| unicast_or_link_local("status.loadBalancer.ingress", ip))
}

/// As kube-proxy reads them: an entry that is no network is left out, so that a list in which none is one limits nobody. That opens what was
/// meant to be closed, but the API server takes no such list, and a node with kube-proxy beside one with Shunt must not differ.
fn source_ranges(spec: &ServiceSpec) -> impl Iterator<Item = Result<IpNet, Problem>> + '_ {
    let ranges = spec.load_balancer_source_ranges.as_deref().unwrap_or_default();
    ranges.iter().filter(|range| !range.trim().is_empty()).map(|range| network("spec.loadBalancerSourceRanges", range))
}

fn policy(problems: &mut Vec<Problem>, field: &'static str, value: Option<&str>) -> TrafficPolicy {
    match value {
        None | Some("Cluster" | "") => TrafficPolicy::Cluster,
        Some("Local") => TrafficPolicy::Local,
        Some(other) => {
            problems.push(Problem::UnknownValue { field, value: other.to_owned() });
            TrafficPolicy::Cluster
        }
    }
}

fn affinity(problems: &mut Vec<Problem>, spec: &ServiceSpec) -> Option<Duration> {
    match spec.session_affinity.as_deref() {
        Some("ClientIP") => {}
        None | Some("None" | "") => return None,
        Some(other) => {
            problems.push(Problem::UnknownValue { field: "spec.sessionAffinity", value: other.to_owned() });
            return None;
        }
    }
    let client_ip = spec.session_affinity_config.as_ref().and_then(|config| config.client_ip.as_ref());
    let Some(seconds) = client_ip.and_then(|client_ip| client_ip.timeout_seconds) else {
        return Some(DEFAULT_AFFINITY);
    };
    let valid = u64::try_from(seconds).ok().filter(|seconds| (1..=86400).contains(seconds));
    if valid.is_none() {
        problems.push(Problem::AffinityTimeout(seconds));
    }
    Some(valid.map_or(DEFAULT_AFFINITY, Duration::from_secs))
}

fn ports(problems: &mut Vec<Problem>, spec: &ServiceSpec) -> Vec<ServicePort> {
    let mut ports: Vec<ServicePort> = Vec::new();
    for port in collect(problems, spec.ports.iter().flatten().map(port)) {
        if ports.iter().any(|other| other.name == port.name && other.protocol == port.protocol) {
            problems.push(Problem::DuplicatePort { port: port.name.to_string(), protocol: port.protocol });
        } else {
            ports.push(port);
        }
    }
    ports
}

fn port(port: &api::ServicePort) -> Result<ServicePort, Problem> {
    let name = port.name.as_deref().unwrap_or("");
    let protocol = protocol(name, port.protocol.as_deref())?;
    let node_port = match port.node_port {
        None | Some(0) => 0,
        Some(number) => port_number("spec.ports.nodePort", number)?,
    };
    Ok(ServicePort { name: name.into(), protocol, port: port_number("spec.ports.port", port.port)?, node_port })
}

#[cfg(test)]
mod tests {
    use proxy_common::Protocol;

    use super::*;

    fn convert(spec: &str) -> Converted<Service> {
        let text = format!("metadata: {{name: web, namespace: shop}}\nspec: {{{spec}}}");
        service(&serde_yaml_ng::from_str(&text).unwrap())
    }

    fn problems(spec: &str) -> Vec<String> {
        convert(spec).problems.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn services_without_an_address_of_their_own_are_left_out_silently() {
        for spec in [
            "ports: [{port: 80}]",
            "clusterIP: None",
            "clusterIP: \"\"",
            "clusterIPs: [None]",
            "type: ExternalName, externalName: example.org, clusterIP: 10.0.0.1",
            "type: SomethingNew, clusterIP: 10.0.0.1",
        ] {
            let converted = convert(spec);
            assert_eq!((converted.object, converted.problems), (None, vec![]), "{spec}");
        }
    }

    #[test]
    fn of_another_proxys_service_there_are_only_the_addresses() {
        for name in ["", "other"] {
            let text = format!(
                "{{metadata: {{name: web, labels: {{service.kubernetes.io/service-proxy-name: '{name}'}}}}, \
                 spec: {{type: NodePort, clusterIP: 10.0.0.1, externalIPs: [198.51.100.1], ports: [{{port: 80, nodePort: 30000}}]}}}}"
            );
            let theirs = service(&serde_yaml_ng::from_str(&text).unwrap()).object.unwrap();
            assert_eq!((theirs.is_ours, theirs.cluster_ips), (false, vec!["10.0.0.1".parse().unwrap()]));
            assert_eq!((theirs.external_ips, theirs.ports), (vec![], vec![]));
        }
    }

    #[test]
    fn absent_fields_mean_the_defaults() {
        let service = convert("clusterIP: 10.0.0.1, ports: [{port: 80}]").object.unwrap();
        assert_eq!((service.kind, service.affinity), (ServiceKind::ClusterIp, None));
        assert_eq!((service.internal_policy, service.external_policy), (TrafficPolicy::Cluster, TrafficPolicy::Cluster));
        assert_eq!(service.ports, [ServicePort { name: "".into(), protocol: Protocol::Tcp, port: 80, node_port: 0 }]);
        let affine = convert("clusterIP: 10.0.0.1, sessionAffinity: ClientIP").object.unwrap();
        assert_eq!(affine.affinity, Some(Duration::from_hours(3)));
    }

    #[test]
    fn what_is_wrong_is_left_out_and_the_rest_is_kept() {
        let spec = "clusterIPs: [10.0.0.1, ten], externalIPs: [127.0.0.1, 198.51.100.1], \
                    ports: [{port: 0}, {name: a, port: 80}, {name: a, port: 81}, {name: b, port: 82, protocol: QUIC}, \
                    {name: c, port: 83, nodePort: 70000}, {name: d, port: 84, protocol: SCTP}]";
        let service = convert(spec).object.unwrap();
        assert_eq!((service.cluster_ips.len(), service.external_ips.len()), (1, 1));
        let ports: Vec<_> = service.ports.iter().map(|port| (&*port.name, port.protocol, port.port)).collect();
        assert_eq!(ports, [("a", Protocol::Tcp, 80), ("d", Protocol::Sctp, 84)]);
        assert_eq!(problems(spec).len(), 6, "{:#?}", problems(spec));
    }

    #[test]
    fn source_ranges_are_trimmed_and_each_that_is_none_is_a_problem() {
        let spec = "clusterIP: 10.0.0.1, loadBalancerSourceRanges: [\" 192.0.2.7/24 \", \"\", fd00::/8, 192.0.2.1, ten]";
        let ranges: Vec<_> = convert(spec).object.unwrap().source_ranges.iter().map(ToString::to_string).collect();
        assert_eq!(ranges, ["192.0.2.0/24", "fd00::/8"]);
        assert_eq!(problems(spec).len(), 2, "{:#?}", problems(spec));
    }

    #[test]
    fn values_that_cannot_be_fall_back_to_the_default() {
        let spec = "clusterIP: 10.0.0.1, internalTrafficPolicy: Zone, sessionAffinity: ClientIP, \
                    sessionAffinityConfig: {clientIP: {timeoutSeconds: 0}}";
        let service = convert(spec).object.unwrap();
        assert_eq!((service.internal_policy, service.affinity), (TrafficPolicy::Cluster, Some(DEFAULT_AFFINITY)));
        assert_eq!(problems(spec).len(), 2);
    }
}
