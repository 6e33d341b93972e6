//! Layers: archives of files, packed or as they are.

use std::io::Write as _;

use anyhow::{Context as _, Result};
use flate2::{Compression, GzBuilder};
use sha2::{Digest as _, Sha256};
use tar::{Builder, EntryType, Header};

/// A layer of an image.
pub(crate) struct Layer {
    pub(super) media_type: &'static str,
    pub(super) bytes: Vec<u8>,
    /// Of the layer as it is unpacked.
    pub(super) diff_id: String,
}

/// What a layer is put together of: root's files, of no time.
pub(crate) struct Files(Builder<Vec<u8>>);

impl Layer {
    /// A layer to be sent far.
    pub(crate) fn packed(tar: &[u8]) -> Result<Self> {
        let mut packed = GzBuilder::new().mtime(0).write(Vec::new(), Compression::default());
        packed.write_all(tar).context("packing a layer")?;
        let bytes = packed.finish().context("packing a layer")?;
        Ok(Self { media_type: "application/vnd.oci.image.layer.v1.tar+gzip", bytes, diff_id: sha256(tar) })
    }

    /// A layer that stays on the machine.
    pub(crate) fn plain(tar: Vec<u8>) -> Self {
        Self { media_type: "application/vnd.oci.image.layer.v1.tar", diff_id: sha256(&tar), bytes: tar }
    }
}

impl Files {
    pub(crate) fn new() -> Self {
        Self(Builder::new(Vec::new()))
    }

    pub(crate) fn folder(mut self, path: &str) -> Result<Self> {
        let header = header(EntryType::Directory, 0o755, 0);
        self.add(header, path, &[])?;
        Ok(self)
    }

    pub(crate) fn file(mut self, path: &str, mode: u32, bytes: &[u8]) -> Result<Self> {
        let size = bytes.len().try_into().with_context(|| format!("{path} is too large"))?;
        self.add(header(EntryType::Regular, mode, size), path, bytes)?;
        Ok(self)
    }

    pub(crate) fn link(mut self, path: &str, to: &str) -> Result<Self> {
        let mut header = header(EntryType::Symlink, 0o777, 0);
        self.0.append_link(&mut header, path, to).with_context(|| format!("adding {path}"))?;
        Ok(self)
    }

    pub(crate) fn tar(self) -> Result<Vec<u8>> {
        self.0.into_inner().context("closing a layer")
    }

    fn add(&mut self, mut header: Header, path: &str, bytes: &[u8]) -> Result<()> {
        self.0.append_data(&mut header, path, bytes).with_context(|| format!("adding {path}"))
    }
}

pub(super) fn header(kind: EntryType, mode: u32, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header
}

pub(super) fn sha256(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    Sha256::digest(bytes).iter().fold(String::new(), |mut text, byte| {
        // Writing to a string cannot fail.
        write!(text, "{byte:02x}").ok();
        text
    })
}
