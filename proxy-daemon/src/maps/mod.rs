//! The pinned maps: the only place that writes to the kernel's tables, and that reads them.
//!
//! In: [`Change`]s, in the order in which `tables` yields them. Out: what the maps hold, for a daemon that starts again and for the command
//! line, which works while no daemon runs. Hash entries of frontends are inserted and removed by system calls; everything that changes
//! while packets read it is stored through memory, one aligned word at a time.

mod batch;
mod cluster_ips;
mod counters;
mod error;
mod filter;
mod foreign;
mod frontends;
mod lru;
mod mapped;
mod pins;
mod row;
mod snat;
mod sources;

use std::{collections::BTreeMap, net::IpAddr, path::Path};

use aya::maps::{Array, HashMap, Map, MapData, PerCpuArray};
use bytemuck::Zeroable as _;
use ipnet::IpNet;
use proxy_common::{
    Backend, BackendRef, Family, FrontendKey, FrontendRef, FrontendRow, Networks, NodeIps, NodeRow, RangeWord, ServiceCounters, ServiceId,
    ServiceRow, SnatSource, V4, V6, maps,
};

use self::snat::SnatMap;
pub use self::{
    cluster_ips::ClusterIpTable,
    error::Error,
    filter::Filter,
    frontends::FrontendTable,
    lru::{FlowEntry, FlowTable, LruTable, SocketTable},
    mapped::MappedArray,
    pins::{Direction, Pins, names_in, unpin},
    row::Row,
    sources::{SourceBits, SourceTable},
};
use crate::{
    model::FrontendAddr,
    tables::{Change, Scope, Sizes, Snapshot, no_networks},
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
    ended: u64,
    sources4: SourceTable<V4>,
    sources6: SourceTable<V6>,
    cluster_ips4: ClusterIpTable<V4>,
    cluster_ips6: ClusterIpTable<V6>,
    /// Which addresses and ports may be known.
    pub filter: Filter,
    services: HashMap<MapData, Row<ServiceId>, Row<ServiceRow>>,
    services_capacity: u32,
    /// The flows of IPv4.
    pub flows4: FlowTable<V4>,
    /// The flows of IPv6.
    pub flows6: FlowTable<V6>,
    /// Sockets of IPv4 that were given a backend.
    pub sockets4: SocketTable<V4>,
    /// Sockets of IPv6 that were given a backend.
    pub sockets6: SocketTable<V6>,
    networks4: Array<MapData, Row<Networks<V4>>>,
    networks6: Array<MapData, Row<Networks<V6>>>,
    snat4: SnatMap<V4>,
    snat6: SnatMap<V6>,
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

/// The row of an array of one.
fn row<T: bytemuck::Pod>(array: &Array<MapData, Row<T>>, map: &'static str) -> Result<T, Error> {
    array.get(&0, 0).map(|row| row.0).map_err(|source| Error::Read { map, source })
}

fn set_row<T: bytemuck::Pod>(array: &mut Array<MapData, Row<T>>, map: &'static str, value: T) -> Result<(), Error> {
    array.set(0, Row(value), 0).map_err(|source| Error::Write { map, source })
}

/// Says whose a frontend is, which packets find only where the filter is marked.
fn set_frontend<F: Family>(filter: &Filter, frontends: &mut FrontendTable<F>, addr: &FrontendAddr, value: FrontendRef) -> Result<(), Error>
where
    FrontendKey<F>: bytemuck::Pod,
{
    let place = frontends.place(addr)?;
    filter.mark(place)?;
    frontends.set(addr, value)?;
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
            ended: 0,
            sources4: SourceTable::open(dir, maps::SOURCES_V4)?,
            sources6: SourceTable::open(dir, maps::SOURCES_V6)?,
            cluster_ips4: ClusterIpTable::open(dir, maps::CLUSTER_IPS_V4)?,
            cluster_ips6: ClusterIpTable::open(dir, maps::CLUSTER_IPS_V6)?,
            filter: Filter::open(dir)?,
            services: open_as(dir, maps::SERVICES)?,
            services_capacity: capacity(dir, maps::SERVICES)?,
            flows4: FlowTable::open(dir, maps::FLOWS_V4)?,
            flows6: FlowTable::open(dir, maps::FLOWS_V6)?,
            sockets4: SocketTable::open(dir, maps::SOCKETS_V4)?,
            sockets6: SocketTable::open(dir, maps::SOCKETS_V6)?,
            networks4: open_as(dir, maps::NETWORKS_V4)?,
            networks6: open_as(dir, maps::NETWORKS_V6)?,
            snat4: open_as(dir, maps::SNAT_V4)?,
            snat6: open_as(dir, maps::SNAT_V6)?,
            stats: open_as(dir, maps::SERVICE_STATS)?,
            reasons: open_as(dir, maps::REASONS)?,
            node: open_as(dir, maps::NODE)?,
        })
    }

    /// The facts about the node.
    pub fn node(&self) -> Result<NodeRow, Error> {
        row(&self.node, maps::NODE)
    }

    /// The facts about the node, whether or not the other maps are there.
    pub fn pinned_node(pins: &Pins) -> Result<NodeRow, Error> {
        row(&open_as(&pins.maps(), maps::NODE)?, maps::NODE)
    }

    /// The seed of the flow hash that the newest of other layouts' versions has left: rows of `NODE` begin with it in all of them. Packets of its
    /// flows find their backends by it.
    pub fn seed_of_another_version(pins: &Pins) -> Option<u64> {
        let others = pins.versions().ok()?.into_iter().filter(|dir| *dir != pins.version());
        let seeds = others.filter_map(|dir| foreign::first_word(&open(&Pins::maps_in(&dir), maps::NODE).ok()?));
        seeds.rev().find(|seed| *seed != 0)
    }

    /// The addresses that the Node object had last.
    pub fn node_ips(pins: &Pins) -> Result<NodeIps, Error> {
        row(&open_as(&pins.maps(), maps::NODE_IPS)?, maps::NODE_IPS)
    }

    /// Notes which addresses the Node object has.
    pub fn set_node_ips(pins: &Pins, ips: NodeIps) -> Result<(), Error> {
        set_row(&mut open_as(&pins.maps(), maps::NODE_IPS)?, maps::NODE_IPS, ips)
    }

    /// Writes the facts about the node.
    pub fn set_node(&mut self, row: NodeRow) -> Result<(), Error> {
        set_row(&mut self.node, maps::NODE, row)
    }

    /// Gives new maps the rows that must not be zero when the first program runs: every address would be one that Services have theirs from.
    pub fn prepare(&mut self) -> Result<(), Error> {
        if row(&self.networks4, maps::NETWORKS_V4)? == Networks::zeroed() {
            set_row(&mut self.networks4, maps::NETWORKS_V4, no_networks())?;
        }
        if row(&self.networks6, maps::NETWORKS_V6)? == Networks::zeroed() {
            set_row(&mut self.networks6, maps::NETWORKS_V6, no_networks())?;
        }
        Ok(())
    }

    /// Writes what stands in for clients, by the device by which packets leave, and removes what is there for others.
    pub fn set_snat(&mut self, v4: &BTreeMap<u32, SnatSource<V4>>, v6: &BTreeMap<u32, SnatSource<V6>>) -> Result<(), Error> {
        snat::set(&mut self.snat4, maps::SNAT_V4, v4)?;
        snat::set(&mut self.snat6, maps::SNAT_V6, v6)
    }

    /// What stands in for clients in IPv4, by device.
    pub fn snat4(&self) -> Result<BTreeMap<u32, SnatSource<V4>>, Error> {
        snat::entries(&self.snat4, maps::SNAT_V4)
    }

    /// What stands in for clients in IPv6, by device.
    pub fn snat6(&self) -> Result<BTreeMap<u32, SnatSource<V6>>, Error> {
        snat::entries(&self.snat6, maps::SNAT_V6)
    }

    /// Whether a life of a backend goes on.
    pub fn lives(&self, backend: BackendRef) -> Result<bool, Error> {
        Ok(self.live.get(backend.index())? == backend)
    }

    /// How many lives of backends have ended by changes that were applied here.
    pub const fn ended(&self) -> u64 {
        self.ended
    }

    /// The names of all service ports.
    pub fn service_rows(&self) -> Result<Vec<(ServiceId, ServiceRow)>, Error> {
        let rows = self.services.iter().map(|entry| entry.map(|(id, row)| (id.0, row.0))).collect::<Result<_, _>>();
        rows.map_err(|source| Error::Read { map: maps::SERVICES, source })
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
            (maps::SOCKETS_V4, self.sockets4.capacity()),
            (maps::SOCKETS_V6, self.sockets6.capacity()),
            (maps::SOURCES_V4, self.sources4.capacity()),
            (maps::SOURCES_V6, self.sources6.capacity()),
            (maps::CLUSTER_IPS_V4, self.cluster_ips4.capacity()),
            (maps::CLUSTER_IPS_V6, self.cluster_ips6.capacity()),
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
            sources: self.sources4.capacity().min(self.sources6.capacity()),
            cluster_ips: self.cluster_ips4.capacity().min(self.cluster_ips6.capacity()),
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
            Change::Live { index, reference } => {
                self.ended += u64::from(*reference == BackendRef::NONE);
                self.live.publish_u32(*index, 0, reference.0)
            }
            Change::Backends4 { base, slots } => Self::set_backends(&self.backends4, *base, slots),
            Change::Backends6 { base, slots } => Self::set_backends(&self.backends6, *base, slots),
            Change::Row { row, value } => self.rows.set(row.0, *value),
            Change::Publish { row, scope, word } => self.publish(row.0, *scope, *word),
            Change::RowFlags { row, flags } => self.rows.publish_u32(row.0, core::mem::offset_of!(FrontendRow, flags), flags.0),
            Change::Affinity { row, secs } => self.rows.publish_u32(row.0, core::mem::offset_of!(FrontendRow, affinity_secs), *secs),
            Change::InsertSource { id, network } => match network {
                IpNet::V4(_) => self.sources4.insert(*id, network),
                IpNet::V6(_) => self.sources6.insert(*id, network),
            },
            Change::RemoveSource { id, network } => match network {
                IpNet::V4(_) => self.sources4.remove(*id, network),
                IpNet::V6(_) => self.sources6.remove(*id, network),
            },
            Change::ClusterIp { addr, undefined } => match addr {
                IpAddr::V4(_) => self.cluster_ips4.set(*addr, *undefined),
                IpAddr::V6(_) => self.cluster_ips6.set(*addr, *undefined),
            },
            Change::Networks4(networks) => set_row(&mut self.networks4, maps::NETWORKS_V4, *networks),
            Change::Networks6(networks) => set_row(&mut self.networks6, maps::NETWORKS_V6, *networks),
            Change::SetFrontend { addr, value } => match addr.addr {
                IpAddr::V4(_) => set_frontend(&self.filter, &mut self.frontends4, addr, *value),
                IpAddr::V6(_) => set_frontend(&self.filter, &mut self.frontends6, addr, *value),
            },
            Change::RemoveFrontend { addr } => match addr.addr {
                IpAddr::V4(_) => self.frontends4.remove(addr),
                IpAddr::V6(_) => self.frontends6.remove(addr),
            },
        }
    }

    fn snapshot(&self) -> Result<Snapshot, Error> {
        let mut frontends = self.frontends4.entries()?;
        frontends.extend(self.frontends6.entries()?);
        let mut sources = self.sources4.entries()?;
        sources.extend(self.sources6.entries()?);
        let mut cluster_ips = self.cluster_ips4.entries()?;
        cluster_ips.extend(self.cluster_ips6.entries()?);
        Ok(Snapshot {
            services: self.service_rows()?,
            frontends,
            rows: self.rows.used(|row| row.owner != ServiceId::NONE).map(|(index, row)| (proxy_common::RowIndex(index), row)).collect(),
            backends4: self.backends4.used(|backend| backend.owner != ServiceId::NONE).collect(),
            backends6: self.backends6.used(|backend| backend.owner != ServiceId::NONE).collect(),
            live: self.live.used(|reference| *reference != BackendRef::NONE).collect(),
            sources,
            cluster_ips,
            networks4: Some(row(&self.networks4, maps::NETWORKS_V4)?),
            networks6: Some(row(&self.networks6, maps::NETWORKS_V6)?),
        })
    }
}
