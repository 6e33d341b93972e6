//! Others' programs: theirs count beside ours, and stay when ours go.

use std::time::Duration;

use shunt_tests::{
    Cni, Daemon, Family, Host as _, Node, gate,
    tcx::{self, ForeignProgram, Verdict},
    traffic::UdpClient,
};

use crate::scene::{Scene, TARGET, cluster_ip};

const CLEANUP: &[gate::Need] = &[gate::Need::Tool("tc")];

/// The foreign program runs behind ours, so its verdict only counts when ours passes the packet on.
#[test]
fn another_programs_verdict_counts() {
    if gate::skip(gate::DAEMON) || gate::skip(&[gate::Need::Kernel(6, 6)]) {
        return;
    }
    let scene = Scene::build(Cni::Bridge);
    scene.publish(&[&scene.b]);
    let (node, device) = (scene.n1().netns(), scene.a.host_device());
    let _first = ForeignProgram::attach(node, device, Verdict::Next).unwrap();
    let _daemon = Daemon::on(scene.n1(), &scene.bed).start().unwrap();
    let mut client = scene.a.netns().run(|| UdpClient::connected(cluster_ip(Family::V4))).unwrap();
    client.ask().unwrap();
    let last = ForeignProgram::attach(node, device, Verdict::Drop).unwrap();
    client.ask_within(Duration::from_millis(300)).unwrap_err();
    drop(last);
    client.ask().unwrap();
}

#[test]
fn cleanup_removes_what_is_ours_and_nothing_else() {
    if gate::skip(gate::DAEMON) || gate::skip(CLEANUP) {
        return;
    }
    let scene = Scene::build(Cni::Bridge);
    scene.publish(&[&scene.b]);
    let devices = ["eth0", scene.a.host_device()];
    for device in devices {
        add_foreign_filter(scene.n1(), device);
    }
    let has_tcx = gate::Need::Kernel(6, 6).is_met();
    let attach = || ForeignProgram::attach(scene.n1().netns(), devices[1], Verdict::Next);
    let _foreign = has_tcx.then(|| attach().unwrap());
    let before = programs(scene.n1(), devices);
    let mut daemon = Daemon::on(scene.n1(), &scene.bed).start().unwrap();
    scene.a.connect(cluster_ip(Family::V4)).unwrap();
    assert_ne!(programs(scene.n1(), devices), before, "the daemon attached nothing");
    let refusal = daemon.cleanup().unwrap_err().to_string();
    assert!(refusal.contains("end it first"), "{refusal}");
    scene.a.connect(cluster_ip(Family::V4)).unwrap();
    daemon.terminate().unwrap();
    scene.a.connect(cluster_ip(Family::V4)).unwrap();
    daemon.cleanup().unwrap();
    assert_eq!(programs(scene.n1(), devices), before);
    assert!(!daemon.bpffs().exists(), "pins are left");
    scene.a.connect(scene.b.addrs().at(Family::V4, TARGET)).unwrap();
    daemon.cleanup().unwrap();
}

/// Puts a classifier that lets all pass on a device, as another program would. It ends what clsact does with a packet, so without tcx it
/// must come behind ours.
fn add_foreign_filter(node: &Node, device: &str) {
    let lines = format!(
        "tc qdisc add dev {device} clsact && \
         tc filter add dev {device} ingress protocol all pref 70 bpf bytecode '1,6 0 0 4294967295'"
    );
    node.netns().exec(&lines).unwrap();
}

/// What is attached to these devices by tc and by tcx, which is empty on a kernel without it.
fn programs(node: &Node, devices: [&str; 2]) -> [(String, Option<[u32; 2]>); 2] {
    devices.map(|device| {
        let show = |hook| format!("tc filter show dev {device} {hook}");
        let filters = node.netns().exec(&[show("ingress"), show("egress")].join(" && "));
        (filters.unwrap(), tcx::count(node.netns(), device).ok())
    })
}
