//! Where our programs are attached in this network namespace, and which programs are loaded: `shunt show devices`, `shunt prog list`.
//!
//! What counts is what the kernel says of a device. A pinned link alone proves nothing: the device it was made for may have gone and its
//! index may be another's by now.

use std::{collections::BTreeMap, path::Path};

use anyhow::{Context as _, Result};
use aya::{
    maps::MapInfo,
    programs::{
        ProgramInfo, SchedClassifier, TcAttachType,
        links::{FdLink, PinnedLink},
    },
};
use nix::net::if_::if_nameindex;
use serde::Serialize;

use super::{dump::snake, output::Row};
use crate::{
    maps::{Direction, Pins, names_in},
    net,
};

/// A program at a hook.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Attachment {
    program: String,
    program_id: u32,
    /// `tcx` or `clsact`; in XDP `generic` or `native`.
    mode: String,
    /// The link that holds it, with tcx and XDP.
    link_id: Option<u32>,
}

/// A device with programs of ours.
#[derive(Debug, Serialize)]
pub(super) struct DeviceView {
    name: String,
    ifindex: u32,
    role: &'static str,
    ingress: Option<Attachment>,
    egress: Option<Attachment>,
    xdp: Option<Attachment>,
}

/// A program.
#[derive(Debug, Serialize)]
pub(super) struct ProgramView {
    name: String,
    id: u32,
    r#type: String,
    tag: String,
    loaded_at: Option<u64>,
    instructions: Option<u32>,
    verified_instructions: Option<u32>,
    jited_bytes: u32,
    maps: Vec<String>,
    pinned: String,
    /// `device/direction`, in this network namespace.
    attached: Vec<String>,
}

impl DeviceView {
    pub(super) fn attachments(&self) -> usize {
        self.by_hook().into_iter().filter(|(_, at)| at.is_some()).count()
    }

    fn by_hook(&self) -> [(&'static str, Option<&Attachment>); 3] {
        [("ingress", self.ingress.as_ref()), ("egress", self.egress.as_ref()), ("xdp", self.xdp.as_ref())]
    }

    fn new(name: String, ifindex: u32, [ingress, egress, xdp]: [Option<Attachment>; 3]) -> Option<Self> {
        let role = role(&ingress.as_ref().or(egress.as_ref()).or(xdp.as_ref())?.program);
        Some(Self { name, ifindex, role, ingress, egress, xdp })
    }
}

/// The role that a program is for. The kernel keeps 15 bytes of a program's name; these are enough.
fn role(program: &str) -> &'static str {
    ["uplink", "workload"].into_iter().find(|role| program.starts_with(role)).unwrap_or("unknown")
}

/// Our programs by id, with their full names.
fn pinned_programs(pins: &Pins) -> Result<BTreeMap<u32, String>> {
    let named = |name: String| {
        let path = pins.programs().join(&name);
        let info = ProgramInfo::from_pin(&path).with_context(|| format!("opening the pinned program {}", path.display()))?;
        Ok((info.id(), name))
    };
    names_in(&pins.programs())?.into_iter().map(named).collect()
}

/// The links that are pinned, by hook: the id of the link and of its program.
fn pinned_links(pins: &Pins) -> Result<BTreeMap<(u32, Direction), (u32, u32)>> {
    let mut links = BTreeMap::new();
    for name in names_in(&pins.links())? {
        let Some(hook) = Pins::parse_link(&name) else { continue };
        // The daemon may just have removed it.
        let Ok(link) = PinnedLink::from_pin(pins.links().join(&name)) else { continue };
        let info = FdLink::from(link).info().with_context(|| format!("reading the link {name}"))?;
        links.insert(hook, (info.id(), info.program_id()));
    }
    Ok(links)
}

