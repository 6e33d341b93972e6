//! The mirror as sorted text, for golden files and for people.

use std::fmt::{self, Write as _};

use proxy_common::{Range, RangeWord, RowFlags};

use super::{
    Tables,
    service::{Frontend, Service},
};
use crate::{
    model::{FrontendAddr, IpFamily},
    plan::Backend,
};

impl Tables {
    /// Writes everything down that is loaded, a service port a paragraph, in the order of their names.
    pub fn dump(&self) -> String {
        let mut text = String::new();
        for service in self.names.values().filter_map(|id| self.services.get(id)) {
            // Writing to a string cannot fail.
            _ = write_service(&mut text, service);
        }
        text
    }
}

fn write_service(text: &mut String, service: &Service) -> fmt::Result {
    writeln!(text, "{} is {}", service.name, service.id.0)?;
    for (addr, frontend) in &service.frontends {
        write_frontend(text, service, addr, frontend)?;
    }
    for network in &service.sources {
        writeln!(text, "  lets in {network}")?;
    }
    for (addr, reference) in &service.backends {
        writeln!(text, "  {addr} lives at {} since generation {}", reference.index(), reference.generation())?;
    }
    Ok(())
}

fn write_frontend(text: &mut String, service: &Service, addr: &FrontendAddr, frontend: &Frontend) -> fmt::Result {
    let Frontend { row, value } = frontend;
    let family = IpFamily::of(addr.addr);
    writeln!(text, "  {} {addr} in row {}", kind(value.flags), row.0)?;
    writeln!(text, "    internal: {}", word(service, family, value.internal))?;
    writeln!(text, "    external: {}", word(service, family, value.external))?;
    if value.affinity_secs > 0 {
        writeln!(text, "    affinity: {} s", value.affinity_secs)?;
    }
    if value.flags.has(RowFlags::SOURCE_RANGES) {
        writeln!(text, "    for those who are let in")?;
    }
    for (flag, name) in [(RowFlags::MASQUERADE_INTERNAL, "inside"), (RowFlags::MASQUERADE_EXTERNAL, "outside")] {
        if value.flags.has(flag) {
            writeln!(text, "    masquerades clients {name}")?;
        }
    }
    Ok(())
}

fn word(service: &Service, family: IpFamily, word: RangeWord) -> String {
    let what = match word.range() {
        Range::Slots(slots) => {
            let addrs = service.set_at(family, slots).map_or("unknown".to_owned(), |set| list(set));
            format!("{addrs}, slots {}..{}", slots.base(), slots.base() + slots.count())
        }
        Range::Reject => "reject".to_owned(),
        Range::Drop => "drop".to_owned(),
    };
    format!("{what}, generation {}", word.generation())
}

fn list(backends: &[Backend]) -> String {
    backends.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
}

fn kind(flags: RowFlags) -> &'static str {
    match flags.kind() {
        RowFlags::CLUSTER_IP => "ClusterIP",
        RowFlags::NODE_PORT => "NodePort",
        RowFlags::EXTERNAL_IP => "ExternalIP",
        RowFlags::LOAD_BALANCER_IP => "LoadBalancerIP",
        _ => "unknown",
    }
}
