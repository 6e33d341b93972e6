//! The flow table of one family, as the daemon sees it: it reads it for people and removes what has expired, and never inserts.

use std::path::Path;

use aya::maps::{HashMap, MapData};
use bytemuck::Pod;
use proxy_common::{Family, Flow, FlowKey};

use super::{Error, Row, open_as};

/// `FLOWS_V4` or `FLOWS_V6`.
pub struct FlowTable<F: Family> {
    name: &'static str,
    map: HashMap<MapData, Row<FlowKey<F>>, Row<Flow<F>>>,
    capacity: u32,
}

impl<F: Family> FlowTable<F>
where
    FlowKey<F>: Pod,
    Flow<F>: Pod,
{
    pub(super) fn open(dir: &Path, name: &'static str) -> Result<Self, Error> {
        let capacity = super::capacity(dir, name)?;
        Ok(Self { name, map: open_as(dir, name)?, capacity })
    }

    /// How many entries fit.
    pub fn capacity(&self) -> u32 {
        self.capacity
    }

    /// Walks through the entries. This is no snapshot: an entry that comes behind the walk is missed, and where the one that the walk stands
    /// at goes, the kernel begins anew, so that others are seen twice. It ends after as many entries as fit; the next walk finds the rest.
    pub fn entries(&self) -> impl Iterator<Item = (FlowKey<F>, Flow<F>)> + '_ {
        let most = usize::try_from(self.capacity).unwrap_or(usize::MAX);
        self.map.iter().filter_map(|entry| entry.ok().map(|(key, flow)| (key.0, flow.0))).take(most)
    }

    /// The keys of all entries. Where the one goes that the walk stands at, it begins anew; at its end it has seen every entry that was there
    /// all the time.
    pub fn keys(&self) -> impl Iterator<Item = Result<FlowKey<F>, Error>> + '_ {
        self.map.keys().map(|key| key.map(|key| key.0).map_err(|source| Error::Read { map: self.name, source }))
    }

    /// The entry of a key, if it is there.
    pub fn get(&self, key: &FlowKey<F>) -> Option<Flow<F>> {
        self.map.get(&Row(*key), 0).ok().map(|flow| flow.0)
    }

    /// Removes an entry. One that is not there is as good as removed.
    pub fn remove(&mut self, key: &FlowKey<F>) -> Result<(), Error> {
        match self.map.remove(&Row(*key)).map_err(|source| Error::Write { map: self.name, source }) {
            Err(error) if error.is_not_found() => Ok(()),
            result => result,
        }
    }
}
