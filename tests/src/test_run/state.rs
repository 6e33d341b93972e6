//! What the maps of a node hold after its programs ran: counters, flows, marks and the clock.

use std::net::{IpAddr, SocketAddr, SocketAddrV4};

use anyhow::{Context as _, Result};
use aya::maps::{HashMap, Map, MapData};
use bytemuck::{Pod, Zeroable as _};
use proxy_common::{
    Addr4, Addr6, Affinity, AffinityKey, Family, Flow, FlowKey, FragmentKey, Port, Ports, Protocol, ServiceCounters, SocketKey, SocketPeer,
    V4, V6,
    filter::{About, Place},
    maps as names,
    reason::Reason,
};
use proxy_daemon::{
    datapath::Clock,
    expiry::Expiry,
    filter::whole_round,
    maps::{FlowTable, FrontendTable, KernelMaps, Maps as _, Row},
    model::ServicePortName,
    tables::{self, Change},
};

use super::TestNode;

/// What a family's maps are called here, and which of the node's tables is its own.
pub trait OfFamily: Family<Addr: proxy_common::Address> {
    const FLOWS: &'static str;
    const AFFINITY: &'static str;
    const FRAGMENTS: &'static str;
    fn flows(maps: &KernelMaps) -> &FlowTable<Self>;
    fn tables(maps: &mut KernelMaps) -> (&mut FlowTable<Self>, &FrontendTable<Self>);
}

// === impl TestNode ===

impl TestNode {
    /// What was counted since the last call, and how often.
    pub fn take_counted(&mut self) -> Result<Vec<(Reason, u64)>> {
        let now = self.maps.reasons()?;
        let before = std::mem::replace(&mut self.counted, now);
        let differences = self.counted.iter().zip(before).map(|((reason, now), (_, before))| (*reason, now - before));
        Ok(differences.filter(|(_, n)| *n > 0).collect())
    }

    /// What was counted for a service port since its rows were made.
    pub fn service_counters(&self, name: &ServicePortName) -> Result<ServiceCounters> {
        let id = self.tables.id(name).with_context(|| format!("{name} has no rows"))?;
        Ok(self.maps.service_counters(id)?)
    }

    /// Every flow entry of a family, in order.
    pub fn flows<F: OfFamily>(&self) -> Vec<(FlowKey<F>, Flow<F>)>
    where
        FlowKey<F>: Pod,
        Flow<F>: Pod,
    {
        let mut entries = F::flows(&self.maps).entries().expect("the table can be read");
        entries.sort_by_key(|(key, _)| *key);
        entries
    }

    /// Removes one flow entry.
    pub fn remove_flow<F: OfFamily>(&mut self, key: &FlowKey<F>) -> Result<()>
    where
        FlowKey<F>: Pod,
        Flow<F>: Pod,
    {
        Ok(F::tables(&mut self.maps).0.remove(key)?)
    }

    /// Removes every flow entry.
    pub fn forget_flows(&mut self) -> Result<()> {
        for (key, _) in self.flows::<V4>() {
            self.remove_flow(&key)?;
        }
        for (key, _) in self.flows::<V6>() {
            self.remove_flow(&key)?;
        }
        Ok(())
    }

    /// Takes marks of the service filter back as the daemon does.
    pub fn age_filter(&self) -> Result<()> {
        Ok(whole_round(&self.maps)?.end()?)
    }

    /// Has a socket be one that was given a backend, as a program would note it, or not any more.
    pub fn set_socket_given(&mut self, given: bool, to: SocketAddrV4) -> Result<()> {
        let key = SocketKey::<V4>::first(1, Protocol::Tcp);
        if !given {
            return Ok(self.maps.sockets4.remove(&key)?);
        }
        let (addr, port) = (Addr4::from_wire(to.ip().octets()), Port::from_host(to.port()));
        let path = self.pins.maps().join(names::SOCKETS_V4);
        let mut map: HashMap<_, Row<SocketKey<V4>>, Row<SocketPeer<V4>>> = Map::from_map_data(MapData::from_pin(path)?)?.try_into()?;
        map.insert(Row(key), Row(SocketPeer { addr, port, connected: 1, ..SocketPeer::zeroed() }), 0)?;
        Ok(())
    }

    /// Whether the service filter says that something may be known of an address and a port.
    pub fn is_marked(&self, about: About, end: SocketAddr) -> Result<bool> {
        let port = Port::from_host(end.port());
        let place = match end.ip() {
            IpAddr::V4(ip) => Place::of(about, Addr4::from_wire(ip.octets()), port),
            IpAddr::V6(ip) => Place::of(about, Addr6::from_wire(ip.octets()), port),
        };
        Ok(self.maps.filter.is_marked(place)?)
    }

    /// Makes every flow entry so many seconds older.
    pub fn age_flows(&mut self, secs: u32) -> Result<()> {
        let jiffies = secs * self.hz()?;
        self.change_last_used(|last_used, _| last_used.wrapping_sub(jiffies)).map(drop)
    }

    /// Makes every flow entry one that was used just now, however long ago that was on a slow machine. Says when that was.
    pub fn touch_flows(&mut self) -> Result<u32> {
        self.change_last_used(|_, now| now)
    }

    /// Changes when flows were last used, given that and what the time is, which it yields.
    fn change_last_used(&mut self, change: impl Fn(u32, u32) -> u32) -> Result<u32> {
        // Before the time is asked for: looking for the flows takes longest by far.
        let (flows4, flows6) = (self.flows::<V4>(), self.flows::<V6>());
        let now = self.clock()?;
        self.write_last_used(flows4, |last_used| change(last_used, now))?;
        self.write_last_used(flows6, |last_used| change(last_used, now))?;
        Ok(now)
    }

