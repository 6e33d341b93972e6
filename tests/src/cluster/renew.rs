//! Whether clients notice when Shunt's pods are replaced: by a rollout, deleted, killed.
//!
//! In: a cluster with Shunt. Out: what became of every connection and question that pods, processes of the nodes and a client outside opened
//! meanwhile, to the `ClusterIP`s and node ports of a Service with a backend on each node.

use std::{
    net::SocketAddr,
    process::{Child, Command, ExitCode, Stdio},
    time::Instant,
};

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use serde::{Deserialize, de::DeserializeOwned};

use super::{Proxy, State, dial::Seen, keeper::Place};
use crate::{manifests, process};

const OBJECTS: &str = include_str!("renew.yaml");
const NAMESPACE: &str = "renew";

/// How hard to try.
#[derive(clap::Args)]
pub struct Options {
    /// New connections a second, and as many new UDP flows, of all clients together
    #[arg(long, default_value_t = 200)]
    rate: u32,
    /// How often to replace the pods in each way
    #[arg(long, default_value_t = 3)]
    times: u32,
}

/// The ways in which Shunt's pods go.
#[derive(Clone, Copy)]
enum Way {
    Rollout,
    Deletion,
    Kill,
}

/// Several objects, as kubectl prints them.
#[derive(Deserialize)]
struct Listed<T> {
    items: Vec<T>,
}

/// A client that runs.
struct Client {
    what: String,
    child: Child,
}

