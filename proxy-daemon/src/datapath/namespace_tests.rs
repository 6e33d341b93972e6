//! Programs on devices of the kernel, in a network namespace and a BPF file system made for each test. With tcx and with clsact, which
//! newer kernels have as well.

use std::{
    collections::BTreeMap,
    fs,
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use aya::programs::{SchedClassifier, TcAttachType};
use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    net::if_::if_nametoindex,
    sched::{CloneFlags, unshare},
};
use proxy_common::{Addr4, Port, SnatSource, Sockets, V4, maps};
use tempfile::TempDir;
use tokio::{runtime, sync::mpsc};

use super::{
    attach::Attacher,
    checksum::Checksums,
    hook::{self, Way},
    load::{Options, Programs, load},
    make_folders, prepare,
    remove::{remove_all, remove_other_versions},
    serve::serve_and_restore,
};
use crate::{
    config::{Sizes, Xdp},
    maps::{Direction, KernelMaps, Pins, names_in},
    net::{
        self, Device, DeviceEvent, Role,
        testing::{in_namespace, ip, skip, tc},
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
        make_folders(&pins).expect("made");
        ip(&format!("link add {DEVICE} type veth peer name peer0"));
        Self { pins, bpffs }
    }

    /// What a daemon that starts has.
    fn attacher(&self, way: Way) -> Attacher {
        let sizes = Sizes { frontends: 16, backends: 16, flows: 1024, services: 16, sources: 16, affinity: 16, sockets: 1024 };
        let datapath = load(
            &self.pins,
            Options {
                sizes,
                programs: Programs::All,
                checksums: Checksums::Cast,
                new_flows: u32::MAX,
                outer_headers: false,
                sockets: Sockets::NONE,
                netns: 0,
                bpf_log: false,
            },
        )
        .expect("the programs are loaded");
        Attacher::with_way(self.pins.clone(), datapath, Xdp::Generic, way)
    }
}

fn on_a_machine(name: &str, test: impl FnOnce(&Machine) + Send + 'static) {
    in_namespace(name, || test(&Machine::new()));
}

/// The same, where the kernel has tcx.
fn on_a_machine_with_tcx(name: &str, test: impl FnOnce(&Machine) + Send + 'static) {
    if Way::of_this_kernel().is_ok_and(|way| way == Way::Tcx) {
        on_a_machine(name, test);
    } else {
        skip(name, "needs root and a kernel with tcx");
    }
}

fn device() -> Device {
    let ifindex = if_nametoindex(DEVICE).expect("it is there");
    Device { ifindex, name: DEVICE.to_owned(), role: Role::Workload, l2: true, mtu: 1500, mac: [2; 6] }
}

/// The programs of our filters, in the order of [`Direction::ALL`].
fn filters() -> Vec<u32> {
    let programs = hook::programs(&[device().ifindex]).expect("listed");
    let ours: Vec<(u32, Direction)> = programs.iter().map(|&(ifindex, direction, _)| (ifindex, direction)).collect();
    assert_eq!(hook::filters().expect("listed"), ours);
    assert!(ours.is_empty() || ours == Direction::ALL.map(|direction| (device().ifindex, direction)), "{ours:?}");
    programs.iter().map(|(.., program)| *program).collect()
}

/// Waits for what the kernel, or another thread, does in its own time.
fn wait_until(condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(5);
    while !condition() {
        assert!(Instant::now() < deadline, "it does not happen");
        thread::sleep(Duration::from_millis(1));
    }
}

