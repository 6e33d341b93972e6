//! Which CPUs a thread may use.

use anyhow::{Context as _, Result};
use nix::{
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    unistd::Pid,
};

/// Whoever asks.
const THIS_THREAD: Pid = Pid::from_raw(0);

/// Keeps the calling thread on this CPU.
pub fn stay_on(cpu: usize) -> Result<()> {
    let mut one = CpuSet::new();
    one.set(cpu).with_context(|| format!("naming CPU {cpu}"))?;
    sched_setaffinity(THIS_THREAD, &one).with_context(|| format!("staying on CPU {cpu}"))
}

/// Keeps the calling thread on one CPU: the last of those that it may use.
pub fn stay_on_one_cpu() -> Result<()> {
    let allowed = sched_getaffinity(THIS_THREAD).context("asking for this thread's CPUs")?;
    let last = (0..CpuSet::count()).rev().find(|cpu| allowed.is_set(*cpu).unwrap_or(false));
    stay_on(last.context("this thread has no CPU")?)
}
