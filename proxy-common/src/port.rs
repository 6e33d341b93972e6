//! Ports as they stand in packets and maps.

use bytemuck::{Pod, Zeroable};

/// A transport port in network byte order. Zero is no port.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Pod, Zeroable, Hash)]
#[repr(transparent)]
pub struct Port(u16);

#[expect(clippy::disallowed_methods, reason = "this is the place where ports change their byte order")]
impl Port {
    /// From a number in host byte order.
    #[inline(always)]
    pub const fn from_host(port: u16) -> Self {
        Self(port.to_be())
    }

    /// The number in host byte order.
    #[inline(always)]
    pub const fn to_host(self) -> u16 {
        u16::from_be(self.0)
    }

    /// From the two bytes in the order of the wire.
    #[inline(always)]
    pub const fn from_wire(bytes: [u8; 2]) -> Self {
        Self(u16::from_ne_bytes(bytes))
    }

    /// The two bytes in the order of the wire.
    #[inline(always)]
    pub const fn to_wire(self) -> [u8; 2] {
        self.0.to_ne_bytes()
    }

    /// The word as it lies in memory, for keys, hashes and checksums.
    #[inline(always)]
    pub const fn raw(self) -> u16 {
        self.0
    }
}

impl core::fmt::Debug for Port {
    #[cfg(not(target_arch = "bpf"))]
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        core::fmt::Display::fmt(&self.to_host(), f)
    }

    #[cfg(target_arch = "bpf")]
    fn fmt(&self, _: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_in_network_order() {
        assert_eq!(Port::from_host(0x1f90).to_wire(), [0x1f, 0x90]);
        assert_eq!(Port::from_wire([0x1f, 0x90]).to_host(), 8080);
    }
}
