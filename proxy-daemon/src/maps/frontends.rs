//! The hash of one family's frontends.

use std::path::Path;

use aya::maps::{HashMap, MapData};
use bytemuck::Pod;
use proxy_common::{Address as _, Family, FrontendKey, FrontendRef, Port, Protocol, filter::Place};

use super::{Error, Row, open_as};
use crate::model::FrontendAddr;

/// Replaces what is there. The kernel puts the new element before the old one and takes that away afterwards: a look-up finds one of them, unless it
/// has gone past the one as the other goes.
const BPF_ANY: u64 = 0;

/// `FRONTENDS_V4` or `FRONTENDS_V6`.
pub struct FrontendTable<F: Family> {
    name: &'static str,
    map: HashMap<MapData, Row<FrontendKey<F>>, Row<FrontendRef>>,
    capacity: u32,
}

impl<F: Family> FrontendTable<F>
where
    FrontendKey<F>: Pod,
{
    pub(super) fn open(dir: &Path, name: &'static str) -> Result<Self, Error> {
        let capacity = super::capacity(dir, name)?;
        Ok(Self { name, map: open_as(dir, name)?, capacity })
    }

    /// How many frontends fit.
    pub fn capacity(&self) -> u32 {
        self.capacity
    }

    fn key(&self, addr: &FrontendAddr) -> Result<Row<FrontendKey<F>>, Error> {
        let ip = F::Addr::from_ip(addr.addr).ok_or(Error::Family { map: self.name, addr: addr.addr })?;
        Ok(Row(FrontendKey::new(ip, Port::from_host(addr.port), addr.protocol)))
    }

    /// Where the service filter says that the frontend may be there.
    pub(super) fn place(&self, addr: &FrontendAddr) -> Result<Place, Error> {
        Ok(self.key(addr)?.0.place())
    }

    pub(super) fn set(&mut self, addr: &FrontendAddr, value: FrontendRef) -> Result<(), Error> {
        let key = self.key(addr)?;
        self.map.insert(key, Row(value), BPF_ANY).map_err(|source| Error::Write { map: self.name, source })
    }

    /// Removes a frontend. One that is not there is as good as removed.
    pub(super) fn remove(&mut self, addr: &FrontendAddr) -> Result<(), Error> {
        let key = self.key(addr)?;
        match self.map.remove(&key).map_err(|source| Error::Write { map: self.name, source }) {
            Err(error) if error.is_not_found() => Ok(()),
            result => result,
        }
    }

    /// What a frontend leads to, if it is there.
    pub fn get(&self, key: &FrontendKey<F>) -> Option<FrontendRef> {
        self.map.get(&Row(*key), 0).ok().map(|value| value.0)
    }

    /// The keys of all frontends.
    pub fn keys(&self) -> impl Iterator<Item = Result<FrontendKey<F>, Error>> + '_ {
        self.map.keys().map(|key| key.map(|key| key.0).map_err(|source| Error::Read { map: self.name, source }))
    }

    /// All frontends. A key that is none, which only another program can have put there, is left out.
    pub fn entries(&self) -> Result<Vec<(FrontendAddr, FrontendRef)>, Error> {
        let mut entries = Vec::new();
        for entry in &self.map {
            let (Row(key), Row(value)) = entry.map_err(|source| Error::Read { map: self.name, source })?;
            if let Some(protocol) = Protocol::from_wire(key.protocol) {
                entries.push((FrontendAddr { addr: key.addr.to_ip(), port: key.port.to_host(), protocol }, value));
            }
        }
        Ok(entries)
    }
}
