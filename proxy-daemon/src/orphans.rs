//! Closes connected UDP sockets whose backend has gone: nothing else would ever tell their owners, for no packet of theirs is looked at any more.
//!
//! In: the sockets that were given a backend, and which backends live. Closed are those alone that still have that backend for a peer: a program has
//! noted which they are, by the numbers that the kernel gives to no other socket. TCP stays with its backend to the end, as with kube-proxy.
//!
//! A socket can be closed from within its network namespace only: the node's comes first, for most are there, and pods' are visited when some are left.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::mpsc::{Receiver, SyncSender, sync_channel},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result};
use bytemuck::Pod;
use proxy_common::{Address as _, Family, Protocol, SocketKey, SocketPeer, V4, V6};

use crate::{
    maps::{Error, KernelMaps, Pins, SocketTable},
    net,
};

/// At most so often the table is walked through.
const REST: Duration = Duration::from_millis(20);

/// Starts the thread. It looks once, and whenever it is told that a backend has gone.
pub fn spawn(pins: &Pins) -> Result<SyncSender<()>> {
    let maps = KernelMaps::open(pins)?;
    let (gone, goings) = sync_channel(1);
    thread::Builder::new()
        .name("shunt-orphans".to_owned())
        .spawn(move || run(maps, &goings))
        .context("starting the thread that closes sockets")?;
    Ok(gone)
}

fn run(mut maps: KernelMaps, goings: &Receiver<()>) {
    loop {
        // And once more: a call that had chosen the backend just before may note it just afterwards.
        for _ in 0..2 {
            look(&mut maps);
            thread::sleep(REST);
        }
        if goings.recv().is_err() {
            return;
        }
    }
}

fn look(maps: &mut KernelMaps) {
    match close(maps) {
        Ok(0) => {}
        Ok(closed) => tracing::info!(closed, "closed UDP sockets whose backend has gone"),
        Err(error) => tracing::warn!(error = format!("{error:#}"), "UDP sockets whose backend has gone could not be closed"),
    }
}

/// What is to be closed, and by which entries it is known.
#[derive(Default)]
struct Orphans {
    v4: Vec<SocketKey<V4>>,
    v6: Vec<SocketKey<V6>>,
    peers: BTreeMap<u64, SocketAddr>,
}

fn close(maps: &mut KernelMaps) -> Result<usize> {
    let mut orphans = Orphans::default();
    find(maps, &maps.sockets4, &mut orphans.v4, &mut orphans.peers)?;
    find(maps, &maps.sockets6, &mut orphans.v6, &mut orphans.peers)?;
    let Orphans { v4, v6, mut peers } = orphans;
    if peers.is_empty() {
        return Ok(0);
    }
    let all = peers.len();
    net::close_udp(&mut peers).context("closing sockets")?;
    if !peers.is_empty() {
        let in_pod = || net::close_udp(&mut peers).map(|_| !peers.is_empty());
        let entered = net::in_each_other(in_pod).context("closing pods' sockets")?;
        if entered == 0 {
            tracing::debug!(
                sockets = peers.len(),
                "no other network namespace is seen here, where they may be: /run/netns of the node shows pods'"
            );
        }
    }
    v4.iter().try_for_each(|key| maps.sockets4.remove(key))?;
    v6.iter().try_for_each(|key| maps.sockets6.remove(key))?;
    Ok(all - peers.len())
}

fn find<F: Family>(
    maps: &KernelMaps,
    sockets: &SocketTable<F>,
    keys: &mut Vec<SocketKey<F>>,
    peers: &mut BTreeMap<u64, SocketAddr>,
) -> Result<(), Error>
where
    SocketKey<F>: Pod,
    SocketPeer<F>: Pod,
{
    sockets.walk(|key, peer| {
        if peer.connected != 0 && key.protocol == Protocol::Udp.to_wire() && !maps.lives(peer.backend)? {
            keys.push(*key);
            peers.insert(key.cookie, SocketAddr::new(peer.addr.to_ip(), peer.port.to_host()));
        }
        Ok(())
    })
}
