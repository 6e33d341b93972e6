//! The packet path: what happens to a packet at a hook, in the order in which it happens.
//!
//! `entry -> ctx -> parse -> filter -> flow (hit: translate, done) -> frontend -> affinity -> new flow -> translate -> forward -> verdict`
//!
//! The rules of this crate:
//! * Everything is generic over the address family (`F`) and over where the packet lives (`C`), and inlined into its entry.
//! * An error is a verdict: a stage ends the packet by returning a [`verdict::End`]; only [`path`] chains stages.
//! * Packet memory is reached through [`ctx::PacketCtx::at`] only. Stages pass values and offsets to each other, never pointers:
//!   helpers that pull, grow or store may move the packet.
//! * No panic may reach the object: no indexing, no unwrap, no division by what is not a constant.
//!
//! Built for the host, this library runs over a byte buffer; that is how its tests see it.
#![cfg_attr(not(test), no_std)]
#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    reason = "offsets and lengths of a packet are below 2^16, and halves of registers are cut off on purpose"
)]
#![expect(clippy::needless_borrows_for_generic_args, reason = "a key handed over by value would be copied to the stack")]
#![deny(clippy::indexing_slicing, clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![cfg_attr(test, allow(clippy::indexing_slicing, clippy::unwrap_used, reason = "tests stop at the first surprise"))]

pub mod verdict;

pub mod ctx;

pub mod ip;

pub mod flags;
pub mod parse;

pub mod filter;

pub mod flow;

pub mod frontend;

pub mod affinity;

pub mod new_flow;

mod snat;

pub mod translate;

pub mod forward;

pub mod fragment;

pub mod icmp;

pub mod undefined;

pub mod sock;

mod namespace;

pub mod refuse;

pub mod path;

pub mod crc;
pub mod csum;

pub mod counters;
pub mod maps;
pub mod settings;

#[cfg(test)]
mod testing;
