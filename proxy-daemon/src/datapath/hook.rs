//! One hook of a device: our program is put there, exchanged, and taken off again.
//!
//! On kernels with tcx (6.6) a program is attached by a link of its own, which is pinned: the kernel keeps it without the daemon, and a
//! program is exchanged by one update of the link. On older kernels it is a filter of the clsact qdisc with a priority and a handle of
//! ours. Either way other programs on the device are left alone and see the packet after ours.

use std::{collections::BTreeSet, fs, io, mem, path::Path};

use anyhow::{Context as _, Result, bail};
use aya::{
    programs::{
        LinkOrder, ProgramError, SchedClassifier, TcAttachType,
        links::{FdLink, Link as _, LinkError, PinnedLink},
        loaded_programs,
        tc::{NlOptions, SchedClassifierLink, TcAttachOptions, TcError, TcHandle, qdisc_add_clsact},
    },
    sys::SyscallError,
};
use nix::net::if_::{if_indextoname, if_nameindex};

use crate::{
    maps::{self, Direction, Pins},
    net::{self, BpfFilter, Role},
};

/// Our filters in clsact. The priority is early, so that policy of others sees the translated packet.
const PRIORITY: u16 = 50;
const HANDLE: TcHandle = TcHandle::new(0x5348, 0x554e);

/// How programs are attached on this kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    Tcx,
    Clsact,
}

impl Way {
    /// Asks the kernel which programs loopback has: one without tcx does not know the question.
    pub(super) fn of_this_kernel() -> Result<Self> {
        let Err(error) = SchedClassifier::query_tcx("lo", TcAttachType::Ingress) else { return Ok(Self::Tcx) };
        let error = error.into();
        match errno(&error) {
            Some(libc::EINVAL) => Ok(Self::Clsact),
            // None, or none any more.
            Some(libc::ENOENT) => Ok(Self::Tcx),
            _ => Err(error.context("asking whether the kernel has tcx")),
        }
    }
}

/// Attaches a program, or puts it in the place of the one of ours that is there. Says whether none was.
pub(super) fn put(way: Way, program: &mut SchedClassifier, pins: &Pins, ifindex: u32, direction: Direction) -> Result<bool> {
    match way {
        Way::Tcx => put_link(program, &pins.link(ifindex, direction), ifindex, direction),
        Way::Clsact => put_filter(program, ifindex, direction),
    }
}

fn put_link(program: &mut SchedClassifier, pin: &Path, ifindex: u32, direction: Direction) -> Result<bool> {
    if let Some(link) = pinned(pin)? {
        if exchange(program, link).with_context(|| format!("exchanging the program of {}", pin.display()))? {
            return Ok(false);
        }
        fs::remove_file(pin).with_context(|| format!("removing {}", pin.display()))?;
    }
    let options = TcAttachOptions::TcxOrder(LinkOrder::first());
    let id = program.attach_with_options(&name(ifindex)?, attach_type(direction), options)?;
    let link: FdLink = program.take_link(id)?.try_into().context("taking a tcx link")?;
    drop(link.pin(pin).with_context(|| format!("pinning {}", pin.display()))?);
    Ok(true)
}

/// The link that is pinned there, if there is one.
fn pinned(pin: &Path) -> Result<Option<PinnedLink>> {
    match PinnedLink::from_pin(pin) {
        Err(LinkError::SyscallError(SyscallError { io_error, .. })) if io_error.kind() == io::ErrorKind::NotFound => Ok(None),
        result => result.map(Some).with_context(|| format!("opening {}", pin.display())),
    }
}

/// Exchanges the program of a link. False says that the kernel has severed the link: its device has gone, or someone has detached it.
/// After any other error the program that was there still is.
fn exchange(program: &mut SchedClassifier, pinned: PinnedLink) -> Result<bool> {
    let link: SchedClassifierLink = FdLink::from(pinned).try_into().context("this is no tcx link")?;
    match program.attach_to_link(link).map_err(anyhow::Error::from) {
        Ok(id) => {
            // The pin keeps the link. A descriptor that stayed open would keep it when the pin is removed.
            drop(FdLink::try_from(program.take_link(id)?).context("taking a tcx link")?);
            Ok(true)
        }
        Err(error) if errno(&error) == Some(libc::ENOLINK) => Ok(false),
        Err(error) => Err(error),
    }
}

fn put_filter(program: &mut SchedClassifier, ifindex: u32, direction: Direction) -> Result<bool> {
    let name = name(ifindex)?;
    provide_clsact(&name, ifindex)?;
    let kind = attach_type(direction);
    let fresh = TcAttachOptions::Netlink(NlOptions { priority: PRIORITY, handle: HANDLE, classid: None });
    let (id, none_was) = match program.attach_with_options(&name, kind, fresh) {
        Err(ProgramError::TcError(error)) if already_exists(&error) => {
            let ours = SchedClassifierLink::attached(&name, kind, PRIORITY, HANDLE, None)?;
            (program.attach_to_link(ours)?, false)
        }
        result => (result?, true),
    };
    // It has no descriptor; dropping it would remove the filter.
    mem::forget(program.take_link(id)?);
    Ok(none_was)
}

