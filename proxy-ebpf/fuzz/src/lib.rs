//! The packet core over a byte buffer, judged by laws that share nothing with it.
//!
//! `input -> core -> laws`: an input is a frame and the tuple that it is to get; [`run`] has it read, translated there and back, and refused.

mod core;
pub mod input;
pub mod seeds;

pub use core::run;
