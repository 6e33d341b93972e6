//! Closes connected UDP sockets whose backend has gone: nothing else would ever tell their owners, for no packet of theirs is looked at any more.
//!
//! In: the sockets that were given a backend, and which backends live. Those of the node's own processes are closed, and no others: a program has
//! noted which they are, by the numbers that the kernel gives to no other socket. TCP stays with its backend to the end, as with kube-proxy.

use std::{
    collections::BTreeSet,
    sync::mpsc::{Receiver, SyncSender, sync_channel},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result};
use bytemuck::Pod;
use proxy_common::{Family, Protocol, SocketKey, SocketPeer};

use crate::{
    maps::{Error, KernelMaps, Pins, SocketTable},
    net,
};

/// At most so often the table is walked through.
const REST: Duration = Duration::from_millis(20);

/// Starts the thread. It looks once, and again whenever it is told that a backend has gone.
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
        match close(&mut maps) {
            Ok(0) => {}
            Ok(closed) => tracing::info!(closed, "closed UDP sockets of the node's processes whose backend has gone"),
            Err(error) => tracing::warn!(error = format!("{error:#}"), "UDP sockets whose backend has gone could not be closed"),
        }
        thread::sleep(REST);
        if goings.recv().is_err() {
            return;
        }
    }
}

fn close(maps: &mut KernelMaps) -> Result<usize> {
    let (keys4, keys6) = (orphans(maps, &maps.sockets4)?, orphans(maps, &maps.sockets6)?);
    let cookies: BTreeSet<u64> = keys4.iter().map(|key| key.cookie).chain(keys6.iter().map(|key| key.cookie)).collect();
    if cookies.is_empty() {
        return Ok(0);
    }
    let closed = net::close_udp(&cookies).context("closing sockets")?;
    keys4.iter().try_for_each(|key| maps.sockets4.remove(key))?;
    keys6.iter().try_for_each(|key| maps.sockets6.remove(key))?;
    Ok(closed)
}

fn orphans<F: Family>(maps: &KernelMaps, sockets: &SocketTable<F>) -> Result<Vec<SocketKey<F>>, Error>
where
    SocketKey<F>: Pod,
    SocketPeer<F>: Pod,
{
    let mut orphans = Vec::new();
    sockets.walk(|key, peer| {
        if peer.connected != 0 && key.protocol == Protocol::Udp.to_wire() && !maps.lives(peer.backend)? {
            orphans.push(*key);
        }
        Ok(())
    })?;
    Ok(orphans)
}