/// How many programs the device has in tcx.
fn in_tcx() -> usize {
    let count = |hook| SchedClassifier::query_tcx(DEVICE, hook).map_or(0, |(_, programs)| programs.len());
    count(TcAttachType::Ingress) + count(TcAttachType::Egress)
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

#[test]
fn what_somebody_takes_off_is_put_back() {
    on_a_machine_with_tcx("what_somebody_takes_off_is_put_back", |machine| {
        let mut attacher = machine.attacher(Way::Tcx);
        let uplink = Device { role: Role::Uplink, ..device() };
        attacher.serve(&DeviceEvent::Attach(uplink.clone()));
        let [egress, ingress] = [Direction::Egress, Direction::Ingress].map(|direction| machine.pins.link(uplink.ifindex, direction));
        let pins = [egress, ingress, machine.pins.xdp_link(uplink.ifindex, Xdp::Generic.name())];
        let attached = || in_tcx() + usize::from(ip(&format!("link show {DEVICE}")).contains("xdp"));
        let is_whole = || attached() == 3 && pins.iter().all(|pin| pin.exists());
        assert!(is_whole());

        // The pins stay with links that hold nothing, as after `bpftool link detach`.
        ip(&format!("link del {DEVICE}"));
        ip(&format!("link add {DEVICE} index {} type veth peer name peer0", uplink.ifindex));
        assert_eq!(attached(), 0);
        attacher.restore();
        assert!(is_whole());

        for pin in &pins {
            fs::remove_file(pin).expect("it was pinned");
        }
        fs::remove_dir(machine.pins.links()).expect("nothing is in it");
        wait_until(|| attached() == 0);
        attacher.restore();
        assert!(is_whole());
        assert!(!attacher.is_waiting());
    });
}

#[test]
fn filters_that_somebody_takes_off_are_put_back() {
    on_a_machine("filters_that_somebody_takes_off_are_put_back", |machine| {
        let mut attacher = machine.attacher(Way::Clsact);
        attacher.serve(&DeviceEvent::Attach(device()));
        let before = filters();
        attacher.restore();
        assert_eq!(filters(), before);
        for thief in ["filter del dev pod0 egress", "qdisc del dev pod0 clsact"] {
            tc(thief);
            attacher.restore();
            assert_eq!(filters(), before, "after {thief}");
        }
        tc("qdisc del dev pod0 clsact");
        tc("qdisc add dev pod0 ingress");
        attacher.restore();
        assert!(filters().is_empty() && attacher.is_waiting());
    });
}

#[test]
fn devices_are_checked_now_and_then() {
    on_a_machine_with_tcx("devices_are_checked_now_and_then", |machine| {
        let (events, receiver) = mpsc::unbounded_channel();
        for event in [DeviceEvent::Attach(device()), DeviceEvent::Listed] {
            events.send(event).expect("there is a receiver");
        }
        let attacher = machine.attacher(Way::Tcx);
        let mut serving = serve_and_restore(attacher, receiver, Duration::from_millis(20)).expect("started");
        let runtime = runtime::Builder::new_current_thread().build().expect("a runtime");
        runtime.block_on(serving.listed()).expect("served");
        let pin = machine.pins.link(device().ifindex, Direction::Ingress);
        fs::remove_file(&pin).expect("it was pinned");
        wait_until(|| pin.exists() && in_tcx() == 2);
        drop(events);
        runtime.block_on(serving.ended());
    });
}

#[test]
fn xdp_is_put_where_another_program_has_gone() {
    on_a_machine_with_tcx("xdp_is_put_where_another_program_has_gone", |machine| {
        let uplink = Device { role: Role::Uplink, ..device() };
        let mut attacher = machine.attacher(Way::Tcx);
        attacher.serve(&DeviceEvent::Attach(uplink.clone()));
        let (pin, aside) = (machine.pins.xdp_link(uplink.ifindex, Xdp::Generic.name()), machine.pins.root().join("another"));
        fs::rename(&pin, &aside).expect("it was pinned");
        let mut attacher = machine.attacher(Way::Tcx);
        attacher.serve(&DeviceEvent::Attach(uplink));
        attacher.restore();
        assert!(!pin.exists());
        fs::remove_file(&aside).expect("it was pinned");
        wait_until(|| !ip(&format!("link show {DEVICE}")).contains("xdp"));
        attacher.restore();
        assert!(pin.exists());
    });
}

/// Tables of another version, with a link and a program of its own.
fn leave_another_version(machine: &Machine) -> PathBuf {
    let pins = &machine.pins;
    machine.attacher(Way::Tcx).serve(&DeviceEvent::Attach(device()));
    let other = pins.root().join("v0");
    fs::rename(pins.version(), &other).expect("nothing is there");
    prepare(pins).expect("prepared");
    make_folders(pins).expect("made");
    fs::create_dir(pins.root().join("others")).expect("nothing is there");
    other
}

#[test]
fn another_version_serves_until_it_is_removed() {
    on_a_machine_with_tcx("another_version_serves_until_it_is_removed", |machine| {
        let seed = |machine: &Machine| KernelMaps::pinned_node(&machine.pins).expect("it is pinned").seed;
        drop(machine.attacher(Way::Tcx));
        let before = seed(machine);
        let other = leave_another_version(machine);
        machine.attacher(Way::Tcx).serve(&DeviceEvent::Attach(device()));
        assert_eq!(seed(machine), before, "packets find their backends again by it");
        assert_eq!(in_tcx(), 4);
        remove_other_versions(&machine.pins).expect("removed");
        wait_until(|| in_tcx() == 2);
        assert!(!other.exists());
        assert!(machine.pins.link(device().ifindex, Direction::Ingress).exists());
    });
}

#[test]
fn a_clean_up_removes_all_versions_and_nothing_else() {
    on_a_machine_with_tcx("a_clean_up_removes_all_versions_and_nothing_else", |machine| {
        leave_another_version(machine);
        machine.attacher(Way::Tcx).serve(&DeviceEvent::Attach(device()));
        assert_eq!(remove_all(&machine.pins).expect("removed"), 4);
        wait_until(|| in_tcx() == 0);
        assert_eq!(names_in(machine.pins.root()).expect("it stays"), ["others"]);
    });
}

#[test]
fn as_many_devices_as_there_is_room_for_are_all_replaced() {
    on_a_machine("as_many_devices_as_there_is_room_for_are_all_replaced", |machine| {
        drop(machine.attacher(Way::Clsact));
        let mut kernel = KernelMaps::open(&machine.pins).expect("opened");
        // Ten devices stay, with another MTU; all others go, and as many come.
        for (mtu, others) in [(1400, 10..maps::DEVICES), (1500, maps::DEVICES..2 * maps::DEVICES - 10)] {
            let source = SnatSource {
                addr: Addr4::from_wire([192, 0, 2, 1]),
                first_port: Port::from_host(1),
                last_port: Port::from_host(2),
                mtu,
                bare: 0,
            };
            let sources: BTreeMap<u32, SnatSource<V4>> = (0..10).chain(others).map(|ifindex| (ifindex, source)).collect();
            kernel.set_snat(&sources, &BTreeMap::new()).expect("there is room");
            assert_eq!(kernel.snat4().expect("read"), sources);
        }
    });
}

#[test]
fn a_folder_of_another_file_system_is_not_removed() {
    let dir = TempDir::new().expect("a folder");
    let kept = dir.path().join("v7");
    fs::create_dir(&kept).expect("nothing is there");
    let pins = Pins::new(dir.path().to_owned());
    assert!(remove_other_versions(&pins).is_err());
    assert!(kept.exists());
}
