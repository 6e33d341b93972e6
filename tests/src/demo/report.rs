//! One line for each check: whether it held, and what was measured.

use std::fmt;

use anyhow::Result;

use super::interrupt;

/// The checks so far.
#[derive(Debug, Default)]
pub(super) struct Report {
    held: usize,
    failed: usize,
    left_out: usize,
}

impl Report {
    /// Runs a check, which says what it measured or why it does not hold, and prints that.
    pub(super) fn check(&mut self, name: &str, check: impl FnOnce() -> Result<String>) {
        if interrupt::came() {
            self.left_out += 1;
            return;
        }
        match check() {
            Ok(facts) => {
                self.held += 1;
                println!("   ok      {name:46} {facts}");
            }
            Err(error) => {
                self.failed += 1;
                println!("   FAILED  {name:46} {error:#}");
            }
        }
    }

    /// Whether there were checks, and all of them held.
    pub(super) fn is_good(&self) -> bool {
        self.held > 0 && self.failed == 0 && self.left_out == 0
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} checks held, {} failed", self.held, self.failed)?;
        if self.left_out > 0 {
            write!(f, ", {} left out: interrupted", self.left_out)?;
        }
        Ok(())
    }
}