/// The XDP programs that are attached, by device.
fn xdp(pins: &Pins, programs: &BTreeMap<u32, String>) -> Result<BTreeMap<u32, Attachment>> {
    let mut attachments = BTreeMap::new();
    for name in names_in(&pins.links())? {
        let Some((ifindex, mode)) = Pins::parse_xdp_link(&name) else { continue };
        // The daemon may just have removed it.
        let Ok(link) = PinnedLink::from_pin(pins.links().join(&name)) else { continue };
        let info = FdLink::from(link).info().with_context(|| format!("reading the link {name}"))?;
        let program = programs.get(&info.program_id()).cloned().unwrap_or_else(|| "uplink_xdp".to_owned());
        let (program_id, mode) = (info.program_id(), mode.to_owned());
        attachments.insert(ifindex, Attachment { program, program_id, mode, link_id: Some(info.id()) });
    }
    Ok(attachments)
}

/// The devices of this network namespace with programs of ours.
pub(super) fn devices(pins: &Pins) -> Result<Vec<DeviceView>> {
    let programs = pinned_programs(pins)?;
    let links = pinned_links(pins)?;
    let mut xdp = xdp(pins, &programs)?;
    let interfaces = if_nameindex().context("if_nameindex")?;
    let interfaces: Vec<(u32, String)> =
        interfaces.iter().map(|interface| (interface.index(), interface.name().to_string_lossy().into_owned())).collect();
    // Without links the kernel has no tcx, or nothing is attached.
    let candidates: Vec<u32> = interfaces.iter().filter(|_| links.is_empty()).map(|(ifindex, _)| *ifindex).collect();
    let filters = net::bpf_filters(&candidates).context("listing tc filters")?;
    let mut devices = Vec::new();
    for (ifindex, name) in interfaces {
        let at = |direction| -> Option<Attachment> {
            let link = links.get(&(ifindex, direction));
            tcx(&name, direction, link.copied(), &programs).or_else(|| clsact(ifindex, direction, &filters, &programs))
        };
        let at = [at(Direction::Ingress), at(Direction::Egress), xdp.remove(&ifindex)];
        devices.extend(DeviceView::new(name, ifindex, at));
    }
    Ok(devices)
}

/// The link's program, if the device really has it.
fn tcx(name: &str, direction: Direction, link: Option<(u32, u32)>, programs: &BTreeMap<u32, String>) -> Option<Attachment> {
    let (link_id, program_id) = link?;
    let kind = match direction {
        Direction::Ingress => TcAttachType::Ingress,
        Direction::Egress => TcAttachType::Egress,
    };
    // An error means that the device has gone, or that the kernel has no tcx.
    let (_, attached) = SchedClassifier::query_tcx(name, kind).ok()?;
    let info = attached.iter().find(|info| info.id() == program_id)?;
    let program = programs.get(&program_id).cloned().unwrap_or_else(|| info.name_as_str().unwrap_or_default().to_owned());
    Some(Attachment { program, program_id, mode: "tcx".to_owned(), link_id: Some(link_id) })
}

fn clsact(ifindex: u32, direction: Direction, filters: &[net::BpfFilter], programs: &BTreeMap<u32, String>) -> Option<Attachment> {
    let ingress = direction == Direction::Ingress;
    let here = filters.iter().filter(|filter| filter.ifindex == ifindex && filter.ingress == ingress);
    here.filter_map(|filter| programs.get(&filter.program_id).map(|name| (filter.program_id, name)))
        .map(|(program_id, name)| Attachment { program: name.clone(), program_id, mode: "clsact".to_owned(), link_id: None })
        .next()
}

pub(super) fn programs(pins: &Pins) -> Result<Vec<ProgramView>> {
    let devices = devices(pins)?;
    let maps = map_names(pins);
    let view = |name: String| {
        let path = pins.programs().join(&name);
        let info = ProgramInfo::from_pin(&path).with_context(|| format!("opening the pinned program {}", path.display()))?;
        Ok(ProgramView::new(name, &path, &info, &maps, &devices))
    };
    names_in(&pins.programs())?.into_iter().map(view).collect()
}

fn map_names(pins: &Pins) -> BTreeMap<u32, &'static str> {
    let id = |name: &'static str| MapInfo::from_pin(pins.maps().join(name)).ok().map(|info| (info.id(), name));
    proxy_common::maps::ALL.into_iter().filter_map(id).collect()
}

