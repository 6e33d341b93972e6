//! `cargo xtask tidy`: the conventions that no compiler checks.
//!
//! Given the work tree, fails with one line `file:line: message` for each breach, and warns about files that grow long.

use std::{
    fmt, fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};

use crate::door::{Door, done, heading};

mod imports;
mod maps;
mod size;
mod words;

/// How unit tests at a file's end begin.
const UNIT_TESTS: &str = "#[cfg(test)]\nmod tests {";

/// A text file of the tree, by its path from the root.
pub(crate) struct Source {
    pub(crate) path: String,
    pub(crate) text: String,
}

/// A breach of a convention.
#[derive(Debug)]
pub(crate) struct Breach {
    path: String,
    line: usize,
    message: String,
}

impl Source {
    pub(crate) fn breach(&self, line: usize, message: String) -> Breach {
        Breach { path: self.path.clone(), line, message }
    }

    pub(crate) fn is_rust(&self) -> bool {
        Path::new(&self.path).extension().is_some_and(|extension| extension == "rs")
    }

    /// Lines of code with their numbers: what comments and unit tests say does not count, be those at the file's end or the file itself.
    pub(crate) fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        let is_tests = Path::new(&self.path).components().any(|part| matches!(part.as_os_str().to_str(), Some("tests" | "tests.rs")));
        let end = if is_tests { 0 } else { self.text.find(UNIT_TESTS).unwrap_or(self.text.len()) };
        let code = self.text[..end].lines().map(|line| line.split_once("//").map_or(line, |(code, _)| code));
        (1..).zip(code).filter(|(_, line)| !line.trim().is_empty())
    }
}

impl fmt::Display for Breach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.path, self.line, self.message)
    }
}

/// Checks the whole tree.
pub(crate) fn run(door: &Door) -> Result<()> {
    heading("tidy");
    let sources = read_tree(&door.root)?;
    let mut breaches = imports::check(&sources);
    breaches.extend(maps::check(&sources));
    breaches.extend(size::check(&sources));
    breaches.extend(words::check(&sources));
    for warning in size::warnings(&sources) {
        println!("   warning  {warning}");
    }
    if !breaches.is_empty() {
        let lines: Vec<String> = breaches.iter().map(Breach::to_string).collect();
        bail!("{} breach(es) of the conventions\n{}", lines.len(), lines.join("\n"));
    }
    done(&format!("{} files keep to the conventions", sources.len()));
    Ok(())
}

/// Reads every text file below the root except what tools generate or keep for themselves.
fn read_tree(root: &Path) -> Result<Vec<Source>> {
    let mut sources = Vec::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        let entries = fs::read_dir(&folder).with_context(|| format!("reading {}", folder.display()))?;
        let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        paths.sort();
        for path in paths {
            let name = path.file_name().unwrap_or_default();
            if path.is_symlink() || [".git", "target", "Cargo.lock", "go.sum"].iter().any(|skipped| name == *skipped) {
                continue;
            }
            if path.is_dir() {
                folders.push(path);
            } else if let Ok(text) = fs::read_to_string(&path) {
                let relative = path.strip_prefix(root).unwrap_or(&path);
                sources.push(Source { path: relative.to_string_lossy().into_owned(), text });
            }
        }
    }
    Ok(sources)
}

#[cfg(test)]
pub(crate) fn source(path: &str, text: &str) -> Source {
    Source { path: path.to_owned(), text: text.to_owned() }
}
