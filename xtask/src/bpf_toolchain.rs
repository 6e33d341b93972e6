//! Which compiler builds the BPF objects, and where its linker lies.
//!
//! Given nothing but the machine, yields the first compiler that has the sources of `core` (the BPF target has no
//! ready-made one) and a `bpf-linker` that reads its bitcode. `cargo xtask setup` provides both and proxy-daemon's
//! build script uses them, so this file is part of both programs.

use std::{
    env,
    ffi::OsStr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};

/// A Rust compiler that may build the BPF objects.
pub(crate) struct Compiler {
    toolchain: String,
    version: String,
    sysroot: PathBuf,
}

impl Compiler {
    /// The compilers to choose from, best first: the one that builds everything else, then rustup's nightly.
    pub(crate) fn candidates() -> Result<Vec<Self>> {
        let active = Self::ask(&active_toolchain()).context("asking rustc for its version")?;
        let nightly = Self::ask("nightly").ok().filter(|_| !active.is_nightly());
        Ok([active].into_iter().chain(nightly).collect())
    }

    /// The first compiler that has the sources of `core`.
    pub(crate) fn ready() -> Result<Option<Self>> {
        Ok(Self::candidates()?.into_iter().find(Self::has_library))
    }

    fn ask(toolchain: &str) -> Result<Self> {
        Ok(Self {
            toolchain: toolchain.to_owned(),
            version: answer(toolchain, &["-vV"])?,
            sysroot: PathBuf::from(answer(toolchain, &["--print", "sysroot"])?.trim()),
        })
    }

    /// What rustup calls this toolchain; only a word for messages where there is no rustup.
    pub(crate) fn toolchain(&self) -> &str {
        &self.toolchain
    }

    /// One line of `rustc -vV`, such as `release` or `LLVM version`.
    pub(crate) fn fact(&self, name: &str) -> Result<&str> {
        self.version
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
            .with_context(|| format!("rustc -vV says nothing about its {name}"))
    }

    /// Says whether this compiler takes `-Z` flags by itself.
    pub(crate) fn is_nightly(&self) -> bool {
        self.fact("release").is_ok_and(|release| release.ends_with("-nightly"))
    }

    pub(crate) fn sysroot(&self) -> &Path {
        &self.sysroot
    }

    /// Where cargo looks for the sources of the standard library.
    pub(crate) fn library(&self) -> PathBuf {
        self.sysroot.join("lib/rustlib/src/rust")
    }

    pub(crate) fn has_library(&self) -> bool {
        self.library().join("library/core/src/lib.rs").is_file()
    }

    /// Options of rustc after which nothing in a program says where on which machine it was built, so that it is the same wherever that was.
    pub(crate) fn anywhere(&self, root: &Path) -> Result<Vec<String>> {
        let cargo = match env::var_os("CARGO_HOME") {
            Some(home) => PathBuf::from(home),
            None => env::home_dir().context("neither HOME nor CARGO_HOME is set")?.join(".cargo"),
        };
        let places = [(root.to_owned(), "."), (cargo.join("registry/src"), "crates"), (self.library(), "rust")];
        Ok(places.into_iter().map(|(from, to)| format!("--remap-path-prefix={}={to}", from.display())).collect())
    }

    /// The folder that set-up fills for exactly this compiler: `<cache>/bpf/<release>-<commit>`.
    pub(crate) fn cache(&self) -> Result<PathBuf> {
        let commit = self.fact("commit-hash")?;
        let commit = commit.get(..9).unwrap_or(commit);
        Ok(cache_dir()?.join("bpf").join(format!("{}-{commit}", self.fact("release")?)))
    }

    /// The linker for this compiler: set-up's own, which was built against this very LLVM, before the one on PATH.
    pub(crate) fn linker(&self) -> Result<Option<PathBuf>> {
        let cache = self.cache()?;
        let own = cache.join("bin/bpf-linker");
        // Its link to LLVM dangles once the toolchain it was built with is removed.
        let works = own.is_file() && cache.join("llvm/lib/libLLVM.so").exists();
        Ok(if works { Some(own) } else { on_path("bpf-linker") })
    }
}

/// Everything set-up provides lies below this folder, outside the work tree.
pub(crate) fn cache_dir() -> Result<PathBuf> {
    let base = match env::var_os("XDG_CACHE_HOME").filter(|dir| Path::new(dir).is_absolute()) {
        Some(dir) => PathBuf::from(dir),
        None => env::home_dir().context("neither HOME nor XDG_CACHE_HOME is set")?.join(".cache"),
    };
    Ok(base.join("shunt"))
}

/// Finds a command as a shell would.
pub(crate) fn on_path(command: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path).map(|dir| dir.join(command)).find(|file| file.is_file())
}

fn active_toolchain() -> String {
    let named = env::var("RUSTUP_TOOLCHAIN").ok();
    named.or_else(|| first_word("rustup", &["show", "active-toolchain"])).unwrap_or_else(|| "stable".to_owned())
}

fn first_word(program: &str, args: &[&str]) -> Option<String> {
    let output = Command::new(program).args(args).stderr(Stdio::null()).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    text.split_whitespace().next().map(str::to_owned)
}

fn answer(toolchain: &str, args: &[&str]) -> Result<String> {
    let mut command = program(toolchain, "rustc");
    let output = command.args(args).stderr(Stdio::null()).output().with_context(|| format!("running {command:?}"))?;
    if !output.status.success() {
        bail!("{command:?} ended with {}", output.status);
    }
    String::from_utf8(output.stdout).context("reading rustc's answer")
}

/// A program of a toolchain. Without rustup there is one toolchain only.
pub(crate) fn program(toolchain: &str, name: &str) -> Command {
    match on_path("rustup") {
        Some(rustup) => {
            let mut command = Command::new(rustup);
            // Cargo would take the compiler that is named there.
            command.args(["run", toolchain, name]).env_remove("RUSTC");
            command
        }
        None => Command::new(env::var_os(name.to_uppercase()).as_deref().unwrap_or(OsStr::new(name))),
    }
}
