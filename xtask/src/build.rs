//! `cargo xtask build`: one static file at target/release/shunt.
//!
//! A static program wants `+crt-static`, which must not reach procedural macros and build scripts. Flags of a target keep
//! clear of those only when the target is named, and then cargo builds into a folder of the target's own: the result is
//! put where everybody looks for it.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use object::{
    Endianness, elf,
    read::elf::{ElfFile64, ProgramHeader as _},
};
use xshell::cmd;

use crate::{
    bpf_toolchain::{Compiler, on_path},
    door::{Door, done, heading},
    setup::{self, Part},
};

const STATIC: &str = "-Ctarget-feature=+crt-static";

pub(crate) fn run(door: &Door) -> Result<()> {
    setup::run(door, &[Part::Packages, Part::Bpf], false)?;
    shunt(door)
}

/// Builds the daemon; the toolchain must be there.
pub(crate) fn shunt(door: &Door) -> Result<()> {
    heading("build");
    let compiler = Compiler::candidates()?.swap_remove(0);
    let built = build(door, &compiler, &Target::host(&compiler)?)?;
    let shunt = door.shunt();
    install(&built, &shunt)?;
    let size = fs::metadata(&shunt).context("measuring the binary")?.len();
    done(&format!("{} ({} MiB, static)", shunt.display(), size >> 20));
    Ok(())
}

/// Builds the daemon for another machine, and says where it lies.
pub(crate) fn for_target(door: &Door, compiler: &Compiler, target: &Target) -> Result<PathBuf> {
    heading(&format!("build for {}", target.name));
    build(door, compiler, target)
}

fn build(door: &Door, compiler: &Compiler, target: &Target) -> Result<PathBuf> {
    let sh = &door.sh;
    let Target { name, linker } = target;
    let flags: Vec<String> = [STATIC.to_owned()].into_iter().chain(compiler.anywhere(&door.root)?).collect();
    let mut options = vec![rust_flags(name, &flags)];
    // What compiles C for the target links for it, too.
    let _cc = linker.as_ref().map(|linker| sh.push_env(format!("CC_{}", name.replace('-', "_")), linker));
    options.extend(linker.iter().map(|linker| format!("target.{name}.linker='{linker}'")));
    let options = options.iter().flat_map(|option| ["--config", option]);
    cmd!(sh, "cargo build --release --package proxy-daemon --bin shunt --target {name} {options...}").quiet().run()?;
    let built = door.target().join(name).join("release/shunt");
    require_static(&built)?;
    Ok(built)
}

/// What machine the daemon is to run on.
pub(crate) struct Target {
    name: String,
    /// The C compiler that links for it, if it is not this machine's own.
    linker: Option<String>,
}

impl Target {
    /// This one.
    fn host(compiler: &Compiler) -> Result<Self> {
        Ok(Self { name: compiler.fact("host")?.to_owned(), linker: None })
    }

    /// Another one. Says what is missing.
    pub(crate) fn foreign(name: &str) -> Result<Self> {
        let arch = name.split('-').next().unwrap_or_default();
        let linker = format!("{arch}-linux-gnu-gcc");
        let package = format!("gcc-{}-linux-gnu", arch.replace('_', "-"));
        if on_path(&linker).is_none() {
            bail!("there is no {linker}: `apt-get install {package}` and `rustup target add {name}` bring what it takes");
        }
        Ok(Self { name: name.to_owned(), linker: Some(linker) })
    }
}

/// Builds one of the small programs of the package shunt-guest, which find no libraries where they run.
pub(crate) fn guest(door: &Door, program: &str) -> Result<PathBuf> {
    let compiler = Compiler::candidates()?.swap_remove(0);
    let host = compiler.fact("host")?;
    let flags = rust_flags(host, &[STATIC.to_owned()]);
    cmd!(door.sh, "cargo build --quiet --package shunt-guest --bin {program} --target {host} --config {flags}").quiet().run()?;
    let built = door.target().join(host).join("debug").join(program);
    require_static(&built)?;
    Ok(built)
}

/// Options of rustc for one target, as an option of cargo.
fn rust_flags(target: &str, flags: &[String]) -> String {
    let quoted: Vec<String> = flags.iter().map(|flag| format!("'{flag}'")).collect();
    format!("target.{target}.rustflags=[{}]", quoted.join(","))
}

/// Replaces the file as a whole: a daemon that runs from the old one keeps it.
fn install(built: &Path, shunt: &Path) -> Result<()> {
    let folder = shunt.parent().context("the target folder has no parent")?;
    fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
    let unfinished = shunt.with_extension("new");
    fs::copy(built, &unfinished).with_context(|| format!("copying {}", built.display()))?;
    fs::rename(&unfinished, shunt).with_context(|| format!("putting {} in its place", shunt.display()))
}

/// A static program asks for no loader.
fn require_static(shunt: &Path) -> Result<()> {
    let bytes = fs::read(shunt).context("reading the binary")?;
    let file = ElfFile64::<Endianness>::parse(bytes.as_slice()).context("parsing the binary")?;
    let wants_loader = |header: &elf::ProgramHeader64<Endianness>| header.p_type(file.endian()) == elf::PT_INTERP;
    if file.elf_program_headers().iter().any(wants_loader) {
        bail!("{} is linked dynamically", shunt.display());
    }
    Ok(())
}
