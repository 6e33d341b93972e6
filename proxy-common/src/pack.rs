//! Keys and values from 8-byte words.
//!
//! The kernel hashes and compares keys in 8-byte words, and reading back what was just written in smaller pieces stalls the processor: so
//! rows are combined in registers and stored as words. It also keeps the compiler from joining neighbouring fields into stores that the
//! verifier finds misaligned on the stack. Each function lays its arguments out in memory in the order in which they are given.

use crate::Port;

/// Two 32-bit fields.
#[inline(always)]
pub(crate) const fn pair(first: u32, second: u32) -> u64 {
    if cfg!(target_endian = "little") { first as u64 | (second as u64) << 32 } else { (first as u64) << 32 | second as u64 }
}

/// Two ports.
#[inline(always)]
pub(crate) const fn ports(first: Port, second: Port) -> u32 {
    let (first, second) = (first.raw() as u32, second.raw() as u32);
    if cfg!(target_endian = "little") { first | second << 16 } else { first << 16 | second }
}

/// Two bytes and two bytes of zeros.
#[inline(always)]
pub(crate) const fn bytes(first: u8, second: u8) -> u32 {
    let (first, second) = (first as u32, second as u32);
    if cfg!(target_endian = "little") { first | second << 8 } else { first << 24 | second << 16 }
}

/// A port, a byte and a byte of zeros.
#[inline(always)]
pub(crate) const fn port_byte(port: Port, byte: u8) -> u32 {
    let (port, byte) = (port.raw() as u32, byte as u32);
    if cfg!(target_endian = "little") { port | byte << 16 } else { port << 16 | byte << 8 }
}
