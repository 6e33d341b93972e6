//! Fetches Debian packages of another suite, and leaves the machine's own apt set-up as it is.
//!
//! Given a suite, yields the versions it offers and unpacks one of them into a folder. The mirror and the key ring are
//! the ones the machine already trusts; lists and downloads lie in our own cache.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use xshell::{Cmd, Shell, cmd};

use crate::bpf_toolchain::{cache_dir, on_path};

/// The last word of the addresses of mirrors: of most suites, and of those called `...-security`.
const ARCHIVE: &str = "debian";
const SECURITY_ARCHIVE: &str = "debian-security";
/// Lists younger than this are not fetched again.
const LISTS_KEEP: Duration = Duration::from_hours(24);

/// One suite of the machine's Debian mirror.
pub(crate) struct Suite<'sh> {
    sh: &'sh Shell,
    state: PathBuf,
}

impl<'sh> Suite<'sh> {
    /// Reads the suite's lists; fails where the machine has no apt or no Debian mirror.
    pub(crate) fn open(sh: &'sh Shell, suite: &str) -> Result<Self> {
        if on_path("apt-get").is_none() {
            bail!("this is not a Debian machine: there is no apt-get");
        }
        let archive = if suite.ends_with("-security") { SECURITY_ARCHIVE } else { ARCHIVE };
        let mirror = mirror(archive).with_context(|| format!("apt knows no mirror of Debian's {archive}"))?;
        let state = cache_dir()?.join("debian").join(suite);
        for folder in ["lists/partial", "archives/partial"] {
            fs::create_dir_all(state.join(folder)).with_context(|| format!("making {}", state.display()))?;
        }
        let source = format!("deb [signed-by={}] {mirror} {suite} main\n", key_ring()?.display());
        fs::write(state.join("sources.list"), source).context("writing the list of sources")?;
        // What is installed here is nothing that the suite offers.
        fs::write(state.join("status"), "").context("writing the list of what is installed")?;
        let opened = Self { sh, state };
        if !opened.lists_are_fresh() {
            let update = cmd!(sh, "apt-get").args(opened.options()).args(["update", "-qq"]);
            output(update).with_context(|| format!("reading the package lists of {suite}"))?;
        }
        Ok(opened)
    }

    /// The versions of a package, newest first; none where the suite lacks it.
    pub(crate) fn versions(&self, package: &str) -> Result<Vec<String>> {
        let table = cmd!(self.sh, "apt-cache").args(self.options()).args(["madison", package]);
        let table = output(table).with_context(|| format!("asking for versions of {package}"))?;
        Ok(table.lines().filter_map(|line| line.split('|').nth(1)).map(|version| version.trim().to_owned()).collect())
    }

    /// The names of all packages that begin so.
    pub(crate) fn names(&self, prefix: &str) -> Result<Vec<String>> {
        let names = cmd!(self.sh, "apt-cache").args(self.options()).args(["pkgnames", prefix]);
        let names = output(names).with_context(|| format!("asking for packages called {prefix}..."))?;
        Ok(names.lines().map(str::to_owned).collect())
    }

    /// Downloads a package, such as `etcd-server` or `rust-src=1.95.0-1`, and unpacks it below `folder`.
    pub(crate) fn unpack(&self, package: &str, folder: &Path) -> Result<()> {
        let work = self.sh.create_temp_dir()?;
        let here = self.sh.push_dir(work.path());
        let download = cmd!(self.sh, "apt-get").args(self.options()).args(["download", "-qq", package]);
        output(download).with_context(|| format!("downloading {package}"))?;
        for file in self.sh.read_dir(work.path())? {
            output(cmd!(self.sh, "dpkg -x {file} {folder}")).with_context(|| format!("unpacking {package}"))?;
        }
        drop(here);
        Ok(())
    }

