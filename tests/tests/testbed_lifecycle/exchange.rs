//! The programs of a running daemon are exchanged for those that log, and back.

use std::env;

use anyhow::{Context as _, Result, ensure};
use shunt_tests::{Cni, Daemon, Family, Host as _, gate, wait};

use crate::{
    scene::{LIMIT, Scene, cluster_ip},
    traffic::Traffic,
};

/// How often programs are exchanged, unless the environment says otherwise; far fewer exchanges show what one of them does wrong.
const EXCHANGES: u32 = 20;
const ENVIRONMENT: &str = "SHUNT_TEST_EXCHANGES";

#[test]
fn clients_notice_nothing_of_other_programs() {
    if gate::skip(gate::DAEMON) {
        return;
    }
    let scene = Scene::build(Cni::Bridge);
    scene.publish(&[&scene.b, &scene.c]);
    let daemon = Daemon::on(scene.n1(), &scene.bed).start().unwrap();
    let before = programs(&daemon).unwrap();
    let traffic = Traffic::start(&scene).unwrap();
    let exchanges = env::var(ENVIRONMENT).map_or(EXCHANGES, |typed| typed.parse().unwrap());
    for n in 0..exchanges {
        traffic.wait_for(20).unwrap();
        daemon.debug_log(n % 2 == 0).unwrap();
    }
    let report = traffic.finish(20 * u64::from(exchanges)).unwrap();
    println!(
        "{} connections, {} of them with a packet sent twice, while programs were exchanged {exchanges} times",
        report.ok, report.lossy
    );
    let after = programs(&daemon).unwrap();
    assert!(before.iter().all(|program| !after.contains(program)), "{before:?} are still there: {after:?}");
    assert_eq!(before.len(), after.len());
}

#[test]
fn packets_are_logged_when_asked_for() {
    if gate::skip(gate::DAEMON) {
        return;
    }
    let scene = Scene::build(Cni::Bridge);
    scene.publish(&[&scene.b]);
    let daemon = Daemon::on(scene.n1(), &scene.bed).start().unwrap();
    let connect = || format!("TCP {} > ", scene.a.connect(cluster_ip(Family::V4)).unwrap().local);
    let wait_for = |line: &str| {
        let said = || {
            ensure!(daemon.log().contains(line), "no {line:?} in\n{}", daemon.log());
            Ok(())
        };
        wait::until("the line in the log", LIMIT, said).unwrap();
    };
    let before = connect();
    assert_eq!(daemon.debug_log(false).unwrap(), "the programs do not log");
    assert!(daemon.debug_log(true).unwrap().starts_with("the programs log each packet"));
    let first = connect();
    // Logged or not, what has come so far is printed with the last of the programs that log.
    assert_eq!(daemon.debug_log(false).unwrap(), "the programs do not log any more");
    wait_for(&first);
    let between = connect();
    daemon.debug_log(true).unwrap();
    wait_for(&connect());
    let log = daemon.log();
    assert!(!log.contains(&before) && !log.contains(&between), "{before:?} or {between:?} was logged:\n{log}");
}

/// The programs on devices.
fn programs(daemon: &Daemon) -> Result<Vec<u64>> {
    let devices = daemon.show("devices")?;
    let devices = devices.as_array().context("not a list")?;
    let ids = devices.iter().flat_map(|device| ["ingress", "egress"].map(|hook| device[hook]["program_id"].as_u64()));
    ids.map(|id| id.context("a device without a program")).collect()
}
