//! The hash of one family's ClusterIPs.

use std::{net::IpAddr, path::Path};

use aya::maps::{HashMap, MapData};
use proxy_common::{Address as _, Family, Undefined};

use super::{Error, Row, open_as};

/// `CLUSTER_IPS_V4` or `CLUSTER_IPS_V6`.
pub struct ClusterIpTable<F: Family> {
    name: &'static str,
    map: HashMap<MapData, Row<F::Addr>, Row<Undefined>>,
    capacity: u32,
}

impl<F: Family> ClusterIpTable<F> {
    pub(super) fn open(dir: &Path, name: &'static str) -> Result<Self, Error> {
        let capacity = super::capacity(dir, name)?;
        Ok(Self { name, map: open_as(dir, name)?, capacity })
    }

    /// How many addresses fit.
    pub fn capacity(&self) -> u32 {
        self.capacity
    }

    /// Says what becomes of packets to an address that are for no port of it, or that it is none. One that is none already stays so.
    pub(super) fn set(&mut self, addr: IpAddr, undefined: Option<Undefined>) -> Result<(), Error> {
        let key = Row(F::Addr::from_ip(addr).ok_or(Error::Family { map: self.name, addr })?);
        let result = match undefined {
            Some(undefined) => self.map.insert(key, Row(undefined), 0),
            None => self.map.remove(&key),
        };
        match result.map_err(|source| Error::Write { map: self.name, source }) {
            Err(error) if error.is_not_found() => Ok(()),
            result => result,
        }
    }

    /// All addresses.
    pub fn entries(&self) -> Result<Vec<(IpAddr, Undefined)>, Error> {
        let entries = self.map.iter().map(|entry| entry.map(|(addr, undefined)| (addr.0.to_ip(), undefined.0)));
        entries.collect::<Result<_, _>>().map_err(|source| Error::Read { map: self.name, source })
    }
}
