//! The whole of this module against the kernel: devices come, go and change in a network namespace made for each test.

use std::{fs::File, net::IpAddr, os::fd::AsFd as _, process, sync::mpsc as std_mpsc, thread, time::Duration};

use nix::sched::{CloneFlags, setns, unshare};
use tokio::{runtime, sync::watch, time};

use super::{
    DeviceEvent, Network, Role, Rules,
    follow::{self, follow},
    message::Change,
    socket::{Asker, Listener},
    table::Table,
    testing::{self, ip},
};

const DEADLINE: Duration = Duration::from_secs(5);

/// What the kernel needs between the system call and the message is short; the rest is room for a busy machine.
const QUIET: Duration = Duration::from_millis(200);

/// Another namespace, kept by a thread: a pod's, or the wire's other end.
struct Elsewhere {
    path: String,
    stop: Option<std_mpsc::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Elsewhere {
    fn new() -> Self {
        let (path_tx, path) = std_mpsc::channel();
        let (stop, stopped) = std_mpsc::channel::<()>();
        let thread = thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).expect("unshare");
            path_tx.send(own_namespace()).expect("the test waits for this");
            // Ends with an error, when the sender goes.
            stopped.recv().expect_err("nothing is ever sent");
        });
        Self { path: path.recv().expect("a namespace"), stop: Some(stop), thread: Some(thread) }
    }

    /// Runs an `ip` command there.
    fn ip(&self, line: &str) {
        let namespace = File::open(&self.path).expect("its thread lives");
        let line = line.to_owned();
        let run = thread::spawn(move || {
            setns(namespace.as_fd(), CloneFlags::CLONE_NEWNET).expect("setns");
            ip(&line);
        });
        run.join().expect("ip");
    }
}

impl Drop for Elsewhere {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the namespace's thread");
        }
    }
}

fn own_namespace() -> String {
    format!("/proc/{}/task/{}/ns/net", process::id(), nix::unistd::gettid())
}

/// The daemon's side of a test, with all events it has had.
struct Node {
    network: Network,
    internal_ips: watch::Sender<Vec<IpAddr>>,
    elsewhere: Elsewhere,
}

impl Node {
    async fn new(rules: Rules) -> Self {
        let elsewhere = Elsewhere::new();
        let (internal_ips, receiver) = watch::channel(Vec::new());
        let mut network = follow(rules, receiver).await.expect("follow");
        assert_eq!(network.devices.recv().await, Some(DeviceEvent::Listed));
        Self { network, internal_ips, elsewhere }
    }

    async fn expect(&mut self, expected: &str) {
        let event = time::timeout(DEADLINE, self.network.devices.recv()).await;
        assert_eq!(text(&event.expect("an event in time").expect("still followed")), expected);
    }

    async fn expect_quiet(&mut self) {
        let event = time::timeout(QUIET, self.network.devices.recv()).await;
        assert!(event.is_err(), "{event:?}");
    }
}

fn text(event: &DeviceEvent) -> String {
    match event {
        DeviceEvent::Attach(device) => format!("attach {} {}", device.role.name(), device.name),
        DeviceEvent::Changed(device) => format!("changed {} {}", device.name, device.mtu),
        DeviceEvent::Detach { device, gone: true } => format!("gone {}", device.name),
        DeviceEvent::Detach { device, gone: false } => format!("detach {} {}", device.role.name(), device.name),
        DeviceEvent::Listed => "listed".to_owned(),
    }
}

/// Runs a test in a namespace of its own.
fn in_namespace<F: Future<Output = ()>>(name: &str, test: impl FnOnce() -> F + Send + 'static) {
    let run = || runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(test());
    testing::in_namespace(name, run);
}

fn rules() -> Rules {
    Rules { cluster_cidrs: vec!["10.244.0.0/16".parse().expect("a prefix")], ..Rules::default() }
}

#[test]
fn a_pair_is_a_pods_once_its_peer_has_moved() {
    in_namespace("a_pair_is_a_pods_once_its_peer_has_moved", async || {
        let mut node = Node::new(rules()).await;
        ip("link add host type veth peer name pod");
        node.expect_quiet().await;
        ip(&format!("link set pod netns {}", node.elsewhere.path));
        node.expect("attach workload host").await;
        ip("link set host up mtu 1400");
        node.expect("changed host 1400").await;
        ip("link del host");
        node.expect("gone host").await;
    });
}

