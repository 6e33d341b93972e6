//! How many of the node's source ports are taken: each flow to a backend for whose client the node stands in needs one of its own.
//!
//! In: what stands in, and every entry of a flow table. Out: the backend that has the fewest left, and whether to warn. Beyond the last port new
//! flows to that backend fail, and no others.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    ops::RangeInclusive,
};

use proxy_common::{Address as _, Family, Flow, FlowKey, FlowState, Port, Protocol, Side, SnatSource};

/// From how many percent on it is said, and below how many it may be said again.
const FULL: (u32, u32) = (80, 60);

/// Which flows share the node's ports: those from one of its addresses to one backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Pair<F: Family> {
    source: F::Addr,
    backend: F::Addr,
    port: Port,
    protocol: u8,
}

/// The ports that are taken in one family, as one walk finds them.
#[derive(Clone, Debug)]
pub struct Taken<F: Family> {
    /// The ports that each of the node's addresses has for clients with ports that need no privilege; others get others.
    ports: BTreeMap<F::Addr, RangeInclusive<u16>>,
    taken: BTreeMap<Pair<F>, u32>,
}

/// A backend, and how many ports are taken for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Busy {
    /// The node's address that stands in for clients.
    pub source: IpAddr,
    /// The backend.
    pub backend: SocketAddr,
    /// Its protocol.
    pub protocol: Protocol,
    /// Ports that are taken.
    pub taken: u32,
    /// All there are.
    pub ports: u32,
}

/// The backends that were warned of.
#[derive(Clone, Debug)]
pub struct Shortage<F: Family> {
    warned: BTreeSet<Pair<F>>,
}

// === impl Taken ===

impl<F: Family> Taken<F> {
    /// Nothing is known yet but what may be taken.
    pub fn new(sources: impl IntoIterator<Item = SnatSource<F>>) -> Self {
        let ports = |source: SnatSource<F>| {
            let (first, last) = (source.first_port.to_host(), source.last_port.to_host());
            (first != 0 && first <= last).then_some((source.addr, first..=last))
        };
        Self { ports: sources.into_iter().filter_map(ports).collect(), taken: BTreeMap::new() }
    }

    /// Takes an entry in. Those for answers that come back to the node are one for each port. An answer of a pod to itself is not meant: it takes
    /// a port, too, but of a pod's few flows to itself. Nor is one of a foreign flow, whose port is none of ours, or one to a port that is none of
    /// these.
    pub fn see(&mut self, key: &FlowKey<F>, flow: &Flow<F>) {
        let state = flow.owner.state();
        let is_answer = state.has(FlowState::REPLY) && !state.has(FlowState::FOREIGN) && key.side == Side::Ingress as u8;
        let is_counted = self.ports.get(&key.dst).is_some_and(|ports| ports.contains(&key.dst_port.to_host()));
        if is_answer && flow.dst != key.src && is_counted {
            let pair = Pair { source: key.dst, backend: key.src, port: key.src_port, protocol: key.protocol };
            *self.taken.entry(pair).or_default() += 1;
        }
    }

    /// The backend with the fewest ports left; the first of several.
    pub fn busiest(&self) -> Option<Busy> {
        let all = self.taken.keys().filter_map(|pair| self.busy(pair));
        all.reduce(|best, other| if other.percent() > best.percent() { other } else { best })
    }

    fn busy(&self, pair: &Pair<F>) -> Option<Busy> {
        Some(Busy {
            source: pair.source.to_ip(),
            backend: SocketAddr::new(pair.backend.to_ip(), pair.port.to_host()),
            protocol: Protocol::from_wire(pair.protocol)?,
            taken: *self.taken.get(pair)?,
            ports: u32::try_from(self.ports.get(&pair.source)?.len()).ok()?,
        })
    }
}

// === impl Busy ===

impl Busy {
    /// The share that is taken.
    pub fn percent(&self) -> u32 {
        (self.taken.saturating_mul(100)).checked_div(self.ports).unwrap_or(0)
    }
}

// === impl Shortage ===

impl<F: Family> Default for Shortage<F> {
    fn default() -> Self {
        Self { warned: BTreeSet::new() }
    }
}

