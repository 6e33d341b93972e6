//! The pinned maps: the only place that writes to the kernel's tables, and that reads them.
//!
//! In: [`Change`]s, in the order in which `tables` yields them. Out: what the maps hold, for a daemon that starts again and for the command
//! line, which works while no daemon runs. Hash entries of frontends are inserted and removed by system calls; everything that changes
//! while packets read it is stored through memory, one aligned word at a time.

mod counters;
mod error;
mod filter;
mod flows;
mod frontends;
mod mapped;
mod pins;
mod row;

use std::{net::IpAddr, path::Path};

use aya::maps::{Array, HashMap, Map, MapData, PerCpuArray};
use proxy_common::{
    Backend, BackendRef, Family, FrontendKey, FrontendRef, FrontendRow, NodeRow, RangeWord, ServiceCounters, ServiceId, ServiceRow,
    SnatSource, V4, V6, maps,
};

pub use self::{
    error::Error,
    filter::Filter,
    flows::FlowTable,
    frontends::FrontendTable,
    mapped::MappedArray,
    pins::{Direction, Pins, names_in},
    row::Row,
};
use crate::{
    model::FrontendAddr,
    tables::{Change, Scope, Sizes, Snapshot},
};

/// Where changes are applied: the kernel, or what stands in for it in a test.
pub trait Maps {
    /// Applies one change. After an error the maps hold what they held before it.
    fn apply(&mut self, change: &Change) -> Result<(), Error>;

    /// What is in the maps now.
    fn snapshot(&self) -> Result<Snapshot, Error>;
}

/// All maps of one node.
pub struct KernelMaps {
    /// The frontends of IPv4.
    pub frontends4: FrontendTable<V4>,
    /// The frontends of IPv6.
    pub frontends6: FrontendTable<V6>,
    rows: MappedArray<FrontendRow>,
    backends4: MappedArray<Backend<V4>>,
    backends6: MappedArray<Backend<V6>>,
    live: MappedArray<BackendRef>,
    /// Which addresses and ports may be known.
    pub filter: Filter,
    services: HashMap<MapData, Row<ServiceId>, Row<ServiceRow>>,
    services_capacity: u32,
    /// The flows of IPv4.
    pub flows4: FlowTable<V4>,
    /// The flows of IPv6.
    pub flows6: FlowTable<V6>,
    snat4: Array<MapData, Row<SnatSource<V4>>>,
    snat6: Array<MapData, Row<SnatSource<V6>>>,
    stats: PerCpuArray<MapData, Row<ServiceCounters>>,
    reasons: PerCpuArray<MapData, u64>,
    node: Array<MapData, Row<NodeRow>>,
}

/// Opens one pinned map.
pub(crate) fn open(dir: &Path, name: &'static str) -> Result<MapData, Error> {
    let path = dir.join(name);
    MapData::from_pin(&path).map_err(|source| Error::Open { path, source })
}

/// How many rows a pinned map can hold.
fn capacity(dir: &Path, name: &'static str) -> Result<u32, Error> {
    let info = open(dir, name)?.info().map_err(|source| Error::Read { map: name, source })?;
    Ok(info.max_entries())
}

/// Opens one pinned map as the type it must be.
fn open_as<T: TryFrom<Map, Error = aya::maps::MapError>>(dir: &Path, name: &'static str) -> Result<T, Error> {
    let failed = |source| Error::Open { path: dir.join(name), source };
    Map::from_map_data(open(dir, name)?).map_err(failed).and_then(|map| T::try_from(map).map_err(failed))
}

fn read_node(node: &Array<MapData, Row<NodeRow>>) -> Result<NodeRow, Error> {
    node.get(&0, 0).map(|row| row.0).map_err(|source| Error::Read { map: maps::NODE, source })
}

/// Inserts a frontend, which packets find only where the filter is marked.
fn insert_frontend<F: Family>(
    filter: &Filter,
    frontends: &mut FrontendTable<F>,
    addr: &FrontendAddr,
    value: FrontendRef,
) -> Result<(), Error>
where
    FrontendKey<F>: bytemuck::Pod,
{
    let place = frontends.place(addr)?;
    filter.mark(place)?;
    frontends.insert(addr, value)?;
    // Once more, for the case that this thread stood still so long that the mark was taken for one of something that is gone.
    filter.mark(place)
}

impl KernelMaps {
    /// Opens the maps that are pinned there.
    pub fn open(pins: &Pins) -> Result<Self, Error> {
        let dir = &pins.maps();
        Ok(Self {
            frontends4: FrontendTable::open(dir, maps::FRONTENDS_V4)?,
            frontends6: FrontendTable::open(dir, maps::FRONTENDS_V6)?,
            rows: MappedArray::open(dir, maps::FRONTEND_ROWS)?,
            backends4: MappedArray::open(dir, maps::BACKENDS_V4)?,
            backends6: MappedArray::open(dir, maps::BACKENDS_V6)?,
            live: MappedArray::open(dir, maps::BACKEND_LIVE)?,
            filter: Filter::open(dir)?,
            services: open_as(dir, maps::SERVICES)?,
            services_capacity: capacity(dir, maps::SERVICES)?,
            flows4: FlowTable::open(dir, maps::FLOWS_V4)?,
            flows6: FlowTable::open(dir, maps::FLOWS_V6)?,
            snat4: open_as(dir, maps::SNAT_V4)?,
            snat6: open_as(dir, maps::SNAT_V6)?,
            stats: open_as(dir, maps::SERVICE_STATS)?,
            reasons: open_as(dir, maps::REASONS)?,
            node: open_as(dir, maps::NODE)?,
        })
    }

