//! Wiring: makes the stages, connects them, and waits for the end. No decisions are made here.

use std::{future::Future, mem, net::IpAddr, sync::Arc, thread, time::Duration};

use anyhow::{Context as _, Result};
use proxy_common::Sockets;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
};

use crate::{
    admin,
    config::{Config, Xdp},
    control::{Control, text64},
    datapath::{self, Attacher, Checksums, Exchanger, Hooks, Programs},
    filter,
    health::{Checks, Health},
    maps::{KernelMaps, Pins},
    metrics::Metrics,
    net::{self, SnatPorts},
    orphans,
    reconcile::Reconciler,
    report::Report,
    source::{self, Standing},
    telemetry,
    walk::Walker,
};

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
    let standing = Standing::default();
    let changes = source::start(&config.source, &config.api_servers, &config.node_name, &standing).await?;
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
    filter::whole_round(&kernel)?;
    let (node_ips, node_ips_seen) = watch::channel(node_ips_before(&kernel, &pins, &config.node_name)?);
    let network = net::follow(config.rules(), node_ips_seen).await.context("following the node's network")?;
    let metrics = Metrics::default();
    spawn_walker(&pins, metrics.clone())?;
    let (checks, checks_seen) = watch::channel(Checks::default());
    let health = Arc::new(Health::default());
    let registry = metrics.registry(KernelMaps::open(&pins)?, standing);
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
        report: Report { health, metrics, checks, all_node_ports: config.node_port_addresses.are_all() },
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
