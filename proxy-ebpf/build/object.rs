//! Builds objects of this package for the BPF target. Part of the build scripts of whoever embeds one.

use std::{
    env,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, ensure};

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

/// The instructions that programs are made of: with arithmetic and jumps of 32 bits, which kernels have had since 5.1.
const CPU: &str = "v3";

/// Builds objects, for a package that lies beside this one, and leaves them in `OUT_DIR`.
pub(crate) fn build(objects: &[Object]) -> Result<()> {
    // Besides the sources: dependencies, profiles, and the rule which compiler and linker are taken.
    let inputs = [
        "proxy-common",
        "proxy-ebpf/Cargo.toml",
        "proxy-ebpf/build",
        "proxy-ebpf/src",
        "Cargo.toml",
        "Cargo.lock",
        "xtask/src/bpf_toolchain.rs",
    ];
    for input in inputs {
        println!("cargo:rerun-if-changed=../{input}");
    }
    let compiler = Compiler::ready()?.with_context(|| format!("no Rust toolchain here has the rust-src component: {SET_UP}"))?;
    let linker = compiler.linker()?.with_context(|| format!("there is no bpf-linker: {SET_UP}"))?;
    let out = PathBuf::from(variable("OUT_DIR")?);
    for object in objects {
        let built = compile(&compiler, &linker, &out.join("bpf"), object)
            .with_context(|| format!("building {}: if bpf-linker is to blame, try `{OWN_LINKER}`", object.file))?;
        fs::copy(built, out.join(object.file)).with_context(|| format!("keeping {}", object.file))?;
    }
    Ok(())
}

/// Builds an object in a folder of its own, and says where it lies.
fn compile(compiler: &Compiler, linker: &Path, folder: &Path, object: &Object) -> Result<PathBuf> {
    let target = match variable("CARGO_CFG_TARGET_ENDIAN")?.as_str() {
        "little" => "bpfel-unknown-none",
        _ => "bpfeb-unknown-none",
    };
    // What registers a kernel hands over at a probe: aya's bindings want to know.
    let arch = format!("--cfg=bpf_target_arch=\"{}\"", variable("CARGO_CFG_TARGET_ARCH")?);
    let cpu = format!("-Ctarget-cpu={CPU}");
    let package = PathBuf::from(variable("CARGO_MANIFEST_DIR")?);
    let root = package.parent().context("the package lies in no work tree")?;
    let flags = [arch, cpu, "-Cdebuginfo=2".to_owned(), "-Clink-arg=--btf".to_owned()];
    let flags = flags.into_iter().chain(compiler.anywhere(root)?).collect::<Vec<_>>().join("\x1f");
    let output = bpf_toolchain::program(compiler.toolchain(), "cargo")
        .args(["build", "--quiet", "--release", "-Zbuild-std=core", "--package", "proxy-ebpf", "--target", target])
        .args(["--bin", object.bin, "--features", &object.features.join(",")])
        .arg("--target-dir")
        .arg(folder)
        .env("PATH", path_with(linker)?)
        .env("CARGO_ENCODED_RUSTFLAGS", flags)
        // To a compiler that is no nightly this allows `-Z`.
        .env("RUSTC_BOOTSTRAP", "1")
        // That is for the compiler of the outer cargo: clippy's.
        .env_remove("RUSTC_WORKSPACE_WRAPPER")
        .output()
        .context("running cargo")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "cargo ended with {}:\n{said}", output.status);
    for line in said.lines() {
        println!("cargo:warning={line}");
    }
    Ok(folder.join(target).join("release").join(object.bin))
}

/// The search path with the linker's folder before all others: by its name alone rustc finds it.
fn path_with(linker: &Path) -> Result<OsString> {
    let folder = linker.parent().context("bpf-linker lies in no folder")?;
    let path = env::var_os("PATH").unwrap_or_default();
    env::join_paths([folder.to_owned()].into_iter().chain(env::split_paths(&path))).context("putting bpf-linker on PATH")
}

/// What cargo tells a build script.
fn variable(name: &str) -> Result<String> {
    env::var(name).with_context(|| format!("reading {name}"))
}
