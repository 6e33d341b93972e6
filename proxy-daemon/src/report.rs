//! What the control path tells of itself: to those who ask after its health, and to Prometheus.

use std::{sync::Arc, time::Duration};

use tokio::sync::watch;

use crate::{
    health::{Checks, Health},
    maps::Maps,
    metrics::{Metrics, Subject},
    model::{Change, IpFamily},
    plan::Clients,
    reconcile::{Reconciler, Round},
};

/// Where it is told.
pub struct Report {
    pub health: Arc<Health>,
    pub metrics: Metrics,
    pub checks: watch::Sender<Checks>,
    /// Node ports are served at every address.
    pub all_node_ports: bool,
}

impl Report {
    /// A change has come.
    pub fn change(&self, change: &Change) {
        match change {
            Change::Service(_) => self.metrics.note_change(Subject::Service),
            Change::Slice(_) => self.metrics.note_change(Subject::Endpoints),
            Change::Node(_) | Change::ServiceCidr(_) => {}
        }
        self.metrics.note_queued();
        self.health.note_pending();
    }

    /// A round has ended.
    pub fn round(&self, round: &Round, elapsed: Duration) {
        if round.planned > 0 {
            self.metrics.note_round(round, elapsed);
        }
    }

    /// What is in effect now. `synced`: a complete state of the cluster is; `waits`: something of it could not be applied yet.
    pub fn state(&self, reconciler: &mut Reconciler<impl Maps>, synced: bool, waits: bool) {
        if !waits && self.health.note_applied() && synced {
            self.metrics.note_applied(reconciler.take_triggers());
        }
        self.health.note_node(synced, reconciler.is_node_eligible());
        self.metrics.note_state(synced, reconciler.unserved(), reconciler.usage());
        for family in IpFamily::ALL {
            for (policy, clients) in [("internal", Clients::Inside), ("external", Clients::Outside)] {
                self.metrics.note_no_local_endpoints(family, policy, reconciler.lacking(family, clients));
            }
        }
        let addresses = (!self.all_node_ports).then(|| reconciler.node_port_addresses().iter().copied().collect());
        let news = reconciler.take_health_news();
        self.checks.send_if_modified(|known| known.take(addresses, news));
    }
}
