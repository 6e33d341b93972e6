//! What became of a run on one kernel.
//!
//! In: how each program ended, and what it wrote. Out: that with what the kernel lacks, which tests it skipped, and what its verifier looked at.

use std::{collections::BTreeMap, fmt, fs, path::Path};

use serde::{Deserialize, Serialize};

use super::programs::{FEATURES, VERIFIED};
use crate::test::Count;

/// One kernel.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Run {
    pub(super) kernel: String,
    /// `tcx` or `clsact`; nothing where the features are not known.
    pub(super) attaching: Option<String>,
    /// What Shunt would use and this kernel has not.
    pub(super) lacks: Vec<String>,
    pub(super) programs: Vec<RunOf>,
    /// Why tests were skipped, by test.
    pub(super) skipped: BTreeMap<String, String>,
    /// How many instructions the verifier looked at until it was content, by program.
    pub(super) verified_instructions: BTreeMap<String, u64>,
}

/// One program on a kernel.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct RunOf {
    pub(super) name: String,
    /// Its tests, if that is what it consists of.
    #[serde(flatten)]
    pub(super) count: Option<Count>,
    /// Why it ended otherwise than well; empty for a good end.
    pub(super) problem: String,
    pub(super) secs: u64,
}

/// What `shunt version --features` says.
#[derive(Deserialize)]
struct Features {
    features: Vec<Feature>,
}

#[derive(Deserialize)]
struct Feature {
    name: String,
    available: bool,
}

// === impl Run ===

impl Run {
    /// Reads from what the programs have written into the folder what else is to be said of the kernel.
    pub(super) fn new(release: &str, mut programs: Vec<RunOf>, folder: &Path) -> Self {
        let read = |name: &str, kind: &str| fs::read_to_string(folder.join(format!("{name}.{kind}"))).unwrap_or_default();
        let features = serde_json::from_str(&read(FEATURES, "out")).map_or(Vec::new(), |Features { features }| features);
        let verified_instructions = verified(&read(VERIFIED, "err"));
        for (name, said_nothing) in [(FEATURES, features.is_empty()), (VERIFIED, verified_instructions.is_empty())] {
            let silent = programs.iter_mut().find(|program| program.name == name && program.is_good() && said_nothing);
            if let Some(program) = silent {
                "it said nothing".clone_into(&mut program.problem);
            }
        }
        let tcx = features.iter().find(|feature| feature.name == "tcx");
        Self {
            kernel: release.to_owned(),
            attaching: tcx.map(|tcx| if tcx.available { "tcx" } else { "clsact" }.to_owned()),
            lacks: features.iter().filter(|feature| !feature.available).map(|feature| feature.name.clone()).collect(),
            skipped: programs.iter().flat_map(|program| skipped(&read(&program.name, "err"))).collect(),
            programs,
            verified_instructions,
        }
    }

    /// Nothing failed, and what was to say something has said it.
    pub(super) fn is_good(&self) -> bool {
        self.programs.iter().all(RunOf::is_good)
    }

    /// The programs that consist of tests.
    pub(super) fn tests(&self) -> impl Iterator<Item = (&RunOf, Count)> {
        self.programs.iter().filter_map(|program| Some((program, program.count?)))
    }
}

/// The lines `VERIFIED: <program>: <instructions>`.
fn verified(text: &str) -> BTreeMap<String, u64> {
    let lines = text.lines().filter_map(|line| line.strip_prefix("VERIFIED: ")?.rsplit_once(": "));
    lines.filter_map(|(program, instructions)| Some((program.to_owned(), instructions.parse().ok()?))).collect()
}

/// The lines `SKIP: <module>::<test>: <what is missing>`.
fn skipped(text: &str) -> BTreeMap<String, String> {
    let lines = text.lines().filter_map(|line| line.strip_prefix("SKIP: ")?.split_once(": "));
    lines.map(|(test, missing)| (test.rsplit("::").next().unwrap_or(test).to_owned(), missing.to_owned())).collect()
}

// === impl RunOf ===

impl RunOf {
    pub(super) fn is_good(&self) -> bool {
        self.problem.is_empty() && self.count.is_none_or(|count| count.failed == 0)
    }
}

impl fmt::Display for RunOf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.name)?;
        if let Some(count) = &self.count {
            write!(f, ": {count}")?;
        }
        write!(f, ", {} s", self.secs)?;
        if self.problem.is_empty() { Ok(()) } else { write!(f, ": {}", self.problem) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run_of(name: &str, count: Option<Count>) -> RunOf {
        RunOf { name: name.to_owned(), count, problem: String::new(), secs: 1 }
    }

    fn run(programs: Vec<RunOf>) -> Run {
        Run::new("5.10", programs, Path::new("/nonexistent"))
    }

    #[test]
    fn a_failed_test_is_no_success() {
        let with = |failed| run(vec![run_of("packet", Some(Count { passed: 3, failed, skipped: 1 }))]);
        assert!(with(0).is_good());
        assert!(!with(1).is_good());
    }

    #[test]
    fn silence_is_no_success() {
        assert!(!run(vec![run_of(FEATURES, None)]).is_good());
        assert!(!run(vec![run_of(VERIFIED, None)]).is_good());
        assert!(run(vec![run_of("packet", None)]).is_good());
    }

    #[test]
    fn figures_and_skips_are_found_among_other_lines() {
        let text = "noise\nVERIFIED: clock, by helpers: 12\nSKIP: sum::a_sum_is_kept: Linux 6.11 or newer\nVERIFIED: clock: many\n";
        assert_eq!(verified(text), [("clock, by helpers".to_owned(), 12)].into());
        assert_eq!(skipped(text), [("a_sum_is_kept".to_owned(), "Linux 6.11 or newer".to_owned())].into());
    }

    #[test]
    fn counts_are_fields_of_the_program() {
        let json = serde_json::to_value(run(vec![run_of("packet", Some(Count { passed: 3, failed: 0, skipped: 1 }))])).unwrap();
        assert_eq!(json["programs"][0]["passed"], 3);
    }
}
