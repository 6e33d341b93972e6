//! Takes marks of the service filter back when nothing is known there any more.
//!
//! In: the frontends, and every entry of the tables of flows and of sockets. A mark is set before what it stands for is inserted, so whoever finds no entry must
//! wait before he takes the mark away: each round makes the marks of the one before old, sets those of all that is there anew, and takes back what
//! was old and stayed so. Between two rounds far more time passes than between a mark and its entry. Until then a mark costs a look-up in vain.

use bytemuck::Pod;
use proxy_common::{Family, FlowKey, FrontendKey, SocketPeer, V4, V6};

use crate::maps::{Error, Filter, FrontendTable, KernelMaps};

/// A round, which must be shown all flows and sockets before it ends. One that is dropped before takes nothing back.
pub struct Round<'a> {
    filter: &'a Filter,
}

impl<'a> Round<'a> {
    /// Begins a round: marks all frontends.
    pub fn begin(filter: &'a Filter, frontends4: &FrontendTable<V4>, frontends6: &FrontendTable<V6>) -> Result<Self, Error> {
        mark(filter, frontends4)?;
        mark(filter, frontends6)?;
        Ok(Self { filter })
    }

    /// Marks what a flow's entry is found by.
    pub fn see<F: Family>(&self, key: &FlowKey<F>) -> Result<(), Error> {
        self.filter.mark(key.place())
    }

    /// The same of a socket that was given a backend.
    pub fn see_socket<F: Family>(&self, peer: &SocketPeer<F>) -> Result<(), Error> {
        self.filter.mark(peer.place())
    }

    /// Takes back the marks of what nobody has shown.
    pub fn end(self) -> Result<(), Error> {
        let marks = self.filter.age()?;
        tracing::debug!(marks, "service filter");
        Ok(())
    }
}

/// A round that has been shown all there is. It marks everything before programs are attached, for somebody may have removed the marks alone, and they
/// look nothing up that is not marked.
pub fn whole_round(maps: &KernelMaps) -> Result<Round<'_>, Error> {
    let round = Round::begin(&maps.filter, &maps.frontends4, &maps.frontends6)?;
    maps.flows4.walk(|key, _| round.see(key))?;
    maps.flows6.walk(|key, _| round.see(key))?;
    maps.sockets4.walk(|_, peer| round.see_socket(peer))?;
    maps.sockets6.walk(|_, peer| round.see_socket(peer))?;
    Ok(round)
}

fn mark<F: Family>(filter: &Filter, frontends: &FrontendTable<F>) -> Result<(), Error>
where
    FrontendKey<F>: Pod,
{
    frontends.keys().try_for_each(|key| filter.mark(key?.place()))
}