impl ProgramView {
    fn new(name: String, path: &Path, info: &ProgramInfo, maps: &BTreeMap<u32, &'static str>, devices: &[DeviceView]) -> Self {
        let hooks = |device: &DeviceView| {
            let here = device.by_hook().into_iter().filter(|(_, at)| at.is_some_and(|at| at.program_id == info.id()));
            here.map(|(hook, _)| format!("{}/{hook}", device.name)).collect::<Vec<_>>()
        };
        let used = info.map_ids().ok().flatten().unwrap_or_default();
        Self {
            name,
            id: info.id(),
            r#type: snake(&format!("{:?}", info.program_type()).replace("BPF_PROG_TYPE_", "").to_ascii_lowercase()),
            tag: format!("{:016x}", info.tag()),
            loaded_at: info.loaded_at().and_then(|at| Some(at.duration_since(std::time::UNIX_EPOCH).ok()?.as_secs())),
            instructions: info.size_translated().map(|bytes| bytes / 8),
            verified_instructions: info.verified_instruction_count(),
            jited_bytes: info.size_jitted(),
            maps: used.iter().map(|id| maps.get(id).map_or_else(|| format!("#{id}"), |&name| name.to_owned())).collect(),
            pinned: path.display().to_string(),
            attached: devices.iter().flat_map(hooks).collect(),
        }
    }
}

// === impl Row ===

impl Row for DeviceView {
    const COLUMNS: &'static [&'static str] = &["DEVICE", "IFINDEX", "ROLE", "MODE", "INGRESS", "EGRESS", "XDP"];

    fn cells(&self) -> Vec<String> {
        let program = |at: &Option<Attachment>| at.as_ref().map(|at| at.program.clone()).unwrap_or_default();
        let mode = self.ingress.as_ref().or(self.egress.as_ref()).map(|at| at.mode.clone()).unwrap_or_default();
        let xdp = self.xdp.as_ref().map(|at| at.mode.clone()).unwrap_or_default();
        vec![self.name.clone(), self.ifindex.to_string(), self.role.to_owned(), mode, program(&self.ingress), program(&self.egress), xdp]
    }
}

impl Row for ProgramView {
    const COLUMNS: &'static [&'static str] = &["NAME", "ID", "TYPE", "TAG", "INSTRUCTIONS", "VERIFIED", "JITED", "ATTACHED"];

    fn cells(&self) -> Vec<String> {
        let number = |number: Option<u32>| number.map(|number| number.to_string()).unwrap_or_default();
        vec![
            self.name.clone(),
            self.id.to_string(),
            self.r#type.clone(),
            self.tag.clone(),
            number(self.instructions),
            number(self.verified_instructions),
            format!("{}B", self.jited_bytes),
            self.attached.join(","),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{args::Format, cli::output::render};

    fn attachment(program: &str, mode: &str) -> Attachment {
        Attachment { program: program.to_owned(), program_id: 7, mode: mode.to_owned(), link_id: (mode == "tcx").then_some(3) }
    }

    #[test]
    fn a_device_has_the_role_of_its_programs() {
        let devices = [
            (
                "eth0",
                2,
                ["uplink_ingress", "uplink_egress", "uplink_xdp"]
                    .map(|name| Some(attachment(name, if name == "uplink_xdp" { "native" } else { "tcx" }))),
            ),
            ("tunl0", 3, [None, Some(attachment("uplink_l3_egress", "clsact")), None]),
            ("lo", 1, [None, None, None]),
            ("veth1", 9, [Some(attachment("workload_ingres", "tcx")), None, None]),
        ];
        let views: Vec<DeviceView> =
            devices.into_iter().filter_map(|(name, ifindex, at)| DeviceView::new(name.to_owned(), ifindex, at)).collect();
        assert_eq!(views.iter().map(DeviceView::attachments).sum::<usize>(), 5);
        let expected = "\
DEVICE   IFINDEX   ROLE       MODE     INGRESS           EGRESS             XDP
eth0     2         uplink     tcx      uplink_ingress    uplink_egress      native
tunl0    3         uplink     clsact   -                 uplink_l3_egress   -
veth1    9         workload   tcx      workload_ingres   -                  -
";
        assert_eq!(render(&views, Format::Table), expected);
    }
}
