//! Programs on devices of the kernel, in a network namespace and a BPF file system made for each test. With tcx and with clsact, which
//! newer kernels have as well.

use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    net::if_::if_nametoindex,
    sched::{CloneFlags, unshare},
};
use tempfile::TempDir;

use super::{
    attach::Attacher,
    hook::{self, Way},
    load::{Options, load},
    prepare,
};
use crate::{
    args::Xdp,
    config::Sizes,
    maps::{Direction, Pins},
    net::{
        self, Device, DeviceEvent, Role,
        testing::{in_namespace, ip, tc},
    },
};

const DEVICE: &str = "pod0";

/// A machine with one device.
struct Machine {
    pins: Pins,
    bpffs: TempDir,
}

impl Drop for Machine {
    fn drop(&mut self) {
        umount2(self.bpffs.path(), MntFlags::MNT_DETACH).expect("still mounted");
    }
}

impl Machine {
    fn new() -> Self {
        unshare(CloneFlags::CLONE_NEWNS).expect("unshare");
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).expect("mounts are private");
        let bpffs = TempDir::new().expect("a folder");
        mount(Some("bpf"), bpffs.path(), Some("bpf"), MsFlags::empty(), None::<&str>).expect("a BPF file system");
        let pins = Pins::new(bpffs.path().join("shunt"));
        prepare(&pins).expect("prepared");
        ip(&format!("link add {DEVICE} type veth peer name peer0"));
        Self { pins, bpffs }
    }

    /// What a daemon that starts has.
    fn attacher(&self, way: Way) -> Attacher {
        let sizes = Sizes { frontends: 16, backends: 16, flows: 1024, services: 16 };
        let datapath = load(&self.pins, Options { sizes, xdp: false, bpf_log: false }).expect("the programs are loaded");
        Attacher::with_way(self.pins.clone(), datapath, Xdp::Off, way)
    }
}

fn on_a_machine(name: &str, test: impl FnOnce(&Machine) + Send + 'static) {
    in_namespace(name, || test(&Machine::new()));
}

fn device() -> Device {
    let ifindex = if_nametoindex(DEVICE).expect("it is there");
    Device { ifindex, name: DEVICE.to_owned(), role: Role::Workload, l2: true, mtu: 1500, mac: [2; 6] }
}

/// The programs of our filters, in the order of [`Direction::ALL`].
fn filters() -> Vec<u32> {
    let mut filters = net::bpf_filters(&[device().ifindex]).expect("listed");
    filters.sort_by_key(|filter| !filter.ingress);
    let ours: Vec<(u32, Direction)> = filters.iter().map(hook::hook).collect();
    assert_eq!(hook::filters().expect("listed"), ours);
    assert!(ours.is_empty() || ours == Direction::ALL.map(|direction| (device().ifindex, direction)), "{ours:?}");
    filters.iter().map(|filter| filter.program_id).collect()
}

#[test]
fn filters_are_put_exchanged_and_taken_off() {
    on_a_machine("filters_are_put_exchanged_and_taken_off", |machine| {
        let mut attacher = machine.attacher(Way::Clsact);
        attacher.serve(&DeviceEvent::Attach(device()));
        let first = filters();
        assert_eq!(first.len(), 2);

        let mut next = machine.attacher(Way::Clsact);
        next.serve(&DeviceEvent::Attach(device()));
        next.serve(&DeviceEvent::Listed);
        let second = filters();
        assert!(second.len() == 2 && second.iter().all(|program| !first.contains(program)), "{first:?} {second:?}");

        next.serve(&DeviceEvent::Detach { device: device(), gone: false });
        assert!(filters().is_empty());
        assert_eq!(net::ingress_qdisc(device().ifindex).expect("known").as_deref(), Some("clsact"));
    });
}

#[test]
fn filters_of_a_run_before_go_from_devices_that_are_not_ours_any_more() {
    on_a_machine("filters_of_a_run_before_go_from_devices_that_are_not_ours_any_more", |machine| {
        machine.attacher(Way::Clsact).serve(&DeviceEvent::Attach(device()));
        assert_eq!(filters().len(), 2);
        machine.attacher(Way::Clsact).serve(&DeviceEvent::Listed);
        assert!(filters().is_empty());
    });
}

#[test]
fn an_ingress_qdisc_is_not_taken_for_clsact() {
    on_a_machine("an_ingress_qdisc_is_not_taken_for_clsact", |machine| {
        let mut attacher = machine.attacher(Way::Clsact);
        assert_eq!(net::ingress_qdisc(device().ifindex).expect("known"), None);
        tc(&format!("qdisc add dev {DEVICE} ingress"));
        attacher.serve(&DeviceEvent::Attach(device()));
        assert!(attacher.is_waiting());
        assert!(filters().is_empty());
        tc(&format!("qdisc del dev {DEVICE} ingress"));
        attacher.retry();
        assert!(!attacher.is_waiting());
        assert_eq!(filters().len(), 2);
    });
}
