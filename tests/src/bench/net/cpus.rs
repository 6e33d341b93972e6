//! Which CPUs the ends of a connection have: left to the scheduler, both are on one CPU in one round and apart in the next, which makes a
//! greater difference than what is measured.
//!
//! Who asks and waits for the answer shares a CPU with who answers, for they never work at once, and nobody has to be woken elsewhere. The
//! ends of a stream have one each, if there are two.

use std::thread;

use anyhow::Result;

use crate::cpus::stay_on;

const FIRST: usize = 0;

/// The CPUs of a stream's client and server.
pub(super) fn of_a_stream() -> [usize; 2] {
    let cpus = thread::available_parallelism().map_or(1, usize::from);
    [FIRST, 1 % cpus]
}

/// Keeps the calling thread on the CPU of those who ask and answer.
pub(super) fn stay_on_the_first() -> Result<()> {
    stay_on(FIRST)
}
