//! Endpoints change, and the daemon comes and goes.

use std::{collections::BTreeMap, fs, thread, time::Duration};

use anyhow::{Context as _, Result, bail, ensure};
use proxy_common::maps;
use proxy_daemon::maps::Pins;
use shunt_tests::{Cases, Cni, Daemon, Family, Host as _, Pod, gate, wait};

use crate::{
    scene::{LIMIT, Scene, cluster_ip},
    traffic::Traffic,
};

/// All of these want the machine for themselves, so they follow each other on one testbed.
#[test]
fn clients_notice_nothing() {
    if gate::skip(gate::DAEMON) {
        return;
    }
    let scene = Scene::build(Cni::Bridge);
    scene.publish(&[&scene.b, &scene.c]);
    let mut daemon = Daemon::on(scene.n1(), &scene.bed).start().unwrap();
    let mut cases = Cases::new();
    cases.run("endpoints change every 50 ms", || scene.endpoints_change());
    cases.run("the daemon is killed", || scene.daemon_is_killed(&mut daemon));
    cases.run("the daemon is restarted", || scene.daemon_is_restarted(&mut daemon));
    cases.run("another daemon takes over", || scene.another_takes_over(&mut daemon));
    cases.run("the service filter's pin is gone", || scene.filter_is_lost(&mut daemon));
    cases.run("what changed while it was down takes effect", || scene.changes_while_down(&mut daemon));
    cases.run("no warning is repeated", || warned_once_a_life(&daemon.log()));
    cases.finish();
}

/// Each life of the daemon may warn of a thing once, however often it is met again.
fn warned_once_a_life(log: &str) -> Result<()> {
    let lives = log.lines().filter(|line| line.contains("run: started")).count();
    let mut warnings = BTreeMap::new();
    for (_, warning) in log.lines().filter_map(|line| line.split_once("WARN")) {
        *warnings.entry(warning).or_insert(0) += 1;
    }
    let repeated = warnings.into_iter().find(|(_, count)| *count > lives);
    repeated.map_or(Ok(()), |(warning, n)| bail!("warned {n} times in {lives} lives: {warning}"))
}

impl Scene {
    fn endpoints_change(&self) -> Result<()> {
        let traffic = Traffic::start(self)?;
        let sets: [&[&Pod]; 4] = [&[&self.b], &[&self.b, &self.c], &[&self.d, &self.b], &[&self.b, &self.c, &self.d]];
        for set in sets.into_iter().cycle().take(100) {
            self.publish(set);
            thread::sleep(Duration::from_millis(50));
            traffic.wait_for(5)?;
        }
        let report = traffic.finish(500)?;
        let servers: Vec<_> = report.by_server.keys().map(String::as_str).collect();
        ensure!(servers == ["b", "c", "d"], "connections went to {servers:?} only");
        Ok(())
    }

    fn daemon_is_killed(&self, daemon: &mut Daemon) -> Result<()> {
        let before = daemon.show("services")?;
        let traffic = Traffic::start(self)?;
        traffic.wait_for(200)?;
        daemon.kill9()?;
        traffic.wait_for(500)?;
        ensure!(daemon.show("services")? == before, "the state is not readable while it is down");
        daemon.restart()?;
        traffic.wait_for(500)?;
        traffic.finish(1_000)?;
        let after = daemon.show("services")?;
        ensure!(after == before, "the services were {before}, now they are {after}");
        Ok(())
    }

    fn daemon_is_restarted(&self, daemon: &mut Daemon) -> Result<()> {
        let traffic = Traffic::start(self)?;
        for _ in 0..3 {
            daemon.terminate()?;
            traffic.wait_for(200)?;
            daemon.restart()?;
            traffic.wait_for(200)?;
        }
        traffic.finish(1_000).map(drop)
    }

    /// As in a rolling update whose new pods come before the old ones go.
    fn another_takes_over(&self, daemon: &mut Daemon) -> Result<()> {
        let traffic = Traffic::start(self)?;
        let another = || Daemon::on(self.n1(), &self.bed).start_waiting();
        let mut given_up = another()?;
        given_up.terminate().context("told to end while it waits")?;
        let mut next = another()?;
        traffic.wait_for(200)?;
        daemon.terminate()?;
        next.wait_until_synced()?;
        self.publish(&[&self.d]);
        wait::until("what the next daemon is told", LIMIT, || self.a.connect(cluster_ip(Family::V4))?.expect_server("d"))?;
        next.terminate()?;
        daemon.restart()?;
        traffic.finish(500).map(drop)
    }

    /// Programs look up nothing that is not marked, so the next daemon's come after the marks.
    fn filter_is_lost(&self, daemon: &mut Daemon) -> Result<()> {
        let traffic = Traffic::start(self)?;
        traffic.wait_for(200)?;
        daemon.terminate()?;
        fs::remove_file(Pins::new(daemon.bpffs()).maps().join(maps::FILTER)).context("removing the pin")?;
        traffic.wait_for(200)?;
        daemon.restart()?;
        traffic.wait_for(500)?;
        traffic.finish(900).map(drop)
    }

    fn changes_while_down(&self, daemon: &mut Daemon) -> Result<()> {
        self.publish(&[&self.b]);
        let to = cluster_ip(Family::V4);
        let all_to = |name| (0..30).try_for_each(|_| self.a.connect(to)?.expect_server(name));
        wait::until("the change", LIMIT, || all_to("b"))?;
        daemon.kill9()?;
        self.publish(&[&self.d]);
        all_to("b")?;
        daemon.restart()?;
        all_to("d")
    }
}
