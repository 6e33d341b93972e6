//! One walk through the flow tables, and through those of sockets, for all who want to see every entry: what has expired, which marks of the service
//! filter are to stay, and how many of the node's ports are taken.

use anyhow::Result;
use bytemuck::Pod;
use proxy_common::{Family, Flow, FlowKey, FrontendKey, SnatSource, SocketKey, SocketPeer, V4, V6, maps};

use crate::{
    datapath::Clock,
    expiry::Expiry,
    filter,
    fullness::Fullness,
    maps::{Error, KernelMaps, Pins, SocketTable},
    metrics::Metrics,
    senders,
    taken::{Shortage, Taken},
};

/// After how many walks marks of the service filter are taken back.
const FILTER_EVERY: u32 = 12;

/// Walks now and again. One thread owns it.
pub struct Walker {
    maps: KernelMaps,
    metrics: Metrics,
    clock: Clock,
    seen4: Seen<V4>,
    seen6: Seen<V6>,
    walks: u32,
}

/// What earlier walks have seen of a family.
struct Seen<F: Family> {
    fullness: Fullness,
    shortage: Shortage<F>,
}

impl Walker {
    /// Opens what is pinned.
    pub fn open(pins: &Pins, metrics: Metrics) -> Result<Self> {
        let (maps, clock) = (KernelMaps::open(pins)?, Clock::open(&pins.programs())?);
        Ok(Self { maps, metrics, clock, seen4: Seen::default(), seen6: Seen::default(), walks: 0 })
    }

    /// Walks through both tables and does what is due.
    pub fn walk(&mut self) -> Result<()> {
        self.walks += 1;
        let (now, hz) = (self.clock.now()?, self.maps.node()?.hz);
        let (sources4, sources6) = (self.maps.snat4()?, self.maps.snat6()?);
        let KernelMaps { flows4, flows6, frontends4, frontends6, sockets4, sockets6, filter, .. } = &mut self.maps;
        let round =
            if self.walks.is_multiple_of(FILTER_EVERY) { Some(filter::Round::begin(filter, frontends4, frontends6)?) } else { None };
        let entries4 = self.seen4.walk(Expiry { flows: flows4, frontends: frontends4, now, hz }, round.as_ref(), sources4.into_values())?;
        let entries6 = self.seen6.walk(Expiry { flows: flows6, frontends: frontends6, now, hz }, round.as_ref(), sources6.into_values())?;
        let called4 = forget(sockets4, now, hz, round.as_ref())?;
        let called6 = forget(sockets6, now, hz, round.as_ref())?;
        round.map_or(Ok(()), filter::Round::end)?;
        self.metrics.note_fill(maps::FLOWS_V4, entries4, self.maps.flows4.capacity().into());
        self.metrics.note_fill(maps::FLOWS_V6, entries6, self.maps.flows6.capacity().into());
        self.metrics.note_fill(maps::SOCKETS_V4, called4, self.maps.sockets4.capacity().into());
        self.metrics.note_fill(maps::SOCKETS_V6, called6, self.maps.sockets6.capacity().into());
        Ok(())
    }
}

/// Yields how many entries are left.
fn forget<F: Family>(sockets: &mut SocketTable<F>, now: u32, hz: u32, round: Option<&filter::Round<'_>>) -> Result<u64>
where
    SocketKey<F>: Pod,
    SocketPeer<F>: Pod,
{
    let (entries, removed) = senders::forget(sockets, now, hz, |peer| round.map_or(Ok(()), |round| round.see_socket(peer)))?;
    tracing::debug!(family = F::SUFFIX, entries, removed, "sockets");
    Ok(entries - removed)
}

// === impl Seen ===

impl<F: Family> Default for Seen<F> {
    fn default() -> Self {
        Self { fullness: Fullness::default(), shortage: Shortage::default() }
    }
}

impl<F: Family> Seen<F>
where
    FlowKey<F>: Pod,
    Flow<F>: Pod,
    FrontendKey<F>: Pod,
{
    fn walk(
        &mut self,
        mut expiry: Expiry<'_, F>,
        round: Option<&filter::Round<'_>>,
        sources: impl Iterator<Item = SnatSource<F>>,
    ) -> Result<u64, Error> {
        let mut taken = Taken::new(sources);
        let walk = expiry.walk(|key, flow| {
            taken.see(key, flow);
            round.map_or(Ok(()), |round| round.see(key))
        })?;
        let removed = expiry.remove(&walk.expired)?;
        tracing::debug!(family = F::SUFFIX, entries = walk.entries, removed, "flows");
        self.warn_of_fullness(walk.entries, u64::from(expiry.flows.capacity()));
        self.warn_of_shortage(&taken);
        Ok(walk.entries)
    }

    fn warn_of_fullness(&mut self, entries: u64, capacity: u64) {
        if self.fullness.is_news(entries, capacity) {
            tracing::warn!(
                family = F::SUFFIX,
                entries,
                capacity,
                "the flow table is nearly full: the flows that are silent for longest lose their entries; --flows makes it larger"
            );
        }
    }

    fn warn_of_shortage(&mut self, taken: &Taken<F>) {
        for busy in self.shortage.news(taken) {
            tracing::warn!(
                source = %busy.source,
                backend = %busy.backend,
                protocol = %busy.protocol,
                taken = busy.taken,
                ports = busy.ports,
                "most of the node's ports for this backend are taken: without one, new flows from outside do not reach it through this node"
            );
        }
    }
}
