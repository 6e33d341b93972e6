//! Which slots of a backend array are in use: contiguous ranges, the smallest gap that is large enough first.
//!
//! A range that is retired rests, because a program may have read the word that named it just before, and is then joined with the free
//! slots beside it. Every step costs O(log n) in the number of gaps.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::{Duration, Instant},
};

use proxy_common::SlotRange;

use super::free::has_rested;

/// The slots of one family.
#[derive(Clone, Debug)]
pub(super) struct Slots {
    size: u32,
    rest: Duration,
    used: u32,
    /// The gaps: first slot to length. No two touch.
    gaps: BTreeMap<u32, u32>,
    /// The same gaps as (length, first slot).
    by_len: BTreeSet<(u32, u32)>,
    /// What was retired, and since when; the oldest comes first.
    resting: VecDeque<(SlotRange, Instant)>,
}

impl Slots {
    /// An array of which every slot is free.
    pub(super) fn new(size: u32, rest: Duration) -> Self {
        let mut slots = Self { size, rest, used: 0, gaps: BTreeMap::new(), by_len: BTreeSet::new(), resting: VecDeque::new() };
        slots.add_gap(0, size);
        slots
    }

    /// How many slots there are.
    pub(super) fn size(&self) -> u32 {
        self.size
    }

    /// How many slots are in use. Those that rest are not.
    pub(super) fn used(&self) -> u32 {
        self.used
    }

    /// Takes `count` slots, if there are that many in one piece.
    pub(super) fn take(&mut self, count: u32, now: Instant) -> Option<SlotRange> {
        self.wake(now);
        let (_, base) = *self.by_len.range((count, 0)..).next()?;
        let range = SlotRange::new(base, count)?;
        self.reserve(range).then_some(range)
    }

    /// Takes these slots, if all of them are free and do not rest.
    pub(super) fn reserve(&mut self, range: SlotRange) -> bool {
        let (base, end) = (range.base(), range.base() + range.count());
        let Some((&gap, &len)) = self.gaps.range(..=base).next_back() else { return false };
        let gap_end = gap + len;
        if gap_end < end {
            return false;
        }
        self.remove_gap(gap, len);
        self.add_gap(gap, base - gap);
        self.add_gap(end, gap_end - end);
        self.used += range.count();
        true
    }

    /// Whether a slot is neither in use nor resting.
    pub(super) fn is_free(&self, slot: u32) -> bool {
        self.gaps.range(..=slot).next_back().is_some_and(|(base, len)| slot - base < *len)
    }

    /// Gives back what no program has ever been shown: it is free at once.
    pub(super) fn give_back(&mut self, range: SlotRange) {
        self.used -= range.count();
        self.join(range);
    }

    /// Retires a range that programs may still read.
    pub(super) fn retire(&mut self, range: SlotRange, now: Instant) {
        self.used -= range.count();
        self.resting.push_back((range, now));
    }

    /// Lets free slots rest that lie beside each other: programs may still read them.
    pub(super) fn rest(&mut self, run: &[u32], now: Instant) {
        for piece in run.chunks(SlotRange::MAX_COUNT as usize) {
            let range = piece.first().zip(u32::try_from(piece.len()).ok()).and_then(|(base, count)| SlotRange::new(*base, count));
            if let Some(range) = range.filter(|range| self.reserve(*range)) {
                self.retire(range, now);
            }
        }
    }

    /// Frees what has rested.
    fn wake(&mut self, now: Instant) {
        while let Some((range, _)) = self.resting.pop_front_if(|(_, since)| has_rested(*since, self.rest, now)) {
            self.join(range);
        }
    }

    /// Frees a range and joins it with the gaps on both its sides.
    fn join(&mut self, range: SlotRange) {
        let (mut base, mut end) = (range.base(), range.base() + range.count());
        if let Some((&before, &len)) = self.gaps.range(..base).next_back()
            && before + len == base
        {
            self.remove_gap(before, len);
            base = before;
        }
        if let Some(&len) = self.gaps.get(&end) {
            self.remove_gap(end, len);
            end += len;
        }
        self.add_gap(base, end - base);
    }

    fn add_gap(&mut self, base: u32, len: u32) {
        if len > 0 {
            self.gaps.insert(base, len);
            self.by_len.insert((len, base));
        }
    }

