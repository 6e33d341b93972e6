//! `cargo xtask build`: one static file at target/release/shunt.
//!
//! A static program wants `+crt-static`, which must not reach procedural macros and build scripts. Flags of a target keep
//! clear of those only when the target is named, and then cargo builds into a folder of the target's own: the result is
//! put where everybody looks for it.

use std::{fs, path::Path};

use anyhow::{Context as _, Result, bail};
use object::{
    Endianness, elf,
    read::elf::{ElfFile64, ProgramHeader as _},
};
use xshell::cmd;

use crate::{
    bpf_toolchain::Compiler,
    door::{Door, done, heading},
    setup::{self, Part},
};

pub(crate) fn run(door: &Door) -> Result<()> {
    setup::run(door, &[Part::Packages, Part::Bpf], false)?;
    shunt(door)
}

/// Builds the daemon; the toolchain must be there.
pub(crate) fn shunt(door: &Door) -> Result<()> {
    heading("build");
    let sh = &door.sh;
    let compiler = Compiler::candidates()?.swap_remove(0);
    let host = compiler.fact("host")?;
    let flags = static_flags(host);
    cmd!(sh, "cargo build --release --package proxy-daemon --bin shunt --target {host} --config {flags}").quiet().run()?;
    let built = door.target().join(host).join("release/shunt");
    let shunt = door.shunt();
    install(&built, &shunt)?;
    require_static(&shunt)?;
    let size = fs::metadata(&shunt).context("measuring the binary")?.len();
    done(&format!("{} ({} MiB, static)", shunt.display(), size >> 20));
    Ok(())
}

/// What makes a program static, as an option of cargo.
pub(crate) fn static_flags(host: &str) -> String {
    format!("target.{host}.rustflags=['-C','target-feature=+crt-static']")
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
pub(crate) fn require_static(shunt: &Path) -> Result<()> {
    let bytes = fs::read(shunt).context("reading the binary")?;
    let file = ElfFile64::<Endianness>::parse(bytes.as_slice()).context("parsing the binary")?;
    let wants_loader = |header: &elf::ProgramHeader64<Endianness>| header.p_type(file.endian()) == elf::PT_INTERP;
    if file.elf_program_headers().iter().any(wants_loader) {
        bail!("{} is linked dynamically", shunt.display());
    }
    Ok(())
}
