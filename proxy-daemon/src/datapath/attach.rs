//! Programs on devices: attached, adopted from a previous run, and taken off again.
//!
//! On kernels with tcx (6.6) a program is attached by a link of its own, which is pinned: the kernel keeps it without the daemon, and a
//! program is exchanged by one update of the link. On older kernels it is a filter of the clsact qdisc with a priority and a handle of
//! ours. Either way other programs on the device are left alone and see the packet after ours.

use std::{collections::BTreeMap, fs, io};

use anyhow::{Context as _, Result};
use aya::{
    programs::{
        LinkOrder, ProgramError, TcAttachType,
        links::{FdLink, PinnedLink},
        tc::{NlOptions, SchedClassifierLink, TcAttachOptions, TcError, TcHandle, qdisc_add_clsact},
    },
    sys::{NetlinkError, SyscallError},
};

use super::load::Datapath;
use crate::{
    maps::{Direction, Pins},
    net::{Device, Role},
};

/// Our filters in clsact. The priority is early, so that policy of others sees the translated packet.
const PRIORITY: u16 = 50;
const HANDLE: TcHandle = TcHandle::new(0x5348, 0x554e);

/// How programs are attached on this kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Tcx,
    Clsact,
}

/// Attaches programs to devices. One task owns it.
pub struct Attacher {
    pins: Pins,
    datapath: Datapath,
    way: Way,
    attached: BTreeMap<u32, Device>,
}

const fn attach_type(direction: Direction) -> TcAttachType {
    match direction {
        Direction::Ingress => TcAttachType::Ingress,
        Direction::Egress => TcAttachType::Egress,
    }
}

/// The program for one hook of a device.
fn program_name(device: &Device, direction: Direction) -> &'static str {
    match (device.role, device.l2, direction) {
        (Role::Workload, _, Direction::Ingress) => "workload_ingress",
        (Role::Workload, _, Direction::Egress) => "workload_egress",
        (Role::Uplink, true, Direction::Ingress) => "uplink_ingress",
        (Role::Uplink, true, Direction::Egress) => "uplink_egress",
        (Role::Uplink, false, Direction::Ingress) => "uplink_l3_ingress",
        (Role::Uplink, false, Direction::Egress) => "uplink_l3_egress",
    }
}

impl Attacher {
    /// An attacher for these programs, with nothing attached yet.
    pub fn new(pins: Pins, datapath: Datapath) -> Self {
        Self { pins, datapath, way: Way::Tcx, attached: BTreeMap::new() }
    }

    /// Whether a device has its programs.
    pub fn is_attached(&self, ifindex: u32) -> bool {
        self.attached.contains_key(&ifindex)
    }

    /// Attaches the programs of a device's role, replies first: what is translated on its way in must be translated back.
    ///
    /// A device that has gone meanwhile is no error.
    pub fn attach(&mut self, device: &Device) -> Result<()> {
        for direction in [Direction::Egress, Direction::Ingress] {
            let result = self.attach_one(device, direction);
            if result.as_ref().is_err_and(is_gone) {
                tracing::debug!(iface = device.name, "the device went before its programs were attached");
                return Ok(());
            }
            result.with_context(|| format!("attaching tc {direction} to {}", device.name))?;
        }
        tracing::info!(iface = device.name, ifindex = device.ifindex, role = device.role.name(), "attached");
        self.attached.insert(device.ifindex, device.clone());
        Ok(())
    }

    fn attach_one(&mut self, device: &Device, direction: Direction) -> Result<()> {
        if self.way == Way::Tcx {
            match self.attach_tcx(device, direction) {
                Err(error) if is_unsupported(&error) => {
                    tracing::info!("the kernel has no tcx: using clsact");
                    self.way = Way::Clsact;
                }
                result => return result,
            }
        }
        self.attach_clsact(device, direction)
    }

    fn attach_tcx(&mut self, device: &Device, direction: Direction) -> Result<()> {
        let pin = self.pins.link(device.ifindex, direction);
        let program = self.datapath.program(program_name(device, direction))?;
        if let Ok(pinned) = PinnedLink::from_pin(&pin) {
            let link: SchedClassifierLink = FdLink::from(pinned).try_into().context("adopting a pinned link")?;
            match program.attach_to_link(link) {
                Ok(id) => {
                    drop_keeping(program.take_link(id)?);
                    return Ok(());
                }
                // The link of an earlier device with the same index: the kernel has severed it.
                Err(error) => tracing::debug!(iface = device.name, %direction, %error, "a pinned link is of no use any more"),
            }
            fs::remove_file(&pin).with_context(|| format!("removing {}", pin.display()))?;
        }
        let options = TcAttachOptions::TcxOrder(LinkOrder::first());
        let id = program.attach_with_options(&device.name, attach_type(direction), options)?;
        let link: FdLink = program.take_link(id)?.try_into().context("taking a tcx link")?;
        drop(link.pin(&pin).with_context(|| format!("pinning {}", pin.display()))?);
        Ok(())
    }