    fn write_last_used<F: OfFamily>(&self, flows: Vec<(FlowKey<F>, Flow<F>)>, change: impl Fn(u32) -> u32) -> Result<()>
    where
        FlowKey<F>: Pod,
        Flow<F>: Pod,
    {
        let path = self.pins.maps().join(F::FLOWS);
        let mut map: HashMap<_, Row<FlowKey<F>>, Row<Flow<F>>> = Map::from_map_data(MapData::from_pin(path)?)?.try_into()?;
        for (key, flow) in flows {
            map.insert(Row(key), Row(Flow { last_used: change(flow.last_used), ..flow }), 0)?;
        }
        Ok(())
    }

    /// Makes what is remembered of every client of a service with session affinity older by so many seconds.
    pub fn age_affinity<F: OfFamily>(&mut self, secs: u32) -> Result<()>
    where
        AffinityKey<F>: Pod,
        Affinity<F>: Pod,
    {
        let jiffies = secs * self.hz()?;
        self.change_rows::<AffinityKey<F>, _>(F::AFFINITY, |it: Affinity<F>| Affinity {
            last_used: it.last_used.wrapping_sub(jiffies),
            ..it
        })
    }

    /// The same of what is remembered of datagrams in fragments.
    pub fn age_fragments<F: OfFamily>(&mut self, secs: u32) -> Result<()>
    where
        FragmentKey<F>: Pod,
    {
        let jiffies = secs * self.hz()?;
        self.change_rows::<FragmentKey<F>, _>(F::FRAGMENTS, |it: Ports| Ports { seen: it.seen.wrapping_sub(jiffies), ..it })
    }

    /// Changes every value of a table that the daemon does not open.
    fn change_rows<K: Pod, V: Pod>(&self, name: &str, change: impl Fn(V) -> V) -> Result<()> {
        let path = self.pins.maps().join(name);
        let mut map: HashMap<_, Row<K>, Row<V>> = Map::from_map_data(MapData::from_pin(path)?)?.try_into()?;
        let entries: Vec<_> = map.iter().collect::<Result<_, _>>()?;
        for (key, Row(value)) in entries {
            map.insert(key, Row(change(value)), 0)?;
        }
        Ok(())
    }

    /// What the kernel's clock shows, in jiffies.
    pub fn clock(&self) -> Result<u32> {
        Clock::open(&self.pins.programs())?.now()
    }

    /// How many jiffies a second has.
    pub fn hz(&self) -> Result<u32> {
        Ok(self.maps.node()?.hz)
    }

    /// A family's flows as the daemon's expiry sees them so many seconds after the last of them was used, however long ago that is.
    pub fn expiry<F: OfFamily>(&mut self, secs: u32) -> Result<Expiry<'_, F>>
    where
        FlowKey<F>: Pod,
        Flow<F>: Pod,
    {
        let (hz, clock) = (self.hz()?, self.clock()?);
        let silence = self.flows::<F>().iter().map(|(_, flow)| clock.wrapping_sub(flow.last_used)).min().unwrap_or(0);
        let now = clock.wrapping_sub(silence).wrapping_add(secs * hz);
        let (flows, frontends) = F::tables(&mut self.maps);
        Ok(Expiry { flows, frontends, now, hz })
    }

    /// Puts all backends into each other's slots, the last one into the first, as no daemon does.
    pub fn reverse_slots(&mut self) -> Result<()> {
        let tables::Snapshot { backends4, backends6, .. } = self.maps.snapshot()?;
        let changes = reversed(&backends4).map(|(base, backend)| Change::Backends4 { base, slots: vec![backend] });
        let changes6 = reversed(&backends6).map(|(base, backend)| Change::Backends6 { base, slots: vec![backend] });
        self.apply_all(changes.chain(changes6).collect())
    }

    /// All that the daemon has written and no program may change.
    pub fn control_rows(&self) -> Result<(tables::Snapshot, proxy_common::NodeRow)> {
        Ok((self.maps.snapshot()?, self.maps.node()?))
    }
}

fn reversed<B: Copy>(slots: &[(u32, B)]) -> impl Iterator<Item = (u32, B)> {
    slots.iter().zip(slots.iter().rev()).map(|((slot, _), (_, backend))| (*slot, *backend))
}

// === impl OfFamily ===

impl OfFamily for V4 {
    const FLOWS: &'static str = names::FLOWS_V4;
    const AFFINITY: &'static str = names::AFFINITY_V4;
    const FRAGMENTS: &'static str = names::FRAGMENTS_V4;

    fn flows(maps: &KernelMaps) -> &FlowTable<Self> {
        &maps.flows4
    }

    fn tables(maps: &mut KernelMaps) -> (&mut FlowTable<Self>, &FrontendTable<Self>) {
        (&mut maps.flows4, &maps.frontends4)
    }
}

impl OfFamily for V6 {
    const FLOWS: &'static str = names::FLOWS_V6;
    const AFFINITY: &'static str = names::AFFINITY_V6;
    const FRAGMENTS: &'static str = names::FRAGMENTS_V6;

    fn flows(maps: &KernelMaps) -> &FlowTable<Self> {
        &maps.flows6
    }

    fn tables(maps: &mut KernelMaps) -> (&mut FlowTable<Self>, &FrontendTable<Self>) {
        (&mut maps.flows6, &maps.frontends6)
    }
}
