//! An archive that every engine loads: an OCI layout (image-spec, `image-layout.md`) with a `manifest.json` for Docker in it.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{BufWriter, Write},
    path::Path,
};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use tar::{Builder, EntryType};

use super::layer::{self, Layer};

const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// What an image is made of.
pub(crate) struct Image<'a> {
    /// Each with a registry and a tag.
    pub(crate) names: Vec<String>,
    /// As images call it.
    pub(crate) arch: &'a str,
    /// The lowest first.
    pub(crate) layers: Vec<&'a Layer>,
    /// What is run, as the image's configuration says it: `Entrypoint`, `Cmd`, `Labels` and the like.
    pub(crate) config: Value,
}

/// Something that is found by its digest.
struct Blob<'a> {
    media_type: &'static str,
    bytes: &'a [u8],
}

impl Blob<'_> {
    fn digest(&self) -> String {
        layer::sha256(self.bytes)
    }

    fn descriptor(&self) -> Value {
        json!({"mediaType": self.media_type, "digest": format!("sha256:{}", self.digest()), "size": self.bytes.len()})
    }

    fn path(&self) -> String {
        format!("blobs/sha256/{}", self.digest())
    }
}

/// Writes an archive as a whole. Yields the digests by which registries know the images.
pub(crate) fn write(file: &Path, images: &[Image<'_>]) -> Result<Vec<String>> {
    let unfinished = file.with_extension("new");
    let out = File::create(&unfinished).with_context(|| format!("making {}", unfinished.display()))?;
    let digests = write_to(BufWriter::new(out), images).with_context(|| format!("writing {}", unfinished.display()))?;
    fs::rename(&unfinished, file).with_context(|| format!("putting {} in its place", file.display()))?;
    Ok(digests)
}

fn write_to(out: impl Write, images: &[Image<'_>]) -> Result<Vec<String>> {
    let mut archive = Builder::new(out);
    let mut there = BTreeSet::new();
    // A layer that images share is there once.
    let mut add = |path: &str, bytes: &[u8]| {
        if !there.insert(path.to_owned()) {
            return Ok(());
        }
        let size = bytes.len().try_into().context("a part is too large")?;
        archive.append_data(&mut layer::header(EntryType::Regular, 0o644, size), path, bytes).with_context(|| format!("adding {path}"))
    };
    let (mut entries, mut docker, mut digests) = (Vec::new(), Vec::new(), Vec::new());
    for image in images {
        let layers: Vec<Blob<'_>> = image.layers.iter().map(|layer| Blob { media_type: layer.media_type, bytes: &layer.bytes }).collect();
        let config = image.config().to_string();
        let config = Blob { media_type: CONFIG, bytes: config.as_bytes() };
        let descriptors: Vec<Value> = layers.iter().map(Blob::descriptor).collect();
        let manifest = json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": config.descriptor(), "layers": descriptors}).to_string();
        let manifest = Blob { media_type: MANIFEST, bytes: manifest.as_bytes() };
        for blob in [&config, &manifest].into_iter().chain(&layers) {
            add(&blob.path(), blob.bytes)?;
        }
        entries.extend(image.names.iter().map(|name| image.entry(name, &manifest)));
        let paths: Vec<String> = layers.iter().map(Blob::path).collect();
        docker.push(json!({"Config": config.path(), "RepoTags": image.short_names(), "Layers": paths}));
        digests.push(format!("sha256:{}", manifest.digest()));
    }
    add("oci-layout", json!({"imageLayoutVersion": "1.0.0"}).to_string().as_bytes())?;
    add("index.json", json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries}).to_string().as_bytes())?;
    add("manifest.json", Value::from(docker).to_string().as_bytes())?;
    archive.into_inner().context("closing the archive")?.flush().context("closing the archive")?;
    Ok(digests)
}

impl Image<'_> {
    /// What the index says of the image under one of its names.
    fn entry(&self, name: &str, manifest: &Blob<'_>) -> Value {
        let mut entry = manifest.descriptor();
        let tag = name.rsplit_once(':').map_or("latest", |(_, tag)| tag);
        entry["annotations"] = json!({"io.containerd.image.name": name, "org.opencontainers.image.ref.name": tag});
        entry["platform"] = json!({"architecture": self.arch, "os": "linux"});
        entry
    }

    /// The names as Docker writes them.
    fn short_names(&self) -> Vec<&str> {
        let short =
            |name: &'_ str| name.strip_prefix("docker.io/").map_or(name.len(), |rest| rest.strip_prefix("library/").unwrap_or(rest).len());
        self.names.iter().map(|name| &name[name.len() - short(name)..]).collect()
    }

    fn config(&self) -> Value {
        let layers: Vec<String> = self.layers.iter().map(|layer| format!("sha256:{}", layer.diff_id)).collect();
        json!({
            "architecture": self.arch,
            "os": "linux",
            "config": self.config,
            "rootfs": {"type": "layers", "diff_ids": layers},
        })
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, io::Read as _};

    use super::{super::layer::Files, *};

    fn archive(program: &[u8]) -> (Vec<u8>, Vec<String>) {
        let tar = Files::new().folder("run/").unwrap().file("shunt", 0o755, program).unwrap().tar().unwrap();
        let layer = Layer::packed(&tar).unwrap();
        let names = ["docker.io/library/shunt:dev", "registry.example/shunt:1"].map(str::to_owned).to_vec();
        let image = Image { names, arch: "amd64", layers: vec![&layer], config: json!({"Entrypoint": ["/shunt"]}) };
        let mut bytes = Vec::new();
        let digests = write_to(&mut bytes, &[image]).unwrap();
        (bytes, digests)
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
        let (archive, _) = archive(b"program");
        let files = files(&archive);
        let json = |path: &str| serde_json::from_slice::<Value>(&files[path].1).unwrap();
        let blob = |descriptor: &Value| {
            let digest = descriptor["digest"].as_str().unwrap().trim_start_matches("sha256:").to_owned();
            let bytes = &files[&format!("blobs/sha256/{digest}")].1;
            assert_eq!((layer::sha256(bytes), bytes.len()), (digest, usize::try_from(descriptor["size"].as_u64().unwrap()).unwrap()));
            bytes.clone()
        };
        let index = json("index.json");
        assert_eq!(index["manifests"][0]["digest"], index["manifests"][1]["digest"], "one image, two names");
        let manifest: Value = serde_json::from_slice(&blob(&index["manifests"][0])).unwrap();
        let config: Value = serde_json::from_slice(&blob(&manifest["config"])).unwrap();
        let packed = blob(&manifest["layers"][0]);
        let mut layer = Vec::new();
        flate2::read::GzDecoder::new(packed.as_slice()).read_to_end(&mut layer).unwrap();
        assert_eq!(config["rootfs"]["diff_ids"][0], format!("sha256:{}", layer::sha256(&layer)));
        assert_eq!(self::files(&layer)["shunt"], (0o755, b"program".to_vec()));
        let docker = &json("manifest.json")[0];
        assert_eq!(files[docker["Layers"][0].as_str().unwrap()].1, packed);
        assert_eq!(docker["RepoTags"], json!(["shunt:dev", "registry.example/shunt:1"]));
    }

    #[test]
    fn the_same_program_gives_the_same_bytes() {
        assert_eq!(archive(b"program"), archive(b"program"));
        assert_ne!(archive(b"program").1, archive(b"another").1);
    }
}
