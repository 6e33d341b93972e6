//! The names of service ids, kept beside them so that ids stay the same across restarts and can be named while the daemon is down.

use crate::layout::pod;

/// The value of `SERVICES`, whose key is the service id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct ServiceRow {
    /// `namespace/name` or `namespace/name:port`, UTF-8, filled up with zeros.
    ///
    /// Kubernetes allows 63 bytes for each part, which are 191 in all.
    pub name: [u8; 192],
    /// The number of the [`Protocol`](crate::Protocol).
    pub protocol: u8,
    /// Always zero.
    pub pad: [u8; 7],
}

pod!(ServiceRow: 200 { name, protocol, pad });

impl ServiceRow {
    /// `None` when the name does not fit.
    pub fn new(name: &str, protocol: crate::Protocol) -> Option<Self> {
        let mut row = Self { name: [0; 192], protocol: protocol.to_wire(), pad: [0; 7] };
        row.name.get_mut(..name.len())?.copy_from_slice(name.as_bytes());
        Some(row)
    }

    /// The name, or what of it is UTF-8.
    pub fn name(&self) -> &str {
        let end = self.name.iter().position(|&byte| byte == 0).unwrap_or(self.name.len());
        let bytes = self.name.get(..end).unwrap_or_default();
        match core::str::from_utf8(bytes) {
            Ok(name) => name,
            Err(error) => core::str::from_utf8(bytes.get(..error.valid_up_to()).unwrap_or_default()).unwrap_or_default(),
        }
    }
}
