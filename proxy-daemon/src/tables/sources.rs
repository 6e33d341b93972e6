//! Who may use the limited frontends of a service port: entries of `SOURCES_V4` and `SOURCES_V6`.
//!
//! A network that is new is there before a frontend is limited, and one that goes stays until none is limited by it any more: in between both the
//! old clients and the new ones get in, and never nobody.

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
};

use ipnet::IpNet;
use proxy_common::ServiceId;

use super::{by_family::ByFamily, change::Change};
use crate::model::IpFamily;

/// What the two maps hold.
#[derive(Clone, Debug, Default)]
pub(super) struct Sources {
    used: ByFamily<u32>,
    /// Networks of ids that nobody has, found at the start.
    strays: BTreeMap<ServiceId, BTreeSet<IpNet>>,
}

impl Sources {
    /// How many networks of a family there are.
    pub(super) fn used(&self, family: IpFamily) -> u32 {
        *self.used.of(family)
    }

    /// Takes in a network that was found at the start, unless a service port has its id.
    pub(super) fn find(&mut self, id: ServiceId, network: IpNet, owner: Option<&mut BTreeSet<IpNet>>) {
        let networks = match owner {
            Some(networks) => networks,
            None => self.strays.entry(id).or_default(),
        };
        if networks.insert(network) {
            *self.used.of_mut(family(&network)) += 1;
        }
    }

    /// What is there of an id that is given out.
    pub(super) fn adopt(&mut self, id: ServiceId) -> BTreeSet<IpNet> {
        self.strays.remove(&id).unwrap_or_default()
    }

    /// Adds the networks that are new. Yields those that are to go.
    pub(super) fn renew(
        &mut self,
        id: ServiceId,
        networks: &mut BTreeSet<IpNet>,
        wanted: &BTreeSet<IpNet>,
        changes: &mut Vec<Change>,
    ) -> BTreeSet<IpNet> {
        for network in wanted.difference(networks) {
            *self.used.of_mut(family(network)) += 1;
            changes.push(Change::InsertSource { id, network: *network });
        }
        mem::replace(networks, wanted.clone()).difference(wanted).copied().collect()
    }

    /// Removes networks that limit nothing any more.
    pub(super) fn remove(&mut self, id: ServiceId, networks: &BTreeSet<IpNet>, changes: &mut Vec<Change>) {
        for network in networks {
            *self.used.of_mut(family(network)) -= 1;
            changes.push(Change::RemoveSource { id, network: *network });
        }
    }

    /// Removes what is nobody's.
    pub(super) fn sweep(&mut self, changes: &mut Vec<Change>) {
        for (id, networks) in mem::take(&mut self.strays) {
            self.remove(id, &networks, changes);
        }
    }
}

/// The family of a network.
pub(super) fn family(network: &IpNet) -> IpFamily {
    IpFamily::of(network.network())
}
