//! Which devices have our programs, and which still wait for them.
//!
//! In: what happened to devices. Out: programs on them. A device that cannot be served does not keep others from it, and loses nothing
//! that it has from a previous run; it waits and is tried again.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, mem,
};

use anyhow::{Context as _, Result};

use super::{
    hook::{self, Way},
    load::Datapath,
    sockets::{self, Hooks},
    xdp,
};
use crate::{
    config::Xdp,
    maps::{Direction, Pins},
    net::{Device, DeviceEvent, Role},
};

/// Attaches programs to devices. One thread owns it.
pub struct Attacher {
    pins: Pins,
    datapath: Datapath,
    way: Way,
    xdp: Xdp,
    sockets: Option<Hooks>,
    attached: BTreeMap<u32, Attached>,
    waiting: BTreeMap<u32, Waiting>,
}

/// A device with our programs.
struct Attached {
    device: Device,
    in_xdp: InXdp,
}

/// Whether a device has our program in XDP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum InXdp {
    Yes,
    /// It is not to have it, or the kernel refuses.
    No,
    /// There is room for one, and another program is there: it may go.
    Taken,
}

/// A device whose programs could not be attached.
struct Waiting {
    device: Device,
    /// What was logged last.
    error: String,
    tries: u32,
}

impl Attacher {
    /// An attacher for these programs, with nothing attached yet.
    pub fn new(pins: Pins, datapath: Datapath, xdp: Xdp) -> Result<Self> {
        let way = Way::of_this_kernel()?;
        if way == Way::Clsact {
            tracing::info!("the kernel has no tcx: using clsact");
        }
        Ok(Self::with_way(pins, datapath, xdp, way))
    }

    /// The same on a kernel that has this way.
    pub(super) fn with_way(pins: Pins, datapath: Datapath, xdp: Xdp, way: Way) -> Self {
        Self { pins, datapath, way, xdp, sockets: None, attached: BTreeMap::new(), waiting: BTreeMap::new() }
    }

    /// Attaches the programs of sockets as well.
    pub fn serve_sockets(&mut self, hooks: Hooks) -> Result<()> {
        hooks.put(&mut self.datapath, &self.pins)?;
        self.sockets = Some(hooks);
        Ok(())
    }

    /// Takes the programs of sockets off that a run before has attached.
    pub fn leave_sockets(&self) -> Result<()> {
        sockets::take_off(&self.pins).map(drop)
    }

    /// Does what an event asks for.
    pub fn serve(&mut self, event: &DeviceEvent) {
        match event {
            DeviceEvent::Attach(device) => self.attach(device),
            DeviceEvent::Changed(device) => match self.attached.get_mut(&device.ifindex) {
                Some(attached) => attached.device.clone_from(device),
                // A device that had gone for a moment, or was renamed at the wrong one, is still without.
                None => self.attach(device),
            },
            DeviceEvent::Detach { device, gone } => self.detach(device, *gone),
            DeviceEvent::Listed => self.sweep(),
        }
    }

    /// Whether there are devices to be tried again.
    pub fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Tries those devices again.
    pub fn retry(&mut self) {
        let devices: Vec<Device> = self.waiting.values().map(|waiting| waiting.device.clone()).collect();
        for device in devices {
            self.attach(&device);
        }
    }

    fn attach(&mut self, device: &Device) {
        match self.put_both(device, &BTreeSet::new()) {
            Ok(_) => {
                let tries = self.waiting.remove(&device.ifindex).map_or(0, |waiting| waiting.tries) + 1;
                tracing::info!(iface = device.name, ifindex = device.ifindex, role = device.role.name(), tries, "attached");
                self.attached.insert(device.ifindex, Attached { device: device.clone(), in_xdp: InXdp::No });
                if self.xdp != Xdp::Off && device.role == Role::Uplink && device.l2 {
                    self.put_xdp(device, InXdp::No);
                }
            }
            Err(error) if hook::is_gone(&error) => {
                self.waiting.remove(&device.ifindex);
                tracing::debug!(iface = device.name, ifindex = device.ifindex, "the device went before its programs were attached");
            }
            Err(error) => self.note_failure(device, format!("{error:#}")),
        }
    }

    /// Lets a device wait, and says why once while it is the same.
    fn note_failure(&mut self, device: &Device, error: String) {
        let fresh = Waiting { device: device.clone(), error: String::new(), tries: 0 };
        let waiting = self.waiting.entry(device.ifindex).or_insert(fresh);
        waiting.device.clone_from(device);
        waiting.tries += 1;
        if waiting.error != error {
            tracing::error!(iface = device.name, error, tries = waiting.tries, "a device cannot be served, to be tried again");
            waiting.error = error;
        }
    }

    /// Puts other programs in the place of these on all devices. Yields how many devices could not be served, and are to be tried again.
    pub(super) fn exchange(&mut self, datapath: Datapath) -> Result<usize> {
        // They are kept until the others are everywhere: what they log is printed to the end.
        let _before = mem::replace(&mut self.datapath, datapath);
        self.try_to_restore()?;
        if let Some(hooks) = &self.sockets {
            hooks.put(&mut self.datapath, &self.pins)?;
        }
        Ok(self.waiting.len())
    }

