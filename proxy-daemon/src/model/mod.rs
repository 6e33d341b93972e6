//! What the cluster says, as plain data: Services, their endpoints and the own Node.
//!
//! In: [`Change`]s of either source, in any order; the same objects give the same model, however they came. Out: the objects, and
//! which service ports a change concerned, so that the work that follows is proportional to the change. No I/O: what an operator
//! should hear of is returned as [`Notice`]s. Only `convert` knows the types of the Kubernetes API.

mod claim;
pub mod convert;
mod endpoint;
mod frontend;
mod name;
mod node;
mod service;
mod service_cidr;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, mem,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::SystemTime,
};

use claim::Claims;
pub use claim::{Claim, Conflict};
pub use endpoint::{Endpoint, Slice, SlicePort};
pub use frontend::{FrontendAddr, IpFamily};
use ipnet::IpNet;
pub use name::{ObjectName, ServicePortName};
pub use node::NodeInfo;
pub use service::{Service, ServiceKind, ServicePort, TrafficPolicy};
pub use service_cidr::ServiceCidr;

/// How many times are remembered until somebody asks. While nothing can be applied nobody does, and changes may come for days.
const MOST_TRIGGERS: usize = 4096;

/// One step of what a source has to tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// About Services.
    Service(Event<Service>),
    /// About `EndpointSlice`s.
    Slice(Event<Slice>),
    /// About the own Node. The source leaves other Nodes out.
    Node(Event<NodeInfo>),
    /// About `ServiceCIDR`s, which not every cluster has.
    ServiceCidr(Event<ServiceCidr>),
}

/// What happened to the objects of one kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event<T> {
    /// The object is new or has changed.
    Applied(T),
    /// The object is gone, or is not ours to serve any more.
    Deleted(ObjectName),
    /// These are all the objects there are; every other one is gone, whether or not that was told.
    Reset(Vec<T>),
}

/// Something an operator should hear of, once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// Two service ports claim one frontend.
    Conflict(Conflict),
    /// Endpoints arrived for a Service that does not exist or is not ours to serve.
    NoService(ObjectName),
}

/// The state of the cluster as far as this node is concerned. One task owns it.
#[derive(Debug, Default)]
pub struct Model {
    services: BTreeMap<ObjectName, Service>,
    /// Those of them that are other proxies', which are few.
    others: BTreeSet<ObjectName>,
    /// By Service, then by slice name.
    slices: BTreeMap<ObjectName, BTreeMap<Arc<str>, Slice>>,
    /// Which Service a slice belongs to: a slice may change hands, and a delete names the slice only.
    owners: BTreeMap<ObjectName, ObjectName>,
    node: Option<NodeInfo>,
    service_cidrs: BTreeMap<ObjectName, Vec<IpNet>>,
    claims: Claims,
    dirty: BTreeSet<ServicePortName>,
    /// Services whose slices came while the Service was not there: those to tell of, and those told of.
    orphans: BTreeMap<ObjectName, Told>,
    /// When what has changed the slices that were taken in was triggered, by the slices' family.
    triggers: Vec<(IpFamily, SystemTime)>,
    /// There was a Node object.
    had_node: bool,
    listed: Listed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    No,
    /// Not yet, but it was so when it was asked for before.
    Soon,
    Yes,
}

/// Of which kinds the first complete list has arrived.
#[derive(Clone, Copy, Debug, Default)]
struct Listed {
    services: bool,
    slices: bool,
    node: bool,
}

// === impl Model: changes ===

impl Model {
    /// Takes a change in. A change that changes nothing makes nothing dirty.
    pub fn apply(&mut self, change: Change) {
        match change {
            Change::Service(Event::Applied(service)) => self.apply_service(service),
            Change::Service(Event::Deleted(name)) => self.delete_service(&name),
            Change::Service(Event::Reset(services)) => self.reset_services(services),
            Change::Slice(Event::Applied(slice)) => self.apply_slice(slice),
            Change::Slice(Event::Deleted(name)) => self.delete_slice(&name),
            Change::Slice(Event::Reset(slices)) => self.reset_slices(slices),
            Change::Node(Event::Applied(node)) => self.set_node(Some(node)),
            Change::Node(Event::Deleted(_)) => self.set_node(None),
            Change::Node(Event::Reset(nodes)) => {
                self.set_node(nodes.into_iter().next());
                self.listed.node = true;
            }
            // No service port depends on them.
            Change::ServiceCidr(Event::Applied(cidr)) => drop(self.service_cidrs.insert(cidr.name, cidr.networks)),
            Change::ServiceCidr(Event::Deleted(name)) => drop(self.service_cidrs.remove(&name)),
            Change::ServiceCidr(Event::Reset(cidrs)) => {
                self.service_cidrs = cidrs.into_iter().map(|cidr| (cidr.name, cidr.networks)).collect();
            }
        }
    }

