//! A table that programs write, as the daemon sees it: it reads it for people and removes what is over, and never inserts.

use std::path::Path;

use aya::maps::{HashMap, MapData};
use bytemuck::Pod;
use proxy_common::{Flow, FlowKey, SocketKey, SocketPeer};

use super::{Error, Row, batch, open, open_as};

/// A key and its value.
pub type FlowEntry<F> = (FlowKey<F>, Flow<F>);

/// `FLOWS_V4` or `FLOWS_V6`.
pub type FlowTable<F> = LruTable<FlowKey<F>, Flow<F>>;

/// `SOCKETS_V4` or `SOCKETS_V6`.
pub type SocketTable<F> = LruTable<SocketKey<F>, SocketPeer<F>>;

/// Such a table.
pub struct LruTable<K, V> {
    name: &'static str,
    map: HashMap<MapData, Row<K>, Row<V>>,
    /// The same map, to be read many entries at a time.
    data: MapData,
    capacity: u32,
}

impl<K: Pod, V: Pod> LruTable<K, V> {
    pub(super) fn open(dir: &Path, name: &'static str) -> Result<Self, Error> {
        let capacity = super::capacity(dir, name)?;
        Ok(Self { name, map: open_as(dir, name)?, data: open(dir, name)?, capacity })
    }

    /// How many entries fit.
    pub fn capacity(&self) -> u32 {
        self.capacity
    }

    /// Shows every entry that is there all the time, once, and some of those that come and go meanwhile.
    pub fn walk(&self, see: impl FnMut(&K, &V) -> Result<(), Error>) -> Result<(), Error> {
        batch::walk(&self.data, self.name, see)
    }

    /// The entries that a walk shows.
    pub fn entries(&self) -> Result<Vec<(K, V)>, Error> {
        let mut entries = Vec::new();
        self.walk(|key, value| {
            entries.push((*key, *value));
            Ok(())
        })?;
        Ok(entries)
    }

    /// The entry of a key, if it is there.
    pub fn get(&self, key: &K) -> Option<V> {
        self.map.get(&Row(*key), 0).ok().map(|value| value.0)
    }

    /// Removes an entry. One that is not there is as good as removed.
    pub fn remove(&mut self, key: &K) -> Result<(), Error> {
        match self.map.remove(&Row(*key)).map_err(|source| Error::Write { map: self.name, source }) {
            Err(error) if error.is_not_found() => Ok(()),
            result => result,
        }
    }
}
