//! Indices that are given out one by one, and rest between two uses.
//!
//! What has rested longest is used first. There are two times of rest: one that is long enough for everybody, and one that is the
//! least that is safe, which counts only when there is nothing else left.

use std::{
    collections::{BTreeSet, VecDeque},
    ops::Range,
    time::{Duration, Instant},
};

/// How long an index rests.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rest {
    /// Never used again before this.
    pub(super) least: Duration,
    /// Not used again before this as long as there are indices that were never used.
    pub(super) wanted: Duration,
}

/// A pool of indices.
#[derive(Clone, Debug)]
pub(super) struct Indices {
    rest: Rest,
    /// Those that were never used.
    fresh: Range<u32>,
    /// Those that were, and since when they are free; the oldest comes first.
    resting: VecDeque<(u32, Instant)>,
    /// How many at the front of `resting` were swept.
    swept: usize,
}

impl Indices {
    /// A pool in which every index of the range is free.
    pub(super) fn new(indices: Range<u32>, rest: Rest) -> Self {
        Self { rest, fresh: indices, resting: VecDeque::new(), swept: 0 }
    }

    /// A pool of which `taken` are in use. The free ones among them may have been used a moment ago, so they rest.
    pub(super) fn restore(indices: Range<u32>, rest: Rest, taken: &BTreeSet<u32>, now: Instant) -> Self {
        let first_fresh = taken.range(indices.clone()).next_back().map_or(indices.start, |last| last + 1);
        let gaps = (indices.start..first_fresh).filter(|index| !taken.contains(index));
        let resting: VecDeque<_> = gaps.map(|index| (index, now)).collect();
        Self { rest, fresh: first_fresh..indices.end, swept: resting.len(), resting }
    }

    /// How many can be taken.
    pub(super) fn available(&self, now: Instant) -> usize {
        self.fresh.len() + self.resting.partition_point(|(_, since)| has_rested(*since, self.rest.least, now))
    }

    /// Takes an index, if there is one.
    pub(super) fn take(&mut self, now: Instant) -> Option<u32> {
        if let Some(index) = self.take_rested(self.rest.wanted, now) {
            return Some(index);
        }
        self.fresh.next().or_else(|| self.take_rested(self.rest.least, now))
    }

    /// Puts an index back, to rest.
    pub(super) fn give(&mut self, index: u32, now: Instant) {
        self.resting.push_back((index, now));
    }

    /// Those that have rested and that no earlier call has yielded: what they were used for can be cleared.
    pub(super) fn sweep(&mut self, now: Instant) -> Vec<u32> {
        let end = self.resting.partition_point(|(_, since)| has_rested(*since, self.rest.least, now));
        let start = self.swept.min(end);
        self.swept = self.swept.max(end);
        self.resting.range(start..end).map(|(index, _)| *index).collect()
    }

    fn take_rested(&mut self, rest: Duration, now: Instant) -> Option<u32> {
        let (_, since) = self.resting.front()?;
        if !has_rested(*since, rest, now) {
            return None;
        }
        self.swept = self.swept.saturating_sub(1);
        self.resting.pop_front().map(|(index, _)| index)
    }
}

/// Whether something that is free since then has rested long enough.
pub(super) fn has_rested(since: Instant, rest: Duration, now: Instant) -> bool {
    now.saturating_duration_since(since) >= rest
}

#[cfg(test)]
mod tests {
    use super::*;

    const REST: Rest = Rest { least: Duration::from_secs(2), wanted: Duration::from_mins(1) };

    fn after(start: Instant, secs: u64) -> Instant {
        start + Duration::from_secs(secs)
    }

    #[test]
    fn what_was_never_used_comes_before_what_has_rested_a_little() {
        let start = Instant::now();
        let mut pool = Indices::new(1..4, REST);
        assert_eq!([pool.take(start), pool.take(start)], [Some(1), Some(2)]);
        pool.give(2, start);
        pool.give(1, start);
        assert_eq!(pool.available(start), 1);
        assert_eq!(pool.take(after(start, 59)), Some(3));
        assert_eq!(pool.take(after(start, 59)), Some(2));
    }

    #[test]
    fn what_has_rested_long_is_used_in_the_order_of_its_return() {
        let start = Instant::now();
        let mut pool = Indices::new(0..8, REST);
        for _ in 0..3 {
            pool.take(start);
        }
        pool.give(2, start);
        pool.give(0, after(start, 1));
        assert_eq!(pool.take(after(start, 61)), Some(2));
        assert_eq!(pool.take(after(start, 61)), Some(0));
        assert_eq!(pool.take(after(start, 61)), Some(3));
    }

    #[test]
    fn nothing_is_used_before_the_least_rest() {
        let start = Instant::now();
        let mut pool = Indices::new(0..1, REST);
        pool.take(start);
        pool.give(0, start);
        assert_eq!((pool.available(after(start, 1)), pool.take(after(start, 1))), (0, None));
        assert_eq!((pool.available(after(start, 2)), pool.take(after(start, 2))), (1, Some(0)));
    }

    #[test]
    fn gaps_between_what_is_in_use_rest_after_a_restart() {
        let start = Instant::now();
        let mut pool = Indices::restore(1..6, REST, &BTreeSet::from([2, 4]), start);
        assert_eq!(pool.take(start), Some(5));
        assert_eq!(pool.take(start), None);
        assert_eq!([pool.take(after(start, 2)), pool.take(after(start, 2)), pool.take(after(start, 2))], [Some(1), Some(3), None]);
    }

    #[test]
    fn each_index_is_swept_once_after_its_rest() {
        let start = Instant::now();
        let mut pool = Indices::new(0..4, Rest { wanted: REST.least, ..REST });
        for _ in 0..3 {
            pool.take(start);
        }
        pool.give(0, start);
        pool.give(1, start);
        assert_eq!(pool.sweep(after(start, 1)), Vec::<u32>::new());
        assert_eq!(pool.sweep(after(start, 2)), [0, 1]);
        pool.give(2, after(start, 2));
        assert_eq!(pool.take(after(start, 3)), Some(0));
        assert_eq!(pool.sweep(after(start, 4)), [2]);
        assert_eq!(pool.sweep(after(start, 4)), Vec::<u32>::new());
    }
}
