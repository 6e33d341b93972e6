//! Services' addresses beyond their ports: entries of `CLUSTER_IPS_V4` and `CLUSTER_IPS_V6`.
//!
//! An address is there as long as a service port has it, and is left alone as long as one of them says so, or it is nobody's here. What was found
//! at the start counts as said until every service port has had its say.
//!
//! A Service's ports come and go one after the other, and its address is to refuse at none of them meanwhile: what they claim is written when all
//! of them are there, and what the ports of a Service that is gone have claimed is released before the first of them goes.

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
    net::IpAddr,
};

use proxy_common::{ServiceId, Undefined};

use super::{by_family::ByFamily, change::Change};
use crate::model::IpFamily;

/// What service ports say of their addresses.
pub(super) type Said = BTreeMap<IpAddr, Undefined>;

/// What the two maps hold.
#[derive(Clone, Debug, Default)]
pub(super) struct ClusterIps {
    entries: BTreeMap<IpAddr, Entry>,
    used: ByFamily<u32>,
    /// What was claimed and is not written yet.
    claimed: BTreeSet<IpAddr>,
    /// What is left alone whatever service ports say: in the name of no service port.
    left: BTreeSet<IpAddr>,
}

#[derive(Clone, Debug, Default)]
struct Entry {
    loaded: Option<Undefined>,
    found: Option<Undefined>,
    said: BTreeMap<ServiceId, Undefined>,
}

impl ClusterIps {
    /// How many addresses of a family there are.
    pub(super) fn used(&self, family: IpFamily) -> u32 {
        *self.used.of(family)
    }

    /// Whether an address is there.
    pub(super) fn has(&self, addr: &IpAddr) -> bool {
        self.entries.contains_key(addr)
    }

    /// Takes in an address that was found at the start.
    pub(super) fn find(&mut self, addr: IpAddr, undefined: Undefined) {
        let entry = self.entry(addr);
        (entry.loaded, entry.found) = (Some(undefined), Some(undefined));
    }

    /// Takes back what a service port said of an address that its Service has no more.
    pub(super) fn release(&mut self, id: ServiceId, addr: IpAddr, changes: &mut Vec<Change>) {
        if let Some(entry) = self.entries.get_mut(&addr) {
            entry.found = None;
        }
        self.say(id, addr, None, changes);
    }

    /// Takes back what a service port said and says no more, and lets the node have what is the node's: before frontends go, so that what is
    /// meant for the node is never refused. Takes in what else it says that it did not say before, to be written with [`ClusterIps::write`].
    pub(super) fn renew(&mut self, id: ServiceId, before: &Said, now: &Said, changes: &mut Vec<Change>) {
        for addr in before.keys().filter(|addr| !now.contains_key(*addr)) {
            self.say(id, *addr, None, changes);
        }
        for (addr, undefined) in now.iter().filter(|(addr, undefined)| before.get(*addr) != Some(*undefined)) {
            self.entry(*addr).said.insert(id, *undefined);
            if *undefined == Undefined::LEAVE {
                self.settle(*addr, changes);
            } else {
                self.claimed.insert(*addr);
            }
        }
    }

    /// Writes what was claimed: after the frontends are there, so that what they serve is never refused.
    pub(super) fn write(&mut self, changes: &mut Vec<Change>) {
        for addr in mem::take(&mut self.claimed) {
            self.settle(addr, changes);
        }
    }

    /// Leaves these addresses alone, as far as there is room, whatever service ports say of them.
    pub(super) fn leave(&mut self, addrs: &BTreeSet<IpAddr>, max: u32, changes: &mut Vec<Change>) {
        for addr in addrs.difference(&self.left).copied().collect::<Vec<_>>() {
            if self.has(&addr) || self.used(IpFamily::of(addr)) < max {
                self.say(ServiceId::NONE, addr, Some(Undefined::LEAVE), changes);
                self.left.insert(addr);
            }
        }
    }

    /// Leaves no others alone any more.
    pub(super) fn leave_only(&mut self, addrs: &BTreeSet<IpAddr>, changes: &mut Vec<Change>) {
        for addr in self.left.extract_if(.., |addr| !addrs.contains(addr)).collect::<Vec<_>>() {
            self.say(ServiceId::NONE, addr, None, changes);
        }
    }

    /// Removes what is nobody's.
    pub(super) fn sweep(&mut self, changes: &mut Vec<Change>) {
        let found: Vec<IpAddr> = self.entries.iter().filter(|(_, entry)| entry.found.is_some()).map(|(addr, _)| *addr).collect();
        for addr in found {
            if let Some(entry) = self.entries.get_mut(&addr) {
                entry.found = None;
            }
            self.settle(addr, changes);
        }
    }

    fn say(&mut self, id: ServiceId, addr: IpAddr, undefined: Option<Undefined>, changes: &mut Vec<Change>) {
        if let Some(undefined) = undefined {
            self.entry(addr).said.insert(id, undefined);
        } else if let Some(entry) = self.entries.get_mut(&addr) {
            entry.said.remove(&id);
        }
        self.settle(addr, changes);
    }

    /// The entry of an address that there is room for.
    fn entry(&mut self, addr: IpAddr) -> &mut Entry {
        self.entries.entry(addr).or_insert_with(|| {
            *self.used.of_mut(IpFamily::of(addr)) += 1;
            Entry::default()
        })
    }

    /// Brings an address to what is said of it.
    fn settle(&mut self, addr: IpAddr, changes: &mut Vec<Change>) {
        let Some(entry) = self.entries.get_mut(&addr) else { return };
        let undefined = entry.wanted();
        if entry.loaded != undefined {
            entry.loaded = undefined;
            changes.push(Change::ClusterIp { addr, undefined });
        }
        if undefined.is_none() {
            self.entries.remove(&addr);
            *self.used.of_mut(IpFamily::of(addr)) -= 1;
        }
    }
}

impl Entry {
    fn wanted(&self) -> Option<Undefined> {
        let said = || self.said.values().chain(&self.found);
        said().find(|undefined| **undefined == Undefined::LEAVE).or_else(|| said().next()).copied()
    }
}
