//! Many cases on one testbed: all run, each failure is kept, and the test fails at the end with all of them.
//!
//! A testbed takes a while to build, a case milliseconds. A case that stands for itself is still told by its name.

use anyhow::Result;

/// The cases of one test so far.
#[derive(Debug, Default)]
#[must_use]
pub struct Cases {
    passed: usize,
    failed: Vec<String>,
}

impl Cases {
    pub fn new() -> Self {
        Self::default()
    }

    /// Runs a case; an error is a failure, a panic ends the whole test.
    pub fn run(&mut self, name: impl Into<String>, case: impl FnOnce() -> Result<()>) {
        match case() {
            Ok(()) => self.passed += 1,
            Err(error) => self.failed.push(format!("{}: {error:#}", name.into())),
        }
    }

    /// Says how many there were.
    ///
    /// # Panics
    /// When one has failed, naming all that did.
    pub fn finish(self) {
        let (passed, failed) = (self.passed, self.failed.len());
        assert!(failed == 0, "{failed} cases failed, {passed} passed:\n{}", self.failed.join("\n"));
        println!("{passed} cases passed");
    }
}
