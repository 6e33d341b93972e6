//! The service filter: an array that says of an address and a port whether anything may be known of them.
//!
//! Each pair has a place there, which it shares with few others. A mark is set before anything is inserted that packets are found by: of a
//! frontend the address and the port, of a flow's entry those of the destination where packets enter the node, and those of the source where
//! they leave it. So a packet whose place has no mark would be looked up in vain.

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

/// Where the mark of an address and a port is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place(u32);

impl Place {
    /// The place of an address and a port. It costs little and need not resist anybody: who finds pairs that share a place only slows down
    /// his own packets.
    #[inline(always)]
    pub fn of<A: Address>(addr: A, port: Port) -> Self {
        // The upper bits of a product depend on all bits of a word (multiplicative hashing, the golden ratio).
        let spread = |word: u64| word.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let [first, second] = addr.words();
        let word = first ^ u64::from(port.raw()) << 48;
        let sum = if A::LEN > 8 { spread(spread(word) ^ second) } else { spread(word) };
        Self((sum >> (u64::BITS - ROW_BITS - 3)) as u32)
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
