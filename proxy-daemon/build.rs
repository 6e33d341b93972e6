//! Builds the BPF programs of proxy-ebpf twice and leaves the objects in `OUT_DIR`:
//! `shunt.bpf.o`, which is shipped, and `shunt-log.bpf.o`, the same programs with logging compiled in.

use std::{
    env,
    ffi::{OsStr, OsString},
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use aya_build::{Package, Toolchain, build_ebpf};

#[path = "../xtask/src/bpf_toolchain.rs"]
#[expect(dead_code, reason = "set-up needs more of this file than the build does")]
mod bpf_toolchain;
use bpf_toolchain::Compiler;

const OBJECTS: [(&str, &[&str]); 2] = [("shunt.bpf.o", &["object"]), ("shunt-log.bpf.o", &["object", "log"])];

const SET_UP: &str = "run `cargo xtask setup bpf`, which provides it";
const OWN_LINKER: &str = "cargo xtask setup bpf --own-linker";

fn main() -> Result<()> {
    // Besides the sources: dependencies, profiles, and the rule which compiler and linker are taken.
    for input in ["../proxy-common", "../proxy-ebpf/Cargo.toml", "../Cargo.toml", "../Cargo.lock", "../xtask/src/bpf_toolchain.rs"] {
        println!("cargo:rerun-if-changed={input}");
    }
    let compiler = Compiler::ready()?.with_context(|| format!("no Rust toolchain here has the rust-src component: {SET_UP}"))?;
    let linker = compiler.linker()?.with_context(|| format!("there is no bpf-linker: {SET_UP}"))?;
    prepare_environment(&compiler, &linker)?;

    let out = PathBuf::from(env::var_os("OUT_DIR").context("OUT_DIR is not set")?);
    for (object, features) in OBJECTS {
        let package = Package { name: "proxy-ebpf", root_dir: "../proxy-ebpf/src", no_default_features: false, features };
        build_ebpf([package], Toolchain::Custom(compiler.toolchain()))
            .with_context(|| format!("building {object}: if bpf-linker is to blame, try `{OWN_LINKER}`"))?;
        fs::rename(out.join("shunt-bpf"), out.join(object)).with_context(|| format!("naming {object}"))?;
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
