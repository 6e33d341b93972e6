//! What can go wrong with a map.

use std::{io, net::IpAddr, path::PathBuf};

use aya::maps::MapError;

/// Why a map could not be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("opening the pinned map {}", path.display())]
    Open { path: PathBuf, source: MapError },
    #[error("mapping {map} into memory: mmap")]
    Mmap { map: &'static str, source: io::Error },
    #[error("reading {map}")]
    Read { map: &'static str, source: MapError },
    #[error("writing {map}")]
    Write { map: &'static str, source: MapError },
    #[error("{addr} is not of the family of {map}")]
    Family { map: &'static str, addr: IpAddr },
    #[error("{map} has no row {index}")]
    OutOfBounds { map: &'static str, index: u32 },
    #[error("{map} has rows of {found} bytes, this version expects {expected}: run `shunt cleanup` and start again")]
    Layout { map: &'static str, expected: usize, found: u32 },
}

impl Error {
    /// Whether the map said that it has no such key.
    pub fn is_not_found(&self) -> bool {
        let (Self::Read { source, .. } | Self::Write { source, .. }) = self else { return false };
        // A look-up says the one, a removal the other.
        let is_missing = |error: &io::Error| error.kind() == io::ErrorKind::NotFound;
        matches!(source, MapError::KeyNotFound) || matches!(source, MapError::SyscallError(error) if is_missing(&error.io_error))
    }
}
