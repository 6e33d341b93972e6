//! Who serves a frontend that several service ports claim.
//!
//! The rule is the same on every node and at every time: a ClusterIP before an external or load balancer address, then the older Service,
//! then the smaller name. A NodePort is claimed for all addresses of the node at once, whatever they are; where an address of the node is
//! also the exact address of a frontend, the exact one wins. Whoever gains or loses a frontend becomes dirty.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use proxy_common::Protocol;

use super::{FrontendAddr, IpFamily, Service, ServicePort, ServicePortName};

/// What can be claimed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Claim {
    /// An address of the Service.
    Address(FrontendAddr),
    /// A port on every address of the node that serves node ports.
    NodePort {
        /// The family of those addresses.
        family: IpFamily,
        /// The port.
        port: u16,
        /// The protocol.
        protocol: Protocol,
    },
}

/// A service port that wants a frontend which another one has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// What both claim.
    pub claim: Claim,
    /// Who has it.
    pub winner: ServicePortName,
    /// Who does not.
    pub loser: ServicePortName,
}

/// All claims of all Services.
#[derive(Debug, Default)]
pub(super) struct Claims {
    /// Who claims what, the winner first. No list is empty, most have one entry.
    claimants: BTreeMap<Claim, Vec<Claimant>>,
    /// The losers that were reported.
    reported: BTreeMap<Claim, BTreeSet<ServicePortName>>,
    /// Contested claims that changed since conflicts were last asked for.
    changed: BTreeSet<Claim>,
    /// The sum of all losers.
    lost: usize,
}

/// In the order of preference.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Claimant {
    rank: Rank,
    created: i64,
    name: ServicePortName,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    ClusterIp,
    External,
    NodePort,
}

// === impl Claims ===

impl Claims {
    /// Replaces the claims of one Service.
    pub(super) fn replace(&mut self, old: Option<&Service>, new: Option<&Service>, dirty: &mut BTreeSet<ServicePortName>) {
        let old = old.map(claims_of).unwrap_or_default();
        let new = new.map(claims_of).unwrap_or_default();
        for (claim, claimant) in old.difference(&new) {
            self.withdraw(*claim, claimant, dirty);
        }
        for (claim, claimant) in new.difference(&old) {
            self.enter(*claim, claimant.clone(), dirty);
        }
    }

    /// Who serves this.
    pub(super) fn winner(&self, claim: Claim) -> Option<&ServicePortName> {
        Some(&self.claimants.get(&claim)?.first()?.name)
    }

    /// How many claims are lost at present.
    pub(super) fn lost(&self) -> usize {
        self.lost
    }

    /// The conflicts that have arisen since the last call.
    pub(super) fn take_conflicts(&mut self) -> Vec<Conflict> {
        let mut conflicts = Vec::new();
        for claim in std::mem::take(&mut self.changed) {
            let claimants = self.claimants.get(&claim).map_or(&[][..], Vec::as_slice);
            let before = self.reported.remove(&claim).unwrap_or_default();
            let Some((winner, losers)) = claimants.split_first() else { continue };
            let losers: BTreeSet<_> = losers.iter().map(|loser| loser.name.clone()).collect();
            conflicts.extend(losers.difference(&before).map(|loser| Conflict { claim, winner: winner.name.clone(), loser: loser.clone() }));
            if !losers.is_empty() {
                self.reported.insert(claim, losers);
            }
        }
        conflicts
    }

    fn enter(&mut self, claim: Claim, claimant: Claimant, dirty: &mut BTreeSet<ServicePortName>) {
        let claimants = self.claimants.entry(claim).or_default();
        let before = claimants.first().map(|first| first.name.clone());
        let Err(at) = claimants.binary_search(&claimant) else { return };
        claimants.insert(at, claimant);
        self.lost += usize::from(claimants.len() > 1);
        self.settle(claim, before, dirty);
    }

    fn withdraw(&mut self, claim: Claim, claimant: &Claimant, dirty: &mut BTreeSet<ServicePortName>) {
        let Some(claimants) = self.claimants.get_mut(&claim) else { return };
        let before = claimants.first().map(|first| first.name.clone());
        let Ok(at) = claimants.binary_search(claimant) else { return };
        self.lost -= usize::from(claimants.len() > 1);
        claimants.remove(at);
        self.settle(claim, before, dirty);
    }

    /// Makes those dirty whom a change of one claim's list concerns, given who was first before it.
    fn settle(&mut self, claim: Claim, before: Option<ServicePortName>, dirty: &mut BTreeSet<ServicePortName>) {
        let n_claimants = self.claimants.get(&claim).map_or(0, Vec::len);
        if n_claimants == 0 {
            self.claimants.remove(&claim);
        }
        let after = self.winner(claim).cloned();
        if before.is_some() != after.is_some()
            && let Claim::Address(FrontendAddr { addr, port, protocol }) = claim
        {
            let node_port = Claim::NodePort { family: IpFamily::of(addr), port, protocol };
            dirty.extend(self.winner(node_port).cloned());
        }
        if before != after {
            dirty.extend(before);
            dirty.extend(after);
        }
        let n_losers = n_claimants.saturating_sub(1);
        if n_losers > 0 || self.reported.contains_key(&claim) {
            self.changed.insert(claim);
        }
    }
}

/// What a Service claims. A port that claims an address in two ways claims it in the better one.
fn claims_of(service: &Service) -> BTreeSet<(Claim, Claimant)> {
    let created = service.created.unwrap_or(i64::MAX);
    let mut best: BTreeMap<(Claim, ServicePortName), Rank> = BTreeMap::new();
    for port in &service.ports {
        let name = service.name.port(&port.name, port.protocol);
        for (claim, rank) in claims_of_port(service, port) {
            let held = best.entry((claim, name.clone())).or_insert(rank);
            *held = rank.min(*held);
        }
    }
    best.into_iter().map(|((claim, name), rank)| (claim, Claimant { rank, created, name })).collect()
}

fn claims_of_port<'a>(service: &'a Service, port: &'a ServicePort) -> impl Iterator<Item = (Claim, Rank)> + 'a {
    let exact = |rank| {
        move |addr: &std::net::IpAddr| (Claim::Address(FrontendAddr { addr: *addr, port: port.port, protocol: port.protocol }), rank)
    };
    let external = service.external_ips.iter().chain(&service.load_balancer_ips);
    let node_ports = IpFamily::ALL
        .into_iter()
        .filter(move |_| port.node_port != 0)
        .map(|family| (Claim::NodePort { family, port: port.node_port, protocol: port.protocol }, Rank::NodePort));
    service
        .cluster_ips
        .iter()
        .map(exact(Rank::ClusterIp))
        .chain(external.map(exact(Rank::External)))
        .chain(node_ports)
        .filter(|(claim, _)| service.has_family(claim.family()))
}

// === impl Claim ===

impl Claim {
    fn family(&self) -> IpFamily {
        match self {
            Self::Address(frontend) => IpFamily::of(frontend.addr),
            Self::NodePort { family, .. } => *family,
        }
    }
}

impl fmt::Display for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(frontend) => frontend.fmt(f),
            Self::NodePort { family, port, protocol } => write!(f, "{family} node port {port}/{protocol}"),
        }
    }
}
