//! What was found in the maps, by key.

use std::{collections::BTreeMap, net::SocketAddr};

use proxy_common::{Address as _, Backend, BackendFlags, BackendRef, Family, FrontendRow, RowIndex, ServiceId};

use crate::{model::IpFamily, tables::change::Snapshot};

/// What was found, by key.
pub(super) struct Found {
    /// What is not zero of `BACKEND_LIVE`.
    pub(super) live: BTreeMap<u32, BackendRef>,
    pub(super) rows: BTreeMap<RowIndex, FrontendRow>,
    pub(super) slots4: BTreeMap<u32, Slot>,
    pub(super) slots6: BTreeMap<u32, Slot>,
}

/// A slot of either family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Slot {
    pub(super) addr: SocketAddr,
    pub(super) flags: BackendFlags,
    pub(super) reference: BackendRef,
    pub(super) owner: ServiceId,
}

impl Found {
    pub(super) fn new(snapshot: &Snapshot) -> Self {
        Self {
            live: snapshot.live.iter().copied().filter(|(_, reference)| *reference != BackendRef::NONE).collect(),
            rows: snapshot.rows.iter().copied().filter(|(_, row)| row.owner != ServiceId::NONE).collect(),
            slots4: slots(&snapshot.backends4),
            slots6: slots(&snapshot.backends6),
        }
    }

    pub(super) fn slots(&self, family: IpFamily) -> &BTreeMap<u32, Slot> {
        match family {
            IpFamily::V4 => &self.slots4,
            IpFamily::V6 => &self.slots6,
        }
    }

    /// Whether this life goes on.
    pub(super) fn lives(&self, reference: BackendRef) -> bool {
        reference.generation() != 0 && self.live.get(&reference.index()) == Some(&reference)
    }

    /// The highest generation of all references, also of those that name nobody any more.
    pub(super) fn highest_generation(&self) -> u32 {
        let slots = self.slots4.values().chain(self.slots6.values()).map(|slot| slot.reference);
        slots.chain(self.live.values().copied()).map(BackendRef::generation).max().unwrap_or(0)
    }
}

fn slots<F: Family>(rows: &[(u32, Backend<F>)]) -> BTreeMap<u32, Slot> {
    let owned = rows.iter().filter(|(_, row)| row.owner != ServiceId::NONE);
    owned
        .map(|(index, row)| {
            let addr = SocketAddr::new(row.addr.to_ip(), row.port.to_host());
            (*index, Slot { addr, flags: row.flags, reference: row.reference, owner: row.owner })
        })
        .collect()
}