/// Replaces the pods under load. A success only when nobody noticed.
pub fn run(place: &Place, options: &Options) -> Result<ExitCode> {
    let state = place.state()?;
    ensure!(state.proxy == Proxy::Shunt, "the cluster does not have Shunt: `up --proxy shunt` starts one that has");
    let program = std::env::current_exe().context("finding this program")?.display().to_string();
    for object in manifests::parse(&OBJECTS.replace("PROGRAM", &program)).context("reading the objects")? {
        process::feed(state.kubectl().args(["apply", "-f", "-"]), &object.to_string())?;
    }
    for workload in ["server", "pod", "host"] {
        state.roll_out(NAMESPACE, &format!("daemonset/{workload}"))?;
    }
    let clients = Client::start_all(&state, &program, options.rate)?;
    for _ in 0..options.times {
        for way in [Way::Rollout, Way::Deletion, Way::Kill] {
            let start = Instant::now();
            way.go(&state)?;
            println!("{}: ready again after {:.1} s", way.name(), start.elapsed().as_secs_f64());
        }
    }
    let seen: Vec<(String, Seen)> = clients.into_iter().map(Client::finish).collect::<Result<_>>()?;
    println!("\n| client | connections | failed | lost a packet | UDP flows | failed | kept connections' pings | broken |");
    println!("|---|---|---|---|---|---|---|---|");
    for (client, Seen { connections, questions, kept }) in &seen {
        println!(
            "| {client} | {} | {} | {} | {} | {} | {} | {} |",
            connections.ok,
            connections.failed,
            connections.lossy,
            questions.ok,
            questions.failed,
            kept.pings,
            kept.errors.len()
        );
        [&connections.first_error, &questions.first_error].into_iter().flatten().for_each(|error| eprintln!("{client}: {error}"));
        kept.errors.iter().for_each(|error| eprintln!("{client}: {error}"));
    }
    let unharmed = |seen: &Seen| {
        seen.connections.failed + seen.questions.failed == 0
            && seen.kept.errors.is_empty()
            && [seen.connections.ok, seen.questions.ok, seen.kept.pings].iter().all(|n| *n > 0)
    };
    Ok(if seen.iter().all(|(_, seen)| unharmed(seen)) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

impl Way {
    const fn name(self) -> &'static str {
        match self {
            Self::Rollout => "rollout restart",
            Self::Deletion => "all pods deleted",
            Self::Kill => "all daemons killed",
        }
    }

    /// Has all of Shunt's pods go, and waits until others serve.
    fn go(self, state: &State) -> Result<()> {
        let kubectl = |arguments: &[&str]| process::output(state.kubectl().args(["-n", "kube-system"]).args(arguments)).map(drop);
        match self {
            Self::Rollout => kubectl(&["rollout", "restart", "daemonset/shunt"])?,
            Self::Deletion => kubectl(&["delete", "pod", "-l", "app.kubernetes.io/name=shunt"])?,
            Self::Kill => {
                for node in state.nodes() {
                    process::output(state.enter(node)?.args(["pkill", "-KILL", "-x", "shunt"]))?;
                }
                kubectl(&["wait", "pod", "-l", "app.kubernetes.io/name=shunt", "--for=condition=Ready=false", "--timeout=30s"])?;
            }
        }
        state.roll_out("kube-system", "daemonset/shunt")
    }
}

impl Client {
    /// A client in each pod that is one, and one outside.
    fn start_all(state: &State, program: &str, rate: u32) -> Result<Vec<Self>> {
        let service: Service = get(state, &["service", "server"])?;
        let (cluster_ips, node_ports) = targets(state, &service)?;
        let pods: Listed<Pod> = get(state, &["pods", "-l", "client=yes"])?;
        let rate = rate.div_ceil(u32::try_from(pods.items.len() + 1).context("counting the clients")?);
        let mut clients = Vec::new();
        for pod in pods.items {
            let (name, spec) = (pod.metadata.name.unwrap_or_default(), pod.spec.unwrap_or_default());
            let mut client = state.kubectl();
            client.args(["-n", NAMESPACE, "exec", "-i", &name, "--", "/program"]);
            let kind = if spec.host_network == Some(true) { "a process of" } else { "a pod of" };
            let node = spec.node_name.unwrap_or_default();
            let to = cluster_ips.iter().chain(&node_ports).copied().collect::<Vec<_>>();
            clients.push(Self::start(format!("{kind} {node}"), client, &to, rate)?);
        }
        let outside = state.beside_the_api_server(program);
        clients.push(Self::start("outside".to_owned(), outside, &node_ports, rate)?);
        Ok(clients)
    }

    fn start(what: String, mut command: Command, to: &[SocketAddr], rate: u32) -> Result<Self> {
        let to = to.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
        command.args(["dial", "--rate", &rate.to_string(), "--to", &to]);
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().with_context(|| format!("starting {what}"))?;
        Ok(Self { what, child })
    }

    /// Ends it and hears what it saw.
    fn finish(mut self) -> Result<(String, Seen)> {
        drop(self.child.stdin.take());
        let output = self.child.wait_with_output().with_context(|| format!("waiting for {}", self.what))?;
        ensure!(output.status.success(), "{} ended with {}", self.what, output.status);
        let seen = serde_json::from_slice(&output.stdout).with_context(|| format!("reading what {} saw", self.what))?;
        Ok((self.what, seen))
    }
}

/// A Service's `ClusterIP`s, and its node port on every node.
fn targets(state: &State, service: &Service) -> Result<(Vec<SocketAddr>, Vec<SocketAddr>)> {
    let spec = service.spec.as_ref().context("the Service has no spec")?;
    let at = |address: &str, port| Ok(SocketAddr::new(address.parse().with_context(|| format!("reading {address}"))?, port)) as Result<_>;
    let cluster_ips = spec.cluster_ips.iter().flatten().map(|address| at(address, 80)).collect::<Result<_>>()?;
    let port = spec.ports.iter().flatten().find_map(|port| port.node_port).context("the Service has no node port")?;
    let port = u16::try_from(port).context("reading the node port")?;
    let nodes: Listed<Node> = get(state, &["nodes"])?;
    let mut node_ports = Vec::new();
    for node in nodes.items {
        let addresses = node.status.and_then(|status| status.addresses).unwrap_or_default();
        for address in addresses.iter().filter(|address| address.type_ == "InternalIP") {
            node_ports.push(at(&address.address, port)?);
        }
    }
    Ok((cluster_ips, node_ports))
}

fn get<T: DeserializeOwned>(state: &State, what: &[&str]) -> Result<T> {
    process::json(state.kubectl().args(["-n", NAMESPACE, "get", "-o", "json"]).args(what))
}
