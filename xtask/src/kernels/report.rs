//! What the runs came to, for people: tables in Markdown, printed and written into a document in the place of older ones.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use anyhow::{Context as _, Result};

use super::{markdown::table, outcome::Run};
use crate::test::Count;

/// What stands below this line of `docs/kernels.md` was written by the command.
const MARK: &str = "<!-- Written by `cargo xtask kernels --docs`, from here to the end. -->\n";

/// All tables.
pub(super) fn tables(runs: &[Run]) -> String {
    let parts = [
        ("Tests, as passed/failed/skipped", results(runs)),
        ("Skipped", skips(runs)),
        ("Lacking", lacks(runs)),
        ("Instructions that the verifier looked at", instructions(runs)),
    ];
    let there = parts.iter().filter(|(_, table)| !table.is_empty());
    there.flat_map(|(title, table)| ["\n## ", title, "\n\n", table]).collect()
}

/// Puts the tables in the place of those that a document has.
pub(super) fn write(document: &Path, about: &str, runs: &[Run]) -> Result<()> {
    let old = fs::read_to_string(document).with_context(|| format!("reading {}", document.display()))?;
    let new = replaced(&old, about, &tables(runs)).with_context(|| format!("no line {:?} in {}", MARK.trim(), document.display()))?;
    fs::write(document, new).with_context(|| format!("writing {}", document.display()))
}

fn replaced(document: &str, about: &str, tables: &str) -> Option<String> {
    let (kept, _) = document.split_once(MARK)?;
    Some(format!("{kept}{MARK}\n{about}\n{tables}"))
}

fn results(runs: &[Run]) -> String {
    let names: BTreeSet<&str> = runs.iter().flat_map(Run::tests).map(|(program, _)| program.name.as_str()).collect();
    let header = ["kernel", "attaching"].into_iter().chain(names.iter().copied());
    let rows = runs.iter().map(|run| {
        let cell = |name: &&str| {
            let found = run.tests().find(|(program, _)| program.name == *name);
            found.map_or_else(String::new, |(program, Count { passed, failed, skipped })| {
                format!("{passed}/{failed}/{skipped}{}", if program.is_good() { "" } else { " FAILED" })
            })
        };
        let before = [run.kernel.clone(), run.attaching.clone().unwrap_or_else(|| "not known".to_owned())];
        before.into_iter().chain(names.iter().map(cell)).collect()
    });
    table(&header.collect::<Vec<_>>(), rows)
}

fn skips(runs: &[Run]) -> String {
    let mut kernels: BTreeMap<(&str, &str), Vec<&str>> = BTreeMap::new();
    for run in runs {
        for (test, missing) in &run.skipped {
            kernels.entry((test, missing)).or_default().push(&run.kernel);
        }
    }
    let rows = kernels.into_iter().map(|((test, missing), kernels)| vec![test.to_owned(), missing.to_owned(), kernels.join(", ")]);
    table(&["test", "wants", "kernels without"], rows)
}

fn lacks(runs: &[Run]) -> String {
    table(&["kernel", "lacks"], runs.iter().map(|run| vec![run.kernel.clone(), run.lacks.join(", ")]))
}

fn instructions(runs: &[Run]) -> String {
    let programs: BTreeSet<&String> = runs.iter().flat_map(|run| run.verified_instructions.keys()).collect();
    let header = ["program"].into_iter().chain(runs.iter().map(|run| run.kernel.as_str()));
    let rows = programs.into_iter().map(|program| {
        let cell = |run: &Run| run.verified_instructions.get(program).map_or_else(String::new, u64::to_string);
        [program.clone()].into_iter().chain(runs.iter().map(cell)).collect()
    });
    table(&header.collect::<Vec<_>>(), rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::{outcome::RunOf, programs::FEATURES};

    fn run() -> Run {
        let count = Some(Count { passed: 3, failed: 0, skipped: 1 });
        let program = |name: &str, count| RunOf { name: name.to_owned(), count, problem: String::new(), secs: 5 };
        Run {
            kernel: "5.10".to_owned(),
            attaching: Some("clsact".to_owned()),
            lacks: vec!["tcx".to_owned()],
            programs: vec![program(FEATURES, None), program("packet", count)],
            skipped: [("a_sum_is_kept".to_owned(), "Linux 6.11 or newer".to_owned())].into(),
            verified_instructions: [("clock, by helpers".to_owned(), 12)].into(),
        }
    }

    #[test]
    fn tables_say_all_there_is_of_each_kernel() {
        let expected = "
## Tests, as passed/failed/skipped

| kernel | attaching | packet |
| ------ | --------- | ------ |
| 5.10   | clsact    | 3/0/1  |

## Skipped

| test          | wants               | kernels without |
| ------------- | ------------------- | --------------- |
| a_sum_is_kept | Linux 6.11 or newer | 5.10            |

## Lacking

| kernel | lacks |
| ------ | ----- |
| 5.10   | tcx   |

## Instructions that the verifier looked at

| program           | 5.10 |
| ----------------- | ---- |
| clock, by helpers | 12   |
";
        assert_eq!(tables(&[run()]), expected);
    }

    #[test]
    fn what_stands_above_the_mark_stays() {
        let document = format!("# Kernels\n\n{MARK}old\n");
        assert_eq!(replaced(&document, "Of today.", "\nnew\n"), Some(format!("# Kernels\n\n{MARK}\nOf today.\n\nnew\n")));
        assert_eq!(replaced("# Kernels\n", "", "new\n"), None);
    }
}