/// Or a restart would take programs off devices that are not known yet.
#[test]
fn all_that_is_there_is_told_at_the_start_however_much_happens_meanwhile() {
    in_namespace("all_that_is_there_is_told_at_the_start_however_much_happens_meanwhile", async || {
        let elsewhere = Elsewhere::new();
        ip("link add host type veth peer name pod");
        ip(&format!("link set pod netns {}", elsewhere.path));
        let dir = tempfile::tempdir().expect("a directory");
        let batch = dir.path().join("routes");
        std::fs::write(&batch, "route add 192.0.2.1 dev lo\nroute del 192.0.2.1 dev lo\n".repeat(500)).expect("writing");
        let (stop, stopped) = std_mpsc::channel::<()>();
        let others = thread::spawn(move || {
            while stopped.try_recv() == Err(std_mpsc::TryRecvError::Empty) {
                ip(&format!("-batch {}", batch.display()));
            }
        });
        for _ in 0..50 {
            let (_internal_ips, receiver) = watch::channel(Vec::new());
            let mut network = follow(rules(), receiver).await.expect("follow");
            let event = network.devices.recv().await.expect("followed");
            assert_eq!(text(&event), "attach workload host");
        }
        drop(stop);
        others.join().expect("routes");
    });
}

#[test]
fn a_pair_made_from_the_pods_side_is_attached_before_it_is_up() {
    in_namespace("a_pair_made_from_the_pods_side_is_attached_before_it_is_up", async || {
        let mut node = Node::new(rules()).await;
        node.elsewhere.ip(&format!("link add pod type veth peer name host netns {}", own_namespace()));
        node.expect("attach workload host").await;
    });
}

#[test]
fn a_host_end_that_is_moved_in_is_attached() {
    in_namespace("a_host_end_that_is_moved_in_is_attached", async || {
        let mut node = Node::new(rules()).await;
        node.elsewhere.ip("link add pod type veth peer name host");
        node.elsewhere.ip(&format!("link set host netns {}", own_namespace()));
        node.expect("attach workload host").await;
        node.elsewhere.ip("link del pod");
        node.expect("gone host").await;
    });
}

#[test]
fn a_role_follows_addresses_and_routes() {
    in_namespace("a_role_follows_addresses_and_routes", async || {
        let mut node = Node::new(rules()).await;
        ip(&format!("link add eth0 type veth peer name wire netns {}", node.elsewhere.path));
        node.expect("attach workload eth0").await;
        ip("link set eth0 up");
        ip("addr add 192.0.2.10/24 dev eth0");
        node.expect_quiet().await;

        node.internal_ips.send_replace(vec!["192.0.2.10".parse().expect("an address")]);
        node.expect("detach workload eth0").await;
        node.expect("attach uplink eth0").await;
        node.internal_ips.send_replace(Vec::new());
        node.expect("detach uplink eth0").await;
        node.expect("attach workload eth0").await;

        for route in ["default via 192.0.2.1", "10.244.7.0/24 via 192.0.2.7"] {
            ip(&format!("route add {route}"));
            node.expect("detach workload eth0").await;
            node.expect("attach uplink eth0").await;
            ip(&format!("route del {route}"));
            node.expect("detach uplink eth0").await;
            node.expect("attach workload eth0").await;
        }
    });
}

#[test]
fn an_overlay_is_an_uplink_once_it_has_routes() {
    in_namespace("an_overlay_is_an_uplink_once_it_has_routes", async || {
        let mut node = Node::new(rules()).await;
        ip("link add flannel.1 type vxlan id 1 dstport 8472");
        ip("link set flannel.1 up");
        node.expect_quiet().await;
        ip("route add 10.244.2.0/24 via 10.244.2.0 dev flannel.1 onlink");
        node.expect("attach uplink flannel.1").await;
    });
}

#[test]
fn a_pod_on_a_bridge_keeps_its_role_when_it_leaves_the_bridge() {
    in_namespace("a_pod_on_a_bridge_keeps_its_role_when_it_leaves_the_bridge", async || {
        let mut node = Node::new(rules()).await;
        ip("link add cni0 type bridge");
        ip("addr add 10.244.1.1/24 dev cni0");
        ip(&format!("link add host type veth peer name pod netns {}", node.elsewhere.path));
        node.expect("attach workload host").await;
        ip("link set host master cni0");
        ip("link set host nomaster");
        node.expect_quiet().await;
        ip("link set host name renamed");
        node.expect("changed renamed 1500").await;
    });
}

