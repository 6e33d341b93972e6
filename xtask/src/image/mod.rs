//! `cargo xtask image`: an OCI archive of the daemon, made without any engine: from scratch, with one static file in it.
//!
//! The same sources give the same bytes, wherever they are built by the same compiler: nothing in it tells a time or a place.

use std::{env, fs, path::PathBuf};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use crate::{
    bpf_toolchain::Compiler,
    build::{self, Target},
    door::{Door, done, heading},
    setup::{self, Part},
};

pub(crate) mod archive;
pub(crate) mod layer;

use archive::Image;
use layer::{Files, Layer};

/// Under this name the manifests in deploy ask for it.
const NAME: &str = "shunt:dev";

/// What to make.
#[derive(clap::Args)]
pub(crate) struct Selection {
    /// The architecture, as images call it.
    #[arg(long, value_name = "ARCH", default_value_t = Arch::here().to_owned(), value_parser = ["amd64", "arm64"])]
    arch: String,
    /// The image's name.
    #[arg(long, value_name = "NAME:TAG", default_value = NAME)]
    name: String,
    /// Where to put it [default: target/image/shunt-ARCH.tar]
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// What images and compilers call an architecture.
struct Arch;

impl Arch {
    fn here() -> &'static str {
        if env::consts::ARCH == "aarch64" { "arm64" } else { "amd64" }
    }

    fn target(arch: &str) -> &'static str {
        if arch == "arm64" { "aarch64-unknown-linux-gnu" } else { "x86_64-unknown-linux-gnu" }
    }
}

pub(crate) fn run(door: &Door, selection: &Selection) -> Result<()> {
    setup::run(door, &[Part::Packages, Part::Bpf], false)?;
    let file = make(door, &selection.arch, &selection.name, selection.output.clone())?;
    println!("   load it: ctr -n k8s.io images import {0}, docker load -i {0}, or kind load image-archive {0}", file.display());
    Ok(())
}

/// Makes the image as `cargo xtask image` does, for machines like this one; the toolchain must be there.
pub(crate) fn of_this_machine(door: &Door) -> Result<PathBuf> {
    make(door, Arch::here(), NAME, None)
}

fn make(door: &Door, arch: &str, name: &str, output: Option<PathBuf>) -> Result<PathBuf> {
    let compiler = Compiler::candidates()?.swap_remove(0);
    let shunt = if compiler.fact("host")? == Arch::target(arch) {
        build::shunt(door)?;
        door.shunt()
    } else {
        let target = Target::foreign(Arch::target(arch)).with_context(|| format!("an image for {arch} cannot be made here"))?;
        build::for_target(door, &compiler, &target)?
    };
    heading("image");
    let file = output.unwrap_or_else(|| door.target().join(format!("image/shunt-{arch}.tar")));
    let folder = file.parent().context("the image is to lie in no folder")?;
    fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
    let program = fs::read(&shunt).with_context(|| format!("reading {}", shunt.display()))?;
    let layer = Layer::packed(&contents(&program)?)?;
    let image = Image { names: vec![normal(name)?], arch, layers: vec![&layer], config: config() };
    let digest = archive::write(&file, &[image])?.join(", ");
    let size = fs::metadata(&file).context("measuring the image")?.len();
    done(&format!("{} ({} MiB, {name}, {digest})", file.display(), size >> 20));
    Ok(file)
}

/// The program, and the folders that others are mounted on: so the root need not be written to.
fn contents(program: &[u8]) -> Result<Vec<u8>> {
    let folders = ["proc/", "run/", "run/shunt/", "sys/", "tmp/"];
    let files = folders.into_iter().try_fold(Files::new(), Files::folder)?;
    files.file("shunt", 0o755, program)?.tar()
}

fn config() -> Value {
    json!({
        "Entrypoint": ["/shunt"],
        "Cmd": ["run"],
        "User": "0:0",
        "WorkingDir": "/",
        "Labels": {
            "org.opencontainers.image.title": "shunt",
            "org.opencontainers.image.description": "Serves a Kubernetes node's Services with BPF programs, in place of kube-proxy",
            "org.opencontainers.image.version": env!("CARGO_PKG_VERSION"),
            "org.opencontainers.image.licenses": "Apache-2.0",
        },
    })
}

/// A name as containerd knows it: with a registry, which is Docker's where none is named.
fn normal(name: &str) -> Result<String> {
    let (path, tag) = name.rsplit_once(':').filter(|(_, tag)| !tag.contains('/')).unwrap_or((name, "latest"));
    if path.is_empty() || tag.is_empty() {
        bail!("{name} is no name of an image, such as shunt:dev or registry.example/shunt:v1");
    }
    let has_registry = path.split_once('/').is_some_and(|(first, _)| first.contains(['.', ':']) || first == "localhost");
    Ok(match (has_registry, path.contains('/')) {
        (true, _) => format!("{path}:{tag}"),
        (false, true) => format!("docker.io/{path}:{tag}"),
        (false, false) => format!("docker.io/library/{path}:{tag}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_get_what_is_left_out() {
        for (typed, expected) in [
            ("shunt:dev", "docker.io/library/shunt:dev"),
            ("shunt", "docker.io/library/shunt:latest"),
            ("me/shunt:1", "docker.io/me/shunt:1"),
            ("localhost:5000/shunt", "localhost:5000/shunt:latest"),
            ("registry.example/a/shunt:1", "registry.example/a/shunt:1"),
        ] {
            assert_eq!(normal(typed).unwrap(), expected, "{typed}");
        }
        assert!(normal(":1").is_err());
    }
}
