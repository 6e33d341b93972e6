//! What the running kernel tells about itself by its BTF: where a socket buffer keeps the state of its checksum, and how a program gets there.
//!
//! In: `/sys/kernel/btf/vmlinux`. Out: numbers that go into the object before it is loaded. Programs then change a checksum themselves
//! instead of asking helpers, which must find out first what to do.

use std::fs;

/// The kernel's own types (Documentation/bpf/btf.rst).
const BTF: &str = "/sys/kernel/btf/vmlinux";
/// What gives a program its socket buffer as the kernel has it (6.2).
const CAST: &str = "bpf_cast_to_kern_ctx";

/// A call of the helper with this number, which no kernel has, stands in the object for the call of [`CAST`]: aya 0.14 cannot express that.
const PLACEHOLDER: [u8; 8] = call(0, proxy_common::CAST_PLACEHOLDER);

const MAGIC: u16 = 0xeb9f;
const STRUCT: u32 = 4;
const UNION: u32 = 5;
const FUNC: u32 = 12;

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
        fs::read(BTF).ok().and_then(|btf| Self::find(&btf)).map(|best| best.from(first)).unwrap_or_default()
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

/// How programs find the network namespace of a process, and the rules there for what is sent: offsets in bytes, in the order of
/// `SHUNT_NAMESPACE`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NamespaceOffsets(pub(super) [u32; 4]);

impl NamespaceOffsets {
    /// Those of this kernel, if it tells.
    pub(super) fn of_this_kernel() -> Option<Self> {
        fs::read(BTF).ok().and_then(|btf| Self::find(&btf))
    }

    fn find(btf: &[u8]) -> Option<Self> {
        /// Before what is sent goes on: the number of that hook, of pointers of eight bytes (`NF_INET_LOCAL_OUT`).
        const LOCAL_OUT: u32 = 3 * 8;
        let types = Types::read(btf)?;
        let offset = |of: &str, name: &str| types.member(types.id(STRUCT, of)?, name).map(|(bits, _)| bits / 8);
        let (rules, of) = types.member(types.id(STRUCT, "net")?, "nf")?;
        let rules = |name: &str| types.member(of, name).map(|(bits, _)| (rules + bits) / 8 + LOCAL_OUT);
        Some(Self([offset("task_struct", "nsproxy")?, offset("nsproxy", "net_ns")?, rules("hooks_ipv4")?, rules("hooks_ipv6")?]))
    }
}

/// The types of a BTF blob, by id.
struct Types<'a> {
    strings: &'a [u8],
    types: Vec<Type<'a>>,
}

/// A type, and what follows it.
struct Type<'a> {
    name: u32,
    info: u32,
    rest: &'a [u8],
}

fn word(bytes: &[u8], index: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(index * 4..)?.first_chunk().copied()?))
}

impl<'a> Types<'a> {
    fn read(btf: &'a [u8]) -> Option<Self> {
        let magic = u16::from_le_bytes(btf.first_chunk().copied()?);
        let header = |index| word(btf, index).and_then(|value| usize::try_from(value).ok());
        let start = header(1)?;
        let section = |from: usize, len: usize| btf.get(start.checked_add(from)?..)?.get(..len);
        let (mut left, strings) = (section(header(2)?, header(3)?)?, section(header(4)?, header(5)?)?);
        // Id 0 is "void", which is not written.
        let mut types = vec![Type { name: 0, info: 0, rest: &[] }];
        while magic == MAGIC && !left.is_empty() {
            let (name, info) = (word(left, 0)?, word(left, 1)?);
            let after = left.get(12..)?;
            let (rest, next) = after.split_at_checked(length(info)?)?;
            types.push(Type { name, info, rest });
            left = next;
        }
        Some(Self { strings, types })
    }

    fn name(&self, offset: u32) -> &'a [u8] {
        let from = usize::try_from(offset).ok().and_then(|offset| self.strings.get(offset..)).unwrap_or_default();
        from.split(|byte| *byte == 0).next().unwrap_or_default()
    }

    fn id(&self, kind: u32, name: &str) -> Option<u32> {
        let is_it = |of: &Type<'_>| of.kind() == kind && self.name(of.name) == name.as_bytes();
        self.types.iter().position(is_it).and_then(|id| u32::try_from(id).ok())
    }

    /// The offset of a member in bits and its type, also of a nameless part's.
    fn member(&self, of: u32, name: &str) -> Option<(u32, u32)> {
        let of = self.types.get(usize::try_from(of).ok()?).filter(|of| [STRUCT, UNION].contains(&of.kind()))?;
        of.rest.chunks_exact(12).find_map(|member| {
            let (kind, offset) = (word(member, 1)?, word(member, 2)?);
            // With the flag, the upper byte is the length of a bit field.
            let offset = if of.info >> 31 == 1 { offset & 0x00ff_ffff } else { offset };
            match self.name(word(member, 0)?) {
                found if found == name.as_bytes() => Some((offset, kind)),
                b"" => self.member(kind, name).map(|(inner, kind)| (offset + inner, kind)),
                _ => None,
            }
        })
    }
}

impl Type<'_> {
    const fn kind(&self) -> u32 {
        self.info >> 24 & 0x1f
    }
}

/// How many bytes follow a type, by its kind and number of members. None for a kind that is not known.
fn length(info: u32) -> Option<usize> {
    let count = usize::try_from(info & 0xffff).ok()?;
    Some(match info >> 24 & 0x1f {
        // Integer, variable, declaration tag.
        1 | 14 | 17 => 4,
        // Pointer, forward, typedef, qualifiers, function, float, type tag.
        2 | 7..=12 | 16 | 18 => 0,
        // Array.
        3 => 12,
        // Structure, union, data section, 64-bit enumeration.
        STRUCT | UNION | 15 | 19 => count * 12,
        // Enumeration, prototype.
        6 | 13 => count * 8,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A blob of these types and names.
    fn btf(types: &[u32], strings: &str) -> Vec<u8> {
        let (types_len, strings_len) = (u32::try_from(types.len() * 4).unwrap(), u32::try_from(strings.len()).unwrap());
        let header = [u32::from(MAGIC) | 1 << 16, 24, 0, types_len, types_len, strings_len];
        let mut blob: Vec<u8> = header.iter().chain(types).flat_map(|word| word.to_le_bytes()).collect();
        blob.extend(strings.as_bytes());
        blob
    }

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
