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

/// Writes what differs, since programs may miss an entry while it is written anew: first what is there, then what comes, for which there is room
/// when what is not wanted has gone.
pub(super) fn set<F: Family>(map: &mut SnatMap<F>, name: &'static str, wanted: &BTreeMap<u32, SnatSource<F>>) -> Result<(), Error>
where
    SnatSource<F>: Pod,
{
    let found = entries(map, name)?;
    let failed = |source| Error::Write { map: name, source };
    let differing = wanted.iter().filter(|(ifindex, source)| found.get(*ifindex) != Some(*source));
    let (there, coming): (Vec<_>, Vec<_>) = differing.partition(|(ifindex, _)| found.contains_key(*ifindex));
    for (ifindex, source) in there {
        map.insert(*ifindex, Row(*source), 0).map_err(failed)?;
    }
    for ifindex in found.keys().filter(|ifindex| !wanted.contains_key(*ifindex)) {
        map.remove(ifindex).map_err(failed)?;
    }
    for (ifindex, source) in coming {
        map.insert(*ifindex, Row(*source), 0).map_err(failed)?;
    }
    Ok(())
}
