//! One daemon at a time: two that write to the same maps would each take the other's slots.

use std::fs::File;

use anyhow::{Context as _, Result};
use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
};

use crate::maps::Pins;

/// The right to write below a folder of pins. The kernel takes it back when the process ends, however it ends.
pub struct Claim {
    _lock: Flock<File>,
}

/// Takes the right, and waits for it while another daemon has it, as when one takes over from another.
pub fn claim(pins: &Pins) -> Result<Claim> {
    let dir = pins.version();
    let locking = || format!("locking {}", dir.display());
    let file = File::open(&dir).with_context(locking)?;
    let lock = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Err((file, Errno::EWOULDBLOCK)) => {
            tracing::warn!(bpffs = %pins.root().display(), "another shunt runs with the same --bpffs: waiting for it to end");
            Flock::lock(file, FlockArg::LockExclusive)
        }
        result => result,
    };
    let lock = lock.map_err(|(_, errno)| errno).with_context(locking)?;
    Ok(Claim { _lock: lock })
}
