//! Connections that count what is lost.

use anyhow::{Result, ensure};
use shunt_tests::{
    Family, Host as _,
    traffic::{Load, LoadReport, PingReport, Pinger},
    wait,
};

use crate::scene::{LIMIT, NODE_PORT, Scene, cluster_ip};

/// New connections a second, from the pod and from outside together.
const RATE: u32 = 500;

/// Load and established connections, from the pod a to the `ClusterIP`s and from outside to the node port.
pub(crate) struct Traffic {
    loads: [Load; 2],
    pingers: [Pinger; 2],
}

impl Traffic {
    /// Starts both.
    pub(crate) fn start(scene: &Scene) -> Result<Self> {
        let inside = Family::ALL.map(cluster_ip);
        let outside = Family::ALL.map(|family| scene.n1().addrs().at(family, NODE_PORT));
        let (pod, client) = (&scene.a, scene.bed.client());
        Ok(Self {
            pingers: [Pinger::start(pod, &inside, 10)?, Pinger::start(client, &outside, 10)?],
            loads: [Load::start(pod, &inside, RATE / 2), Load::start(client, &outside, RATE / 2)],
        })
    }

    /// Waits until there are as many more connections.
    pub(crate) fn wait_for(&self, n: u64) -> Result<()> {
        let opened = || self.loads.iter().map(|load| load.so_far().ok).sum::<u64>();
        let goal = opened() + n;
        wait::until("more connections", LIMIT, || {
            ensure!(opened() >= goal, "{} of {goal}", opened());
            Ok(())
        })
    }

    /// Ends it, and fails when anything failed.
    pub(crate) fn finish(self, at_least: u64) -> Result<LoadReport> {
        let mut all = LoadReport::default();
        for load in self.loads {
            all.add(load.finish());
        }
        let pings = self.pingers.map(Pinger::finish);
        all.check(at_least)?;
        pings.iter().try_for_each(PingReport::check)?;
        Ok(all)
    }
}
