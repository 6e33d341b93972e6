//! The BPF toolchain: the sources of `core`, and a `bpf-linker` that reads rustc's bitcode.
//!
//! What a Rust user usually has comes first: the component rust-src and a bpf-linker on PATH. Where rustup cannot fetch
//! the component, Debian's package rust-src of rustc's own version does as well; where there is no bpf-linker, one is
//! built against the LLVM inside rustc, so that both always agree. Versions follow from `rustc -vV`.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use xshell::cmd;

use crate::{
    bpf_toolchain::{Compiler, on_path},
    debian::{Suite, output},
    door::{Door, doing, done, found, heading, patiently},
};

/// Where Debian keeps versions of rust-src, the likeliest first.
const SUITES: [&str; 5] = ["trixie-backports", "sid", "forky", "trixie", "bookworm-backports"];

/// The line of bpf-linker whose features name the LLVM versions of today's compilers.
const LINKER: &str = "^0.13";

pub(super) fn set_up(door: &Door, own_linker: bool) -> Result<()> {
    heading("bpf");
    let compiler = compiler_with_library(door)?;
    match compiler.linker()? {
        Some(linker) if !own_linker || linker.starts_with(compiler.cache()?) => {
            found(&format!("{}", linker.display()));
            Ok(())
        }
        Some(_) | None => build_linker(door, &compiler),
    }
}

// === the sources of core ===

fn compiler_with_library(door: &Door) -> Result<Compiler> {
    if let Some(compiler) = Compiler::ready()? {
        found(&format!("the sources of core for the toolchain {}", compiler.toolchain()));
        return Ok(compiler);
    }
    let active = Compiler::candidates()?.swap_remove(0);
    if on_path("rustup").is_some() {
        let toolchain = active.toolchain();
        doing(&format!("asking rustup for the component rust-src of {toolchain}"));
        let asked = cmd!(door.sh, "timeout 120 rustup component add rust-src --toolchain {toolchain}");
        if output(asked).is_ok() && active.has_library() {
            done(&format!("rustup added rust-src to {toolchain}"));
            return Ok(active);
        }
        doing("rustup cannot fetch it; trying Debian's package rust-src");
    }
    library_from_debian(door, &active)?;
    Ok(active)
}

fn library_from_debian(door: &Door, compiler: &Compiler) -> Result<()> {
    let release = compiler.fact("release")?;
    let unpacked = compiler.cache()?.join("rust-src");
    let sources = unpacked.join(format!("usr/src/rustc-{release}"));
    if !sources.join("library/core/src/lib.rs").is_file() {
        let (suite, version) = find_package(door, release)?;
        doing(&format!("unpacking rust-src {version}"));
        fs::create_dir_all(&unpacked).with_context(|| format!("making {}", unpacked.display()))?;
        suite.unpack(&format!("rust-src={version}"), &unpacked)?;
    }
    let link = compiler.library();
    replace_link(&sources, &link)?;
    if !compiler.has_library() {
        bail!("Debian's rust-src has no library folder in {}", sources.display());
    }
    done(&format!("{} -> {}", link.display(), sources.display()));
    Ok(())
}

fn find_package<'door>(door: &'door Door, release: &str) -> Result<(Suite<'door>, String)> {
    let mut errors = Vec::new();
    for name in SUITES {
        let versions = Suite::open(&door.sh, name).and_then(|suite| Ok((suite.versions("rust-src")?, suite)));
        match versions {
            Ok((versions, suite)) => {
                let fitting = versions.into_iter().find(|version| is_of_release(version, release));
                match fitting {
                    Some(version) => return Ok((suite, version)),
                    None => errors.push(format!("{name} has no rust-src {release}")),
                }
            }
            Err(error) => errors.push(format!("{name}: {error:#}")),
        }
    }
    bail!(
        "no sources of core for rustc {release}. Install them yourself (`rustup component add rust-src`, or \
         `rustup toolchain install nightly --component rust-src`). Tried Debian too: {}",
        errors.join("; ")
    );
}

/// Says whether a Debian version such as `1.95.0+dfsg1-2~bpo13+1` packs this release.
fn is_of_release(version: &str, release: &str) -> bool {
    version.strip_prefix(release).is_some_and(|rest| rest.starts_with(['+', '-', '~']))
}

fn replace_link(target: &Path, link: &Path) -> Result<()> {
    let folder = link.parent().context("the sysroot has no parent")?;
    fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
    if link.is_symlink() {
        fs::remove_file(link).with_context(|| format!("removing the old link {}", link.display()))?;
    }
    symlink(target, link).with_context(|| format!("linking {}; may this user write there?", link.display()))
}

// === bpf-linker ===

fn build_linker(door: &Door, compiler: &Compiler) -> Result<()> {
    let llvm = compiler.fact("LLVM version")?;
    let major = llvm.split('.').next().unwrap_or(llvm);
    doing(&format!("building bpf-linker {LINKER} against rustc's own LLVM {llvm} (about a minute)"));
    let cache = compiler.cache()?;
    let prefix = llvm_prefix(compiler, &cache)?;
    let sh = &door.sh;
    let _llvm = sh.push_env("LLVM_PREFIX", &prefix);
    let _toolchain = sh.push_env("RUSTUP_TOOLCHAIN", compiler.toolchain());
    // cargo installs into a folder beside and the binary is moved last, so that half an installation is none.
    let work = cache.join("work");
    let feature = format!("llvm-{major}");
    let install = cmd!(sh, "cargo install bpf-linker --version {LINKER} --no-default-features --features {feature}");
    let install = install.args(["--force", "--root"]).arg(&work).env_remove("CARGO_TARGET_DIR").env_remove("RUSTFLAGS");
    patiently(|| output(install)).context("building bpf-linker")?;
    let linker = cache.join("bin/bpf-linker");
    fs::create_dir_all(cache.join("bin")).context("making the linker's folder")?;
    fs::rename(work.join("bin/bpf-linker"), &linker).context("putting bpf-linker in its place")?;
    fs::remove_dir_all(&work).context("removing what cargo install left")?;
    done(&format!("{}", linker.display()));
    Ok(())
}

/// A folder that looks like an installation of LLVM: links under the two names that the build and the loader ask for.
fn llvm_prefix(compiler: &Compiler, cache: &Path) -> Result<PathBuf> {
    let library = llvm_library(compiler)?;
    let prefix = cache.join("llvm");
    let name = library.file_name().context("rustc's LLVM has no name")?;
    for link in [prefix.join("lib/libLLVM.so"), prefix.join("lib").join(name)] {
        replace_link(&library, &link)?;
    }
    Ok(prefix)
}

fn llvm_library(compiler: &Compiler) -> Result<PathBuf> {
    let folder = compiler.sysroot().join("lib");
    let files = fs::read_dir(&folder).with_context(|| format!("reading {}", folder.display()))?;
    let mut libraries = files.flatten().map(|file| file.path());
    let is_llvm = |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("libLLVM.so."));
    libraries.find(is_llvm).with_context(|| {
        format!("rustc keeps no LLVM of its own in {}: install bpf-linker yourself (`cargo binstall bpf-linker`)", folder.display())
    })
}

#[cfg(test)]
mod tests {
    use super::is_of_release;

    #[test]
    fn a_package_belongs_to_a_release_by_its_whole_version() {
        assert!(is_of_release("1.95.0+dfsg1-2~bpo13+1", "1.95.0"));
        assert!(is_of_release("1.95.0-1", "1.95.0"));
        assert!(!is_of_release("1.95.01+dfsg1-1", "1.95.0"));
        assert!(!is_of_release("1.96.1+dfsg1-2", "1.95.0"));
    }
}