    fn attach_clsact(&mut self, device: &Device, direction: Direction) -> Result<()> {
        match qdisc_add_clsact(&device.name) {
            Err(error) if !already_exists(&error) => return Err(ProgramError::from(error).into()),
            _ => {}
        }
        let kind = attach_type(direction);
        let program = self.datapath.program(program_name(device, direction))?;
        let fresh = TcAttachOptions::Netlink(NlOptions { priority: PRIORITY, handle: HANDLE, classid: None });
        let id = match program.attach_with_options(&device.name, kind, fresh) {
            Err(ProgramError::TcError(error)) if already_exists(&error) => {
                let ours = SchedClassifierLink::attached(&device.name, kind, PRIORITY, HANDLE, None)?;
                program.attach_to_link(ours)?
            }
            result => result?,
        };
        drop_keeping(program.take_link(id)?);
        Ok(())
    }

    /// Takes our programs off a device, or only forgets them when the device itself has `gone`.
    pub fn detach(&mut self, device: &Device, gone: bool) -> Result<()> {
        self.attached.remove(&device.ifindex);
        for direction in Direction::ALL {
            remove_link(&self.pins, device.ifindex, direction)?;
            if self.way == Way::Clsact && !gone {
                remove_filter(&device.name, direction)?;
            }
        }
        tracing::info!(iface = device.name, ifindex = device.ifindex, gone, "detached");
        Ok(())
    }

    /// Removes pinned links of devices that were not reported: left by a previous run for devices that have gone since.
    pub fn sweep(&self) -> Result<()> {
        for (ifindex, direction) in pinned_links(&self.pins)? {
            if !self.attached.contains_key(&ifindex) {
                remove_link(&self.pins, ifindex, direction)?;
            }
        }
        Ok(())
    }

    /// The programs.
    pub fn datapath_mut(&mut self) -> &mut Datapath {
        &mut self.datapath
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
pub(super) fn remove_link(pins: &Pins, ifindex: u32, direction: Direction) -> Result<()> {
    let pin = pins.link(ifindex, direction);
    match fs::remove_file(&pin) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error).with_context(|| format!("removing {}", pin.display())),
        _ => Ok(()),
    }
}

/// Removes our filter from clsact, if it is there.
pub(super) fn remove_filter(iface: &str, direction: Direction) -> Result<()> {
    use aya::programs::links::Link as _;
    let Ok(link) = SchedClassifierLink::attached(iface, attach_type(direction), PRIORITY, HANDLE, None) else {
        // No such device.
        return Ok(());
    };
    match link.detach() {
        Err(ProgramError::NetlinkError(error)) if is_missing(&error) => Ok(()),
        result => result.with_context(|| format!("removing the tc {direction} filter of {iface}")),
    }
}

/// Gives up a link without taking the program off: the kernel keeps it.
fn drop_keeping(link: SchedClassifierLink) {
    std::mem::forget(link);
}

/// The kernel's word behind an error of aya, which does not always show it as a cause.
fn errno(error: &anyhow::Error) -> Option<i32> {
    error.chain().find_map(|cause| match cause.downcast_ref::<ProgramError>() {
        Some(ProgramError::TcError(error)) => tc_errno(error),
        _ => cause.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error),
    })
}

fn is_gone(error: &anyhow::Error) -> bool {
    matches!(errno(error), Some(libc::ENODEV | libc::ENXIO))
}

/// Before 6.6 the kernel does not know the attach type.
fn is_unsupported(error: &anyhow::Error) -> bool {
    let refused = error.downcast_ref::<ProgramError>();
    matches!(refused, Some(ProgramError::SyscallError(SyscallError { io_error, .. })) if io_error.raw_os_error() == Some(libc::EINVAL))
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

/// No such filter, or no qdisc that could have one.
fn is_missing(error: &NetlinkError) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::EINVAL | libc::ENODEV))
}
