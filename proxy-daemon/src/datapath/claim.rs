//! One daemon at a time: two that write to the same maps would each take the other's slots.

use std::{fs::File, time::Duration};

use anyhow::{Context as _, Result, bail};
use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
};
use tokio::time::sleep;

use crate::maps::Pins;

/// How often it is tried to take the right while another daemon has it.
const TRY_EVERY: Duration = Duration::from_millis(20);

/// The right to write below a folder of pins. The kernel takes it back when the process ends, however it ends.
pub struct Claim {
    _lock: Flock<File>,
}

/// Takes the right, and waits for it while another daemon has it, as when one takes over from another.
pub async fn claim(pins: &Pins) -> Result<Claim> {
    if let Some(claim) = lock(pins)? {
        return Ok(claim);
    }
    tracing::warn!(bpffs = %pins.root().display(), "another shunt runs with the same --bpffs: waiting for it to end");
    loop {
        sleep(TRY_EVERY).await;
        if let Some(claim) = lock(pins)? {
            return Ok(claim);
        }
    }
}

/// Takes the right, and fails while a daemon has it. Where nothing is pinned there is nothing to take.
pub fn claim_at_once(pins: &Pins) -> Result<Option<Claim>> {
    if !pins.root().exists() {
        return Ok(None);
    }
    let claim = lock(pins)?;
    if claim.is_none() {
        bail!("shunt is running with --bpffs {}: end it first", pins.root().display());
    }
    Ok(claim)
}

/// The right, or nothing where another has it. It is for all versions of the layout: two daemons of different ones
/// would take each other's programs off devices.
fn lock(pins: &Pins) -> Result<Option<Claim>> {
    let dir = pins.root();
    let locking = || format!("locking {}", dir.display());
    match Flock::lock(File::open(dir).with_context(locking)?, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(Some(Claim { _lock: lock })),
        Err((_, Errno::EWOULDBLOCK)) => Ok(None),
        Err((_, errno)) => Err(errno).with_context(locking),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_a_daemon_uses_cannot_be_claimed_to_be_removed() {
        let dir = tempfile::tempdir().unwrap();
        let pins = Pins::new(dir.path().join("shunt"));
        assert!(claim_at_once(&pins).unwrap().is_none());
        // The daemon may be of another version.
        std::fs::create_dir_all(pins.root().join("v0")).unwrap();
        let daemon = claim(&pins).await.unwrap();
        let refusal = claim_at_once(&pins).err().unwrap().to_string();
        assert!(refusal.ends_with("end it first"), "{refusal}");
        drop(daemon);
        assert!(claim_at_once(&pins).unwrap().is_some());
    }
}
