//! Waiting for a condition with a deadline, in place of sleeping.
//!
//! Limits are those of a machine at full speed. Where everything takes longer, as in an emulated one, `SHUNT_SLOW=N` makes them N times as
//! long, and tests open new connections N times more slowly.

use std::{
    sync::LazyLock,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};

/// How often a condition is looked at.
const INTERVAL: Duration = Duration::from_millis(10);

/// How much longer everything takes here.
pub fn slowness() -> u32 {
    static SLOWNESS: LazyLock<u32> = LazyLock::new(|| {
        let slowness = std::env::var("SHUNT_SLOW").ok().and_then(|value| value.parse().ok());
        slowness.filter(|slowness| *slowness > 0).unwrap_or(1)
    });
    *SLOWNESS
}

/// A limit as it is here.
pub fn at_most(limit: Duration) -> Duration {
    limit * slowness()
}

/// Waits until `condition` gives a value, and fails with the last reason it gave when `limit` has passed.
pub fn until<T>(what: &str, limit: Duration, mut condition: impl FnMut() -> Result<T>) -> Result<T> {
    let start = Instant::now();
    let limit = at_most(limit);
    loop {
        let error = match condition() {
            Ok(value) => return Ok(value),
            Err(error) => error,
        };
        if start.elapsed() > limit {
            bail!("{what}: not within {limit:?}: {error:#}");
        }
        std::thread::sleep(INTERVAL);
    }
}
