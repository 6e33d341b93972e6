//! A manifest directory as `shunt run --manifests` follows it: files of YAML documents, changed atomically.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use serde::Deserialize as _;
use serde_json::Value;

/// The directory; its owner removes it.
#[derive(Debug)]
pub struct Manifests {
    path: PathBuf,
}

impl Manifests {
    /// Makes the directory.
    pub fn create(path: &Path) -> Result<Self> {
        fs::create_dir_all(path).with_context(|| format!("making {}", path.display()))?;
        Ok(Self { path: path.to_owned() })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes objects as the documents of `<name>.yaml`, in one step for whoever reads the directory.
    pub fn write(&self, name: &str, objects: &[Value]) -> Result<()> {
        let documents = objects.iter().map(serde_yaml_ng::to_string);
        let documents = documents.collect::<Result<Vec<_>, _>>().context("writing YAML")?;
        self.write_text(name, &documents.join("---\n"))
    }

    /// Writes any text as `<name>.yaml`, in one step.
    pub fn write_text(&self, name: &str, text: &str) -> Result<()> {
        // The temporary name lacks the extension, and lies in the same directory so that the renaming is atomic.
        let (file, temporary) = (self.file(name), self.path.join(format!(".{name}.tmp")));
        fs::write(&temporary, text).with_context(|| format!("writing {}", temporary.display()))?;
        fs::rename(&temporary, &file).with_context(|| format!("replacing {}", file.display()))
    }

    /// Removes `<name>.yaml`.
    pub fn remove(&self, name: &str) -> Result<()> {
        let file = self.file(name);
        fs::remove_file(&file).with_context(|| format!("removing {}", file.display()))
    }

    fn file(&self, name: &str) -> PathBuf {
        self.path.join(format!("{name}.yaml"))
    }
}

/// The objects that are the documents of a text.
pub(crate) fn parse(text: &str) -> Result<Vec<Value>, serde_yaml_ng::Error> {
    serde_yaml_ng::Deserializer::from_str(text).map(Value::deserialize).collect()
}
