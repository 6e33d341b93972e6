//! How long to wait before the API server is asked again.

use std::{
    hash::{BuildHasher as _, Hasher as _, RandomState},
    time::Duration,
};

use tokio::time::Instant;

/// Errors further apart than this have nothing to do with each other.
const UNRELATED_AFTER: Duration = Duration::from_mins(1);

/// Doubles from try to try. A part of each wait is chance, so that the nodes of a cluster do not ask all at once.
#[derive(Debug)]
pub(super) struct Backoff {
    first: Duration,
    longest: Duration,
    next: Duration,
    last: Option<Instant>,
}

// === impl Backoff ===

impl Backoff {
    pub(super) fn new(first: Duration, longest: Duration) -> Self {
        Self { first, longest, next: first, last: None }
    }

    /// How long to wait after an error that came now.
    pub(super) fn wait(&mut self, now: Instant) -> Duration {
        if self.last.is_none_or(|last| now - last > UNRELATED_AFTER) {
            self.next = self.first;
        }
        self.last = Some(now);
        let base = self.next;
        self.next = (base * 2).min(self.longest);
        // Between half of it and all of it.
        let share = RandomState::new().build_hasher().finish() % 512 + 512;
        base * u32::try_from(share).unwrap_or(1024) / 1024
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_longest_and_begin_anew_after_a_quiet_time() {
        let (first, longest) = (Duration::from_millis(200), Duration::from_secs(10));
        let mut backoff = Backoff::new(first, longest);
        let now = Instant::now();
        let waits: Vec<_> = (0..10).map(|_| backoff.wait(now)).collect();
        assert!((first / 2..=first).contains(&waits[0]), "{waits:?}");
        assert!((first..=first * 2).contains(&waits[1]), "{waits:?}");
        assert!((longest / 2..=longest).contains(&waits[9]), "{waits:?}");
        let later = backoff.wait(now + UNRELATED_AFTER * 2);
        assert!((first / 2..=first).contains(&later), "{later:?}");
    }
}
