//! What stands in for clients, by the device by which packets leave.

use std::collections::BTreeMap;

use aya::maps::{HashMap, MapData};
use bytemuck::Pod;
use proxy_common::{Family, SnatSource};

use super::{Error, Row};

/// The map of a family.
pub(super) type SnatMap<F> = HashMap<MapData, u32, Row<SnatSource<F>>>;

/// Everything that is there.
pub(super) fn entries<F: Family>(map: &SnatMap<F>, name: &'static str) -> Result<BTreeMap<u32, SnatSource<F>>, Error>
where
    SnatSource<F>: Pod,
{
    let entries = map.iter().map(|entry| entry.map(|(ifindex, source)| (ifindex, source.0)));
    entries.collect::<Result<_, _>>().map_err(|source| Error::Read { map: name, source })
}

/// Writes what differs, since programs may miss an entry while it is written anew, and then removes what is not wanted.
pub(super) fn set<F: Family>(map: &mut SnatMap<F>, name: &'static str, wanted: &BTreeMap<u32, SnatSource<F>>) -> Result<(), Error>
where
    SnatSource<F>: Pod,
{
    let found = entries(map, name)?;
    let failed = |source| Error::Write { map: name, source };
    for (ifindex, source) in wanted.iter().filter(|(ifindex, source)| found.get(*ifindex) != Some(*source)) {
        map.insert(*ifindex, Row(*source), 0).map_err(failed)?;
    }
    for ifindex in found.keys().filter(|ifindex| !wanted.contains_key(*ifindex)) {
        map.remove(ifindex).map_err(failed)?;
    }
    Ok(())
}
