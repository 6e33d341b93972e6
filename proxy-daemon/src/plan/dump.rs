//! Plans as sorted text, for golden files and for people.

use std::fmt::Write as _;

use super::{BackendSet, FrontendPlan, ServicePlan};
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
    for (addr, FrontendPlan { kind, internal, external, affinity }) in &plan.frontends {
        writeln!(text, "  {kind} {addr}")?;
        writeln!(text, "    internal: {}", backends(internal))?;
        writeln!(text, "    external: {}", backends(external))?;
        if let Some(timeout) = affinity {
            writeln!(text, "    affinity: {} s", timeout.as_secs())?;
        }
    }
    writeln!(text, "  live: {}", list(&plan.live))?;
    if plan.remote_only_notice {
        writeln!(text, "  backends on other nodes are not used for outside clients")?;
    }
    Ok(())
}

fn backends(set: &BackendSet) -> String {
    match set {
        BackendSet::Backends(addrs) => list(addrs.iter()),
        BackendSet::Reject => "reject".to_owned(),
        BackendSet::Drop => "drop".to_owned(),
    }
}

fn list(addrs: impl IntoIterator<Item = impl ToString>) -> String {
    let addrs: Vec<_> = addrs.into_iter().map(|addr| addr.to_string()).collect();
    if addrs.is_empty() { "none".to_owned() } else { addrs.join(" ") }
}
