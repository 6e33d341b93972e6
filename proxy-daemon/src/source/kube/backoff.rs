//! How long to wait before the API server is asked again.

use std::{
    hash::{BuildHasher as _, Hasher as _, RandomState},
    time::Duration,
};

use kube::runtime::utils::{Backoff, ResetTimerBackoff};

const FIRST: Duration = Duration::from_millis(200);
/// Every node of the cluster asks, so not too often; but what changed while the server was away is wanted soon after it is back.
const LONGEST: Duration = Duration::from_secs(10);
/// Errors further apart than this have nothing to do with each other.
const RESET_AFTER: Duration = Duration::from_mins(1);

/// Doubles from try to try. A part of each wait is chance, so that the nodes of a cluster do not ask all at once.
#[derive(Debug)]
pub(super) struct Doubling {
    next: Duration,
}

pub(super) fn backoff() -> ResetTimerBackoff<Doubling> {
    ResetTimerBackoff::new(Doubling { next: FIRST }, RESET_AFTER)
}

impl Iterator for Doubling {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let base = self.next;
        self.next = (base * 2).min(LONGEST);
        // Between half of it and all of it.
        let share = RandomState::new().build_hasher().finish() % 512 + 512;
        Some(base * u32::try_from(share).unwrap_or(1024) / 1024)
    }
}

impl Backoff for Doubling {
    fn reset(&mut self) {
        self.next = FIRST;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_longest() {
        let waits: Vec<_> = Doubling { next: FIRST }.take(10).collect();
        assert!((FIRST / 2..=FIRST).contains(&waits[0]), "{waits:?}");
        assert!((FIRST..=FIRST * 2).contains(&waits[1]), "{waits:?}");
        assert!((LONGEST / 2..=LONGEST).contains(&waits[9]), "{waits:?}");
    }
}
