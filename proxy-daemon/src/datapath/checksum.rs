//! Where a socket buffer of the running kernel keeps the state of its checksum, and how a program gets there.
//!
//! In: the kernel's own types. Out: numbers that go into the object before it is loaded. Programs then change a checksum themselves
//! instead of asking helpers, which must find out first what to do.

use super::btf::{self, FUNC, STRUCT, Types};

/// What gives a program its socket buffer as the kernel has it (6.2).
const CAST: &str = "bpf_cast_to_kern_ctx";

/// A call of the helper with this number, which no kernel has, stands in the object for the call of [`CAST`]: aya 0.14 cannot express that.
const PLACEHOLDER: [u8; 8] = call(0, proxy_common::CAST_PLACEHOLDER);

/// How programs change a checksum, the cheapest way first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Checksums {
    /// Themselves, by a state that they read in the kernel's own socket buffer.
    Cast,
    /// The same, but a helper reads it for them.
    Read,
    /// By the kernel's helpers.
    Helpers,
}

impl Checksums {
    /// All ways, the cheapest first.
    pub const ALL: [Self; 3] = [Self::Cast, Self::Read, Self::Helpers];
}

/// How programs read the state of a checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ChecksumState {
    /// The type id of the function that gives the socket buffer. Without, a helper reads it.
    cast: Option<u32>,
    /// The offset of the field `ip_summed` in it, in bits. It has two and lies in one byte.
    bit: u32,
}

/// One instruction: a call.
const fn call(source_register: u8, number: u32) -> [u8; 8] {
    let [a, b, c, d] = number.to_le_bytes();
    [0x85, source_register << 4, 0, 0, a, b, c, d]
}

impl ChecksumState {
    /// What can be tried on this kernel, the cheapest way first, and none cheaper than `first`.
    pub(super) fn on_this_kernel(first: Checksums) -> Vec<Self> {
        btf::of_this_kernel().and_then(|btf| Self::find(&btf)).map(|best| best.from(first)).unwrap_or_default()
    }

    fn find(btf: &[u8]) -> Option<Self> {
        let types = Types::read(btf)?;
        let (bit, _) = types.member(types.id(STRUCT, "sk_buff")?, "ip_summed")?;
        (bit % 8 <= 6).then_some(Self { cast: types.id(FUNC, CAST), bit })
    }

    fn from(self, first: Checksums) -> Vec<Self> {
        let by_cast = self.cast.map(|_| self).filter(|_| first <= Checksums::Cast);
        let by_helper = (first <= Checksums::Read).then_some(Self { cast: None, ..self });
        by_cast.into_iter().chain(by_helper).collect()
    }

    /// The way that this is.
    pub(super) const fn way(self) -> Checksums {
        if self.cast.is_some() { Checksums::Cast } else { Checksums::Read }
    }

    /// The offset of the state, in bits.
    pub(super) const fn bit(self) -> u32 {
        self.bit
    }

    /// The object with the calls in their places.
    pub(super) fn put_into(self, object: &[u8]) -> Vec<u8> {
        /// `BPF_PSEUDO_KFUNC_CALL`.
        const KERNEL_FUNCTION: u8 = 2;
        let mut object = object.to_vec();
        let Some(cast) = self.cast else { return object };
        let at: Vec<usize> = object.windows(8).enumerate().filter(|(_, bytes)| *bytes == PLACEHOLDER).map(|(at, _)| at).collect();
        for at in at {
            if let Some(place) = object.get_mut(at..at + 8) {
                place.copy_from_slice(&call(KERNEL_FUNCTION, cast));
            }
        }
        object
    }
}

#[cfg(test)]
mod tests {
    use super::{super::btf::testing::btf, *};

    const STRINGS: &str = "\0sk_buff\0len\0ip_summed\0bpf_cast_to_kern_ctx\0";

    fn sample() -> Vec<u8> {
        let types = [
            // 1: an integer, 2: the structure in the structure, 3: the structure, 4: the function.
            [0, 1 << 24, 4, 32].as_slice(),
            &[0, 1 << 31 | STRUCT << 24 | 1, 4, 13, 1, 2 << 24 | 5],
            &[1, STRUCT << 24 | 2, 200, 9, 1, 0, 0, 2, 1024],
            &[23, FUNC << 24, 1],
        ];
        btf(&types.concat(), STRINGS)
    }

    #[test]
    fn the_field_is_found_in_a_nameless_part() {
        assert_eq!(ChecksumState::find(&sample()), Some(ChecksumState { cast: Some(4), bit: 1029 }));
    }

    #[test]
    fn a_kernel_that_lacks_something_has_no_way_there() {
        let whole = sample();
        for len in 0..whole.len() - 1 {
            assert_eq!(ChecksumState::find(&whole[..len]), None);
        }
        let other = String::from_utf8_lossy(STRINGS.as_bytes()).replace("ip_summed", "ip_dummed");
        let types: Vec<u32> =
            whole[24..whole.len() - STRINGS.len()].chunks(4).map(|word| u32::from_le_bytes(word.try_into().unwrap())).collect();
        assert_eq!(ChecksumState::find(&btf(&types, &other)), None);
    }

    #[test]
    fn ways_are_tried_from_the_first_that_is_wanted_and_there() {
        let ways = |cast, first| ChecksumState { cast, bit: 8 }.from(first).into_iter().map(ChecksumState::way).collect::<Vec<_>>();
        assert_eq!(ways(Some(4), Checksums::Cast), [Checksums::Cast, Checksums::Read]);
        assert_eq!(ways(None, Checksums::Cast), [Checksums::Read]);
        assert_eq!(ways(Some(4), Checksums::Read), [Checksums::Read]);
        assert_eq!(ways(Some(4), Checksums::Helpers), []);
    }

    #[test]
    fn only_the_placeholder_is_replaced() {
        let object = [call(0, 12), PLACEHOLDER, call(1, proxy_common::CAST_PLACEHOLDER)].concat();
        let expected = [call(0, 12), call(2, 77), call(1, proxy_common::CAST_PLACEHOLDER)].concat();
        assert_eq!(ChecksumState { cast: Some(77), bit: 8 }.put_into(&object), expected);
        assert_eq!(ChecksumState { cast: None, bit: 8 }.put_into(&object), object);
    }
}
