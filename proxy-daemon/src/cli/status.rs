//! `shunt show status`: whether this node has what it needs, in a few lines.

use std::{
    collections::BTreeSet,
    fs,
    net::{IpAddr, SocketAddr},
};

use anyhow::{Context as _, Result};
use bytemuck::Pod;
use proxy_common::{Family, Flow, FlowKey, NodeRow, ServiceId, SnatSource, SocketKey, SocketPeer, maps};
use serde::Serialize;

use super::{
    fields,
    output::{self, Row, Show},
    state::State,
    views,
};
use crate::{
    maps::{FlowTable, KernelMaps, Pins, SocketTable, names_in},
    model::IpFamily,
    taken::{Busy, Taken},
};

/// The node at a glance.
#[derive(Debug, Serialize)]
pub(super) struct Status {
    node: String,
    /// A complete state of the cluster has been written.
    synced: bool,
    layout_version: u32,
    bpffs: String,
    daemon: DaemonView,
    services: usize,
    frontends: usize,
    backends: usize,
    flows: usize,
    /// Hooks with a program of ours, in this network namespace.
    attachments: usize,
    /// Programs of sockets that are attached to a cgroup.
    socket_programs: usize,
    /// The backend for which most of the node's ports are taken; nothing if none is.
    busiest_backend: Option<BusyView>,
    maps: Vec<FillView>,
}

#[derive(Debug, Serialize)]
struct DaemonView {
    pid: Option<u32>,
    running: bool,
}

/// How many of the node's ports are taken for a backend.
#[derive(Debug, PartialEq, Serialize)]
struct BusyView {
    backend: SocketAddr,
    protocol: &'static str,
    source: IpAddr,
    ports_taken: u32,
    ports: u32,
    taken_percent: u32,
}

/// How full a map is.
#[derive(Debug, PartialEq, Serialize)]
struct FillView {
    name: &'static str,
    entries: usize,
    max_entries: u32,
    fill_percent: f64,
}

/// What a walk through the tables of flows and sockets has found.
#[derive(Clone, Copy, Debug, Default)]
struct Flows {
    v4: usize,
    v6: usize,
    sockets4: usize,
    sockets6: usize,
    busiest: Option<Busy>,
}

/// Hooks with a program of ours.
#[derive(Clone, Copy, Debug)]
struct Attached {
    to_devices: usize,
    to_cgroup: usize,
}

impl Status {
    pub(super) fn read(pins: &Pins, kernel: &KernelMaps, state: &State, attachments: usize) -> Result<Self> {
        let (v4, busy4) = walk(&kernel.flows4, kernel.snat4()?.into_values())?;
        let (v6, busy6) = walk(&kernel.flows6, kernel.snat6()?.into_values())?;
        let busiest = busy4.into_iter().chain(busy6).max_by_key(Busy::percent);
        let flows = Flows { v4, v6, sockets4: count(&kernel.sockets4)?, sockets6: count(&kernel.sockets6)?, busiest };
        let links = names_in(&pins.links()).context("reading which links are pinned")?;
        let to_cgroup = links.iter().filter(|name| Pins::is_socket_link(name)).count();
        let attached = Attached { to_devices: attachments, to_cgroup };
        let row = kernel.node()?;
        let daemon = DaemonView { pid: (row.pid != 0).then_some(row.pid), running: is_daemon(row.pid) };
        Ok(Self::new(pins, &row, daemon, state, flows, &kernel.capacities(), attached))
    }

