//! Wiring: makes the stages, connects them, and waits for the end. No decisions are made here.

use std::{
    collections::BTreeMap,
    future, mem,
    net::IpAddr,
    ops::RangeInclusive,
    sync::{Arc, mpsc::SyncSender},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use proxy_common::{ANY_DEVICE, Family, NodeIps, NodeRow, Port, SnatSource, Sockets, Text64, V4, V6, maps};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{mpsc, watch},
    time,
};

use crate::{
    admin,
    config::{Config, Xdp},
    conntrack::Conntrack,
    datapath::{self, Attacher, Checksums, Exchanger, Hooks, Programs},
    filter,
    health::{Checks, Health},
    maps::{KernelMaps, Pins},
    metrics::{Metrics, Subject},
    model::{self, IpFamily},
    net::{self, DeviceSource, LocalAddresses, SnatPorts},
    orphans,
    plan::{Clients, Machine},
    reconcile::{Reconciler, Round},
    source, telemetry,
    walk::Walker,
};

/// After a refused change, how long to wait at first and at most.
const RETRY: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));
/// How often what rests is looked after, and what did not fit is tried again.
const SWEEP_EVERY: Duration = Duration::from_secs(2);
/// What does not work where sockets are not served.
const WITHOUT_SOCKETS: &str = "processes of the node and hostNetwork pods do not reach Services, all others do";
/// How often the flow tables are walked.
const WALK_EVERY: Duration = Duration::from_secs(5);

/// Runs the daemon until it is told to end. Traffic goes on afterwards.
pub async fn run(config: Config) -> Result<()> {
    // Before anything else: the first process of a container meets no signal that it does not listen to.
    let shutdown = shutdown()?;
    tokio::select! {
        result = serve(config) => result,
        () = shutdown => Ok(()),
    }
}

/// Serves the node for ever.
async fn serve(config: Config) -> Result<()> {
    let pins = Pins::new(config.bpffs.clone());
    datapath::prepare(&pins)?;
    // Until the process ends, for its threads work to the end.
    mem::forget(datapath::claim(&pins).await?);
    datapath::make_folders(&pins)?;
    let hooks = socket_hooks(&config);
    if config.node_port_addresses.name_loopback() && hooks.is_none() {
        tracing::warn!("node ports are not served at loopback, though --nodeport-addresses names it: that takes --socket-lb");
    }
    let metrics = Metrics::default();
    let changes = source::start(&config.source, &config.api_servers, &config.node_name, &metrics).await?;
    let options = datapath::Options {
        sizes: config.sizes,
        programs: if config.xdp == Xdp::Off { Programs::Tc } else { Programs::All },
        checksums: Checksums::Cast,
        new_flows: config.new_flows,
        outer_headers: datapath::leaves_outer_headers(),
        sockets: if hooks.is_some() { config.sockets } else { Sockets::NONE },
        netns: datapath::netns_cookie()?.unwrap_or(0),
        bpf_log: config.bpf_log,
    };
    let (mut loaded, options) = load(&pins, options)?;
    let hooks = hooks.filter(|_| options.sockets != Sockets::NONE);
    let kernel = KernelMaps::open(&pins)?;
    filter::mark_all(&kernel)?;
    let (node_ips, node_ips_seen) = watch::channel(node_ips_before(&kernel, &pins, &config.node_name)?);
    let network = net::follow(config.rules(), node_ips_seen).await.context("following the node's network")?;
    spawn_walker(&pins, metrics.clone())?;
    let (checks, checks_seen) = watch::channel(Checks::default());
    let health = Arc::new(Health::default());
    let registry = metrics.registry(KernelMaps::open(&pins)?);
    telemetry::spawn(config.telemetry.clone(), &health, &metrics, registry, checks_seen)?;
    loaded.print_log()?;
    let mut attacher = Attacher::new(pins.clone(), loaded, config.xdp)?;
    let mut control = Control {
        addresses: network.addresses,
        node_ips,
        snat_ports: SnatPorts::new(config.snat_ports.clone())?,
        reconciler: Reconciler::new(config.node_name.clone(), config.settings(), kernel.sizes(), kernel),
        changes,
        synced: false,
        node_name: config.node_name,
        pins: pins.clone(),
        gone: (config.sockets != Sockets::NONE).then(|| orphans::spawn(&pins, config.sockets)).transpose()?,
        in_the_way: String::new(),
        conntrack: Some(config.conntrack),
        all_node_ports: config.node_port_addresses.are_all(),
        health,
        metrics,
        checks,
    };
    control.begin()?;
    let sockets = match hooks {
        Some(hooks) => attacher.serve_sockets(hooks),
        None if config.sockets == Sockets::NONE => attacher.leave_sockets(),
        // What a run before has attached goes on with the tables, and is better than nothing.
        None => Ok(()),
    };
    if let Err(error) = sockets {
        warn_of_sockets(&error);
    }
    let mut devices = datapath::serve(attacher, network.devices)?;
    let mut exchanger = devices.exchanger(pins, options);
    // Before any table is filled: that the state is complete must mean that packets meet it.
    devices.listed().await?;
    tracing::info!(bpffs = %config.bpffs.display(), "started");
    tokio::select! {
        result = control.run() => result,
        error = devices.ended() => Err(error),
        never = admin::serve(&config.socket, async |request| answer(&mut exchanger, request).await) => match never {},
    }
}

/// Loads the programs, without those of sockets where the kernel does not take these: everybody else is served all the same.
fn load(pins: &Pins, options: datapath::Options) -> Result<(datapath::Datapath, datapath::Options)> {
    match datapath::load(pins, options) {
        Err(error) if options.sockets != Sockets::NONE => {
            let options = datapath::Options { sockets: Sockets::NONE, ..options };
            let loaded = datapath::load(pins, options)?;
            warn_of_sockets(&error);
            Ok((loaded, options))
        }
        loaded => loaded.map(|loaded| (loaded, options)),
    }
}

