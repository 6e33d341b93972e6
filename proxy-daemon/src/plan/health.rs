//! What load balancers are told of a Service whose traffic from outside goes to endpoints of this node only (KEP-27).
//!
//! Endpoints on their way out do not count, although they may still get traffic: the load balancer is to turn away before they are gone
//! (KEP-1669).

use std::{collections::BTreeSet, net::IpAddr};

use super::NodeFacts;
use crate::model::{IpFamily, Model, ObjectName};

/// Where a load balancer asks after a Service, and what it hears.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HealthCheck {
    /// `spec.healthCheckNodePort`.
    pub port: u16,
    ready: [Option<usize>; 2],
}

impl HealthCheck {
    /// How many addresses of this node serve who comes by a family; by the other one, where the Service does not have this one.
    pub fn ready(&self, family: IpFamily) -> usize {
        let [asked, other] = match (family, self.ready) {
            (IpFamily::V4, [v4, v6]) => [v4, v6],
            (IpFamily::V6, [v4, v6]) => [v6, v4],
        };
        asked.or(other).unwrap_or_default()
    }
}

/// What is told of a Service; nothing where nobody is to ask.
pub fn health_check(model: &Model, facts: &NodeFacts, name: &ObjectName) -> Option<HealthCheck> {
    let service = model.service(name)?;
    let ready = |family| {
        let ports = service.ports.iter().map(|port| name.port(&port.name, port.protocol));
        let endpoints = ports.flat_map(|port| model.endpoints(&port, family));
        let here = endpoints.filter(|(_, endpoint)| endpoint.ready && endpoint.node.as_ref() == Some(&facts.name));
        here.map(|(addr, _)| addr.ip()).collect::<BTreeSet<IpAddr>>().len()
    };
    let ready = [IpFamily::V4, IpFamily::V6].map(|family| service.has_family(family).then(|| ready(family)));
    service.health_check_port.map(|port| HealthCheck { port, ready })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        model::{
            Change, Event,
            convert::{endpoint_slice, service},
            testing::model_of,
        },
        plan::Machine,
    };

    const SERVICE: &str = "metadata: {namespace: default, name: web}\n\
        spec: {type: LoadBalancer, externalTrafficPolicy: Local, healthCheckNodePort: 32000, clusterIPs: [10.0.0.1], \
        ports: [{name: a, port: 80}, {name: b, port: 81}]}";

    fn model(service_text: &str, endpoints: &str) -> Model {
        let slice = format!(
            "metadata: {{namespace: default, name: web-1, labels: {{kubernetes.io/service-name: web}}}}\n\
             addressType: IPv4\nports: [{{name: a, port: 8080}}, {{name: b, port: 8081}}]\nendpoints: [{endpoints}]"
        );
        let service = service(&serde_yaml_ng::from_str(service_text).unwrap()).object.unwrap();
        let slice = endpoint_slice(&serde_yaml_ng::from_str(&slice).unwrap()).object.unwrap();
        model_of([Change::Service(Event::Applied(service)), Change::Slice(Event::Applied(slice))])
    }

    fn asked(service_text: &str, endpoints: &str) -> Option<HealthCheck> {
        let model = model(service_text, endpoints);
        let facts = NodeFacts::new(&Arc::default(), "n1", None, &Machine::default());
        health_check(&model, &facts, &ObjectName::new("default", "web"))
    }

    #[test]
    fn addresses_that_are_ready_here_count_once_whatever_their_ports() {
        let endpoints = "{addresses: [10.1.0.1], nodeName: n1}, {addresses: [10.1.0.2], nodeName: n1, conditions: {ready: true}}, \
             {addresses: [10.1.0.3], nodeName: n2}, {addresses: [10.1.0.4]}, \
             {addresses: [10.1.0.5], nodeName: n1, conditions: {ready: false, serving: true, terminating: true}}";
        let check = asked(SERVICE, endpoints).unwrap();
        assert_eq!(check, HealthCheck { port: 32000, ready: [Some(2), None] });
        assert_eq!(check.ready(IpFamily::V6), 2, "of a Service that is not of the family by which was asked");
        assert_eq!(asked(SERVICE, "").unwrap().ready(IpFamily::V4), 0);
    }

    #[test]
    fn nobody_asks_where_all_nodes_serve() {
        let check = |from, to| asked(&SERVICE.replace(from, to), "");
        assert_eq!(check("Policy: Local", "Policy: Cluster"), None);
        assert_eq!(check("type: LoadBalancer", "type: NodePort"), None);
        assert_eq!(check("Port: 32000", "Port: 0"), None);
    }
}
