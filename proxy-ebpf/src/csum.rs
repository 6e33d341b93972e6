//! The Internet checksum, changed without reading the packet again (RFC 1624).
//!
//! A checksum is the complement of the one's complement sum of 16-bit words. That sum does not depend on how the words are grouped
//! nor, up to a swap of bytes in the result, on their byte order (RFC 1071): so words are added as they lie in memory, 32 bits at a
//! time, and folded at the end. Taking a word away is adding its complement.

use proxy_common::{Address, Port};

/// A change of a sum: what was added less what was taken away, in one's complement of 32 bits, and not folded. Several may be added up.
#[derive(Clone, Copy, Debug)]
pub struct Delta(u64);

/// Nothing, as a sum that no sum of up to sixteen words of 32 bits exceeds: no TCP header has more.
const NOTHING: u64 = 16 * u32::MAX as u64;

impl Delta {
    /// No change.
    pub const ZERO: Self = Self(0);

    /// The change from one address to another.
    #[inline(always)]
    pub fn of_addr<A: Address>(old: A, new: A) -> Self {
        Self::from_sums(old.csum_words(), new.csum_words())
    }

    /// The change from one pair of ports to another.
    #[inline(always)]
    pub fn of_ports(old: [Port; 2], new: [Port; 2]) -> Self {
        let word = |[src, dst]: [Port; 2]| u64::from(src.raw()) | u64::from(dst.raw()) << 16;
        Self::from_sums(word(old), word(new))
    }

    /// The change from words with the sum `old` to words with the sum `new`, of up to sixteen words of 32 bits each.
    #[inline(always)]
    pub const fn from_sums(old: u64, new: u64) -> Self {
        Self(new.wrapping_add(NOTHING).wrapping_sub(old))
    }

    /// The change back.
    #[inline(always)]
    #[must_use]
    pub const fn reversed(self) -> Self {
        Self(!self.word() as u64)
    }

    /// Both changes.
    #[inline(always)]
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self(self.0.wrapping_add(other.0))
    }

    /// Whether nothing changes.
    #[inline(always)]
    pub const fn is_zero(self) -> bool {
        matches!(self.word(), 0 | u32::MAX)
    }

    /// The change as the kernel's helpers take it.
    #[inline(always)]
    pub const fn word(self) -> u32 {
        let sum = (self.0 & 0xffff_ffff).wrapping_add(self.0 >> 32);
        (sum & 0xffff_ffff).wrapping_add(sum >> 32) as u32
    }
}

/// Folds a sum of less than 48 bits into 16 bits.
#[inline(always)]
pub const fn fold16(sum: u64) -> u16 {
    let sum = (sum & 0xffff).wrapping_add(sum >> 16 & 0xffff).wrapping_add(sum >> 32) as u32;
    let sum = (sum & 0xffff).wrapping_add(sum >> 16);
    (sum & 0xffff).wrapping_add(sum >> 16) as u16
}

/// The checksum field after a change, as it lies in memory.
///
/// With `optional`, zero means that there is no checksum and stays so, and a result of zero is sent as all ones (RFC 768).
#[inline(always)]
pub const fn replace(old: u16, delta: Delta, optional: bool) -> u16 {
    if optional && old == 0 {
        return 0;
    }
    let new = !fold16(!old as u64 + delta.0);
    if optional && new == 0 { u16::MAX } else { new }
}

/// A checksum that is only begun, the sum of the pseudo header, after a change of that.
#[inline(always)]
pub const fn replace_begun(old: u16, pseudo: Delta) -> u16 {
    fold16(old as u64 + pseudo.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn checksum(words: &[u16]) -> u16 {
        !fold16(words.iter().map(|&word| u64::from(word)).sum())
    }

    proptest! {
        #[test]
        fn an_incremental_change_equals_a_new_computation(
            mut words in proptest::collection::vec(any::<u16>(), 4..40),
            changes in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u16>()), 1..6),
        ) {
            let mut field = checksum(&words);
            for (index, new) in changes {
                let word = index.get_mut(&mut words);
                field = replace(field, Delta::from_sums(u64::from(*word), u64::from(new)), false);
                *word = new;
            }
            // Zero and all ones are the same number in one's complement.
            let expected = checksum(&words);
            prop_assert!(field == expected || (field ^ expected) == u16::MAX && (field == 0 || expected == 0));
            let total = words.iter().map(|&word| u64::from(word)).sum::<u64>() + u64::from(field);
            prop_assert_eq!(fold16(total), u16::MAX);
        }

        #[test]
        fn a_folded_sum_is_the_sum_but_for_what_is_carried_around(sum in 0..1_u64 << 48) {
            let folded = u64::from(fold16(sum));
            prop_assert!(sum % 0xffff == folded % 0xffff && (folded != 0 || sum == 0));
        }

        #[test]
        fn changes_add_up_and_go_back(old in 0..=NOTHING, new in 0..=NOTHING, more in 0..=NOTHING) {
            let (one, other) = (Delta::from_sums(old, new), Delta::from_sums(new, more));
            let number = |delta: Delta| u64::from(delta.word()) % u64::from(u32::MAX);
            prop_assert_eq!(number(one.plus(other)), number(Delta::from_sums(old, more)));
            prop_assert!(one.plus(one.reversed()).is_zero() && Delta::from_sums(old, old).is_zero());
        }
    }

    #[test]
    fn no_udp_checksum_stays_none_and_a_zero_result_is_sent_as_ones() {
        let delta = Delta::from_sums(1, 2);
        assert_eq!(replace(0, delta, true), 0);
        let becomes_zero = Delta::from_sums(0, 1);
        assert_eq!(replace(1, becomes_zero, true), u16::MAX);
        assert_eq!(replace(1, becomes_zero, false), 0);
    }
}