/// Where sockets are served, if they are. Where they cannot be, pods and clients outside are all the same.
fn socket_hooks(config: &Config) -> Option<Hooks> {
    if config.sockets == Sockets::NONE {
        tracing::warn!("--socket-lb is off: {WITHOUT_SOCKETS}");
        return None;
    }
    let hooks = config.cgroup.clone().map_or_else(datapath::root_cgroup, Ok).and_then(Hooks::at);
    hooks.inspect_err(warn_of_sockets).ok()
}

fn warn_of_sockets(error: &anyhow::Error) {
    tracing::warn!(error = format!("{error:#}"), "{WITHOUT_SOCKETS}, unless programs of a run before still see to it");
}

/// Does what an operator asks for.
async fn answer(exchanger: &mut Exchanger, request: admin::Request) -> Result<String> {
    let admin::Request::Log { on } = request;
    let done = match (exchanger.set_log(on).await?, on) {
        (true, true) => "the programs log each packet of a Service from now on, in the daemon's log",
        (true, false) => "the programs do not log any more",
        (false, true) => "the programs log already",
        (false, false) => "the programs do not log",
    };
    tracing::info!("asked: {done}");
    Ok(done.to_owned())
}

/// Returns when the process is asked to end, from now on.
fn shutdown() -> Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate()).context("listening to SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listening to SIGINT")?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("ending: programs and tables stay, traffic goes on");
    })
}

/// The addresses that this Node had when a daemon knew it last. Which devices are served by what follows from them, also before the API server
/// answers.
fn node_ips_before(kernel: &KernelMaps, pins: &Pins, node_name: &str) -> Result<Vec<IpAddr>> {
    let is_this_node = kernel.node()?.name == text64(node_name);
    Ok(if is_this_node { KernelMaps::node_ips(pins)?.iter().collect() } else { Vec::new() })
}

fn text64(text: &str) -> Text64 {
    let mut bytes: Text64 = [0; 64];
    for (to, from) in bytes.iter_mut().zip(text.bytes()) {
        *to = from;
    }
    bytes
}

/// The task that owns the control path.
struct Control {
    addresses: watch::Receiver<LocalAddresses>,
    node_ips: watch::Sender<Vec<IpAddr>>,
    snat_ports: SnatPorts,
    reconciler: Reconciler<KernelMaps>,
    changes: mpsc::Receiver<model::Change>,
    node_name: String,
    pins: Pins,
    /// Tells that backends have gone, where sockets are served.
    gone: Option<SyncSender<()>>,
    /// Why another version's rest could not be removed, as it was said last.
    in_the_way: String,
    /// A complete state of the cluster is in effect.
    synced: bool,
    /// What is to be asked of connection tracking, once there is any.
    conntrack: Option<Conntrack>,
    /// Node ports are served at every address.
    all_node_ports: bool,
    health: Arc<Health>,
    metrics: Metrics,
    checks: watch::Sender<Checks>,
}

impl Control {
    /// Writes what programs rely on from their first packet on.
    fn begin(&mut self) -> Result<()> {
        self.note_node(false)?;
        self.take_addresses()
    }

    /// Takes in what comes, the first change at once and what has gathered meanwhile together.
    async fn run(mut self) -> Result<()> {
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
            self.tell(&round);
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
        match change {
            model::Change::Service(_) => self.metrics.note_change(Subject::Service),
            model::Change::Slice(_) => self.metrics.note_change(Subject::Endpoints),
            model::Change::Node(_) | model::Change::ServiceCidr(_) => {}
        }
        self.metrics.note_queued();
        self.health.note_pending();
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
        if round.planned > 0 {
            self.metrics.note_round(&round, start.elapsed());
        }
        if round.changes > 0 {
            tracing::debug!(planned = round.planned, changes = round.changes, elapsed = ?start.elapsed(), "applied");
        }
        round
    }

    /// Tells whoever asks what is in effect now.
    fn tell(&mut self, round: &Round) {
        if !round.retry && self.health.note_applied() && self.synced {
            self.metrics.note_applied(self.reconciler.take_triggers());
        }
        self.health.note_node(self.synced, self.reconciler.is_node_eligible());
        self.metrics.note_state(self.synced, self.reconciler.unserved(), self.reconciler.usage());
        for family in IpFamily::ALL {
            for (policy, clients) in [("internal", Clients::Inside), ("external", Clients::Outside)] {
                self.metrics.note_no_local_endpoints(family, policy, self.reconciler.without_local(family, clients));
            }
        }
        let addresses = || self.reconciler.node_port_addresses().iter().copied().collect();
        let checks = Checks { addresses: (!self.all_node_ports).then(addresses), services: self.reconciler.health_checks().clone() };
        self.checks.send_if_modified(|known| {
            let differs = *known != checks;
            if differs {
                *known = checks;
            }
            differs
        });
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

/// Walks the flow tables now and then, on a thread of its own: a walk through full tables takes a while.
fn spawn_walker(pins: &Pins, metrics: Metrics) -> Result<()> {
    let mut walker = Walker::open(pins, metrics)?;
    let work = move || loop {
        thread::sleep(WALK_EVERY);
        if let Err(error) = walker.walk() {
            tracing::warn!(error = format!("{error:#}"), "the flow tables could not be walked through: flows do not expire");
        }
    };
    thread::Builder::new().name("shunt-walk".to_owned()).spawn(work).context("starting the thread that walks the flow tables")?;
    Ok(())
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
