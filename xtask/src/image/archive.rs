//! An archive that every engine loads: an OCI layout (image-spec, `image-layout.md`) with a `manifest.json` for Docker in it.

use std::{fs, path::Path};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tar::{Builder, EntryType};

use super::layer;

const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// What an image is made of.
pub(crate) struct Image {
    /// With a registry.
    pub(crate) name: String,
    /// As it was typed.
    pub(crate) short_name: String,
    /// As images call it.
    pub(crate) arch: String,
    /// The static file.
    pub(crate) program: Vec<u8>,
}

/// Something that is found by its digest.
struct Blob {
    media_type: &'static str,
    bytes: Vec<u8>,
}

impl Blob {
    fn json(media_type: &'static str, value: &Value) -> Self {
        Self { media_type, bytes: value.to_string().into_bytes() }
    }

    fn digest(&self) -> String {
        sha256(&self.bytes)
    }

    fn descriptor(&self) -> Value {
        json!({"mediaType": self.media_type, "digest": format!("sha256:{}", self.digest()), "size": self.bytes.len()})
    }

    fn path(&self) -> String {
        format!("blobs/sha256/{}", self.digest())
    }
}

fn sha256(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    Sha256::digest(bytes).iter().fold(String::new(), |mut text, byte| {
        // Writing to a string cannot fail.
        write!(text, "{byte:02x}").ok();
        text
    })
}

impl Image {
    /// Writes the archive as a whole. Yields the digest by which registries know the image.
    pub(crate) fn write(&self, file: &Path) -> Result<String> {
        let (bytes, digest) = self.archive()?;
        let unfinished = file.with_extension("new");
        fs::write(&unfinished, bytes).with_context(|| format!("writing {}", unfinished.display()))?;
        fs::rename(&unfinished, file).with_context(|| format!("putting {} in its place", file.display()))?;
        Ok(digest)
    }

    fn archive(&self) -> Result<(Vec<u8>, String)> {
        let tar = layer::tar(&self.program)?;
        let layer = Blob { media_type: LAYER, bytes: layer::gzip(&tar)? };
        let config = Blob::json(CONFIG, &self.config(&sha256(&tar)));
        let manifest = Blob::json(
            MANIFEST,
            &json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": config.descriptor(), "layers": [layer.descriptor()]}),
        );
        let mut entry = manifest.descriptor();
        let tag = self.name.rsplit_once(':').map_or("latest", |(_, tag)| tag);
        entry["annotations"] = json!({"io.containerd.image.name": self.name, "org.opencontainers.image.ref.name": tag});
        entry["platform"] = json!({"architecture": self.arch, "os": "linux"});
        let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [entry]});
        let docker = json!([{"Config": config.path(), "RepoTags": [self.short_name], "Layers": [layer.path()]}]);

        let mut archive = Builder::new(Vec::new());
        let mut add = |path: &str, bytes: &[u8]| {
            let size = bytes.len().try_into().context("a part is too large")?;
            archive.append_data(&mut layer::header(EntryType::Regular, 0o644, size), path, bytes).with_context(|| format!("adding {path}"))
        };
        add("oci-layout", json!({"imageLayoutVersion": "1.0.0"}).to_string().as_bytes())?;
        add("index.json", index.to_string().as_bytes())?;
        add("manifest.json", docker.to_string().as_bytes())?;
        for blob in [&config, &manifest, &layer] {
            add(&blob.path(), &blob.bytes)?;
        }
        let bytes = archive.into_inner().context("closing the archive")?;
        Ok((bytes, format!("sha256:{}", manifest.digest())))
    }

    /// `layer`: the digest of the layer as it is unpacked.
    fn config(&self, layer: &str) -> Value {
        json!({
            "architecture": self.arch,
            "os": "linux",
            "config": {
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
            },
            "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{layer}")]},
            "history": [{"created_by": "cargo xtask image"}],
        })
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, io::Read as _};

    use super::*;

    fn image(program: &[u8]) -> Image {
        Image {
            name: "docker.io/library/shunt:dev".to_owned(),
            short_name: "shunt:dev".to_owned(),
            arch: "amd64".to_owned(),
            program: program.to_vec(),
        }
    }

    fn files(tar: &[u8]) -> BTreeMap<String, (u32, Vec<u8>)> {
        let mut archive = tar::Archive::new(tar);
        let entries = archive.entries().unwrap().map(|entry| {
            let mut entry = entry.unwrap();
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).unwrap();
            assert_eq!((entry.header().mtime().unwrap(), entry.header().uid().unwrap()), (0, 0));
            (entry.path().unwrap().display().to_string(), (entry.header().mode().unwrap(), bytes))
        });
        entries.collect()
    }

    /// What both kinds of reader go by leads to the program.
    #[test]
    fn the_program_is_found_by_the_index_and_by_dockers_manifest() {
        let (archive, _) = image(b"program").archive().unwrap();
        let files = files(&archive);
        let json = |path: &str| serde_json::from_slice::<Value>(&files[path].1).unwrap();
        let blob = |descriptor: &Value| {
            let digest = descriptor["digest"].as_str().unwrap().trim_start_matches("sha256:").to_owned();
            let bytes = &files[&format!("blobs/sha256/{digest}")].1;
            assert_eq!((sha256(bytes), bytes.len()), (digest, usize::try_from(descriptor["size"].as_u64().unwrap()).unwrap()));
            bytes.clone()
        };
        let manifest: Value = serde_json::from_slice(&blob(&json("index.json")["manifests"][0])).unwrap();
        let config: Value = serde_json::from_slice(&blob(&manifest["config"])).unwrap();
        let packed = blob(&manifest["layers"][0]);
        let mut layer = Vec::new();
        flate2::read::GzDecoder::new(packed.as_slice()).read_to_end(&mut layer).unwrap();
        assert_eq!(config["rootfs"]["diff_ids"][0], format!("sha256:{}", sha256(&layer)));
        assert_eq!(self::files(&layer)["shunt"], (0o755, b"program".to_vec()));
        let docker = &json("manifest.json")[0];
        assert_eq!(files[docker["Layers"][0].as_str().unwrap()].1, packed);
        assert_eq!(docker["RepoTags"][0], "shunt:dev");
    }

    #[test]
    fn the_same_program_gives_the_same_bytes() {
        assert_eq!(image(b"program").archive().unwrap(), image(b"program").archive().unwrap());
        assert_ne!(image(b"program").archive().unwrap().1, image(b"another").archive().unwrap().1);
    }
}
