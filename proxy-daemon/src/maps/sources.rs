//! The trie of the networks whose clients may use a family's load balancer addresses.

use std::path::Path;

use aya::maps::{
    MapData,
    lpm_trie::{Key, LpmTrie},
};
use ipnet::IpNet;
use proxy_common::{Address as _, Family, ServiceId, SourceKey};

use super::{Error, open_as};

/// What of a key the kernel compares: a [`SourceKey`] without the length of its prefix, which it knows by itself.
#[derive(Clone, Copy)]
#[repr(C, packed)]
pub struct SourceBits<F: Family> {
    service: ServiceId,
    addr: F::Addr,
}

// SAFETY: both fields are plain data, and a packed type has no padding.
unsafe impl<F: Family> aya::Pod for SourceBits<F> {}

impl<F: Family> SourceBits<F> {
    /// The kernel's form of a key.
    fn key(key: SourceKey<F>) -> Key<Self> {
        Key::new(key.prefix_len, Self { service: key.service, addr: key.addr })
    }

    /// The key that the kernel has.
    pub fn from_key(key: &Key<Self>) -> SourceKey<F> {
        let Self { service, addr } = key.data();
        SourceKey { prefix_len: key.prefix_len(), service, addr }
    }
}

/// `SOURCES_V4` or `SOURCES_V6`.
pub struct SourceTable<F: Family> {
    name: &'static str,
    trie: LpmTrie<MapData, SourceBits<F>, u8>,
    capacity: u32,
}

impl<F: Family> SourceTable<F> {
    pub(super) fn open(dir: &Path, name: &'static str) -> Result<Self, Error> {
        let capacity = super::capacity(dir, name)?;
        Ok(Self { name, trie: open_as(dir, name)?, capacity })
    }

    /// How many networks fit.
    pub fn capacity(&self) -> u32 {
        self.capacity
    }

    fn key(&self, service: ServiceId, network: &IpNet) -> Result<Key<SourceBits<F>>, Error> {
        let addr = F::Addr::from_ip(network.network()).ok_or(Error::Family { map: self.name, addr: network.network() })?;
        Ok(SourceBits::key(SourceKey::network(service, addr, network.prefix_len())))
    }

    /// Lets a network's clients in. One that is let in already stays so.
    pub(super) fn insert(&mut self, service: ServiceId, network: &IpNet) -> Result<(), Error> {
        let key = self.key(service, network)?;
        self.trie.insert(&key, 1, 0).map_err(|source| Error::Write { map: self.name, source })
    }

    /// Lets a network's clients in no longer. One that is not let in is as good as removed.
    pub(super) fn remove(&mut self, service: ServiceId, network: &IpNet) -> Result<(), Error> {
        let key = self.key(service, network)?;
        match self.trie.remove(&key).map_err(|source| Error::Write { map: self.name, source }) {
            Err(error) if error.is_not_found() => Ok(()),
            result => result,
        }
    }

    /// All networks. A key that is none, which only another program can have put there, is left out.
    pub fn entries(&self) -> Result<Vec<(ServiceId, IpNet)>, Error> {
        let mut entries = Vec::new();
        for key in self.trie.keys() {
            let key = SourceBits::from_key(&key.map_err(|source| Error::Read { map: self.name, source })?);
            let prefix_len = key.prefix_len.checked_sub(ServiceId::BITS).and_then(|len| u8::try_from(len).ok());
            if let Some(network) = prefix_len.and_then(|len| IpNet::new(key.addr.to_ip(), len).ok()) {
                entries.push((key.service, network));
            }
        }
        Ok(entries)
    }
}
