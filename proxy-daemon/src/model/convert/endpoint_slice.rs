//! `EndpointSlice`s.

use std::{net::IpAddr, sync::Arc};

use k8s_openapi::api::discovery::v1::{self as api, EndpointConditions};

use super::{Converted, LABEL_HEADLESS, LABEL_SERVICE_NAME, Problem, collect, label, object_name, port_number, protocol, unicast_address};
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
        name: name.clone(),
    };
    // Thousands of endpoints may share one problem.
    problems.sort();
    problems.dedup();
    Converted { name, object: Some(object), problems }
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
