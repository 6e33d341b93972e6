//! Builders for the API objects a test needs: Services and their `EndpointSlices`, as JSON values.
//!
//! Only what a test says is in the object; the rest is left to defaults, as in a hand-written manifest. Being plain
//! values, objects can also be made wrong on purpose, and go to an API server as well as into a manifest.

use std::net::IpAddr;

use serde_json::{Value, json};

use crate::{
    addr::{self, Addrs, Family},
    host::Host,
    pod::Pod,
};

/// A Service of the namespace `default`, dual stack unless its addresses say otherwise.
#[derive(Clone, Debug)]
#[must_use]
pub struct Service {
    name: String,
    cluster_ips: Vec<IpAddr>,
    external_ips: Vec<IpAddr>,
    load_balancer_ips: Vec<IpAddr>,
    ports: Vec<ServicePort>,
    spec: Vec<(String, Value)>,
}

#[derive(Clone, Debug)]
struct ServicePort {
    name: String,
    protocol: &'static str,
    port: u16,
    target: u16,
    node_port: Option<u16>,
}

/// One endpoint of a Service.
#[derive(Clone, Debug)]
#[must_use]
pub struct Endpoint {
    addrs: Addrs,
    node: String,
    ready: bool,
    terminating: bool,
}

// === impl Service ===

impl Service {
    /// Starts with a name and nothing else.
    pub fn named(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            cluster_ips: Vec::new(),
            external_ips: Vec::new(),
            load_balancer_ips: Vec::new(),
            ports: Vec::new(),
            spec: Vec::new(),
        }
    }

    /// The test's Service number `n`, which only has `ClusterIP`s: `port` for TCP and for UDP leads to the endpoints' `target`.
    pub fn plain(name: &str, n: u8, port: u16, target: u16) -> Self {
        Self::named(name).cluster_ips(addr::cluster_ips(n)).port(port, target)
    }

    /// The same with all kinds of frontends.
    pub fn open(name: &str, n: u8, port: u16, target: u16) -> Self {
        Self::named(name)
            .cluster_ips(addr::cluster_ips(n))
            .external_ips(addr::external_ips(n))
            .load_balancer_ips(addr::load_balancer_ips(n))
            .node_port(port, target, addr::node_port(n))
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn cluster_ips(mut self, addrs: Addrs) -> Self {
        self.cluster_ips = addrs.both().to_vec();
        self
    }

    pub fn external_ips(mut self, addrs: Addrs) -> Self {
        self.external_ips = addrs.both().to_vec();
        self
    }

    pub fn load_balancer_ips(mut self, addrs: Addrs) -> Self {
        self.load_balancer_ips = addrs.both().to_vec();
        self
    }

    /// Adds `port` for TCP and for UDP, both leading to the endpoints' `target`.
    pub fn port(self, port: u16, target: u16) -> Self {
        self.add("TCP", port, target, None).add("UDP", port, target, None)
    }

    /// Adds `port` for TCP and for UDP with a NodePort.
    pub fn node_port(self, port: u16, target: u16, node_port: u16) -> Self {
        let tcp = self.add("TCP", port, target, Some(node_port));
        tcp.add("UDP", port, target, Some(node_port))
    }

    /// Adds `port` for SCTP.
    pub fn sctp(self, port: u16, target: u16) -> Self {
        self.add("SCTP", port, target, None)
    }

    /// Sets any other field of the spec.
    pub fn with(mut self, field: &str, value: Value) -> Self {
        self.spec.push((field.to_owned(), value));
        self
    }

    fn add(mut self, protocol: &'static str, port: u16, target: u16, node_port: Option<u16>) -> Self {
        let name = format!("{}-{port}", protocol.to_lowercase());
        self.ports.push(ServicePort { name, protocol, port, target, node_port });
        self
    }

    /// The Service object.
    pub fn object(&self) -> Value {
        let mut spec = json!({
            "type": self.kind(),
            "clusterIP": self.cluster_ips.first(),
            "clusterIPs": self.cluster_ips,
            "ipFamilies": self.families().collect::<Vec<_>>(),
            "ports": self.ports.iter().map(ServicePort::object).collect::<Vec<_>>(),
        });
        if !self.external_ips.is_empty() {
            spec["externalIPs"] = json!(self.external_ips);
        }
        for (field, value) in &self.spec {
            spec[field] = value.clone();
        }
        let ingress = self.load_balancer_ips.iter().map(|ip| json!({"ip": ip}));
        json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": self.name, "namespace": "default"},
            "spec": spec,
            "status": {"loadBalancer": {"ingress": ingress.collect::<Vec<_>>()}},
        })
    }

    /// The Service's `EndpointSlices`, one a family.
    pub fn slices(&self, endpoints: &[Endpoint]) -> [Value; 2] {
        Family::ALL.map(|family| self.slice(family, endpoints))
    }

    /// The Service and its `EndpointSlices`.
    pub fn with_endpoints(&self, endpoints: &[Endpoint]) -> Vec<Value> {
        let slices = self.slices(endpoints);
        std::iter::once(self.object()).chain(slices).collect()
    }

    fn slice(&self, family: Family, endpoints: &[Endpoint]) -> Value {
        let kind = api_name(family);
        let port = |port: &ServicePort| json!({"name": port.name, "protocol": port.protocol, "port": port.target});
        json!({
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "name": format!("{}-{}", self.name, kind.to_lowercase()),
                "namespace": "default",
                "labels": {"kubernetes.io/service-name": self.name},
            },
            "addressType": kind,
            "ports": self.ports.iter().map(port).collect::<Vec<_>>(),
            "endpoints": endpoints.iter().map(|it| it.object(family)).collect::<Vec<_>>(),
        })
    }

    fn kind(&self) -> &'static str {
        let node_ports = self.ports.iter().any(|port| port.node_port.is_some());
        match (self.load_balancer_ips.is_empty(), node_ports) {
            (false, _) => "LoadBalancer",
            (true, true) => "NodePort",
            (true, false) => "ClusterIP",
        }
    }

    fn families(&self) -> impl Iterator<Item = &'static str> {
        let family = |ip: &IpAddr| if ip.is_ipv4() { Family::V4 } else { Family::V6 };
        self.cluster_ips.iter().map(family).map(api_name)
    }
}

