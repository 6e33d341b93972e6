//! How this node is doing, for those who ask: load balancers and the kubelet (`/healthz` and `/livez`), and load balancers of single Services.
//!
//! In: what the control path notes. Out: answers over HTTP, as kube-proxy gives them (KEP-3836, KEP-27), so that load balancers and cloud controllers
//! need not know who answers.

mod proxy;
mod services;

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use jiff::Timestamp;
use serde::Serialize;

pub use self::{
    proxy::router,
    services::{Checks, serve_services},
};

/// Changes that wait for so long to be applied say that this daemon does not do its work: twice what kube-proxy calls the sync period.
const TOO_LONG: Duration = Duration::from_mins(1);

/// What the control path notes, and what servers tell of it.
#[derive(Debug)]
pub struct Health(Mutex<State>);

#[derive(Clone, Copy, Debug)]
struct State {
    /// Since when changes have been waiting, if any are.
    pending: Option<Instant>,
    /// When they were applied last; at first, when the daemon began.
    updated: SystemTime,
    /// A complete state of the cluster is in effect.
    synced: bool,
    /// The Node object has nothing against it.
    eligible: bool,
}

/// What there is to tell at one moment. Its fields are those of kube-proxy.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    last_updated: Timestamp,
    current_time: Timestamp,
    healthy: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    node_eligible: Option<bool>,
    status: Status,
}

/// Both families are served together, and are alike.
#[derive(Clone, Copy, Debug, Serialize)]
struct Status {
    #[serde(rename = "IPv4")]
    v4: FamilyStatus,
    #[serde(rename = "IPv6")]
    v6: FamilyStatus,
}

#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct FamilyStatus {
    last_updated: Timestamp,
    healthy: bool,
}

// === impl Health ===

impl Default for Health {
    fn default() -> Self {
        Self(Mutex::new(State { pending: None, updated: SystemTime::now(), synced: false, eligible: false }))
    }
}

impl Health {
    /// Something is to be applied.
    pub fn note_pending(&self) {
        self.change(|state| _ = state.pending.get_or_insert_with(Instant::now));
    }

    /// All that was to be applied is. Says whether there was anything.
    pub fn note_applied(&self) -> bool {
        let mut had_any = false;
        self.change(|state| {
            had_any = state.pending.take().is_some();
            if had_any {
                state.updated = SystemTime::now();
            }
        });
        had_any
    }

    /// Whether a complete state is in effect, and whether load balancers may send to this node.
    pub fn note_node(&self, synced: bool, eligible: bool) {
        self.change(|state| (state.synced, state.eligible) = (synced, eligible));
    }

    /// Whether the daemon does its work.
    fn is_healthy(&self) -> bool {
        self.report(Instant::now()).healthy
    }

    /// Whether a complete state is in effect.
    fn is_synced(&self) -> bool {
        self.state().synced
    }

    /// Whether load balancers may send to this node, as far as the Node object says.
    fn is_eligible(&self) -> bool {
        self.state().eligible
    }

    fn report(&self, now: Instant) -> Report {
        let state = self.state();
        let healthy = state.pending.is_none_or(|since| now.saturating_duration_since(since) < TOO_LONG);
        let current_time = Timestamp::now();
        let updated = Timestamp::try_from(state.updated).unwrap_or(current_time);
        let family = FamilyStatus { last_updated: updated, healthy };
        Report {
            last_updated: if healthy { current_time } else { updated },
            current_time,
            healthy,
            node_eligible: None,
            status: Status { v4: family, v6: family },
        }
    }

    fn state(&self) -> State {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_healthy_after(health: &Health, waited: Duration) -> bool {
        health.report(Instant::now() + waited).healthy
    }

    #[test]
    fn who_has_nothing_to_do_is_healthy_for_ever() {
        assert!(is_healthy_after(&Health::default(), TOO_LONG * 100));
    }

    #[test]
    fn what_waits_for_too_long_is_not_healthy_until_it_is_applied() {
        let health = Health::default();
        health.note_pending();
        assert!(is_healthy_after(&health, TOO_LONG / 2));
        health.note_pending();
        assert!(!is_healthy_after(&health, TOO_LONG), "counted from the first");
        let report = health.report(Instant::now() + TOO_LONG);
        assert!(report.last_updated <= report.current_time && !report.status.v6.healthy);
        health.note_applied();
        assert!(is_healthy_after(&health, TOO_LONG * 100));
    }
}
