//! Addresses as they stand in packets and maps: network byte order, behind types.
//!
//! [`Addr6`] is two 64-bit words and not sixteen bytes, because keys are built from 8-byte stores: the kernel compares them in
//! 8-byte words, and reading back what was written in smaller pieces stalls the processor.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use bytemuck::{Pod, Zeroable};

/// What both address types have in common.
pub trait Address: Pod + Eq + Ord + core::fmt::Debug + Send + Sync + 'static {
    /// The number of bytes on the wire.
    const LEN: usize = size_of::<Self>();

    /// The address in the standard library's form.
    fn to_ip(self) -> IpAddr;

    /// The address of this family, if `ip` is of this family. IPv4-mapped IPv6 addresses are IPv6 here.
    fn from_ip(ip: IpAddr) -> Option<Self>;

    /// The sum of the address's 16-bit words as they stand in the packet, not folded: the input of a checksum.
    fn csum_words(self) -> u64;

    /// The address as it lies in memory, in one word or two, for a hash.
    fn words(self) -> [u64; 2];
}

/// An IPv4 address in network byte order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Pod, Zeroable)]
#[repr(transparent)]
pub struct Addr4(u32);

/// An IPv6 address in network byte order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Pod, Zeroable)]
#[repr(transparent)]
pub struct Addr6([u64; 2]);

impl Addr4 {
    /// From the four bytes in the order of the wire.
    #[inline(always)]
    pub const fn from_wire(bytes: [u8; 4]) -> Self {
        Self(u32::from_ne_bytes(bytes))
    }

    /// The four bytes in the order of the wire.
    #[inline(always)]
    pub const fn to_wire(self) -> [u8; 4] {
        self.0.to_ne_bytes()
    }

    /// The word as it lies in memory, for keys and hashes.
    #[inline(always)]
    pub const fn raw(self) -> u32 {
        self.0
    }
}

impl Addr6 {
    /// From the sixteen bytes in the order of the wire.
    #[inline(always)]
    pub const fn from_wire(bytes: [u8; 16]) -> Self {
        let word = u128::from_ne_bytes(bytes);
        if cfg!(target_endian = "little") { Self([low64(word), low64(word >> 64)]) } else { Self([low64(word >> 64), low64(word)]) }
    }

    /// The sixteen bytes in the order of the wire.
    #[inline(always)]
    pub fn to_wire(self) -> [u8; 16] {
        bytemuck::cast(self.0)
    }

    /// The two words as they lie in memory, for keys and hashes.
    #[inline(always)]
    pub const fn raw(self) -> [u64; 2] {
        self.0
    }
}

#[expect(clippy::cast_possible_truncation, reason = "the low half is what is asked for")]
const fn low64(word: u128) -> u64 {
    word as u64
}

impl Address for Addr4 {
    #[inline(always)]
    fn to_ip(self) -> IpAddr {
        IpAddr::V4(Ipv4Addr::from(self.to_wire()))
    }

    #[inline(always)]
    fn from_ip(ip: IpAddr) -> Option<Self> {
        match ip {
            IpAddr::V4(v4) => Some(Self::from_wire(v4.octets())),
            IpAddr::V6(_) => None,
        }
    }

    #[inline(always)]
    fn csum_words(self) -> u64 {
        u64::from(self.0)
    }

    #[inline(always)]
    fn words(self) -> [u64; 2] {
        [u64::from(self.0), 0]
    }
}

impl Address for Addr6 {
    #[inline(always)]
    fn to_ip(self) -> IpAddr {
        IpAddr::V6(Ipv6Addr::from(self.to_wire()))
    }

    #[inline(always)]
    fn from_ip(ip: IpAddr) -> Option<Self> {
        match ip {
            IpAddr::V4(_) => None,
            IpAddr::V6(v6) => Some(Self::from_wire(v6.octets())),
        }
    }

    #[inline(always)]
    fn csum_words(self) -> u64 {
        let half = |word: u64| (word & 0xffff_ffff) + (word >> 32);
        half(self.0[0]) + half(self.0[1])
    }

    #[inline(always)]
    fn words(self) -> [u64; 2] {
        self.0
    }
}

#[cfg(not(target_arch = "bpf"))]
impl core::fmt::Debug for Addr4 {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        core::fmt::Display::fmt(&self.to_ip(), f)
    }
}

#[cfg(not(target_arch = "bpf"))]
impl core::fmt::Debug for Addr6 {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        core::fmt::Display::fmt(&self.to_ip(), f)
    }
}

// Formatting code has panic paths, which must not reach a BPF object.
#[cfg(target_arch = "bpf")]
impl core::fmt::Debug for Addr4 {
    fn fmt(&self, _: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        Ok(())
    }
}

#[cfg(target_arch = "bpf")]
impl core::fmt::Debug for Addr6 {
    fn fmt(&self, _: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wire_bytes_survive_the_round_trip() {
        let v4 = Ipv4Addr::new(10, 1, 2, 3);
        let addr = Addr4::from_ip(v4.into()).unwrap();
        assert_eq!(addr.to_wire(), [10, 1, 2, 3]);
        assert_eq!(bytemuck::bytes_of(&addr), [10, 1, 2, 3]);
        assert_eq!(addr.to_ip(), IpAddr::from(v4));

        let v6: Ipv6Addr = "fd00:1:2:3:4:5:6:7".parse().unwrap();
        let addr = Addr6::from_ip(v6.into()).unwrap();
        assert_eq!(addr.to_wire(), v6.octets());
        assert_eq!(bytemuck::bytes_of(&addr), v6.octets());
        assert_eq!(addr.to_ip(), IpAddr::from(v6));
    }

    #[test]
    fn an_address_of_the_other_family_is_refused() {
        assert_eq!(Addr4::from_ip("::1".parse().unwrap()), None);
        assert_eq!(Addr6::from_ip("127.0.0.1".parse().unwrap()), None);
    }
}
