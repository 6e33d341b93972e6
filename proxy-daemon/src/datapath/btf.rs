//! The kernel's own types (Documentation/bpf/btf.rst): where the members of its structures lie.
//!
//! In: `/sys/kernel/btf/vmlinux`. Out: ids and offsets.

use std::fs;

/// Where the running kernel has them.
const BTF: &str = "/sys/kernel/btf/vmlinux";

const MAGIC: u16 = 0xeb9f;
/// The kind of a structure.
pub(super) const STRUCT: u32 = 4;
const UNION: u32 = 5;
/// The kind of a function.
pub(super) const FUNC: u32 = 12;

/// Those of the running kernel, if it tells.
pub(super) fn of_this_kernel() -> Option<Vec<u8>> {
    fs::read(BTF).ok()
}

/// The types of a BTF blob, by id.
pub(super) struct Types<'a> {
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
    /// Reads all of them.
    pub(super) fn read(btf: &'a [u8]) -> Option<Self> {
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

    /// The id of the first type of a kind and a name.
    pub(super) fn id(&self, kind: u32, name: &str) -> Option<u32> {
        let is_it = |of: &Type<'_>| of.kind() == kind && self.name(of.name) == name.as_bytes();
        self.types.iter().position(is_it).and_then(|id| u32::try_from(id).ok())
    }

    /// The offset of a member in bits and its type, also of a nameless part's.
    pub(super) fn member(&self, of: u32, name: &str) -> Option<(u32, u32)> {
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
pub(super) mod testing {
    use super::MAGIC;

    /// A blob of these types and names.
    pub(in crate::datapath) fn btf(types: &[u32], strings: &str) -> Vec<u8> {
        let (types_len, strings_len) = (u32::try_from(types.len() * 4).unwrap(), u32::try_from(strings.len()).unwrap());
        let header = [u32::from(MAGIC) | 1 << 16, 24, 0, types_len, types_len, strings_len];
        let mut blob: Vec<u8> = header.iter().chain(types).flat_map(|word| word.to_le_bytes()).collect();
        blob.extend(strings.as_bytes());
        blob
    }
}
