//! What is known of each kernel, from one day to the next: its newest good run, a file for each in `docs/kernels`.
//!
//! All kernels take hours where they are emulated; this way they need not be run on one day.

use std::{fs, path::Path};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use super::{offer::numbers, outcome::Run};

/// A good run of everything.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Record {
    /// The day on which it was kept, and where it ran.
    pub(super) about: String,
    pub(super) run: Run,
}

impl Record {
    /// Takes the place of the kernel's older one, which may be of an older build of the same version.
    pub(super) fn keep(&self, folder: &Path) -> Result<()> {
        let version: Vec<String> = version(&self.run.kernel).iter().map(u32::to_string).collect();
        let file = folder.join(version.join(".") + ".json");
        let text = serde_json::to_string_pretty(self)? + "\n";
        fs::write(&file, text).with_context(|| format!("writing {}", file.display()))
    }

    /// All there are, the oldest kernel first.
    pub(super) fn all(folder: &Path) -> Result<Vec<Self>> {
        let mut records = Vec::new();
        for entry in fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))? {
            let file = entry.with_context(|| format!("reading {}", folder.display()))?.path();
            let text = fs::read(&file).with_context(|| format!("reading {}", file.display()))?;
            let record: Self = serde_json::from_slice(&text).with_context(|| format!("understanding {}", file.display()))?;
            records.push(record);
        }
        records.sort_by_key(|record| version(&record.run.kernel));
        Ok(records)
    }
}

/// What a release is of: its first two numbers.
fn version(release: &str) -> Vec<u32> {
    numbers(release).into_iter().take(2).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_record_of_a_kernel_stays_and_older_kernels_come_first() {
        let folder = tempfile::tempdir().unwrap();
        for (release, about) in
            [("6.12.9+deb13-amd64", "2026-01-01"), ("6.1.0-5-amd64", "2026-01-02"), ("6.12.10+deb13-amd64", "2026-01-03")]
        {
            Record { about: about.to_owned(), run: Run::new(release, vec![], folder.path()) }.keep(folder.path()).unwrap();
        }
        let kept: Vec<_> = Record::all(folder.path()).unwrap().into_iter().map(|record| (record.run.kernel, record.about)).collect();
        let expected = [("6.1.0-5-amd64", "2026-01-02"), ("6.12.10+deb13-amd64", "2026-01-03")];
        assert_eq!(kept, expected.map(|(release, about)| (release.to_owned(), about.to_owned())));
    }
}
