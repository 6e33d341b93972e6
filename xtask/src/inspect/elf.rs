//! Reads a BPF object: its functions, the calls between them, its maps and other data.
//!
//! A call names its target by the distance in its immediate field; when there is a relocation, the distance counts from
//! the symbol that the relocation names. See <https://docs.kernel.org/bpf/llvm_reloc.html>.

use std::{collections::BTreeSet, fs, path::Path};

use anyhow::{Context as _, Result};
use object::{
    Endianness, Object as _, ObjectSection as _, ObjectSymbol as _, RelocationTarget, SectionKind, SymbolKind,
    read::elf::{ElfFile64, ElfSection64, ElfSymbol64},
};
use rustc_demangle::demangle;

/// Bytes of one instruction.
const INSTRUCTION: u64 = 8;
/// `call` of a function in the same object: the opcode, and the mark in the upper half of the next byte.
const CALL: u8 = 0x85;
const CALLS_FUNCTION: u8 = 1;

type File<'data> = ElfFile64<'data, Endianness>;

/// What there is to know about an object.
pub(super) struct Object {
    pub(super) functions: Vec<Function>,
    /// (caller, callee), as indices of `functions`.
    pub(super) calls: Vec<(usize, usize)>,
    pub(super) maps: Vec<String>,
    /// Names of everything that is neither function nor section, maps included.
    pub(super) data: Vec<String>,
}

/// A program or a function that programs call.
pub(super) struct Function {
    pub(super) section: String,
    pub(super) name: String,
    /// Offset in the section, in bytes.
    pub(super) start: u64,
    /// In bytes.
    pub(super) size: u64,
}

impl Object {
    pub(super) fn read(path: &Path) -> Result<Self> {
        let bytes = fs::read(path)?;
        let file = File::parse(bytes.as_slice()).context("parsing ELF")?;
        let functions: Vec<Function> =
            file.symbols().filter(|symbol| symbol.kind() == SymbolKind::Text).filter_map(|symbol| Function::of(&file, &symbol)).collect();
        let mut calls = Vec::new();
        for section in file.sections().filter(|section| section.kind() == SectionKind::Text) {
            calls.extend(calls_in(&file, &section, &functions)?);
        }
        let data = || file.symbols().filter(|symbol| symbol.kind() == SymbolKind::Data);
        let names = |symbol: ElfSymbol64<'_, '_>| Some(demangle(symbol.name().ok()?).to_string());
        let in_maps = |symbol: &ElfSymbol64<'_, '_>| [".maps", "maps"].contains(&section_of(&file, symbol).unwrap_or_default().as_str());
        Ok(Self { functions, calls, maps: data().filter(in_maps).filter_map(names).collect(), data: data().filter_map(names).collect() })
    }

    /// Every function that running this one may enter, itself included.
    pub(super) fn reachable(&self, function: usize) -> BTreeSet<usize> {
        let mut seen = BTreeSet::new();
        let mut next = vec![function];
        while let Some(caller) = next.pop() {
            if seen.insert(caller) {
                next.extend(self.calls.iter().filter(|(from, _)| *from == caller).map(|(_, to)| *to));
            }
        }
        seen
    }

    pub(super) fn callers(&self, function: usize) -> impl Iterator<Item = usize> {
        let callers: BTreeSet<usize> = self.calls.iter().filter(|(_, to)| *to == function).map(|(from, _)| *from).collect();
        callers.into_iter()
    }
}

impl Function {
    fn of(file: &File<'_>, symbol: &ElfSymbol64<'_, '_>) -> Option<Self> {
        let name = format!("{:#}", demangle(symbol.name().ok()?));
        Some(Self { section: section_of(file, symbol)?, name, start: symbol.address(), size: symbol.size() })
    }

    /// Functions that the kernel does not start by themselves lie in `.text` and its kin.
    pub(super) fn is_program(&self) -> bool {
        !self.section.starts_with(".text")
    }

    pub(super) fn instructions(&self) -> u64 {
        self.size / INSTRUCTION
    }

    fn holds(&self, section: &str, offset: u64) -> bool {
        self.section == section && (self.start..self.start + self.size).contains(&offset)
    }
}

fn section_of(file: &File<'_>, symbol: &ElfSymbol64<'_, '_>) -> Option<String> {
    let section = file.section_by_index(symbol.section_index()?).ok()?;
    section.name().ok().map(str::to_owned)
}

fn calls_in(file: &File<'_>, section: &ElfSection64<'_, '_>, functions: &[Function]) -> Result<Vec<(usize, usize)>> {
    let name = section.name().context("reading a section's name")?;
    let code = section.data().with_context(|| format!("reading section {name}"))?;
    let relocated: Vec<(u64, String, u64)> = section
        .relocations()
        .filter_map(|(offset, relocation)| {
            let RelocationTarget::Symbol(symbol) = relocation.target() else { return None };
            let symbol = file.symbol_by_index(symbol).ok()?;
            Some((offset, section_of(file, &symbol)?, symbol.address()))
        })
        .collect();
    let find = |section: &str, offset: u64| functions.iter().position(|function| function.holds(section, offset));

    let mut calls = Vec::new();
    for (offset, instruction) in (0..).step_by(8).zip(code.as_chunks::<8>().0) {
        let [CALL, registers, _, _, distance @ ..] = instruction else { continue };
        if registers >> 4 != CALLS_FUNCTION {
            continue;
        }
        let distance = (i64::from(i32::from_le_bytes(*distance)) + 1) * i64::from(8_u8);
        let target = match relocated.iter().find(|(at, ..)| *at == offset) {
            Some((_, section, start)) => start.checked_add_signed(distance).and_then(|offset| find(section, offset)),
            None => offset.checked_add_signed(distance).and_then(|offset| find(name, offset)),
        };
        calls.extend(find(name, offset).zip(target));
    }
    Ok(calls)
}
