//! What tests left behind on the machine: namespaces, cgroups, pins and files by the testbed's names, links of the root
//! namespace, and daemons that still run.

use std::{collections::BTreeSet, fs, os::unix::ffi::OsStrExt as _, path::Path};

use anyhow::{Context as _, Result};
use xshell::cmd;

use crate::door::{Door, done};

/// Everything found at one moment, one line each.
pub(crate) struct Leftovers(BTreeSet<String>);

impl Leftovers {
    /// Removes what killed test runs left, and lists what remains: that belongs to somebody who is alive.
    pub(crate) fn sweep_and_list(door: &Door) -> Result<Self> {
        let swept = testbed(door, "sweep")?;
        for line in swept.lines() {
            done(&format!("removed what an earlier run left: {line}"));
        }
        Self::list(door)
    }

    pub(crate) fn list(door: &Door) -> Result<Self> {
        let mut found: BTreeSet<String> = testbed(door, "leftovers")?.lines().map(str::to_owned).collect();
        found.extend(names_in("/sys/class/net").map(|link| format!("link {link}")));
        found.extend(daemons());
        Ok(Self(found))
    }

    /// What is here now and was not then.
    pub(crate) fn since(self, before: &Self) -> Vec<String> {
        self.0.into_iter().filter(|line| !before.0.contains(line)).collect()
    }
}

/// Asks the testbed's own program, which knows the names it gives.
fn testbed(door: &Door, verb: &str) -> Result<String> {
    let sh = &door.sh;
    cmd!(sh, "cargo build --quiet --package shunt-tests --bin testbed").quiet().run().context("building the testbed")?;
    let program = door.target().join("debug/testbed");
    // `leftovers` fails when it finds something; that is for the caller to judge.
    cmd!(sh, "{program} {verb}").quiet().ignore_status().read().context("looking for leftovers")
}

fn daemons() -> impl Iterator<Item = String> {
    names_in("/proc").filter(|name| name.bytes().all(|byte| byte.is_ascii_digit())).filter_map(|pid| {
        let line = fs::read(Path::new("/proc").join(&pid).join("cmdline")).ok()?;
        let mut words = line.split(|byte| *byte == 0);
        let program = Path::new(std::ffi::OsStr::from_bytes(words.next()?)).file_name()?;
        (program == "shunt" && words.next()? == b"run").then(|| format!("process {pid} `shunt run`"))
    })
}

fn names_in(folder: &str) -> impl Iterator<Item = String> {
    fs::read_dir(folder).into_iter().flatten().flatten().filter_map(|entry| entry.file_name().into_string().ok())
}
