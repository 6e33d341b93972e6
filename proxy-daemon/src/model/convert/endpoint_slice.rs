//! `EndpointSlice`s.

use std::{net::IpAddr, sync::Arc, time::SystemTime};

use k8s_openapi::{
    api::discovery::v1::{self as api, EndpointConditions},
    jiff::Timestamp,
};

use super::{
    ANNOTATION_TRIGGERED, Converted, LABEL_HEADLESS, LABEL_SERVICE_NAME, Problem, collect, label, object_name, port_number, protocol,
    unicast_address,
};
use crate::model::{Endpoint, IpFamily, Slice, SlicePort};

/// Converts an `EndpointSlice`. Nothing is left of one that holds names instead of addresses, or belongs to a headless Service.
pub fn endpoint_slice(slice: &api::EndpointSlice) -> Converted<Slice> {
    let name = object_name(&slice.metadata);
    let mut problems = Vec::new();
    let headless = label(&slice.metadata, LABEL_HEADLESS).is_some();
    let Some(family) = family(&mut problems, &slice.address_type).filter(|_| !headless) else {
        return Converted { name, object: None, problems };
    };
    let Some(service) = label(&slice.metadata, LABEL_SERVICE_NAME).filter(|service| !service.is_empty()) else {
        problems.push(Problem::NoServiceLabel);
        return Converted { name, object: None, problems };
    };
    let ports = slice.ports.iter().flatten().filter_map(port);
    let object = Slice {
        service: service.into(),
        family,
        ports: collect(&mut problems, ports),
        endpoints: collect(&mut problems, slice.endpoints.iter().map(|record| endpoint(family, record))),
        triggered: triggered(slice),
        name: name.clone(),
    };
    // Thousands of endpoints may share one problem.
    problems.sort();
    problems.dedup();
    Converted { name, object: Some(object), problems }
}

/// One that is no time is none: nothing but a measurement depends on it.
fn triggered(slice: &api::EndpointSlice) -> Option<SystemTime> {
    let text = slice.metadata.annotations.as_ref()?.get(ANNOTATION_TRIGGERED)?;
    text.parse::<Timestamp>().ok().map(SystemTime::from)
}

fn family(problems: &mut Vec<Problem>, address_type: &str) -> Option<IpFamily> {
    match address_type {
        "IPv4" => Some(IpFamily::V4),
        "IPv6" => Some(IpFamily::V6),
        "FQDN" => None,
        other => {
            problems.push(Problem::UnknownValue { field: "addressType", value: other.to_owned() });
            None
        }
    }
}

/// A port without a name belongs to no service port; the empty name is one.
fn port(port: &api::EndpointPort) -> Option<Result<SlicePort, Problem>> {
    let name = port.name.as_deref()?;
    let convert = || {
        let number = port.port.ok_or_else(|| Problem::NoPortNumber { name: name.to_owned() })?;
        let protocol = protocol(name, port.protocol.as_deref())?;
        Ok(SlicePort { name: name.into(), protocol, port: port_number("ports.port", number)? })
    };
    Some(convert())
}

fn endpoint(family: IpFamily, endpoint: &api::Endpoint) -> Result<Endpoint, Problem> {
    let addr = first_address(family, &endpoint.addresses)?;
    let unset = EndpointConditions::default();
    let conditions = endpoint.conditions.as_ref().unwrap_or(&unset);
    let hints = endpoint.hints.as_ref();
    let zones = hints.and_then(|hints| hints.for_zones.as_deref()).unwrap_or_default();
    let nodes = hints.and_then(|hints| hints.for_nodes.as_deref()).unwrap_or_default();
    Ok(Endpoint {
        addr,
        ready: conditions.ready.unwrap_or(true),
        serving: conditions.serving.unwrap_or(true),
        terminating: conditions.terminating.unwrap_or(false),
        node: endpoint.node_name.as_deref().map(Arc::from),
        zone_hints: zones.iter().map(|zone| Arc::from(zone.name.as_str())).collect(),
        node_hints: nodes.iter().map(|node| Arc::from(node.name.as_str())).collect(),
    })
}