    /// The service ports that may have to be planned anew since the last call, some of which may not exist any more.
    pub fn take_dirty(&mut self) -> BTreeSet<ServicePortName> {
        mem::take(&mut self.dirty)
    }

    /// Makes every service port dirty, as when facts about this node change that are not part of the model.
    pub fn mark_all_dirty(&mut self) {
        let all: Vec<_> = self.service_port_names().collect();
        self.dirty.extend(all);
    }

    /// What has come up since the last call.
    pub fn take_notices(&mut self) -> Vec<Notice> {
        self.claims.take_conflicts().into_iter().map(Notice::Conflict).collect()
    }

    /// The endpoints that had no Service at the last call, and still have none. A Service may come after its slices, and go before them, so this
    /// is to be asked seldom.
    pub fn take_orphans(&mut self) -> Vec<Notice> {
        let mut orphans = Vec::new();
        for (service, told) in &mut self.orphans {
            if *told == Told::Soon {
                orphans.push(Notice::NoService(service.clone()));
            }
            *told = if *told == Told::No { Told::Soon } else { Told::Yes };
        }
        orphans
    }

    /// When what has been taken in since the last call was triggered, where slices say so.
    pub fn take_triggers(&mut self) -> Vec<(IpFamily, SystemTime)> {
        mem::take(&mut self.triggers)
    }

    fn apply_service(&mut self, service: Service) {
        let name = service.name.clone();
        let old = self.services.get(&name);
        if old == Some(&service) {
            return;
        }
        self.dirty.extend(changed_ports(old, Some(&service)));
        self.claims.replace(old, Some(&service), &mut self.dirty);
        self.orphans.remove(&name);
        if service.is_ours {
            self.others.remove(&name);
        } else {
            self.others.insert(name.clone());
        }
        self.services.insert(name, service);
    }

    fn delete_service(&mut self, name: &ObjectName) {
        let Some(old) = self.services.remove(name) else { return };
        self.others.remove(name);
        self.dirty.extend(changed_ports(Some(&old), None));
        self.claims.replace(Some(&old), None, &mut self.dirty);
    }

    fn reset_services(&mut self, services: Vec<Service>) {
        let kept: BTreeSet<_> = services.iter().map(|service| service.name.clone()).collect();
        let gone: Vec<_> = self.services.keys().filter(|name| !kept.contains(*name)).cloned().collect();
        for name in &gone {
            self.delete_service(name);
        }
        for service in services {
            self.apply_service(service);
        }
        self.listed.services = true;
    }

    fn apply_slice(&mut self, slice: Slice) {
        let owner = slice.owner();
        if self.owners.get(&slice.name).is_some_and(|before| *before != owner) {
            self.delete_slice(&slice.name);
        }
        let siblings = self.slices.entry(owner.clone()).or_default();
        let old = siblings.get(&slice.name.name);
        if old.is_some_and(|old| old.is_like(&slice)) {
            return;
        }
        if self.triggers.len() < MOST_TRIGGERS {
            self.triggers.extend(slice.triggered.map(|time| (slice.family, time)));
        }
        match self.services.get(&owner) {
            Some(service) => self.dirty.extend(fed_ports(service, old.into_iter().chain([&slice]))),
            None if slice.endpoints.is_empty() => {}
            None => _ = self.orphans.entry(owner.clone()).or_insert(Told::No),
        }
        self.owners.insert(slice.name.clone(), owner);
        siblings.insert(Arc::clone(&slice.name.name), slice);
    }

    fn delete_slice(&mut self, name: &ObjectName) {
        let Some(owner) = self.owners.remove(name) else { return };
        let Some(siblings) = self.slices.get_mut(&owner) else { return };
        if let (Some(slice), Some(service)) = (siblings.remove(&name.name), self.services.get(&owner)) {
            self.dirty.extend(fed_ports(service, [&slice]));
        }
        if siblings.is_empty() {
            self.slices.remove(&owner);
            self.orphans.remove(&owner);
        }
    }

    fn reset_slices(&mut self, slices: Vec<Slice>) {
        let kept: BTreeSet<_> = slices.iter().map(|slice| slice.name.clone()).collect();
        let gone: Vec<_> = self.owners.keys().filter(|name| !kept.contains(*name)).cloned().collect();
        // What is new comes first: an endpoint that moved from one slice to another must not be gone in between.
        for slice in slices {
            self.apply_slice(slice);
        }
        for name in &gone {
            self.delete_slice(name);
        }
        self.listed.slices = true;
    }

