//! A copy of what the pinned maps say of Services, indexed for the views that are made of it.
//!
//! The daemon may be writing while the maps are read: a row that was given away meanwhile is left out, never shown as another's.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
};

use ipnet::IpNet;
use proxy_common::{Address as _, Backend, BackendFlags, BackendRef, Family, FrontendRef, FrontendRow, ServiceId, ServiceRow, Undefined};

use crate::{
    model::{FrontendAddr, IpFamily},
    tables::Snapshot,
};

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) services: BTreeMap<ServiceId, ServiceRow>,
    pub(super) frontends: BTreeMap<FrontendAddr, FrontendRef>,
    pub(super) rows: BTreeMap<u32, FrontendRow>,
    pub(super) slots4: BTreeMap<u32, Slot>,
    pub(super) slots6: BTreeMap<u32, Slot>,
    pub(super) live: BTreeMap<u32, BackendRef>,
    pub(super) sources: BTreeMap<ServiceId, BTreeSet<IpNet>>,
    pub(super) cluster_ips: BTreeMap<IpAddr, Undefined>,
}

/// A backend of either family.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slot {
    pub(super) backend: SocketAddr,
    pub(super) is_elsewhere: bool,
    pub(super) reference: BackendRef,
    pub(super) owner: ServiceId,
}

impl<F: Family> From<Backend<F>> for Slot {
    fn from(backend: Backend<F>) -> Self {
        Self {
            backend: SocketAddr::new(backend.addr.to_ip(), backend.port.to_host()),
            is_elsewhere: backend.flags.has(BackendFlags::ELSEWHERE),
            reference: backend.reference,
            owner: backend.owner,
        }
    }
}

impl From<Snapshot> for State {
    fn from(snapshot: Snapshot) -> Self {
        let mut sources: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
        for (id, network) in snapshot.sources {
            sources.entry(id).or_default().insert(network);
        }
        Self {
            services: snapshot.services.into_iter().collect(),
            frontends: snapshot.frontends.into_iter().collect(),
            rows: snapshot.rows.into_iter().map(|(index, row)| (index.0, row)).collect(),
            slots4: snapshot.backends4.into_iter().map(|(slot, backend)| (slot, backend.into())).collect(),
            slots6: snapshot.backends6.into_iter().map(|(slot, backend)| (slot, backend.into())).collect(),
            live: snapshot.live.into_iter().collect(),
            sources,
            cluster_ips: snapshot.cluster_ips.into_iter().collect(),
        }
    }
}

impl State {
    /// The name of a service port, `namespace/name:port`, or its id where the name is not known.
    pub(super) fn service_name(&self, id: ServiceId) -> String {
        self.services.get(&id).map_or_else(|| format!("#{}", id.0), |row| row.name().to_owned())
    }

    /// The row of a frontend, unless it is another's by now.
    pub(super) fn row(&self, frontend: FrontendRef) -> Option<&FrontendRow> {
        self.rows.get(&frontend.row.0).filter(|row| row.owner == frontend.service)
    }

    /// All slots of a family.
    pub(super) fn slots(&self, family: IpFamily) -> &BTreeMap<u32, Slot> {
        match family {
            IpFamily::V4 => &self.slots4,
            IpFamily::V6 => &self.slots6,
        }
    }

    /// A slot in the family of the address that is dialled, unless it is another service's by now.
    pub(super) fn slot(&self, dialled: IpAddr, slot: u32, owner: ServiceId) -> Option<&Slot> {
        self.slots(IpFamily::of(dialled)).get(&slot).filter(|slot| slot.owner == owner)
    }

    /// Whether this life of a backend goes on.
    pub(super) fn is_live(&self, reference: BackendRef) -> bool {
        reference != BackendRef::NONE && self.live.get(&reference.index()) == Some(&reference)
    }
}
