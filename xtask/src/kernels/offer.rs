//! Debian's kernels: which there are, and one of them unpacked into the cache.
//!
//! In: a version, or the beginning of one. Out: a kernel's image and its modules, ready to be loaded by `modprobe`.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail, ensure};
use xshell::{Shell, cmd};

use crate::{
    bpf_toolchain::cache_dir,
    debian::{Suite, output},
    door::{doing, done, found, missing, patiently},
};

/// What stands for the newest kernel of all.
pub(super) const NEWEST: &str = "newest";
/// Versions that are in suites of their own; all others are looked for where new ones come to.
const SUITES: &[(&str, &[&str])] =
    &[("5.10", &["bullseye-security", "bullseye"]), ("6.1", &["bookworm-security", "bookworm"]), ("6.12", &["trixie-security", "trixie"])];
const NEW_SUITES: &[&str] = &["experimental", "sid", "trixie-backports"];
/// For machines in clouds: small, with all that virtual machines have.
const FLAVOUR: &str = "-cloud-amd64";
/// What a kernel is made of, the older ones of the first alone.
const PARTS: [&str; 4] = ["linux-image-", "linux-binary-", "linux-modules-", "linux-base-"];

/// A kernel on this machine.
#[derive(Debug, Clone)]
pub(super) struct Kernel {
    /// What it calls itself.
    pub(super) release: String,
    folder: PathBuf,
}

impl Kernel {
    pub(super) fn image(&self) -> Result<PathBuf> {
        let places = [self.folder.join("boot").join(format!("vmlinuz-{}", self.release)), self.modules().join("vmlinuz")];
        places.into_iter().find(|place| place.is_file()).with_context(|| format!("no image in the packages of {}", self.release))
    }

    /// The folder that it calls `/lib/modules/<release>`.
    pub(super) fn modules(&self) -> PathBuf {
        self.folder.join("lib/modules").join(&self.release)
    }
}

/// The newest kernel of a version that Debian has, unpacked.
pub(super) fn fetch(sh: &Shell, version: &str) -> Result<Kernel> {
    let (release, suite) = newest(sh, version)?;
    let folder = cache_dir()?.join("kernels").join(&release);
    let kernel = Kernel { release, folder };
    if kernel.folder.is_dir() {
        found(&format!("kernel {}", kernel.release));
        return Ok(kernel);
    }
    doing(&format!("fetching the kernel {}", kernel.release));
    let unfinished = kernel.folder.with_extension("new");
    if unfinished.exists() {
        fs::remove_dir_all(&unfinished).context("removing what an earlier attempt left")?;
    }
    fs::create_dir_all(&unfinished).with_context(|| format!("making {}", unfinished.display()))?;
    patiently(|| unpack(sh, &suite, &kernel.release, &unfinished))?;
    fs::rename(&unfinished, &kernel.folder).context("putting the kernel in its place")?;
    kernel.image()?;
    done(&format!("kernel {} in {}", kernel.release, kernel.folder.display()));
    Ok(kernel)
}

fn unpack(sh: &Shell, suite: &Suite<'_>, release: &str, folder: &Path) -> Result<()> {
    let offered = suite.names("linux-")?;
    for part in PARTS.iter().map(|part| format!("{part}{release}")).filter(|part| offered.contains(part)) {
        suite.unpack(&part, folder)?;
    }
    let lib = folder.join("lib");
    if !lib.exists() {
        symlink("usr/lib", &lib).context("linking lib to usr/lib")?;
    }
    output(cmd!(sh, "depmod -b {folder} {release}")).context("finding out which modules need which")?;
    Ok(())
}