#[test]
fn addresses_and_the_masquerade_source_are_followed() {
    in_namespace("addresses_and_the_masquerade_source_are_followed", async || {
        use proxy_common::{Address as _, V4};
        let mut node = Node::new(rules()).await;
        assert!(node.network.addresses.borrow().contains("127.0.0.1".parse().expect("an address")));
        ip(&format!("link add eth0 type veth peer name wire netns {}", node.elsewhere.path));
        ip("link set eth0 up");
        for expected in ["192.0.2.10", "192.0.2.11"] {
            ip(&format!("addr add {expected}/24 dev eth0"));
            node.internal_ips.send_replace(vec![expected.parse().expect("an address")]);
            let is_source =
                |local: &super::LocalAddresses| local.masquerade_source::<V4>().is_some_and(|addr| addr.to_ip().to_string() == expected);
            time::timeout(DEADLINE, node.network.addresses.wait_for(is_source)).await.expect("in time").expect("followed");
        }
        let set = |range| std::fs::write("/proc/sys/net/ipv4/ip_local_port_range", range).expect("written");
        set("20000 60999");
        let mut ports = super::SnatPorts::new(None).expect("a range");
        assert_eq!(ports.range(), 1024..=19_999);
        assert!(!ports.look().expect("a range"));
        set("1024 9999");
        assert!(ports.look().expect("a range"));
        assert_eq!(ports.range(), 32_768..=65_535);
    });
}

#[test]
fn a_burst_of_pods_ends_in_the_right_set() {
    in_namespace("a_burst_of_pods_ends_in_the_right_set", async || {
        let mut node = Node::new(rules()).await;
        let add = |pod| format!("link add h{pod} type veth peer name p{pod} netns {}", node.elsewhere.path);
        let del = |pod| format!("link del h{}", pod * 2);
        let lines: Vec<String> = (0..200).map(add).chain((0..100).map(del)).collect();
        let batch = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(batch.path(), lines.join("\n")).expect("written");
        ip(&format!("-batch {}", batch.path().display()));

        let mut attached = std::collections::BTreeSet::new();
        let wanted: std::collections::BTreeSet<_> = (0..200).filter(|pod| pod % 2 == 1).map(|pod| format!("h{pod}")).collect();
        let mut seen_last = false;
        while !(seen_last && attached == wanted) {
            let event = time::timeout(DEADLINE, node.network.devices.recv()).await.expect("in time");
            match event.expect("followed") {
                DeviceEvent::Attach(device) => {
                    assert_eq!(device.role, Role::Workload);
                    seen_last |= device.name == "h199";
                    assert!(attached.insert(device.name), "attached twice");
                }
                DeviceEvent::Detach { device, .. } => assert!(attached.remove(&device.name), "never attached"),
                DeviceEvent::Changed(_) | DeviceEvent::Listed => {}
            }
        }
        node.expect_quiet().await;
    });
}

#[test]
fn a_full_receive_buffer_is_noticed() {
    in_namespace("a_full_receive_buffer_is_noticed", async || {
        let mut listener = Listener::open(4096).expect("a socket");
        // Nobody reads meanwhile: this thread, which would, waits for `ip`.
        for address in 1..50 {
            ip(&format!("addr add 192.0.2.{address}/32 dev lo"));
        }
        let lost = async { while !listener.changes().await.expect("still open").contains(&Change::Lost) {} };
        time::timeout(DEADLINE, lost).await.expect("in time");
        ip("addr add 198.51.100.1/32 dev lo");
        let heard = async { while listener.changes().await.expect("still open").is_empty() {} };
        time::timeout(DEADLINE, heard).await.expect("the socket is still of use");
    });
}

#[test]
fn a_device_that_a_full_list_leaves_out_has_not_gone() {
    in_namespace("a_device_that_a_full_list_leaves_out_has_not_gone", async || {
        let asker = Asker::open().expect("a socket");
        for device in ["stays", "goes"] {
            ip(&format!("link add {device} type veth peer name {device}-peer"));
        }
        let mut known = asker.list(&rules()).await.expect("listed");
        assert_eq!(known.links().count(), 5);
        ip("link del goes");
        // What the kernel's list would be that has left out all but one.
        let mut fresh = Table::default();
        fresh.apply(Change::Link(known.link(1).expect("loopback").clone()));
        follow::add_overlooked(&mut fresh, &known, &asker).await.expect("asked");
        known.replace(fresh);
        let left: Vec<&str> = known.links().map(|link| link.name.as_str()).collect();
        assert_eq!(left, ["lo", "stays-peer", "stays"]);
        assert_eq!(known.take_vanished().len(), 2);
    });
}
