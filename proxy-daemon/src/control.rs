//! The task that owns the control path: takes in what comes, has it applied, and looks after what nobody tells of.

use std::{
    collections::BTreeMap,
    future,
    net::IpAddr,
    ops::RangeInclusive,
    sync::{Arc, mpsc::SyncSender},
    time::{Duration, Instant},
};

use anyhow::Result;
use proxy_common::{ANY_DEVICE, Family, NodeIps, NodeRow, Port, SnatSource, Text64, V4, V6, maps};
use tokio::{
    sync::{mpsc, watch},
    time,
};

use crate::{
    conntrack::Conntrack,
    datapath,
    maps::{KernelMaps, Pins},
    model,
    net::{DeviceSource, LocalAddresses, SnatPorts},
    plan::Machine,
    reconcile::{Reconciler, Round},
    report::Report,
};

/// After a refused change, how long to wait at first and at most.
const RETRY: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));
/// How often what rests is looked after, and what did not fit is tried again.
const SWEEP_EVERY: Duration = Duration::from_secs(2);

/// The task that owns the control path.
pub struct Control {
    pub addresses: watch::Receiver<LocalAddresses>,
    pub node_ips: watch::Sender<Vec<IpAddr>>,
    pub snat_ports: SnatPorts,
    pub reconciler: Reconciler<KernelMaps>,
    pub changes: mpsc::Receiver<model::Change>,
    pub node_name: String,
    pub pins: Pins,
    /// Tells that backends have gone, where sockets are served.
    pub gone: Option<SyncSender<()>>,
    /// Why another version's rest could not be removed, as it was said last.
    pub in_the_way: String,
    /// A complete state of the cluster is in effect.
    pub synced: bool,
    /// What is to be asked of connection tracking, once there is any.
    pub conntrack: Option<Conntrack>,
    pub report: Report,
}

impl Control {
    /// Writes what programs rely on from their first packet on.
    pub fn begin(&mut self) -> Result<()> {
        self.note_node(false)?;
        self.take_addresses()
    }

    /// Takes in what comes, the first change at once and what has gathered meanwhile together.
    pub async fn run(mut self) -> Result<()> {
        let mut others_gone = false;
        let mut retry = Retry::default();
        let mut sweeps = time::interval(SWEEP_EVERY);
        loop {
            tokio::select! {
                change = self.changes.recv() => {
                    let Some(change) = change else {
                        anyhow::bail!("the source of Services has ended");
                    };
                    self.take(change);
                    while let Ok(change) = self.changes.try_recv() {
                        self.take(change);
                    }
                }
                Ok(()) = self.addresses.changed() => self.take_addresses()?,
                // What has been cleared is of use at once, hence a round.
                _ = sweeps.tick() => self.sweep()?,
                () = retry.due() => self.reconciler.retry(),
            }
            self.tell_node_ips()?;
            let round = self.round();
            retry.note(round.retry, time::Instant::now());
            // What the kernel does not take at the second try either keeps nobody waiting: it has been warned of.
            if !self.synced && self.reconciler.is_synced() && (!round.retry || retry.has_failed()) {
                self.synced = true;
                self.note_node(true)?;
                tracing::info!(services = round.planned, "the first complete state is in effect");
            }
            self.report.state(&mut self.reconciler, self.synced, round.retry);
            others_gone = others_gone || self.synced && self.relieve_other_versions();
        }
    }

    /// Removes what another version of the daemon has left, which has served until now. Says whether there is nothing left of it.
    fn relieve_other_versions(&mut self) -> bool {
        let Err(error) = datapath::remove_other_versions(&self.pins) else { return true };
        let error = format!("{error:#}");
        if error != self.in_the_way {
            tracing::warn!(error, "what another version of shunt has left could not be removed, to be tried again");
            self.in_the_way = error;
        }
        false
    }

    fn take(&mut self, change: model::Change) {
        self.report.change(&change);
        self.reconciler.change(change);
    }

    fn round(&mut self) -> Round {
        let start = Instant::now();
        let ended = self.reconciler.maps_mut().ended();
        let round = self.reconciler.round();
        if let Some(gone) = &self.gone
            && self.reconciler.maps_mut().ended() != ended
        {
            // One that is told already need not be told twice.
            gone.try_send(()).ok();
        }
        self.report.round(&round, start.elapsed());
        if round.changes > 0 {
            tracing::debug!(planned = round.planned, changes = round.changes, elapsed = ?start.elapsed(), "applied");
        }
        round
    }

    /// Looks after what nobody tells of.
    fn sweep(&mut self) -> Result<()> {
        if let Err(error) = self.reconciler.sweep(Instant::now()) {
            tracing::warn!(error = &error as &dyn std::error::Error, "clearing rows that have rested failed, to be tried again");
        }
        self.conntrack.take_if(|conntrack| conntrack.apply());
        // What cannot be read is as it was.
        if self.snat_ports.look().unwrap_or(false) { self.take_addresses() } else { Ok(()) }
    }

