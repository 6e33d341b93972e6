//! Programs built from Go modules of ours, which pin what they are built from.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use serde::Deserialize;
use xshell::cmd;

use crate::{
    bpf_toolchain::on_path,
    debian::output,
    door::{Door, doing, done, patiently},
};

/// A module of ours, and what it pins.
#[derive(Clone, Copy)]
pub(crate) struct Module {
    /// From the root of the work tree.
    pub(crate) folder: &'static str,
    /// The module by whose version programs are known.
    pub(crate) pinned: &'static str,
}

impl Module {
    /// The version that is pinned.
    pub(crate) fn version(self, door: &Door) -> Result<String> {
        let path = door.root.join(self.folder).join("go.mod");
        let module = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        version_of(self.pinned, &module).with_context(|| format!("{} does not require {}", path.display(), self.pinned))
    }

    /// Builds packages of what is pinned and leaves their programs in a folder, each whole at any time.
    pub(crate) fn build(self, door: &Door, packages: &[String], ld_flags: &str, folder: &Path) -> Result<()> {
        on_path("go").context("there is no Go to build it with")?;
        let names: Vec<&str> = packages.iter().filter_map(|package| package.rsplit('/').next()).collect();
        doing(&format!("building {} {} with Go (minutes, the first time)", names.join(", "), self.version(door)?));
        fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
        let sh = &door.sh;
        let _here = sh.push_dir(door.root.join(self.folder));
        let _static = sh.push_env("CGO_ENABLED", "0");
        let flags = format!("-ldflags=-s -w {ld_flags}");
        let work = folder.join("work");
        fs::create_dir_all(&work).with_context(|| format!("making {}", work.display()))?;
        patiently(|| output(cmd!(sh, "go build -buildvcs=false {flags} -o {work} {packages...}")))?;
        for name in &names {
            fs::rename(work.join(name), folder.join(name)).with_context(|| format!("putting {name} in its place"))?;
        }
        fs::remove_dir_all(&work).context("removing the empty folder of the build")?;
        done(&format!("{} in {}", names.join(", "), folder.display()));
        Ok(())
    }
}

impl Module {
    /// Builds the tests of a package as one program.
    pub(crate) fn build_test(self, door: &Door, package: &str, name: &str, ld_flags: &str, folder: &Path) -> Result<()> {
        on_path("go").context("there is no Go to build it with")?;
        doing(&format!("building {name} {} with Go (minutes, the first time)", self.version(door)?));
        let sh = &door.sh;
        let _here = sh.push_dir(door.root.join(self.folder));
        let _static = sh.push_env("CGO_ENABLED", "0");
        let (flags, unfinished) = (format!("-ldflags=-s -w {ld_flags}"), folder.join(format!("{name}.new")));
        patiently(|| output(cmd!(sh, "go test -c -vet=off -buildvcs=false {flags} -o {unfinished} {package}")))?;
        fs::rename(&unfinished, folder.join(name)).with_context(|| format!("putting {name} in its place"))?;
        done(&format!("{name} in {}", folder.display()));
        Ok(())
    }

    /// Where Go keeps the source of what is pinned.
    pub(crate) fn source(self, door: &Door) -> Result<PathBuf> {
        /// The part of what Go says of a module.
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Download {
            dir: PathBuf,
        }

        on_path("go").context("there is no Go to ask for it")?;
        let sh = &door.sh;
        let _here = sh.push_dir(door.root.join(self.folder));
        let pinned = self.pinned;
        let said = patiently(|| output(cmd!(sh, "go mod download -json {pinned}")))?;
        let download: Download = serde_json::from_str(&said).with_context(|| format!("reading what Go says of {pinned}: {said}"))?;
        Ok(download.dir)
    }
}

fn version_of(pinned: &str, module: &str) -> Option<String> {
    module.lines().find_map(|line| {
        let line = line.trim().trim_start_matches("require ");
        let version = line.strip_prefix(pinned)?.strip_prefix(' ')?;
        version.split_whitespace().next().map(str::to_owned)
    })
}

#[cfg(test)]
mod tests {
    use super::version_of;

    #[test]
    fn the_version_is_read_from_either_form_of_require() {
        let read = |module| version_of("k8s.io/kubernetes", module);
        assert_eq!(read("require k8s.io/kubernetes v1.2.3\n").as_deref(), Some("v1.2.3"));
        let block = "tool (\n\tk8s.io/kubernetes/cmd/kubectl\n)\nrequire (\n\tk8s.io/kubernetes v1.2.4 // indirect\n)\n";
        assert_eq!(read(block).as_deref(), Some("v1.2.4"));
        assert_eq!(read("module x\n"), None);
    }
}
