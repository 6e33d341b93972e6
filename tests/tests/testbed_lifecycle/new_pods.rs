//! A pod that has just come is served at once.

use std::{
    net::SocketAddr,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use serde_json::json;
use shunt_tests::{
    Addrs, Cni, Daemon, Family, Host as _, Pod, gate,
    objects::{Endpoint, Service},
    traffic::UdpClient,
    wait,
};

use crate::scene::{LIMIT, PORT, Scene, TARGET, cluster_ip};

/// When a new pod must be served at the latest: the resolver in it asks again only after five seconds.
const NEW_POD_LIMIT: Duration = Duration::from_secs(1);
/// So many services that planning them all is a long round.
const MANY: u16 = 2000;
const ZONES: usize = 3;
/// What makes a round of the control path a long one: far more than it takes to serve a device.
const LONG: Duration = Duration::from_millis(20);

#[test]
fn a_new_pod_is_served_at_once_with_bridged_pods() {
    new_pods(Cni::Bridge);
}

#[test]
fn a_new_pod_is_served_at_once_with_routed_pods() {
    new_pods(Cni::Routed);
}

/// The node moves from zone to zone, so that every service port is planned again all the time, and one of them changes.
#[test]
fn a_new_pod_is_served_at_once_while_the_control_path_is_busy() {
    if gate::skip(gate::DAEMON) {
        return;
    }
    let scene = Scene::build(Cni::Bridge);
    scene.publish(&[&scene.b, &scene.c]);
    scene.publish_many();
    let daemon = Daemon::on(scene.n1(), &scene.bed).args(&["-v", "4"]).start().unwrap();
    let done = AtomicBool::new(false);
    let mut ages = Ages::default();
    thread::scope(|scope| {
        scope.spawn(|| {
            for zone in (0..ZONES).cycle().take_while(|_| !done.load(Ordering::Relaxed)) {
                scene.move_to_zone(zone).unwrap();
                thread::sleep(LONG);
            }
        });
        let end = Done(&done);
        for n in 0..10 {
            wait_for_long_round(&daemon).unwrap();
            ages.note(&scene, n);
        }
        wait_for_long_round(&daemon).unwrap();
        drop(end);
    });
    ages.check();
}

/// Tells the thread beside to end, whatever way this one ends.
struct Done<'a>(&'a AtomicBool);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn new_pods(cni: Cni) {
    if gate::skip(gate::DAEMON) {
        return;
    }
    let scene = Scene::build(cni);
    scene.publish(&[&scene.b, &scene.c]);
    let _daemon = Daemon::on(scene.n1(), &scene.bed).start().unwrap();
    let mut ages = Ages::default();
    for n in 0..10 {
        ages.note(&scene, n);
    }
    ages.check();
}

impl Scene {
    /// Many services with three pods each. Those of the first one differ by zone.
    fn publish_many(&self) {
        let endpoints = [&self.b, &self.c, &self.d].map(Endpoint::pod);
        let mut many: Vec<_> = (1..=MANY).flat_map(|n| numbered(n).with_endpoints(&endpoints)).collect();
        for (zone, endpoint) in many[1]["endpoints"].as_array_mut().into_iter().flatten().enumerate() {
            endpoint["hints"] = json!({"forZones": [{"name": format!("z{zone}")}]});
        }
        self.bed.manifests().write("many", &many).unwrap();
    }

    fn move_to_zone(&self, zone: usize) -> Result<()> {
        let mut node = self.n1().manifest();
        node["metadata"]["labels"]["topology.kubernetes.io/zone"] = format!("z{zone}").into();
        self.bed.manifests().write("nodes", &[node, self.bed.node(1).manifest()])
    }
}

/// How old new pods were when they asked the first question that was answered.
#[derive(Default)]
struct Ages(Vec<Duration>);

impl Ages {
    /// A pod is born when it has spoken with its node: if the kernel loses the first packet of a neighbour while the device comes up, it
    /// repeats it after a second, with or without us.
    fn note(&mut self, scene: &Scene, n: u32) {
        let pod = scene.n1().pod(&format!("new{n}")).unwrap();
        for family in Family::ALL {
            pod.ask(scene.n1().addrs().at(family, TARGET)).unwrap();
        }
        let born = Instant::now();
        self.0.extend(Family::ALL.map(|family| first_answered(&pod, born, cluster_ip(family))));
    }

    fn check(mut self) {
        self.0.sort_unstable();
        let (n, median, max) = (self.0.len(), self.0[self.0.len() / 2], self.0[self.0.len() - 1]);
        println!("{n} questions of new pods, served at the age of {median:?} (median), {max:?} (max)");
        assert!(max < wait::at_most(NEW_POD_LIMIT), "{:?}", self.0);
    }
}

/// Asks until there is an answer, each time with more patience.
fn first_answered(pod: &Pod, born: Instant, to: SocketAddr) -> Duration {
    let ask_within = |limit| pod.netns().run(|| UdpClient::unconnected(to)?.ask_within(limit));
    let mut patience = Duration::ZERO;
    loop {
        patience += Duration::from_millis(10);
        let age = born.elapsed();
        match ask_within(patience) {
            Ok(_) => return age,
            Err(error) => assert!(age < LIMIT, "no answer from {to} to a pod of {age:?}: {error}"),
        }
    }
}

/// Waits until one more round has ended that had the control path busy for long.
fn wait_for_long_round(daemon: &Daemon) -> Result<()> {
    let before = long_rounds(&daemon.log());
    wait::until("a long round", LIMIT, || {
        let log = daemon.log();
        ensure!(long_rounds(&log) > before, "the last of {before}, and what came since:\n{log}");
        Ok(())
    })
}

/// How many rounds the log tells of that took long.
fn long_rounds(log: &str) -> usize {
    let elapsed = |line: &str| line.split_once("applied")?.1.split_once("elapsed=")?.1.trim().to_owned().into();
    log.lines().filter_map(elapsed).filter(|elapsed: &String| is_long(elapsed)).count()
}

/// Reads a duration as it is logged: a number and its unit.
fn is_long(elapsed: &str) -> bool {
    let (number, unit) = elapsed.split_at(elapsed.find(char::is_alphabetic).unwrap_or(elapsed.len()));
    let number: f64 = number.parse().unwrap();
    match unit {
        "s" => number >= LONG.as_secs_f64(),
        "ms" => number >= LONG.as_secs_f64() * 1e3,
        _ => false,
    }
}

/// One of many services.
fn numbered(n: u16) -> Service {
    let [high, low] = n.to_be_bytes();
    let addrs = Addrs::new(&format!("10.96.{}.{low}", high + 1), &format!("fd00:10:96::1:{n:x}"));
    Service::named(&format!("many{n}")).cluster_ips(addrs).port(PORT, TARGET)
}
