//! Plans as sorted text, for golden files and for people.

use std::fmt::Write as _;

use proxy_common::Undefined;

use super::{BackendSet, FrontendPlan, Masquerade, ServicePlan};
use crate::model::ServicePortName;

/// Writes plans down in their order, a service port a paragraph.
pub fn dump<'a>(plans: impl IntoIterator<Item = (&'a ServicePortName, &'a ServicePlan)>) -> String {
    let mut text = String::new();
    for (name, plan) in plans {
        // Writing to a string cannot fail.
        _ = write_service(&mut text, name, plan);
    }
    text
}

fn write_service(text: &mut String, name: &ServicePortName, plan: &ServicePlan) -> std::fmt::Result {
    writeln!(text, "{name}")?;
    for (addr, FrontendPlan { kind, internal, external, affinity, masquerade, has_source_ranges }) in &plan.frontends {
        writeln!(text, "  {kind} {addr}")?;
        writeln!(text, "    internal: {}", backends(internal))?;
        writeln!(text, "    external: {}", backends(external))?;
        if let Some(timeout) = affinity {
            writeln!(text, "    affinity: {} s", timeout.as_secs())?;
        }
        match masquerade {
            Masquerade { internal: false, external: false } => {}
            Masquerade { internal: true, external: true } => writeln!(text, "    masquerades everybody")?,
            Masquerade { internal: true, external: false } => writeln!(text, "    masquerades clients inside")?,
            Masquerade { internal: false, external: true } => writeln!(text, "    masquerades clients outside")?,
        }
        if *has_source_ranges {
            writeln!(
                text,
                "    for clients of {}",
                list(plan.sources.iter().filter(|source| source.network().is_ipv4() == addr.addr.is_ipv4()))
            )?;
        }
    }
    writeln!(text, "  live: {}", list(&plan.live))?;
    for (addr, _) in plan.cluster_ips.iter().filter(|(_, undefined)| **undefined == Undefined::LEAVE) {
        writeln!(text, "  {addr} is left to the node")?;
    }
    Ok(())
}

fn backends(set: &BackendSet) -> String {
    match set {
        BackendSet::Backends(backends) => list(backends.iter()),
        BackendSet::Reject => "reject".to_owned(),
        BackendSet::Drop => "drop".to_owned(),
    }
}

fn list(addrs: impl IntoIterator<Item = impl ToString>) -> String {
    let addrs: Vec<_> = addrs.into_iter().map(|addr| addr.to_string()).collect();
    if addrs.is_empty() { "none".to_owned() } else { addrs.join(" ") }
}