// === impl ServicePort ===

impl ServicePort {
    fn object(&self) -> Value {
        let mut object = json!({
            "name": self.name,
            "protocol": self.protocol,
            "port": self.port,
            "targetPort": self.target,
        });
        if let Some(node_port) = self.node_port {
            object["nodePort"] = json!(node_port);
        }
        object
    }
}

// === impl Endpoint ===

impl Endpoint {
    /// A pod, or a hostNetwork pod where the host is a node.
    pub fn of(host: &impl Host, node: &impl Host) -> Self {
        Self::at(host.addrs(), node.name())
    }

    /// Addresses where nobody need be.
    pub fn at(addrs: Addrs, node: &str) -> Self {
        Self { addrs, node: node.to_owned(), ready: true, terminating: false }
    }

    pub fn pod(pod: &Pod) -> Self {
        Self::of(pod, pod.node())
    }

    pub fn not_ready(mut self) -> Self {
        self.ready = false;
        self
    }

    /// On its way out, but it still serves.
    pub fn terminating(mut self) -> Self {
        (self.ready, self.terminating) = (false, true);
        self
    }

    fn object(&self, family: Family) -> Value {
        let serving = self.ready || self.terminating;
        json!({
            "addresses": [self.addrs.of(family)],
            "nodeName": self.node,
            "conditions": {"ready": self.ready, "serving": serving, "terminating": self.terminating},
        })
    }
}

/// What the API calls a family, in Services as well as in `EndpointSlices`.
fn api_name(family: Family) -> &'static str {
    match family {
        Family::V4 => "IPv4",
        Family::V6 => "IPv6",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dual_stack_service_has_a_slice_a_family() {
        let service = Service::named("web").cluster_ips(Addrs::new("10.96.0.1", "fd00:10:96::1")).port(80, 8080);
        let endpoint = Endpoint { addrs: Addrs::new("10.244.1.2", "fd00::2"), node: "n1".into(), ready: true, terminating: false };
        let object = service.object();
        assert_eq!(object["spec"]["type"], "ClusterIP");
        assert_eq!(object["spec"]["ipFamilies"], json!(["IPv4", "IPv6"]));
        assert_eq!(object["spec"]["ports"][1]["protocol"], "UDP");
        let [v4, v6] = service.slices(&[endpoint]);
        assert_eq!(v4["endpoints"][0]["addresses"], json!(["10.244.1.2"]));
        assert_eq!(v6["endpoints"][0]["addresses"], json!(["fd00::2"]));
        assert_eq!(v6["ports"][0]["port"], 8080);
        assert_eq!(v6["ports"][0]["name"], object["spec"]["ports"][0]["name"]);
    }

    #[test]
    fn the_type_follows_the_addresses() {
        let service = Service::named("web").node_port(80, 8080, 30080);
        assert_eq!(service.object()["spec"]["type"], "NodePort");
        let service = service.load_balancer_ips(Addrs::new("203.0.113.1", "2001:db8:1b::1"));
        assert_eq!(service.object()["spec"]["type"], "LoadBalancer");
    }
}