    fn new(
        pins: &Pins,
        row: &NodeRow,
        daemon: DaemonView,
        state: &State,
        flows: Flows,
        capacities: &[(&'static str, u32)],
        attached: Attached,
    ) -> Self {
        let fill = |&(name, max_entries)| FillView::new(name, entries(name, state, flows), max_entries);
        Self {
            node: fields::text(&row.name),
            synced: row.synced != 0,
            layout_version: row.layout_version,
            bpffs: pins.root().display().to_string(),
            daemon,
            services: state.services.len(),
            frontends: state.frontends.len(),
            backends: views::used_slots(state).len(),
            flows: flows.v4 + flows.v6,
            attachments: attached.to_devices,
            socket_programs: attached.to_cgroup,
            busiest_backend: flows.busiest.map(BusyView::from),
            maps: capacities.iter().map(fill).collect(),
        }
    }
}

/// How many entries a flow table has, and the backend for which most of the node's ports are taken.
fn walk<F: Family>(flows: &FlowTable<F>, sources: impl Iterator<Item = SnatSource<F>>) -> Result<(usize, Option<Busy>)>
where
    FlowKey<F>: Pod,
    Flow<F>: Pod,
{
    let (mut entries, mut taken) = (0, Taken::new(sources));
    flows.walk(|key, flow| {
        entries += 1;
        taken.see(key, flow);
        Ok(())
    })?;
    Ok((entries, taken.busiest()))
}

fn count<F: Family>(sockets: &SocketTable<F>) -> Result<usize>
where
    SocketKey<F>: Pod,
    SocketPeer<F>: Pod,
{
    let mut entries = 0;
    sockets.walk(|_, _| {
        entries += 1;
        Ok(())
    })?;
    Ok(entries)
}

/// What is in use of a map. Slots that no row names any more are free or will soon be.
fn entries(map: &str, state: &State, flows: Flows) -> usize {
    let frontends = |family| state.frontends.keys().filter(|frontend| IpFamily::of(frontend.addr) == family).count();
    let sources = |family| state.sources.values().flatten().filter(|network| IpFamily::of(network.network()) == family).count();
    let slots = |family| {
        let slots: BTreeSet<(u32, ServiceId)> =
            views::used_slots(state).into_keys().filter(|key| key.0 == family).map(|(_, slot, owner)| (slot, owner)).collect();
        slots.len()
    };
    match map {
        maps::FRONTENDS_V4 => frontends(IpFamily::V4),
        maps::FRONTENDS_V6 => frontends(IpFamily::V6),
        maps::FRONTEND_ROWS => state.rows.len(),
        maps::BACKENDS_V4 => slots(IpFamily::V4),
        maps::BACKENDS_V6 => slots(IpFamily::V6),
        maps::BACKEND_LIVE => state.live.len(),
        maps::FLOWS_V4 => flows.v4,
        maps::FLOWS_V6 => flows.v6,
        maps::SOCKETS_V4 => flows.sockets4,
        maps::SOCKETS_V6 => flows.sockets6,
        maps::SERVICES => state.services.len(),
        maps::CLUSTER_IPS_V4 => state.cluster_ips.keys().filter(|addr| addr.is_ipv4()).count(),
        maps::CLUSTER_IPS_V6 => state.cluster_ips.keys().filter(|addr| addr.is_ipv6()).count(),
        maps::SOURCES_V4 => sources(IpFamily::V4),
        maps::SOURCES_V6 => sources(IpFamily::V6),
        _ => 0,
    }
}

/// Whether a process is `shunt run`. Pids are used again, so the number alone does not tell.
fn is_daemon(pid: u32) -> bool {
    let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    pid != 0 && is_run(&command)
}

fn is_run(cmdline: &[u8]) -> bool {
    let mut words = cmdline.split(|&byte| byte == 0);
    let program = words.next().and_then(|path| path.rsplit(|&byte| byte == b'/').next());
    program == Some(b"shunt") && words.any(|word| word == b"run")
}

impl From<Busy> for BusyView {
    fn from(busy: Busy) -> Self {
        let Busy { source, backend, protocol, taken, ports } = busy;
        Self { backend, protocol: protocol.name(), source, ports_taken: taken, ports, taken_percent: busy.percent() }
    }
}

// === impl FillView ===

impl FillView {
    fn new(name: &'static str, entries: usize, max_entries: u32) -> Self {
        #[expect(clippy::cast_precision_loss, reason = "maps are far smaller than 2^52 rows")]
        let share = if max_entries == 0 { 0.0 } else { entries as f64 / f64::from(max_entries) };
        Self { name, entries, max_entries, fill_percent: (share * 1000.0).round() / 10.0 }
    }
}

impl Row for FillView {
    const COLUMNS: &'static [&'static str] = &["MAP", "ENTRIES", "MAX", "FILL"];

    fn cells(&self) -> Vec<String> {
        let fill = format!("{:.1}%", self.fill_percent);
        vec![self.name.to_owned(), self.entries.to_string(), self.max_entries.to_string(), fill]
    }
}

impl Show for Status {
    fn table(&self) -> String {
        let daemon = match (self.daemon.pid, self.daemon.running) {
            (Some(pid), true) => format!("running, pid {pid}"),
            (Some(pid), false) => format!("not running, last pid {pid}"),
            (None, _) => "never ran".to_owned(),
        };
        let busiest = self.busiest_backend.as_ref().map_or("none".to_owned(), |busy| {
            let BusyView { backend, protocol, ports_taken, ports, .. } = busy;
            format!("{ports_taken} of {ports} for {backend}/{protocol}")
        });
        let pairs = output::pairs([
            ("node", self.node.clone()),
            ("synced", self.synced.to_string()),
            ("daemon", daemon),
            ("bpffs", self.bpffs.clone()),
            ("layout version", self.layout_version.to_string()),
            ("services", self.services.to_string()),
            ("frontends", self.frontends.to_string()),
            ("backends", self.backends.to_string()),
            ("flow entries", self.flows.to_string()),
            ("attachments", self.attachments.to_string()),
            ("socket programs", self.socket_programs.to_string()),
            ("ports taken", busiest),
        ]);
        format!("{pairs}\n{}", output::table(&self.maps))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{args::Format, cli::output::render};

    fn status() -> Status {
        let mut name = [0; 64];
        name[..2].copy_from_slice(b"n1");
        let row = NodeRow { seed: 1, layout_version: 1, synced: 1, pid: 42, hz: 250, name };
        let daemon = DaemonView { pid: Some(42), running: false };
        let busiest = Busy {
            source: "192.0.2.1".parse().unwrap(),
            backend: "10.244.2.2:8080".parse().unwrap(),
            protocol: proxy_common::Protocol::Tcp,
            taken: 900,
            ports: 1000,
        };
        let flows = Flows { v4: 512, v6: 0, sockets4: 3, sockets6: 0, busiest: Some(busiest) };
        let capacities = [(maps::FLOWS_V4, 1024), (maps::SERVICES, 0)];
        Status::new(
            &Pins::new("/sys/fs/bpf/shunt".into()),
            &row,
            daemon,
            &State::default(),
            flows,
            &capacities,
            Attached { to_devices: 6, to_cgroup: 9 },
        )
    }

    #[test]
    fn programs_learn_whether_the_node_is_synced() {
        let json: serde_json::Value = serde_json::from_str(&render(&status(), Format::Json)).unwrap();
        assert_eq!(json["synced"], true);
        assert_eq!(json["node"], "n1");
        assert_eq!(json["daemon"], serde_json::json!({"pid": 42, "running": false}));
        let busiest = serde_json::json!({
            "backend": "10.244.2.2:8080", "protocol": "TCP", "source": "192.0.2.1", "ports_taken": 900, "ports": 1000, "taken_percent": 90,
        });
        assert_eq!(json["busiest_backend"], busiest);
        assert_eq!(json["maps"][0], serde_json::json!({"name": "FLOWS_V4", "entries": 512, "max_entries": 1024, "fill_percent": 50.0}));
    }

    #[test]
    fn people_see_it_at_a_glance() {
        let table = render(&status(), Format::Table);
        assert!(
            table.starts_with("node:              n1\nsynced:            true\ndaemon:            not running, last pid 42\n"),
            "{table}"
        );
        assert!(
            table.ends_with("\nMAP        ENTRIES   MAX    FILL\nFLOWS_V4   512       1024   50.0%\nSERVICES   0         0      0.0%\n"),
            "{table}"
        );
    }

    #[test]
    fn only_shunt_run_is_the_daemon() {
        for (cmdline, expected) in [
            (&b"/usr/bin/shunt\0run\0--manifests\0/x\0"[..], true),
            (b"shunt\0run\0", true),
            (b"shunt\0show\0status\0", false),
            (b"/bin/run\0", false),
            (b"", false),
        ] {
            assert_eq!(is_run(cmdline), expected, "{}", String::from_utf8_lossy(cmdline));
        }
    }
}