    /// Puts back what somebody else has taken off devices and the cgroup. Where nothing is missing it changes nothing and costs a few system calls
    /// a device.
    pub fn restore(&mut self) {
        if let Err(error) = self.try_to_restore() {
            tracing::warn!(error = format!("{error:#}"), "whether devices still have their programs is not known");
        }
        let Some(hooks) = &self.sockets else { return };
        match hooks.restore(&mut self.datapath, &self.pins) {
            Ok(0) => {}
            Ok(missing) => tracing::warn!(missing, "somebody had taken programs off the cgroup: attached again"),
            Err(error) => tracing::warn!(error = format!("{error:#}"), "the cgroup is without programs that somebody has taken off"),
        }
    }

    fn try_to_restore(&mut self) -> Result<()> {
        // Pins may be removed with their folder.
        fs::create_dir_all(self.pins.links()).with_context(|| format!("creating {}", self.pins.links().display()))?;
        let there = match self.way {
            // That a link is there shows when its program is exchanged, by itself.
            Way::Tcx => BTreeSet::new(),
            Way::Clsact => hook::programs(&self.attached.keys().copied().collect::<Vec<_>>())?,
        };
        let devices: Vec<(Device, InXdp)> = self.attached.values().map(|attached| (attached.device.clone(), attached.in_xdp)).collect();
        for (device, in_xdp) in devices {
            match self.put_both(&device, &there) {
                Ok(missing) => {
                    let in_xdp_too = in_xdp != InXdp::No && self.put_xdp(&device, in_xdp);
                    let missing = missing + usize::from(in_xdp_too);
                    if missing > 0 {
                        tracing::warn!(iface = device.name, missing, "somebody had taken programs off a device: attached again");
                    }
                }
                // Its end is about to be reported.
                Err(error) if hook::is_gone(&error) => {}
                Err(error) => {
                    self.attached.remove(&device.ifindex);
                    self.note_failure(&device, format!("{error:#}"));
                }
            }
        }
        Ok(())
    }

    /// Attaches the programs of a device's role, replies first: what is translated on its way in must be translated back. Those that are
    /// `there` are let be. Yields how many were not.
    fn put_both(&mut self, device: &Device, there: &BTreeSet<(u32, Direction, u32)>) -> Result<usize> {
        let mut missing = 0;
        for direction in [Direction::Egress, Direction::Ingress] {
            let program = self.datapath.program(program_name(device, direction))?;
            if there.is_empty() || !there.contains(&(device.ifindex, direction, program.info()?.id())) {
                let put = hook::put(self.way, program, &self.pins, device.ifindex, direction);
                missing += usize::from(put.with_context(|| format!("attaching tc {direction} to {}", device.name))?);
            }
        }
        Ok(missing)
    }

    /// Attaches the XDP program, and says whether one of ours `was` there and is not any more. Where it cannot be attached tc serves the
    /// device all the same.
    fn put_xdp(&mut self, device: &Device, was: InXdp) -> bool {
        let put = self.datapath.xdp().and_then(|program| xdp::put(program, &self.pins, device.ifindex, self.xdp));
        let (iface, mode) = (&device.name, self.xdp.name());
        let is = match &put {
            Ok(_) => InXdp::Yes,
            Err(error) if xdp::is_taken(error) => InXdp::Taken,
            Err(_) => InXdp::No,
        };
        match &put {
            Err(error) if !hook::is_gone(error) && (is != was || was == InXdp::No) => {
                tracing::warn!(iface, mode, error = format!("{error:#}"), "the device cannot be served in XDP: tc serves it alone");
            }
            Ok(_) if was != InXdp::Yes => tracing::info!(iface, mode, "attached to XDP"),
            _ => {}
        }
        if let Some(attached) = self.attached.get_mut(&device.ifindex) {
            attached.in_xdp = is;
        }
        was == InXdp::Yes && matches!(put, Ok(true))
    }

    /// Takes our programs off a device, or only forgets them when the device itself has `gone`.
    fn detach(&mut self, device: &Device, gone: bool) {
        self.attached.remove(&device.ifindex);
        self.waiting.remove(&device.ifindex);
        for direction in Direction::ALL {
            self.take_off(device.ifindex, direction, gone);
        }
        self.take_off_xdp(|ifindex, _| ifindex == device.ifindex);
        tracing::info!(iface = device.name, ifindex = device.ifindex, gone, "detached");
    }

    fn take_off(&self, ifindex: u32, direction: Direction, gone: bool) {
        let result = match self.way {
            Way::Tcx => hook::unpin(&self.pins, ifindex, direction),
            Way::Clsact if gone => Ok(()),
            Way::Clsact => hook::remove_filter(ifindex, direction),
        };
        if let Err(error) = result {
            tracing::error!(ifindex, error = format!("{error:#}"), "a program could not be taken off a device");
        }
    }

    fn take_off_xdp(&self, which: impl Fn(u32, &str) -> bool) {
        if let Err(error) = xdp::remove(&self.pins, which) {
            tracing::error!(error = format!("{error:#}"), "the XDP program could not be taken off a device");
        }
    }

    /// Takes off what a previous run has left on devices that were not reported: they are not ours any more, or have gone since.
    fn sweep(&self) {
        let left = match self.way {
            Way::Tcx => hook::pinned_links(&self.pins),
            Way::Clsact => hook::filters(),
        };
        let left = match left {
            Ok(left) => left,
            Err(error) => {
                tracing::error!(error = format!("{error:#}"), "what a previous run has left on devices is not known");
                return;
            }
        };
        for (ifindex, direction) in left {
            if !self.attached.contains_key(&ifindex) && !self.waiting.contains_key(&ifindex) {
                self.take_off(ifindex, direction, false);
            }
        }
        self.take_off_xdp(|ifindex, mode| mode != self.xdp.name() || !self.attached.contains_key(&ifindex));
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