/// The release with the highest number, and the suite that has it.
fn newest<'sh>(sh: &'sh Shell, version: &str) -> Result<(String, Suite<'sh>)> {
    let suites = SUITES.iter().find(|(known, _)| *known == version).map_or(NEW_SUITES, |(_, suites)| suites);
    let mut best: Option<(String, Suite<'sh>)> = None;
    for name in suites {
        let suite = match Suite::open(sh, name) {
            Ok(suite) => suite,
            Err(error) => {
                missing(&format!("{error:#}"));
                continue;
            }
        };
        let packages = suite.names(PARTS[0])?;
        let releases = packages.iter().filter_map(|package| release(package)).filter(|release| fits(release, version));
        let Some(release) = releases.max_by_key(|release| numbers(release)) else { continue };
        if best.as_ref().is_none_or(|(best, _)| numbers(best) < numbers(release)) {
            best = Some((release.to_owned(), suite));
        }
    }
    match best {
        Some(best) => Ok(best),
        None => bail!("Debian has no kernel {version} in {}", suites.join(", ")),
    }
}

/// The release in a package's name.
fn release(package: &str) -> Option<&str> {
    let release = package.strip_prefix(PARTS[0])?;
    let number = release.strip_suffix(FLAVOUR)?;
    // What ends at the version only follows the newest package, or is a candidate for a release.
    number.contains(['-', '+']).then_some(release)
}

fn fits(release: &str, version: &str) -> bool {
    version == NEWEST || release.strip_prefix(version).is_some_and(|rest| rest.starts_with(['.', '-', '+']))
}

/// All numbers in a release: their order is that of releases.
pub(super) fn numbers(release: &str) -> Vec<u32> {
    release.split(|c: char| !c.is_ascii_digit()).filter_map(|number| number.parse().ok()).collect()
}

/// The files of modules, decompressed, each after those it needs; those that are built in are left out.
pub(super) fn modules(sh: &Shell, kernel: &Kernel, names: &[&str]) -> Result<Vec<Vec<u8>>> {
    let folder = kernel.modules();
    let table = fs::read_to_string(folder.join("modules.dep")).context("reading which modules need which")?;
    let mut paths: Vec<&str> = Vec::new();
    for line in names.iter().filter_map(|name| table.lines().find(|line| is_module(line, name))) {
        // The one it is about stands first, then what it needs, the first needed last.
        let needed: Vec<&str> = line.split([':', ' ']).filter(|path| !path.is_empty()).collect();
        for path in needed.into_iter().rev() {
            if !paths.contains(&path) {
                paths.push(path);
            }
        }
    }
    paths.into_iter().map(|path| decompressed(sh, &folder.join(path))).collect()
}

/// Whether a line of `modules.dep` is about this module.
fn is_module(line: &str, name: &str) -> bool {
    let file = line.split(':').next().unwrap_or_default().rsplit('/').next().unwrap_or_default();
    file.split('.').next() == Some(name)
}

fn decompressed(sh: &Shell, path: &Path) -> Result<Vec<u8>> {
    let program = match path.extension().and_then(|extension| extension.to_str()) {
        Some("xz") => "xz",
        Some("zst") => "zstd",
        Some("gz") => "gzip",
        _ => return fs::read(path).with_context(|| format!("reading {}", path.display())),
    };
    let output = cmd!(sh, "{program} -dc {path}").quiet().output().with_context(|| format!("decompressing {}", path.display()))?;
    ensure!(output.status.success(), "{program} cannot read {}", path.display());
    Ok(output.stdout)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_told_from_other_packages() {
        for (package, expected) in [
            ("linux-image-6.1.0-9-cloud-amd64", Some("6.1.0-9-cloud-amd64")),
            ("linux-image-6.12.117+deb13-cloud-amd64", Some("6.12.117+deb13-cloud-amd64")),
            ("linux-image-6.1.0-9-cloud-amd64-dbg", None),
            ("linux-image-6.1.0-9-cloud-amd64-unsigned", None),
            ("linux-image-cloud-amd64", None),
            ("linux-image-6.12-cloud-amd64", None),
            ("linux-image-6.1.0-9-amd64", None),
        ] {
            assert_eq!(release(package), expected, "{package}");
        }
    }

    #[test]
    fn the_beginning_of_a_version_is_enough() {
        assert!(fits("6.1.0-9-cloud-amd64", "6.1"));
        assert!(fits("6.12.117+deb13-cloud-amd64", "6.12.117"));
        assert!(!fits("6.12.117+deb13-cloud-amd64", "6.1"));
        assert!(fits("7.3.4+deb13-cloud-amd64", NEWEST));
    }

    #[test]
    fn releases_are_ordered_by_their_numbers() {
        let ordered = ["6.1.0-9-cloud-amd64", "6.1.0-56-cloud-amd64", "6.12.9+deb13-cloud-amd64", "6.12.117+deb13-cloud-amd64"];
        assert!(ordered.is_sorted_by_key(|release| numbers(release)));
    }

    #[test]
    fn a_module_is_found_by_its_name_alone() {
        assert!(is_module("kernel/fs/overlayfs/overlay.ko.xz: kernel/x.ko.xz", "overlay"));
        assert!(!is_module("kernel/fs/overlayfs/overlayfs.ko: kernel/overlay.ko", "overlay"));
    }
}
