//! The lives of backends: which references name one that goes on.
//!
//! Flows keep the reference of their backend and ask later whether it still lives. So an index that is used again gets another
//! generation, and rests before: with ten minutes between two lives, a reference comes back after four weeks at the earliest.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use proxy_common::BackendRef;

use super::free::{Indices, Rest};

/// Other generations tell other lives apart, so an index need not rest when there is no other.
const REST: Rest = Rest { least: Duration::ZERO, wanted: Duration::from_mins(10) };

/// The indices of `BACKEND_LIVE`.
#[derive(Clone, Debug)]
pub(super) struct Lives {
    size: u32,
    used: u32,
    indices: Indices,
    /// The generation of the latest life of each index. Those beyond the end had none.
    generations: Vec<u32>,
    /// What stands for the generation of a life that is not known: zero, or the highest that was found at the start.
    unknown: u32,
}

impl Lives {
    /// Nobody lives yet.
    pub(super) fn new(size: u32) -> Self {
        let size = size.min(BackendRef::MAX_INDICES);
        Self { size, used: 0, indices: Indices::new(0..size, REST), generations: Vec::new(), unknown: 0 }
    }

    /// `living` go on, nothing is known of who had the `blocked` indices, and there may be flows that name other lives up to the
    /// generation `highest`.
    pub(super) fn restore(size: u32, living: &BTreeSet<BackendRef>, blocked: &BTreeSet<u32>, highest: u32, now: Instant) -> Self {
        let size = size.min(BackendRef::MAX_INDICES);
        let taken: BTreeSet<u32> = living.iter().map(|reference| reference.index()).chain(blocked.iter().copied()).collect();
        let indices = Indices::restore(0..size, REST, &taken, now);
        let mut lives = Self { indices, unknown: highest, ..Self::new(size) };
        for reference in living {
            lives.used += 1;
            lives.note(reference.index(), reference.generation());
        }
        lives
    }

    /// How many indices there are.
    pub(super) fn size(&self) -> u32 {
        self.size
    }

    /// How many backends live.
    pub(super) fn used(&self) -> u32 {
        self.used
    }

    /// How many lives can begin.
    pub(super) fn available(&self, now: Instant) -> usize {
        self.indices.available(now)
    }

    /// Begins a life, if there is an index for it.
    pub(super) fn begin(&mut self, now: Instant) -> Option<BackendRef> {
        let index = self.indices.take(now)?;
        let generation = self.generation(index) % BackendRef::MAX_GENERATION + 1;
        self.note(index, generation);
        self.used += 1;
        Some(BackendRef::new(index, generation))
    }

    /// Ends a life.
    pub(super) fn end(&mut self, reference: BackendRef, now: Instant) {
        self.used -= 1;
        self.indices.give(reference.index(), now);
    }

    /// Frees an index that [`Self::restore`] was told to block.
    pub(super) fn unblock(&mut self, index: u32, now: Instant) {
        if index < self.size {
            self.indices.give(index, now);
        }
    }

    fn generation(&self, index: u32) -> u32 {
        self.generations.get(index as usize).copied().unwrap_or(self.unknown)
    }

    fn note(&mut self, index: u32, generation: u32) {
        let index = index as usize;
        if self.generations.len() <= index {
            self.generations.resize(index + 1, self.unknown);
        }
        self.generations[index] = generation;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_that_is_used_again_gets_another_generation() {
        let now = Instant::now();
        let mut lives = Lives::new(1);
        for generation in (1..=BackendRef::MAX_GENERATION).chain([1, 2]) {
            let reference = lives.begin(now).unwrap();
            assert_eq!(reference, BackendRef::new(0, generation));
            assert_eq!(lives.begin(now), None);
            lives.end(reference, now);
        }
        assert_eq!(lives.used(), 0);
    }

    #[test]
    fn generations_go_on_from_what_is_found() {
        let now = Instant::now();
        let living = BTreeSet::from([BackendRef::new(1, 7)]);
        let mut lives = Lives::restore(4, &living, &BTreeSet::from([2]), 9, now);
        assert_eq!(lives.begin(now), Some(BackendRef::new(3, 10)));
        assert_eq!(lives.begin(now), Some(BackendRef::new(0, 10)));
        assert_eq!(lives.begin(now), None);
        lives.end(BackendRef::new(1, 7), now);
        assert_eq!(lives.begin(now), Some(BackendRef::new(1, 8)));
        lives.unblock(2, now);
        assert_eq!(lives.begin(now), Some(BackendRef::new(2, 10)));
        assert_eq!(lives.used(), 4);
    }
}
