//! What is run on each kernel: the test programs that meet it, and `shunt version --features`.

use std::{
    collections::BTreeMap,
    fs,
    io::BufReader,
    iter,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;
use shunt_guest::Program;

use crate::door::Door;

/// The test programs of shunt-tests that meet the kernel, what is quickest to say something first.
pub(super) const TESTS: [&str; 14] = [
    VERIFIED,
    "packet",
    "testbed_self",
    "testbed",
    "testbed_sizes",
    "testbed_sctp",
    "testbed_sockets",
    "testbed_rules",
    "testbed_pins",
    "testbed_log",
    "testbed_xdp",
    "testbed_lifecycle",
    "testbed_full",
    "testbed_garbage",
];

/// The program that says what the kernel has of what Shunt uses.
pub(super) const FEATURES: &str = "features";
/// The test program that says how many instructions the verifier looked at.
pub(super) const VERIFIED: &str = "verifier";
/// A test program that takes longer on a machine at full speed hangs.
const LIMIT_SECS: u64 = 300;

/// Builds the test programs, or only those that are named, and says how to run each, or only its tests with some text in their names, in a
/// guest that is slower than this machine, beside a daemon.
pub(super) fn build(door: &Door, shunt: &Path, only: &[String], filter: Option<&str>, slowness: u32) -> Result<Vec<Program>> {
    let tests = TESTS.into_iter().filter(|&test| only.is_empty() || only.iter().any(|only| only == test));
    let features = Program {
        name: FEATURES.to_owned(),
        path: shunt.to_owned(),
        arguments: ["version", "--features", "-o", "json"].map(str::to_owned).into(),
        directory: door.root.clone(),
        limit_secs: LIMIT_SECS,
    };
    let tests = built(door, &tests.collect::<Vec<_>>())?.into_iter().map(|(name, built)| {
        Ok(Program {
            name: name.to_owned(),
            path: copy(door, &built, name)?,
            // One after another: what one test has to wait for is then nobody else's work.
            arguments: iter::once("--test-threads=1").chain(filter).map(str::to_owned).collect(),
            directory: door.root.join("tests"),
            limit_secs: LIMIT_SECS * u64::from(slowness),
        })
    });
    [Ok(features)].into_iter().chain(tests).collect()
}

/// Copies a program to where no later build changes it while guests run it.
pub(super) fn copy(door: &Door, program: &Path, name: &str) -> Result<PathBuf> {
    let folder = super::folder(door).join("programs");
    fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
    let to = folder.join(name);
    fs::copy(program, &to).with_context(|| format!("copying {}", program.display()))?;
    Ok(to)
}

/// The line of cargo's messages that tells of a program.
#[derive(Deserialize)]
struct Artifact {
    target: Target,
    executable: Option<PathBuf>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
    kind: Vec<String>,
}

/// The file of each test program.
fn built(door: &Door, tests: &[&'static str]) -> Result<Vec<(&'static str, PathBuf)>> {
    let mut cargo = Command::new("cargo");
    cargo.current_dir(&door.root).args(["test", "--no-run", "--package", "shunt-tests", "--message-format=json-render-diagnostics"]);
    for test in tests {
        cargo.args(["--test", test]);
    }
    let mut child = cargo.stdout(Stdio::piped()).spawn().context("starting cargo")?;
    let messages = child.stdout.take().context("cargo has no standard output")?;
    let messages = serde_json::Deserializer::from_reader(BufReader::new(messages)).into_iter::<serde_json::Value>();
    let mut files = BTreeMap::new();
    for message in messages {
        // Messages about other things have other fields.
        if let Ok(Artifact { target, executable: Some(path) }) = serde_json::from_value(message.context("reading cargo's messages")?)
            // Other programs of the package are built as well, and one may have the name of a test.
            && target.kind == ["test"]
        {
            files.insert(target.name, path);
        }
    }
    let status = child.wait().context("waiting for cargo")?;
    ensure!(status.success(), "building the test programs: cargo ended with {status}");
    let file = |name| Ok((name, files.remove(name).with_context(|| format!("cargo built no test program {name}"))?));
    tests.iter().copied().map(file).collect()
}
