//! The kernel's jiffies, in which flows say when they were used last.

use std::{path::Path, time::Duration};

use anyhow::{Context as _, Result};
use aya::programs::{SchedClassifier, TestRun as _, TestRunOptions};
use nix::time::{ClockId, clock_getres};

/// How many jiffies a second has: the coarse clocks advance once a jiffy.
pub fn jiffies_per_second() -> Result<u32> {
    let tick = Duration::from(clock_getres(ClockId::CLOCK_MONOTONIC_COARSE).context("clock_getres of CLOCK_MONOTONIC_COARSE")?);
    let hz = 1_000_000_000_u128.checked_div(tick.as_nanos()).and_then(|hz| u32::try_from(hz).ok());
    hz.filter(|hz| *hz > 0).with_context(|| format!("a jiffy of {tick:?} is out of range"))
}

/// Reads the kernel's jiffies.
pub struct Clock {
    program: SchedClassifier,
}

impl Clock {
    /// Opens the pinned program that tells the time.
    pub fn open(programs: &Path) -> Result<Self> {
        let path = programs.join("clock");
        let program = SchedClassifier::from_pin(&path).with_context(|| format!("opening {}", path.display()))?;
        Ok(Self { program })
    }

    /// The low half of the kernel's `jiffies_64`.
    pub fn now(&self) -> Result<u32> {
        let frame = [0; 64];
        let options = TestRunOptions { data_in: Some(&frame), ..TestRunOptions::default() };
        Ok(self.program.test_run(options).context("running the program that tells the time")?.return_value)
    }
}