    fn remove_gap(&mut self, base: u32, len: u32) {
        self.gaps.remove(&base);
        self.by_len.remove(&(len, base));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const REST: Duration = Duration::from_secs(2);

    fn range(base: u32, count: u32) -> SlotRange {
        SlotRange::new(base, count).unwrap()
    }

    #[test]
    fn the_smallest_gap_that_is_large_enough_is_used() {
        let now = Instant::now();
        let mut slots = Slots::new(100, REST);
        assert!(slots.reserve(range(10, 10)) && slots.reserve(range(25, 5)));
        assert_eq!(slots.take(6, now), Some(range(0, 6)));
        assert_eq!(slots.take(5, now), Some(range(20, 5)));
        assert_eq!(slots.take(70, now), Some(range(30, 70)));
        assert_eq!(slots.take(5, now), None);
        assert_eq!(slots.used(), 96);
    }

    #[test]
    fn a_retired_range_rests_and_is_then_joined_with_its_neighbours() {
        let start = Instant::now();
        let mut slots = Slots::new(30, REST);
        let taken: Vec<_> = (0..3).map(|_| slots.take(10, start).unwrap()).collect();
        slots.retire(taken[0], start);
        slots.retire(taken[2], start);
        slots.retire(taken[1], start + Duration::from_secs(1));
        assert_eq!(slots.used(), 0);
        assert_eq!(slots.take(1, start + Duration::from_millis(1999)), None);
        assert_eq!(slots.take(11, start + REST), None);
        assert_eq!(slots.take(30, start + Duration::from_secs(3)), Some(range(0, 30)));
    }

    #[test]
    fn what_was_never_shown_is_free_at_once() {
        let now = Instant::now();
        let mut slots = Slots::new(10, REST);
        let taken = slots.take(10, now).unwrap();
        slots.give_back(taken);
        assert_eq!(slots.take(10, now), Some(taken));
    }

    #[test]
    fn slots_in_use_and_slots_that_do_not_exist_cannot_be_reserved() {
        let mut slots = Slots::new(20, REST);
        assert!(slots.reserve(range(5, 5)));
        for refused in [range(4, 2), range(9, 1), range(0, 20), range(19, 2), range(20, 1)] {
            assert!(!slots.reserve(refused), "{refused:?}");
        }
        assert!(slots.reserve(range(10, 10)) && slots.reserve(range(0, 5)));
    }

    /// What is in use never overlaps, and gaps, use and rest add up to all there is.
    fn check(slots: &Slots, used: &[SlotRange]) {
        let gaps = slots.gaps.iter().map(|(&base, &len)| (base, len));
        let resting = slots.resting.iter().map(|(range, _)| (range.base(), range.count()));
        let mut all: Vec<_> = gaps.chain(resting).chain(used.iter().map(|range| (range.base(), range.count()))).collect();
        all.sort_unstable();
        let mut next = 0;
        for (base, len) in all {
            assert_eq!(base, next);
            next += len;
        }
        assert_eq!(next, slots.size());
        assert_eq!(slots.by_len.len(), slots.gaps.len());
        assert!(slots.gaps.iter().zip(slots.gaps.iter().skip(1)).all(|((a, len), (b, _))| a + len < *b));
    }

    /// A set's size: mostly a few, sometimes a few hundred, seldom thousands.
    fn sizes() -> impl Strategy<Value = u32> {
        prop_oneof![20 => 1..20_u32, 4 => 20..300_u32, 1 => 300..4_000_u32]
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 4, ..ProptestConfig::default() })]

        #[test]
        fn a_hundred_thousand_updates_at_half_fill_never_run_full(
            updates in proptest::collection::vec((sizes(), any::<prop::sample::Index>()), 100_000)
        ) {
            let mut now = Instant::now();
            let mut slots = Slots::new(65_536, REST);
            let mut used: Vec<SlotRange> = Vec::new();
            for (step, (size, victim)) in updates.into_iter().enumerate() {
                now += Duration::from_millis(100);
                // As in an update: the new set is there before the old one goes.
                let room = slots.used() + size <= slots.size() / 2;
                if room {
                    used.push(slots.take(size, now).expect("a range of that size"));
                }
                if !room || step % 2 == 0 {
                    let victim = used.swap_remove(victim.index(used.len()));
                    slots.retire(victim, now);
                }
                if step % 1000 == 0 {
                    check(&slots, &used);
                }
            }
            check(&slots, &used);
        }
    }
}
