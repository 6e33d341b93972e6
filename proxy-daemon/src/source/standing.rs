//! How a source stands with what it reads, for whoever counts it.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// What there is to tell. A clone is of the same.
#[derive(Clone, Debug, Default)]
pub struct Standing(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    problems: BTreeMap<&'static str, u64>,
    server: Option<bool>,
}

impl Standing {
    /// How often anything was found wrong with objects of a kind, so far.
    pub fn problems(&self) -> BTreeMap<&'static str, u64> {
        self.state().problems.clone()
    }

    /// Whether the API server answers; nothing where there is none.
    pub fn is_server_up(&self) -> Option<bool> {
        self.state().server
    }

    /// Yields how often that makes it.
    pub(crate) fn count_problem(&self, kind: &'static str) -> u64 {
        let mut state = self.state();
        let count = state.problems.entry(kind).or_default();
        *count += 1;
        *count
    }

    pub(crate) fn note_server(&self, up: bool) {
        self.state().server = Some(up);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
