//! What must hold of any packet that the packet path has had in its hands, whatever bytes it was.
//!
//! In: a packet before and after, as bytes. Out: how it reads, or the law that is broken. Packets are read with etherparse and checksums are
//! computed over all bytes, so this shares nothing with what it judges: the packet core over a byte buffer, and the real programs.

pub mod refusal;
pub mod sums;
pub mod translation;
pub mod wire;

/// What a law finds wrong.
pub type Law<T> = Result<T, &'static str>;

/// Breaks a law unless it holds.
pub fn require(holds: bool, law: &'static str) -> Law<()> {
    if holds { Ok(()) } else { Err(law) }
}
