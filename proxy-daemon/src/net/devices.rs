//! Devices as the datapath sees them, and what is reported of them.
//!
//! In: the devices there are, each time something changed. Out: [`DeviceEvent`]s that lead from what was reported before to what is.
//! A device whose role changes is detached and attached again; a device that is replaced by another with the same index is, too.

use std::collections::{BTreeMap, BTreeSet};

use super::message::Link;

/// A device that programs belong on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    pub ifindex: u32,
    pub name: String,
    pub role: Role,
    /// Packets start with an Ethernet header (`ARPHRD_ETHER`).
    pub l2: bool,
    pub mtu: u32,
    /// Zero where the device has none.
    pub mac: [u8; 6],
}

impl Device {
    pub(super) fn new(link: &Link, role: Role) -> Self {
        Self { ifindex: link.ifindex, name: link.name.clone(), role, l2: link.ethernet, mtu: link.mtu, mac: link.mac }
    }
}

/// What a device leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Other nodes and the world outside.
    Uplink,
    /// One pod.
    Workload,
}

impl Role {
    /// The name as the command line and the log have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Uplink => "uplink",
            Self::Workload => "workload",
        }
    }
}

/// What happened to a device. Between an attach and the detach of the same index there are only changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeviceEvent {
    /// Programs of the device's role belong on it from now on. It may be gone when this is read: `ENODEV` is no failure.
    Attach(Device),
    /// Name, MTU or hardware address are other than reported before; programs stay. If they could not be attached because the device had
    /// been renamed meanwhile, now is the time to try again.
    Changed(Device),
    /// Our programs belong on the device no longer.
    Detach {
        device: Device,
        /// The device itself has gone, and took its programs along.
        gone: bool,
    },
    /// All devices that were there at the start have been reported.
    Listed,
}

/// Remembers what was reported.
#[derive(Debug, Default)]
pub(super) struct Reporter {
    reported: BTreeMap<u32, Device>,
}

impl Reporter {
    /// The events from what was reported before to `devices`. `vanished` are indices that stood for no device in between.
    pub(super) fn update(&mut self, devices: BTreeMap<u32, Device>, vanished: &BTreeSet<u32>) -> Vec<DeviceEvent> {
        let mut events = Vec::new();
        self.reported.retain(|ifindex, old| {
            let gone = vanished.contains(ifindex);
            let keep = !gone && devices.get(ifindex).is_some_and(|new| new.role == old.role && new.l2 == old.l2);
            if !keep {
                events.push(DeviceEvent::Detach { device: old.clone(), gone });
            }
            keep
        });
        for (ifindex, device) in devices {
            match self.reported.insert(ifindex, device.clone()) {
                None => events.push(DeviceEvent::Attach(device)),
                Some(old) if old != device => events.push(DeviceEvent::Changed(device)),
                Some(_) => {}
            }
        }
        events
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(ifindex: u32, role: Role) -> Device {
        Device { ifindex, name: format!("dev{ifindex}"), role, l2: true, mtu: 1500, mac: [2, 0, 0, 0, 0, 1] }
    }

    fn set(devices: impl IntoIterator<Item = Device>) -> BTreeMap<u32, Device> {
        devices.into_iter().map(|device| (device.ifindex, device)).collect()
    }

    #[test]
    fn only_differences_are_reported() {
        let mut reporter = Reporter::default();
        let pod = device(7, Role::Workload);
        assert_eq!(reporter.update(set([pod.clone()]), &BTreeSet::new()), [DeviceEvent::Attach(pod.clone())]);
        assert_eq!(reporter.update(set([pod.clone()]), &BTreeSet::new()), []);

        let renamed = Device { name: "pod".to_owned(), ..pod };
        assert_eq!(reporter.update(set([renamed.clone()]), &BTreeSet::new()), [DeviceEvent::Changed(renamed.clone())]);

        let gone = DeviceEvent::Detach { device: renamed, gone: true };
        assert_eq!(reporter.update(set([]), &BTreeSet::from([7])), [gone]);
    }

    #[test]
    fn a_changed_role_is_a_detach_and_an_attach() {
        let mut reporter = Reporter::default();
        reporter.update(set([device(2, Role::Workload)]), &BTreeSet::new());
        let events = reporter.update(set([device(2, Role::Uplink)]), &BTreeSet::new());
        let detach = DeviceEvent::Detach { device: device(2, Role::Workload), gone: false };
        assert_eq!(events, [detach, DeviceEvent::Attach(device(2, Role::Uplink))]);
    }

    #[test]
    fn an_index_in_use_again_is_a_detach_and_an_attach() {
        let mut reporter = Reporter::default();
        let pod = device(7, Role::Workload);
        reporter.update(set([pod.clone()]), &BTreeSet::new());
        let events = reporter.update(set([pod.clone()]), &BTreeSet::from([7]));
        assert_eq!(events, [DeviceEvent::Detach { device: pod.clone(), gone: true }, DeviceEvent::Attach(pod)]);
    }
}
