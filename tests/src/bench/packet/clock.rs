//! What a run costs: the time of this thread on its CPU and, where the machine counts them, the instructions of the kernel.
//!
//! The time of the thread leaves out what other threads do on the CPU meanwhile, and has a finer unit than the whole nanoseconds a packet
//! that the kernel's test run reports.

use std::{
    io,
    os::fd::{FromRawFd as _, OwnedFd},
    time::Duration,
};

use anyhow::{Context as _, Result};
use nix::{
    time::{ClockId, clock_gettime},
    unistd::read,
};

use crate::cpus::stay_on_one_cpu;

/// What a packet costs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cost {
    pub(super) ns: f64,
    pub(super) instructions: Option<f64>,
}

/// The clocks of the thread that made it.
pub(super) struct Clock {
    instructions: Option<OwnedFd>,
}

impl Clock {
    /// Keeps this thread on the last of the CPUs that it may use.
    pub(super) fn on_one_cpu() -> Result<Self> {
        stay_on_one_cpu()?;
        Ok(Self { instructions: count_instructions().ok() })
    }

    /// Runs something that deals with so many packets: what one of them costs.
    pub(super) fn measure(&mut self, packets: u32, run: impl FnOnce() -> Result<()>) -> Result<Cost> {
        let (count, time) = (self.instructions()?, cpu_time()?);
        run()?;
        let (time, after) = (cpu_time()?.saturating_sub(time), self.instructions()?);
        let instructions = count.zip(after).map(|(before, after)| to_f64(after - before) / f64::from(packets));
        Ok(Cost { ns: time.as_secs_f64() * 1e9 / f64::from(packets), instructions })
    }

    fn instructions(&self) -> Result<Option<u64>> {
        let Some(counter) = &self.instructions else { return Ok(None) };
        let mut bytes = [0; 8];
        read(counter, &mut bytes).context("reading the counter of instructions")?;
        Ok(Some(u64::from_ne_bytes(bytes)))
    }
}

/// The least of something.
pub(super) fn min<T>(all: &[T], of: impl Fn(&T) -> f64) -> f64 {
    all.iter().map(of).fold(f64::INFINITY, f64::min)
}

fn cpu_time() -> Result<Duration> {
    Ok(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).context("reading this thread's time")?.into())
}

#[expect(clippy::cast_precision_loss, reason = "counts of a run are far below 2^52")]
fn to_f64(count: u64) -> f64 {
    count as f64
}

/// `struct perf_event_attr` in its first version (`include/uapi/linux/perf_event.h`), which every kernel takes.
#[derive(Default)]
#[repr(C)]
struct Event {
    kind: u32,
    size: u32,
    config: u64,
    sample_period: u64,
    sample_type: u64,
    read_format: u64,
    flags: u64,
    wakeup: u32,
    breakpoint_type: u32,
    breakpoint_address: u64,
}

impl Event {
    /// `PERF_ATTR_SIZE_VER0`.
    const SIZE: u32 = 64;
}

const _: () = assert!(size_of::<Event>() == Event::SIZE as usize);

/// Counts the instructions of the kernel on behalf of this thread, from now on. Virtual machines often have no counter for that.
fn count_instructions() -> io::Result<OwnedFd> {
    const PERF_TYPE_HARDWARE: u32 = 0;
    const PERF_COUNT_HW_INSTRUCTIONS: u64 = 1;
    const EXCLUDE_USER: u64 = 1 << 4;
    const EXCLUDE_HYPERVISOR: u64 = 1 << 6;
    const THIS_THREAD: libc::pid_t = 0;
    const ANY_CPU: libc::c_int = -1;
    const NO_GROUP: libc::c_int = -1;
    const CLOSE_ON_EXEC: libc::c_ulong = 1 << 3;
    let event = Event {
        kind: PERF_TYPE_HARDWARE,
        size: Event::SIZE,
        config: PERF_COUNT_HW_INSTRUCTIONS,
        flags: EXCLUDE_USER | EXCLUDE_HYPERVISOR,
        ..Event::default()
    };
    // SAFETY: the event is the kernel's, of the size that it names, and is only read.
    let fd = unsafe { libc::syscall(libc::SYS_perf_event_open, &raw const event, THIS_THREAD, ANY_CPU, NO_GROUP, CLOSE_ON_EXEC) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    let fd = i32::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: a new descriptor that nobody else knows of.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
