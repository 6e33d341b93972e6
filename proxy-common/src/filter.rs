//! The service filter: an array that says of an address and a port whether anything may be known of them.
//!
//! Each pair has a place for everything that may be asked about it ([`About`]), and shares each with few others. A mark is set before anything is
//! inserted that is found by the pair. So what has no mark would be looked up in vain; and what goes to a backend by itself is not, for what answers
//! its clients at Services.

use bytemuck::{Pod, Zeroable};

use crate::{Address, Port};

/// How many rows there are: a power of two.
pub const ROWS: u32 = 1 << ROW_BITS;
const ROW_BITS: u32 = 15;

/// A row of `FILTER`: a byte for each of its places. Programs and the daemon set marks while others read them; only the daemon takes them back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(transparent)]
pub struct Marks(pub [u8; 8]);

/// Nothing is known.
pub const UNMARKED: u8 = 0;
/// Something may be known, but nobody has said so since the daemon last went through the marks.
pub const OLD: u8 = 1;
/// Something is known.
pub const FRESH: u8 = 2;

/// What may be known of an address and a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum About {
    /// Packets that enter the node for it: a frontend, or entries of flows.
    Entering = 0,
    /// Packets that leave the node from it: entries of flows.
    Leaving = 1,
    /// Sockets that were given it for a backend.
    Given = 2,
}

/// Where the mark of an address and a port is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place(u32);

impl Place {
    /// The place of an address and a port. It costs little and need not resist anybody: who finds pairs that share a place only slows down his own
    /// packets. Ports that follow each other have places that do: most clients take theirs in turn, and their marks are at hand then.
    #[inline(always)]
    pub fn of<A: Address>(about: About, addr: A, port: Port) -> Self {
        // The upper bits of a product depend on all bits of a word (multiplicative hashing, the golden ratio). Once is not enough: of addresses that
        // follow each other the products do in few steps.
        let spread = |word: u64| word.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mix = |word: u64| spread(word) ^ spread(word) >> 32;
        let [first, second] = addr.words();
        let word = mix(first ^ (about as u64) << 46);
        let sum = spread(if A::LEN > 8 { mix(word ^ second) } else { word });
        let place = (sum >> (u64::BITS - ROW_BITS - 3)) as u32 + u32::from(port.to_host());
        Self(place & (ROWS * 8 - 1))
    }

    /// The row that has it.
    #[inline(always)]
    pub const fn row(self) -> u32 {
        self.0 >> 3
    }

    /// The byte within the row.
    #[inline(always)]
    pub const fn byte(self) -> usize {
        (self.0 & 7) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Addr4, Addr6};

    #[test]
    fn a_pair_has_a_place_for_everything_that_may_be_known() {
        fn places<A: Address>(addr: A) -> [Place; 3] {
            [About::Entering, About::Leaving, About::Given].map(|about| Place::of(about, addr, Port::from_host(8080)))
        }
        for places in [places(Addr4::from_wire([10, 244, 1, 5])), places(Addr6::from_wire([0xfd; 16]))] {
            let [entering, leaving, given] = places;
            assert!(entering != leaving && leaving != given && given != entering);
            assert!(places.iter().all(|place| place.row() < ROWS && place.byte() < 8));
        }
    }

    /// Of the Services and pods of a large cluster few share a place.
    #[test]
    fn places_are_spread() {
        fn check<A: Address>(addr: impl Fn([u8; 4]) -> A) {
            let mut places = [0; 4_000];
            for (n, place) in (0_u32..).zip(&mut places) {
                let (about, port) = if n % 2 == 0 { (About::Entering, 80) } else { (About::Leaving, 8080) };
                *place = Place::of(about, addr((0x0a60_0000 + n / 2).to_be_bytes()), Port::from_host(port)).0;
            }
            places.sort_unstable();
            let shared = places.windows(2).filter(|pair| pair[0] == pair[1]).count();
            // Of places by chance it would be some 30.
            assert!(shared < 60, "{shared} of 4,000 pairs share a place");
        }
        check(Addr4::from_wire);
        check(|[a, b, c, d]| Addr6::from_wire([0xfd, 0, 0, a, 0, b, 0, 0, 0, 0, 0, 0, 0, 0, c, d]));
    }
}
