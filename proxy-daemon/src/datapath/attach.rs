//! Which devices have our programs, and which still wait for them.
//!
//! In: what happened to devices. Out: programs on them. A device that cannot be served does not keep others from it, and loses nothing
//! that it has from a previous run; it waits and is tried again.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result};

use super::{
    hook::{self, Way},
    load::Datapath,
    xdp,
};
use crate::{
    args::Xdp,
    maps::{Direction, Pins},
    net::{Device, DeviceEvent, Role},
};

/// Attaches programs to devices. One thread owns it.
pub struct Attacher {
    pins: Pins,
    datapath: Datapath,
    way: Way,
    xdp: Xdp,
    attached: BTreeSet<u32>,
    waiting: BTreeMap<u32, Waiting>,
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
        Self { pins, datapath, way, xdp, attached: BTreeSet::new(), waiting: BTreeMap::new() }
    }

    /// Does what an event asks for.
    pub fn serve(&mut self, event: &DeviceEvent) {
        match event {
            DeviceEvent::Changed(device) if self.attached.contains(&device.ifindex) => {}
            // A device that had gone for a moment, or was renamed at the wrong one, is still without.
            DeviceEvent::Attach(device) | DeviceEvent::Changed(device) => self.attach(device),
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

    /// The programs.
    pub fn datapath_mut(&mut self) -> &mut Datapath {
        &mut self.datapath
    }

    fn attach(&mut self, device: &Device) {
        match self.put_both(device) {
            Ok(()) => {
                let tries = self.waiting.remove(&device.ifindex).map_or(0, |waiting| waiting.tries) + 1;
                tracing::info!(iface = device.name, ifindex = device.ifindex, role = device.role.name(), tries, "attached");
                self.attached.insert(device.ifindex);
                self.put_xdp(device);
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

    /// Attaches the programs of a device's role, replies first: what is translated on its way in must be translated back.
    fn put_both(&mut self, device: &Device) -> Result<()> {
        for direction in [Direction::Egress, Direction::Ingress] {
            let program = self.datapath.program(program_name(device, direction))?;
            hook::put(self.way, program, &self.pins, device.ifindex, direction)
                .with_context(|| format!("attaching tc {direction} to {}", device.name))?;
        }
        Ok(())
    }

    /// Attaches the XDP program to an uplink where it is wanted. Where that does not work tc serves the device all the same.
    fn put_xdp(&mut self, device: &Device) {
        if self.xdp == Xdp::Off || device.role != Role::Uplink || !device.l2 {
            return;
        }
        let put = self.datapath.xdp().and_then(|program| xdp::put(program, &self.pins, device.ifindex, self.xdp));
        let (iface, mode) = (&device.name, self.xdp.name());
        match put {
            Ok(()) => tracing::info!(iface, mode, "attached to XDP"),
            Err(error) if hook::is_gone(&error) => {}
            Err(error) => {
                tracing::warn!(iface, mode, error = format!("{error:#}"), "the device cannot be served in XDP: tc serves it alone");
            }
        }
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
            if !self.attached.contains(&ifindex) && !self.waiting.contains_key(&ifindex) {
                self.take_off(ifindex, direction, false);
            }
        }
        self.take_off_xdp(|ifindex, mode| mode != self.xdp.name() || !self.attached.contains(&ifindex));
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