/// An endpoint's addresses beyond the first mean nothing.
fn first_address(family: IpFamily, addresses: &[String]) -> Result<IpAddr, Problem> {
    let field = "endpoints.addresses";
    let addr = unicast_address(field, addresses.first().ok_or(Problem::NoAddress)?)?;
    if IpFamily::of(addr) != family {
        return Err(Problem::WrongFamily { field, addr, declared: family });
    }
    Ok(addr)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proxy_common::Protocol;

    use super::*;

    fn convert(text: &str) -> Converted<Slice> {
        let metadata = "metadata: {name: web-1, namespace: shop, labels: {kubernetes.io/service-name: web}}\n";
        endpoint_slice(&serde_yaml_ng::from_str(&format!("{metadata}{text}")).unwrap())
    }

    #[test]
    fn unset_conditions_mean_ready() {
        let slice = convert("addressType: IPv4\nendpoints: [{addresses: [10.0.0.1, 10.0.0.2]}]").object.unwrap();
        let [endpoint] = slice.endpoints.try_into().unwrap();
        assert_eq!((endpoint.ready, endpoint.serving, endpoint.terminating), (true, true, false));
        assert_eq!((endpoint.addr, endpoint.node), ("10.0.0.1".parse().unwrap(), None));
    }

    #[test]
    fn when_a_change_was_triggered_is_an_annotation() {
        let of = |annotation: &str| {
            let metadata = format!("name: web-1, labels: {{kubernetes.io/service-name: web}}, annotations: {{{annotation}}}");
            let text = format!("metadata: {{{metadata}}}\naddressType: IPv4\nendpoints: []");
            endpoint_slice(&serde_yaml_ng::from_str(&text).unwrap()).object.unwrap().triggered
        };
        let expected = SystemTime::UNIX_EPOCH + Duration::from_millis(1_767_225_600_500);
        assert_eq!(of("endpoints.kubernetes.io/last-change-trigger-time: \"2026-01-01T00:00:00.5Z\""), Some(expected));
        assert_eq!(of("endpoints.kubernetes.io/last-change-trigger-time: yesterday"), None);
        assert_eq!(of("other: thing"), None);
    }

    #[test]
    fn a_port_needs_a_number_and_a_name_that_may_be_empty() {
        let text = "addressType: IPv4\nendpoints: []\n\
                    ports: [{name: \"\", port: 80}, {port: 81}, {name: all}, {name: zero, port: 0}]";
        let converted = convert(text);
        assert_eq!(converted.object.unwrap().ports, [SlicePort { name: "".into(), protocol: Protocol::Tcp, port: 80 }]);
        assert_eq!(converted.problems.len(), 2, "{:?}", converted.problems);
    }

    #[test]
    fn endpoints_that_share_a_problem_are_one_problem() {
        let text =
            "addressType: IPv4\nendpoints: [{addresses: [fd00::1]}, {addresses: [fd00::1]}, {addresses: []}, {addresses: [10.0.0.1]}]";
        let converted = convert(text);
        assert_eq!(converted.object.unwrap().endpoints.len(), 1);
        assert_eq!(converted.problems.len(), 2, "{:?}", converted.problems);
    }

    #[test]
    fn slices_that_are_nobodys_are_left_out() {
        assert_eq!(convert("addressType: FQDN\nendpoints: []").object, None);
        let text = "metadata: {name: of, labels: {kubernetes.io/service-name: of, service.kubernetes.io/headless: \"\"}}\n\
                    addressType: IPv4\nendpoints: [{addresses: [10.0.0.1]}]";
        let headless = endpoint_slice(&serde_yaml_ng::from_str(text).unwrap());
        assert_eq!((headless.object, headless.problems), (None, vec![]));
        let text = "metadata: {name: lost}\naddressType: IPv4\nendpoints: []";
        let lost = endpoint_slice(&serde_yaml_ng::from_str(text).unwrap());
        assert_eq!((lost.object, lost.problems), (None, vec![Problem::NoServiceLabel]));
    }
}
