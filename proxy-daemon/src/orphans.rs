//! Closes connected UDP sockets whose backend has gone: nothing else would ever tell their owners, for no packet of theirs is looked at any more.
//!
//! In: the sockets that were given a backend, and which backends live. Closed are those alone that still have that backend for a peer: a program has
//! noted which they are, by the numbers that the kernel gives to no other socket. TCP stays with its backend to the end, as with kube-proxy.
//!
//! A socket can be closed from within its network namespace only: the node's comes first, for most are there, and pods' are visited when some are left.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    sync::mpsc::{Receiver, SyncSender, sync_channel},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result};
use bytemuck::Pod;
use proxy_common::{Address as _, Family, Protocol, SocketKey, SocketPeer, Sockets};

use crate::{
    maps::{Error, KernelMaps, Pins, SocketTable},
    net,
};

/// At most so often the table is walked through.
const REST: Duration = Duration::from_millis(20);

/// Starts the thread. It looks once, and whenever it is told that a backend has gone.
pub fn spawn(pins: &Pins, served: Sockets) -> Result<SyncSender<()>> {
    let maps = KernelMaps::open(pins)?;
    let (gone, goings) = sync_channel(1);
    thread::Builder::new()
        .name("shunt-orphans".to_owned())
        .spawn(move || run(maps, served, &goings))
        .context("starting the thread that closes sockets")?;
    Ok(gone)
}

fn run(mut maps: KernelMaps, served: Sockets, goings: &Receiver<()>) {
    loop {
        // Twice: a call that had chosen the backend just before may note it just afterwards, and connect after that.
        for look in [Look::First, Look::Last] {
            match close(&mut maps, served, look) {
                Ok(0) => {}
                Ok(closed) => tracing::info!(closed, "closed UDP sockets whose backend has gone"),
                Err(error) => tracing::warn!(error = format!("{error:#}"), "UDP sockets whose backend has gone could not be closed"),
            }
            thread::sleep(REST);
        }
        if goings.recv().is_err() {
            return;
        }
    }
}

/// Which look at the table it is since a backend has gone.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Look {
    /// Another one follows.
    First,
    /// What is nowhere has been closed or connected to something else.
    Last,
}

/// Closes what has to be, and removes its entries. Yields how many sockets it were.
fn close(maps: &mut KernelMaps, served: Sockets, look: Look) -> Result<usize> {
    let (v4, v6) = (find(maps, &maps.sockets4)?, find(maps, &maps.sockets6)?);
    let all: BTreeSet<_> = v4.iter().map(Orphan::socket).chain(v6.iter().map(Orphan::socket)).collect();
    let mut left = all.clone();
    let mut result = Ok(());
    if !left.is_empty() {
        result = net::close_udp(&mut left).context("closing sockets");
    }
    if !left.is_empty() {
        let entered = net::in_each_other(|| net::close_udp(&mut left)).context("closing pods' sockets");
        if served.serve_pods(Protocol::Udp) && look == Look::Last && matches!(entered, Ok(0)) && !left.is_empty() {
            tracing::warn!(
                sockets = left.len(),
                "pods' UDP sockets stay connected to a backend that has gone: mount /run/netns of the node, where pods' network namespaces are"
            );
        }
        result = entered.map(drop).and(result);
    }
    let is_over = |socket| !left.contains(&socket) || look == Look::Last && result.is_ok();
    forget(&mut maps.sockets4, v4.into_iter().filter(|orphan| is_over(orphan.socket())))?;
    forget(&mut maps.sockets6, v6.into_iter().filter(|orphan| is_over(orphan.socket())))?;
    result.map(|()| all.len() - left.len())
}

/// A socket that was connected to a backend which has gone, by its entry.
struct Orphan<F: Family> {
    key: SocketKey<F>,
    peer: SocketPeer<F>,
}

impl<F: Family> Orphan<F> {
    /// The socket and the backend.
    fn socket(&self) -> (u64, SocketAddr) {
        (self.key.cookie, SocketAddr::new(self.peer.addr.to_ip(), self.peer.port.to_host()))
    }
}

fn find<F: Family>(maps: &KernelMaps, sockets: &SocketTable<F>) -> Result<Vec<Orphan<F>>, Error>
where
    SocketKey<F>: Pod,
    SocketPeer<F>: Pod,
{
    let mut orphans = Vec::new();
    sockets.walk(|key, peer| {
        if peer.connected != 0 && key.protocol == Protocol::Udp.to_wire() && !maps.lives(peer.backend)? {
            orphans.push(Orphan { key: *key, peer: *peer });
        }
        Ok(())
    })?;
    Ok(orphans)
}

/// Removes entries, but those that are of another connection now: who hears that his socket was aborted may use it again at once.
fn forget<F: Family>(sockets: &mut SocketTable<F>, orphans: impl Iterator<Item = Orphan<F>>) -> Result<(), Error>
where
    SocketKey<F>: Pod,
    SocketPeer<F>: Pod,
{
    for Orphan { key, peer } in orphans {
        if sockets.get(&key).is_some_and(|now| now.backend == peer.backend) {
            sockets.remove(&key)?;
        }
    }
    Ok(())
}
