//! Builds objects of this package for the BPF target. Part of the build scripts of whoever embeds one.

use std::{
    env,
    ffi::{OsStr, OsString},
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use aya_build::{Package, Toolchain, build_ebpf};

#[path = "../../xtask/src/bpf_toolchain.rs"]
#[expect(dead_code, reason = "set-up needs more of this file than the build does")]
mod bpf_toolchain;
use bpf_toolchain::Compiler;

const SET_UP: &str = "run `cargo xtask setup bpf`, which provides it";
const OWN_LINKER: &str = "cargo xtask setup bpf --own-linker";

/// An object and what it is made of.
pub(crate) struct Object {
    /// The name of the file in `OUT_DIR`.
    pub(crate) file: &'static str,
    /// The program target of the package.
    pub(crate) bin: &'static str,
    /// Its features.
    pub(crate) features: &'static [&'static str],
}

/// Builds objects, for a package that lies beside this one, and leaves them in `OUT_DIR`.
pub(crate) fn build(objects: &[Object]) -> Result<()> {
    // Besides the sources: dependencies, profiles, and the rule which compiler and linker are taken.
    for input in ["proxy-common", "proxy-ebpf/Cargo.toml", "proxy-ebpf/build", "Cargo.toml", "Cargo.lock", "xtask/src/bpf_toolchain.rs"] {
        println!("cargo:rerun-if-changed=../{input}");
    }
    let compiler = Compiler::ready()?.with_context(|| format!("no Rust toolchain here has the rust-src component: {SET_UP}"))?;
    let linker = compiler.linker()?.with_context(|| format!("there is no bpf-linker: {SET_UP}"))?;
    prepare_environment(&compiler, &linker)?;

    let out = PathBuf::from(env::var_os("OUT_DIR").context("OUT_DIR is not set")?);
    for Object { file, bin, features } in objects {
        let package = Package { name: "proxy-ebpf", root_dir: "../proxy-ebpf/src", no_default_features: false, features };
        build_ebpf([package], Toolchain::Custom(compiler.toolchain()))
            .with_context(|| format!("building {file}: if bpf-linker is to blame, try `{OWN_LINKER}`"))?;
        fs::rename(out.join(bin), out.join(file)).with_context(|| format!("naming {file}"))?;
    }
    Ok(())
}

/// Sets what the inner cargo needs: the linker in reach, `-Z build-std` allowed, no progress lines among the warnings.
fn prepare_environment(compiler: &Compiler, linker: &Path) -> Result<()> {
    let folder = linker.parent().context("bpf-linker lies in no folder")?;
    let path = env::var_os("PATH").unwrap_or_default();
    let path = env::join_paths([folder.to_owned()].into_iter().chain(env::split_paths(&path))).context("putting bpf-linker on PATH")?;
    set("PATH", path);
    set("CARGO_TERM_QUIET", "true");
    if !compiler.is_nightly() {
        set("RUSTC_BOOTSTRAP", "1");
    }
    Ok(())
}

fn set(name: &str, value: impl Into<OsString> + AsRef<OsStr>) {
    // SAFETY: called before anything has started a thread, so nobody reads the environment meanwhile.
    unsafe { env::set_var(name, value) }
}
