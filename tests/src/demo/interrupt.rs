//! Ctrl-C: the checks that are left are not run, and everything that was built is removed as at any other end.

use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context as _, Result};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

static CAME: AtomicBool = AtomicBool::new(false);

/// Whether somebody wants the demo to end.
pub(super) fn came() -> bool {
    CAME.load(Ordering::Relaxed)
}

/// Takes notice of requests to end from now on. System calls that wait are interrupted.
pub(super) fn listen() -> Result<()> {
    let action = SigAction::new(SigHandler::Handler(note), SaFlags::empty(), SigSet::empty());
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        // SAFETY: the handler does nothing but store to an atomic.
        unsafe { sigaction(signal, &action) }.context("listening for signals")?;
    }
    Ok(())
}

extern "C" fn note(_signal: libc::c_int) {
    CAME.store(true, Ordering::Relaxed);
}
