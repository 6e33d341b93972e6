//! Files of the project, named from its root.

use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};

/// One that is part of it.
pub(crate) fn file(path: &str) -> Result<PathBuf> {
    let file = place(path);
    ensure!(file.exists(), "there is no {}", file.display());
    Ok(file)
}

/// One that may be there.
pub(crate) fn place(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}