/// Makes a clsact qdisc where there is none. Its elder, `ingress`, stands in the same place, and would take filters for egress too and run
/// them at ingress.
fn provide_clsact(name: &str, ifindex: u32) -> Result<()> {
    match qdisc_add_clsact(name) {
        Ok(()) => return Ok(()),
        Err(error) if already_exists(&error) => {}
        Err(error) => return Err(ProgramError::from(error).into()),
    }
    match net::ingress_qdisc(ifindex).context("asking for the qdisc at ingress")?.as_deref() {
        Some("clsact") => Ok(()),
        Some(kind) => bail!(
            "the device has an {kind} qdisc of somebody else's where shunt needs clsact, as long as the kernel has no tcx (6.6): \
             `tc qdisc del dev {name} {kind}` removes it, or have clsact made in its stead"
        ),
        None => bail!("the qdisc at ingress has gone meanwhile"),
    }
}

/// The hooks that have a pinned link.
pub(super) fn pinned_links(pins: &Pins) -> Result<Vec<(u32, Direction)>> {
    let dir = pins.links();
    let mut links = Vec::new();
    for entry in fs::read_dir(&dir).with_context(|| format!("reading {}", dir.display()))? {
        let name = entry.with_context(|| format!("reading {}", dir.display()))?.file_name();
        links.extend(name.to_str().and_then(Pins::parse_link));
    }
    Ok(links)
}

/// Unpins a link, which takes the program off its device.
pub(super) fn unpin(pins: &Pins, ifindex: u32, direction: Direction) -> Result<()> {
    Ok(maps::unpin(&pins.link(ifindex, direction))?)
}

/// The filters of our priority and handle at some devices: the hook and the program of each.
pub(super) fn programs(devices: &[u32]) -> Result<BTreeSet<(u32, Direction, u32)>> {
    let mut found = net::bpf_filters(devices).context("listing tc filters")?;
    found.retain(is_in_our_place);
    Ok(found.iter().map(|filter| (filter.ifindex, direction(filter), filter.program_id)).collect())
}

/// The hooks of this network namespace with a filter of ours: of our priority and handle, with a program that is called as ours are.
pub(super) fn filters() -> Result<Vec<(u32, Direction)>> {
    let devices: Vec<u32> = if_nameindex().context("if_nameindex")?.iter().map(nix::net::if_::Interface::index).collect();
    let found = programs(&devices)?;
    if found.is_empty() {
        return Ok(Vec::new());
    }
    let mut ours = Vec::new();
    for program in loaded_programs() {
        // One that went while they were listed is at no hook.
        let Ok(program) = program else { continue };
        if program.name_as_str().is_some_and(is_ours) {
            ours.push(program.id());
        }
    }
    Ok(found.iter().filter(|(.., program)| ours.contains(program)).map(|&(ifindex, direction, _)| (ifindex, direction)).collect())
}

fn is_in_our_place(filter: &BpfFilter) -> bool {
    filter.priority == PRIORITY && filter.handle == u32::from(HANDLE)
}

const fn direction(filter: &BpfFilter) -> Direction {
    if filter.ingress { Direction::Ingress } else { Direction::Egress }
}

/// Programs are named after the role of the device they are for.
fn is_ours(program: &str) -> bool {
    [Role::Uplink, Role::Workload].iter().any(|role| program.strip_prefix(role.name()).is_some_and(|rest| rest.starts_with('_')))
}

/// Removes our filter from clsact, if it is there.
pub(super) fn remove_filter(ifindex: u32, direction: Direction) -> Result<()> {
    // What has gone has no filters.
    let Ok(name) = name(ifindex) else { return Ok(()) };
    let Ok(link) = SchedClassifierLink::attached(&name, attach_type(direction), PRIORITY, HANDLE, None) else { return Ok(()) };
    match link.detach() {
        Err(ProgramError::NetlinkError(error)) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::EINVAL | libc::ENODEV)) => {
            Ok(())
        }
        result => result.with_context(|| format!("removing the tc {direction} filter of {name}")),
    }
}

const fn attach_type(direction: Direction) -> TcAttachType {
    match direction {
        Direction::Ingress => TcAttachType::Ingress,
        Direction::Egress => TcAttachType::Egress,
    }
}

/// What a device is called now: the kernel reports a new name after it is in use.
pub(super) fn name(ifindex: u32) -> Result<String> {
    let name = if_indextoname(ifindex).map_err(io::Error::from).context("if_indextoname")?;
    name.into_string().context("a device's name is no text")
}

/// Whether an error says that the device is not there any more.
pub(super) fn is_gone(error: &anyhow::Error) -> bool {
    matches!(errno(error), Some(libc::ENODEV | libc::ENXIO))
}

/// The kernel's word behind an error of aya, which does not always show it as a cause.
pub(super) fn errno(error: &anyhow::Error) -> Option<i32> {
    error.chain().find_map(|cause| match cause.downcast_ref::<ProgramError>() {
        Some(ProgramError::TcError(error)) => tc_errno(error),
        _ => cause.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error),
    })
}

fn tc_errno(error: &TcError) -> Option<i32> {
    match error {
        TcError::NetlinkError(error) => error.raw_os_error(),
        TcError::IoError(error) => error.raw_os_error(),
        TcError::NulError(_) | TcError::AlreadyAttached | TcError::InvalidTcxAttach(_) | TcError::InvalidLinkOperation => None,
    }
}

fn already_exists(error: &TcError) -> bool {
    matches!(error, TcError::AlreadyAttached) || tc_errno(error) == Some(libc::EEXIST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_of_others_are_not_taken_for_ours() {
        for (name, expected) in
            [("uplink_ingress", true), ("workload_ingres", true), ("uplink", false), ("uplinks_ingress", false), ("cil_from_netdev", false)]
        {
            assert_eq!(is_ours(name), expected, "{name}");
        }
    }
}