    /// Tells the network which addresses the Node object has, and notes them for the next run. What stands in for them where there is none comes
    /// from the network itself and proves nothing about its devices.
    fn tell_node_ips(&mut self) -> Result<()> {
        let Some(node_ips) = self.reconciler.node_object_ips().map(<[IpAddr]>::to_vec) else { return Ok(()) };
        let differs = self.node_ips.send_if_modified(|known| {
            let differs = *known != node_ips;
            known.clone_from(&node_ips);
            differs
        });
        if differs {
            KernelMaps::set_node_ips(&self.pins, NodeIps::new(node_ips))?;
        }
        Ok(())
    }

    /// Hands the machine's addresses to the planner and to the programs.
    fn take_addresses(&mut self) -> Result<()> {
        let addresses = self.addresses.borrow_and_update().clone();
        let ports = self.snat_ports.range();
        let (snat4, snat6) = (snat_sources::<V4>(&addresses, &ports), snat_sources::<V6>(&addresses, &ports));
        self.reconciler.maps_mut().set_snat(&snat4, &snat6)?;
        let v4 = addresses.masquerade_source::<V4>().map(proxy_common::Address::to_ip);
        let v6 = addresses.masquerade_source::<V6>().map(proxy_common::Address::to_ip);
        self.reconciler
            .set_machine(Machine { preferred: v4.into_iter().chain(v6).collect(), own: Arc::new(addresses.beyond_links().collect()) });
        Ok(())
    }

    /// Notes for the command line who runs here and whether the state is complete. Once complete it stays so, for it stays in the maps.
    fn note_node(&mut self, synced: bool) -> Result<()> {
        let maps = self.reconciler.maps_mut();
        let before = maps.node()?;
        maps.set_node(NodeRow { name: text64(&self.node_name), synced: u32::from(synced), ..before })?;
        Ok(())
    }
}

/// What stands in for clients, by the device by which packets leave. Beyond what fits, devices have what all others have.
fn snat_sources<F: Family>(addresses: &LocalAddresses, ports: &RangeInclusive<u16>) -> BTreeMap<u32, SnatSource<F>> {
    let most = usize::try_from(maps::DEVICES).map_or(0, |devices| devices.saturating_sub(1));
    let of_devices = addresses.sources::<F>().take(most).map(|source| (source.ifindex, of_device(&source, ports)));
    of_devices.chain([(ANY_DEVICE, snat_source(addresses.masquerade_source::<F>(), ports))]).collect()
}

fn of_device<F: Family>(source: &DeviceSource<F::Addr>, ports: &RangeInclusive<u16>) -> SnatSource<F> {
    let mtu = u16::try_from(source.mtu).unwrap_or(u16::MAX);
    SnatSource { mtu, bare: u16::from(!source.ethernet), ..snat_source(Some(source.address), ports) }
}

/// No ports where there is no address to go with them.
fn snat_source<F: Family>(addr: Option<F::Addr>, ports: &RangeInclusive<u16>) -> SnatSource<F> {
    let port = |port: &u16| Port::from_host(addr.map_or(0, |_| *port));
    SnatSource {
        addr: addr.unwrap_or_else(bytemuck::Zeroable::zeroed),
        first_port: port(ports.start()),
        last_port: port(ports.end()),
        mtu: 0,
        bare: 0,
    }
}

/// When what could not be applied is tried again.
#[derive(Debug)]
struct Retry {
    at: Option<time::Instant>,
    wait: Duration,
}

impl Default for Retry {
    fn default() -> Self {
        Self { at: None, wait: RETRY.0 }
    }
}

impl Retry {
    /// Waits until it is time; for ever if nothing is to be tried.
    async fn due(&mut self) {
        match self.at {
            Some(at) => time::sleep_until(at).await,
            None => future::pending().await,
        }
        self.at = None;
    }

    /// Whether it was tried again at least once, in vain.
    fn has_failed(&self) -> bool {
        self.wait > RETRY.0 * 2
    }

    /// Notes how a round has ended. One that came for another reason than to try again does not put that off.
    fn note(&mut self, retry: bool, now: time::Instant) {
        if !retry {
            *self = Self::default();
        } else if self.at.is_none() {
            self.at = Some(now + self.wait);
            self.wait = (self.wait * 2).min(RETRY.1);
        }
    }
}

/// A name as the maps keep it.
pub fn text64(text: &str) -> Text64 {
    let mut bytes: Text64 = [0; 64];
    for (to, from) in bytes.iter_mut().zip(text.bytes()) {
        *to = from;
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_for_other_reasons_do_not_put_off_what_is_to_be_tried_again() {
        let start = time::Instant::now();
        let mut retry = Retry::default();
        retry.note(true, start);
        retry.note(true, start + RETRY.0 / 2);
        assert_eq!(retry.at, Some(start + RETRY.0));
        assert!(!retry.has_failed());
        retry.at = None;
        retry.note(true, start + RETRY.0);
        assert!(retry.has_failed());
        for _ in 0..20 {
            retry.at = None;
            retry.note(true, start);
        }
        assert_eq!(retry.at, Some(start + RETRY.1));
        retry.note(false, start);
        assert_eq!((retry.at, retry.wait), (None, RETRY.0));
    }
}
