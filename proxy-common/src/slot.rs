//! Slot ranges: a backend set is a contiguous piece of the `BACKENDS` array, published as one 64-bit word.
//!
//! A reader loads the word once and so sees all of one set. Sets with nobody in them need no slots: what then happens to the
//! packet is said by the word itself, so that a set can become empty, or change why it is empty, by the same single store.

use bytemuck::{Pod, Zeroable};
use core::num::NonZeroU32;

/// A contiguous piece of the `BACKENDS` array of a family; never empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SlotRange {
    base: u32,
    count: NonZeroU32,
}

impl SlotRange {
    /// The most backends that one range can hold.
    pub const MAX_COUNT: u32 = u16::MAX as u32;

    /// `None` when `count` is zero or above [`Self::MAX_COUNT`], or the range ends beyond `u32`.
    pub const fn new(base: u32, count: u32) -> Option<Self> {
        if count > Self::MAX_COUNT || base.checked_add(count).is_none() {
            return None;
        }
        match NonZeroU32::new(count) {
            Some(count) => Some(Self { base, count }),
            None => None,
        }
    }

    /// The first slot.
    #[inline(always)]
    pub const fn base(self) -> u32 {
        self.base
    }

    /// The number of slots, never zero.
    #[inline(always)]
    pub const fn count(self) -> u32 {
        self.count.get()
    }

    /// The slot that a 32-bit hash picks: every slot equally often, without a division.
    #[inline(always)]
    pub const fn pick(self, hash: u32) -> u32 {
        let offset = (hash as u64 * self.count.get() as u64) >> 32;
        self.base.wrapping_add(offset as u32)
    }
}

/// What a [`RangeWord`] says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Range {
    /// Choose one of these.
    Slots(SlotRange),
    /// Nobody can serve this frontend anywhere: refuse, so that the client fails at once (kube-proxy's REJECT).
    Reject,
    /// Somebody elsewhere could, but policy forbids it from here: drop, so that the client tries another node (kube-proxy's DROP).
    Drop,
}

/// A published range: bits 0..32 the first slot, 32..48 the generation of the row, 48..64 the number of slots.
///
/// With a count of zero the low half is 0 for [`Range::Reject`] and 1 for [`Range::Drop`]. A zeroed row therefore rejects.
/// Written by the daemon with one aligned 64-bit store while programs read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(transparent)]
pub struct RangeWord(pub u64);

impl RangeWord {
    const DROP: u64 = 1;

    /// The word for a range, and the generation it is published with.
    pub const fn new(range: Range, generation: u16) -> Self {
        let generation = (generation as u64) << 32;
        match range {
            Range::Slots(slots) => Self(slots.base as u64 | generation | (slots.count.get() as u64) << 48),
            Range::Reject => Self(generation),
            Range::Drop => Self(Self::DROP | generation),
        }
    }

    /// What the word says.
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "the low half is the first slot")]
    pub const fn range(self) -> Range {
        let low = self.0 as u32;
        match NonZeroU32::new((self.0 >> 48) as u32) {
            Some(count) => Range::Slots(SlotRange { base: low, count }),
            None if low as u64 == Self::DROP => Range::Drop,
            None => Range::Reject,
        }
    }

    /// How often the row was published, modulo 2^16.
    #[expect(clippy::cast_possible_truncation, reason = "the generation is these 16 bits")]
    pub const fn generation(self) -> u16 {
        (self.0 >> 32) as u16
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_says_what_it_was_made_of() {
        let slots = Range::Slots(SlotRange::new(u32::MAX - 70_000, 65_535).unwrap());
        for range in [slots, Range::Reject, Range::Drop] {
            let word = RangeWord::new(range, 0xabcd);
            assert_eq!(word.range(), range);
            assert_eq!(word.generation(), 0xabcd);
        }
        assert_eq!(RangeWord(0).range(), Range::Reject);
    }

    #[test]
    fn impossible_ranges_cannot_be_made() {
        assert_eq!(SlotRange::new(0, 0), None);
        assert_eq!(SlotRange::new(0, 65_536), None);
        assert_eq!(SlotRange::new(u32::MAX, 1), None);
    }

    #[test]
    fn picks_stay_inside_and_reach_both_ends() {
        let range = SlotRange::new(100, 3).unwrap();
        assert_eq!(range.pick(0), 100);
        assert_eq!(range.pick(u32::MAX), 102);
    }
}