    /// The facts about the node.
    pub fn node(&self) -> Result<NodeRow, Error> {
        read_node(&self.node)
    }

    /// The facts about the node, whether or not the other maps are there.
    pub fn pinned_node(pins: &Pins) -> Result<NodeRow, Error> {
        read_node(&open_as(&pins.maps(), maps::NODE)?)
    }

    /// Writes the facts about the node.
    pub fn set_node(&mut self, row: NodeRow) -> Result<(), Error> {
        self.node.set(0, Row(row), 0).map_err(|source| Error::Write { map: maps::NODE, source })
    }

    /// Writes what stands in for a pod that reaches itself.
    pub fn set_snat(&mut self, v4: SnatSource<V4>, v6: SnatSource<V6>) -> Result<(), Error> {
        self.snat4.set(0, Row(v4), 0).map_err(|source| Error::Write { map: maps::SNAT_V4, source })?;
        self.snat6.set(0, Row(v6), 0).map_err(|source| Error::Write { map: maps::SNAT_V6, source })
    }

    /// How many rows each map can hold, by name.
    pub fn capacities(&self) -> Vec<(&'static str, u32)> {
        vec![
            (maps::FRONTENDS_V4, self.frontends4.capacity()),
            (maps::FRONTENDS_V6, self.frontends6.capacity()),
            (maps::FRONTEND_ROWS, self.rows.len()),
            (maps::BACKENDS_V4, self.backends4.len()),
            (maps::BACKENDS_V6, self.backends6.len()),
            (maps::BACKEND_LIVE, self.live.len()),
            (maps::FLOWS_V4, self.flows4.capacity()),
            (maps::FLOWS_V6, self.flows6.capacity()),
            (maps::SERVICES, self.services_capacity),
        ]
    }

    /// What fits all of them. Each keeps the size that it was made with, and not all need have been made by the same run.
    pub fn sizes(&self) -> Sizes {
        Sizes {
            frontends: self.frontends4.capacity().min(self.frontends6.capacity()),
            rows: self.rows.len(),
            backends: self.backends4.len().min(self.backends6.len()),
            live: self.live.len(),
            services: self.services_capacity.min(self.stats.len()),
        }
    }

    fn set_backends<F: Family>(array: &MappedArray<Backend<F>>, base: u32, slots: &[Backend<F>]) -> Result<(), Error>
    where
        Backend<F>: bytemuck::Pod,
    {
        (base..).zip(slots).try_for_each(|(slot, backend)| array.set(slot, *backend))
    }

    fn publish(&self, row: u32, scope: Scope, word: RangeWord) -> Result<(), Error> {
        let offset = match scope {
            Scope::Internal => core::mem::offset_of!(FrontendRow, internal),
            Scope::External => core::mem::offset_of!(FrontendRow, external),
        };
        self.rows.publish_u64(row, offset, word.0)
    }

    fn set_service(&mut self, id: ServiceId, row: Option<&ServiceRow>) -> Result<(), Error> {
        let result = match row {
            Some(row) => {
                self.reset_service_counters(id)?;
                self.services.insert(Row(id), Row(*row), 0)
            }
            None => self.services.remove(&Row(id)),
        };
        result.map_err(|source| Error::Write { map: maps::SERVICES, source })
    }
}

impl Maps for KernelMaps {
    fn apply(&mut self, change: &Change) -> Result<(), Error> {
        match change {
            Change::Service { id, row } => self.set_service(*id, row.as_deref()),
            Change::Live { index, reference } => self.live.publish_u32(*index, 0, reference.0),
            Change::Backends4 { base, slots } => Self::set_backends(&self.backends4, *base, slots),
            Change::Backends6 { base, slots } => Self::set_backends(&self.backends6, *base, slots),
            Change::Row { row, value } => self.rows.set(row.0, *value),
            Change::Publish { row, scope, word } => self.publish(row.0, *scope, *word),
            Change::RowFlags { row, flags } => self.rows.publish_u32(row.0, core::mem::offset_of!(FrontendRow, flags), flags.0),
            Change::Affinity { row, secs } => self.rows.publish_u32(row.0, core::mem::offset_of!(FrontendRow, affinity_secs), *secs),
            Change::InsertFrontend { addr, value } => match addr.addr {
                IpAddr::V4(_) => insert_frontend(&self.filter, &mut self.frontends4, addr, *value),
                IpAddr::V6(_) => insert_frontend(&self.filter, &mut self.frontends6, addr, *value),
            },
            Change::RemoveFrontend { addr } => match addr.addr {
                IpAddr::V4(_) => self.frontends4.remove(addr),
                IpAddr::V6(_) => self.frontends6.remove(addr),
            },
        }
    }

    fn snapshot(&self) -> Result<Snapshot, Error> {
        let services = self.services.iter().map(|entry| entry.map(|(id, row)| (id.0, row.0))).collect::<Result<_, _>>();
        let mut frontends = self.frontends4.entries()?;
        frontends.extend(self.frontends6.entries()?);
        Ok(Snapshot {
            services: services.map_err(|source| Error::Read { map: maps::SERVICES, source })?,
            frontends,
            rows: self.rows.used(|row| row.owner != ServiceId::NONE).map(|(index, row)| (proxy_common::RowIndex(index), row)).collect(),
            backends4: self.backends4.used(|backend| backend.owner != ServiceId::NONE).collect(),
            backends6: self.backends6.used(|backend| backend.owner != ServiceId::NONE).collect(),
            live: self.live.used(|reference| *reference != BackendRef::NONE).collect(),
        })
    }
}