    fn options(&self) -> Vec<String> {
        let state = self.state.display();
        [
            format!("Dir::Etc::sourcelist={state}/sources.list"),
            "Dir::Etc::sourceparts=/dev/null".to_owned(),
            "Dir::Etc::preferencesparts=/dev/null".to_owned(),
            format!("Dir::State::lists={state}/lists"),
            format!("Dir::State::status={state}/status"),
            format!("Dir::Cache::archives={state}/archives"),
            "Dir::Cache::pkgcache=".to_owned(),
            "Dir::Cache::srcpkgcache=".to_owned(),
            "Acquire::Languages=none".to_owned(),
            // Nobody signs the lists of an old suite again.
            "Acquire::Check-Valid-Until=false".to_owned(),
            "APT::Sandbox::User=root".to_owned(),
        ]
        .into_iter()
        .flat_map(|option| ["-o".to_owned(), option])
        .collect()
    }

    fn lists_are_fresh(&self) -> bool {
        let Ok(lists) = fs::read_dir(self.state.join("lists")) else { return false };
        lists.flatten().filter(|list| list.file_name().to_string_lossy().contains("Packages")).any(|list| {
            let modified = list.metadata().and_then(|about| about.modified());
            modified.is_ok_and(|then| then.elapsed().is_ok_and(|age| age < LISTS_KEEP))
        })
    }
}

/// The suite that this machine has.
pub(crate) fn own_suite() -> String {
    let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    release.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME=")).unwrap_or("stable").to_owned()
}

/// Runs a quiet command; its output appears only in the error when it fails.
pub(crate) fn output(command: Cmd<'_>) -> Result<String> {
    let shown = command.to_string();
    let output = command.quiet().ignore_status().output()?;
    if !output.status.success() {
        bail!("`{shown}` ended with {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    String::from_utf8(output.stdout).context("reading its answer")
}

fn key_ring() -> Result<PathBuf> {
    let rings = ["gpg", "pgp"].map(|kind| PathBuf::from(format!("/usr/share/keyrings/debian-archive-keyring.{kind}")));
    rings.into_iter().find(|ring| ring.is_file()).context("the package debian-archive-keyring is not installed")
}

/// The first mirror of an archive that the machine's own apt set-up names, in either of its two formats.
fn mirror(archive: &str) -> Option<String> {
    let mut files = vec![PathBuf::from("/etc/apt/sources.list")];
    let parts = fs::read_dir("/etc/apt/sources.list.d").into_iter().flatten().flatten();
    files.extend(parts.map(|entry| entry.path()));
    files.iter().filter_map(|file| fs::read_to_string(file).ok()).find_map(|text| mirror_in(&text, archive))
}

fn mirror_in(text: &str, archive: &str) -> Option<String> {
    text.lines()
        .filter(|line| line.starts_with("URIs:") || line.starts_with("deb "))
        .flat_map(str::split_whitespace)
        .find(|word| word.starts_with("http") && word.trim_end_matches('/').rsplit('/').next() == Some(archive))
        .map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::{ARCHIVE, SECURITY_ARCHIVE, mirror_in};

    #[test]
    fn both_formats_of_apt_sources_are_read() {
        let deb822 = "Types: deb\n# URIs: http://old.example/debian\nURIs: http://a.example/debian\nSuites: x\n";
        assert_eq!(mirror_in(deb822, ARCHIVE).as_deref(), Some("http://a.example/debian"));
        let one_line = "deb-src http://s.example/debian x main\ndeb [arch=amd64] https://b.example/debian/ x main\n";
        assert_eq!(mirror_in(one_line, ARCHIVE).as_deref(), Some("https://b.example/debian/"));
    }

    #[test]
    fn security_archives_are_apart_and_other_vendors_do_not_count() {
        let text = "URIs: http://a.example/debian-security\ndeb https://packages.example/apt tools main\n";
        assert_eq!(mirror_in(text, ARCHIVE), None);
        assert_eq!(mirror_in(text, SECURITY_ARCHIVE).as_deref(), Some("http://a.example/debian-security"));
    }
}