    fn set_node(&mut self, node: Option<NodeInfo>) {
        if self.node != node {
            self.had_node |= node.is_some();
            self.node = node;
            self.mark_all_dirty();
        }
    }
}

// === impl Model: questions ===

impl Model {
    /// Whether the first complete list of every kind is in. Before that a service without endpoints may just not have got them yet,
    /// so nothing must be written.
    pub fn has_synced(&self) -> bool {
        self.listed.services && self.listed.slices && self.listed.node
    }

    /// The own Node, if there is such an object.
    pub fn node(&self) -> Option<&NodeInfo> {
        self.node.as_ref()
    }

    /// Whether load balancers may send to this node: it is known, and stays. Where there never was a Node object (manifests), there is none to say
    /// otherwise.
    pub fn is_node_eligible(&self) -> bool {
        self.listed.node && self.node.as_ref().map_or(!self.had_node, |node| !node.is_leaving)
    }

    /// The networks that Services have their ClusterIPs from, as far as they are known.
    pub fn service_networks(&self) -> BTreeSet<IpNet> {
        self.service_cidrs.values().flatten().copied().collect()
    }

    /// The ClusterIPs of other proxies' Services.
    pub fn others_addresses(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.others.iter().filter_map(|name| self.services.get(name)).flat_map(|service| &service.cluster_ips).copied()
    }

    /// Whether there is a Service of this name.
    pub fn has_service(&self, name: &ObjectName) -> bool {
        self.services.contains_key(name)
    }

    /// All service ports, in order.
    pub fn service_port_names(&self) -> impl Iterator<Item = ServicePortName> + '_ {
        self.services.values().flat_map(port_names)
    }

    /// A Service.
    pub fn service(&self, name: &ObjectName) -> Option<&Service> {
        self.services.get(name)
    }

    /// A service port, with its Service.
    pub fn service_port(&self, name: &ServicePortName) -> Option<(&Service, &ServicePort)> {
        let service = self.services.get(&name.service())?;
        Some((service, service.port(&name.port, name.protocol)?))
    }

    /// The endpoints of a service port in one family, sorted by address and port, each pair once.
    pub fn endpoints(&self, name: &ServicePortName, family: IpFamily) -> Vec<(SocketAddr, &Endpoint)> {
        self.slices.get(&name.service()).map(|slices| endpoint::merge(slices, name, family)).unwrap_or_default()
    }

    /// The service port that serves a claim, if there is one.
    pub fn winner(&self, claim: Claim) -> Option<&ServicePortName> {
        self.claims.winner(claim)
    }

    /// The service port that serves a frontend, if node ports are served at its address.
    pub fn server(&self, frontend: &FrontendAddr) -> Option<&ServicePortName> {
        let FrontendAddr { addr, port, protocol } = *frontend;
        let node_port = Claim::NodePort { family: IpFamily::of(addr), port, protocol };
        self.winner(Claim::Address(*frontend)).or_else(|| self.winner(node_port))
    }

    /// How many claims to frontends are lost to another service port.
    pub fn lost_claims(&self) -> usize {
        self.claims.lost()
    }
}

fn port_names(service: &Service) -> impl Iterator<Item = ServicePortName> + '_ {
    service.ports.iter().map(|port| service.name.port(&port.name, port.protocol))
}

/// The service ports that differ between two versions of a Service.
fn changed_ports(old: Option<&Service>, new: Option<&Service>) -> BTreeSet<ServicePortName> {
    let (Some(old), Some(new)) = (old, new) else {
        return old.into_iter().chain(new).flat_map(port_names).collect();
    };
    let all_differ = old.differs_beyond_ports(new);
    let one_way = |from: &Service, to: &Service| {
        let differs = |port: &&ServicePort| all_differ || !to.ports.contains(port);
        let ports = from.ports.iter().filter(differs);
        ports.map(|port| from.name.port(&port.name, port.protocol)).collect::<Vec<_>>()
    };
    one_way(old, new).into_iter().chain(one_way(new, old)).collect()
}

/// The ports of a Service to which any of these slices contributes.
fn fed_ports<'a>(service: &'a Service, slices: impl IntoIterator<Item = &'a Slice>) -> Vec<ServicePortName> {
    let ports = slices.into_iter().flat_map(|slice| &slice.ports);
    ports
        .filter(|port| service.port(&port.name, port.protocol).is_some())
        .map(|port| service.name.port(&port.name, port.protocol))
        .collect()
}

// === impl Notice ===

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Conflict(Conflict { claim, winner, loser }) => {
                write!(f, "{loser} does not get {claim}, which {winner} has")
            }
            Self::NoService(service) => write!(f, "endpoints for {service}, which is no Service to be served here"),
        }
    }
}