impl<F: Family> Shortage<F> {
    /// Takes in what a walk has found. Yields the backends that have become short of ports.
    pub fn news(&mut self, taken: &Taken<F>) -> Vec<Busy> {
        let percent = |pair: &Pair<F>| taken.busy(pair).map_or(0, |busy| busy.percent());
        self.warned.retain(|pair| percent(pair) >= FULL.1);
        let short: Vec<Pair<F>> = taken.taken.keys().copied().filter(|pair| percent(pair) > FULL.0).collect();
        short.iter().filter(|pair| self.warned.insert(**pair)).filter_map(|pair| taken.busy(pair)).collect()
    }
}

#[cfg(test)]
mod tests {
    use bytemuck::Zeroable as _;
    use proxy_common::{Addr4, BackendRef, ServiceId, Tuple, V4};

    use super::*;

    const NODE: u8 = 1;
    const CLIENT: u8 = 9;

    fn addr(last: u8) -> Addr4 {
        Addr4::from_wire([192, 0, 2, last])
    }

    fn tuple(src: u8, src_port: u16, dst: u8, dst_port: u16) -> Tuple<V4> {
        Tuple { src: addr(src), dst: addr(dst), src_port: Port::from_host(src_port), dst_port: Port::from_host(dst_port) }
    }

    fn none_taken() -> Taken<V4> {
        let (first_port, last_port) = (Port::from_host(1000), Port::from_host(1099));
        Taken::new([SnatSource { addr: addr(NODE), first_port, last_port, ..SnatSource::zeroed() }])
    }

    /// Flows of one client to a backend, each with a port of the node.
    fn taken(count: u16, backend: u8) -> Taken<V4> {
        let mut taken = none_taken();
        for n in 0..count {
            let key = FlowKey::new(tuple(CLIENT, n, 96, 80), Protocol::Tcp, Side::Ingress);
            let flow = Flow::new(tuple(NODE, 1000 + n, backend, 8080), 0, BackendRef::new(0, 1), ServiceId(1), FlowState::NEW);
            // The node's side of both entries of a flow is ingress: the client's packets and the answers come in from outside.
            let reply = FlowKey::new(flow.tuple().reversed(), Protocol::Tcp, Side::Ingress);
            taken.see(&key, &flow);
            taken.see(&reply, &key.partner_flow(&flow, FlowState::REPLY));
        }
        taken
    }

    #[test]
    fn answers_to_the_node_are_counted_for_each_backend() {
        let busiest = taken(30, 20).busiest().unwrap();
        let expected = Busy {
            source: addr(NODE).to_ip(),
            backend: "192.0.2.20:8080".parse().unwrap(),
            protocol: Protocol::Tcp,
            taken: 30,
            ports: 100,
        };
        assert_eq!((busiest, busiest.percent()), (expected, 30));
    }

    #[test]
    fn other_answers_take_no_port() {
        let mut taken = none_taken();
        let state = FlowState::REPLY;
        let flow = |dst| Flow::new(tuple(96, 80, dst, 1), 0, BackendRef::new(0, 1), ServiceId(1), state);
        // To a client whose address was kept, to the backend itself, to an address that the node does not have any more, a foreign one, and one
        // to a port that is none of those that are counted.
        taken.see(&FlowKey::new(tuple(20, 8080, CLIENT, 1), Protocol::Tcp, Side::Egress), &flow(CLIENT));
        taken.see(&FlowKey::new(tuple(20, 8080, NODE, 1000), Protocol::Tcp, Side::Ingress), &flow(20));
        taken.see(&FlowKey::new(tuple(20, 8080, 2, 1000), Protocol::Tcp, Side::Ingress), &flow(CLIENT));
        let foreign = tuple(20, 443, NODE, 1000);
        taken.see(&FlowKey::new(foreign, Protocol::Tcp, Side::Ingress), &Flow::foreign(foreign, 0));
        taken.see(&FlowKey::new(tuple(20, 8080, NODE, 999), Protocol::Tcp, Side::Ingress), &flow(CLIENT));
        assert_eq!(taken.busiest(), None);
    }

    #[test]
    fn a_shortage_is_news_once_until_it_is_over() {
        let mut shortage = Shortage::default();
        let news = [80, 81, 90, 61, 81, 59, 81].map(|count| shortage.news(&taken(count, 20)).len());
        assert_eq!(news, [0, 1, 0, 0, 0, 0, 1]);
        assert_eq!(shortage.news(&taken(99, 21)).len(), 1, "another backend");
    }
}
