//! The one layer of the image: the daemon, and the folders that others are mounted on.

use std::io::Write as _;

use anyhow::{Context as _, Result};
use flate2::{Compression, GzBuilder};
use tar::{Builder, EntryType, Header};

/// What is mounted there outlives the container, or comes from the node. The folders are there so that the root need not be written to.
const FOLDERS: [&str; 5] = ["proc/", "run/", "run/shunt/", "sys/", "tmp/"];

/// The layer as it is unpacked.
pub(super) fn tar(program: &[u8]) -> Result<Vec<u8>> {
    let mut archive = Builder::new(Vec::new());
    for folder in FOLDERS {
        archive.append_data(&mut header(EntryType::Directory, 0o755, 0), folder, [].as_slice()).context("adding a folder")?;
    }
    let size = program.len().try_into().context("the program is too large")?;
    archive.append_data(&mut header(EntryType::Regular, 0o755, size), "shunt", program).context("adding the program")?;
    archive.into_inner().context("closing the layer")
}

/// The layer as it is kept.
pub(super) fn gzip(tar: &[u8]) -> Result<Vec<u8>> {
    let mut packed = GzBuilder::new().mtime(0).write(Vec::new(), Compression::default());
    packed.write_all(tar).context("packing the layer")?;
    packed.finish().context("packing the layer")
}

/// Root's, and of no time.
pub(super) fn header(kind: EntryType, mode: u32, size: u64) -> Header {
    let mut header = Header::new_ustar();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header
}
