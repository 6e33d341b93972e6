//! The pods between which is measured, and the Services in front of them.

use std::{
    net::{IpAddr, Ipv4Addr},
    time::Duration,
};

use anyhow::{Context as _, Result};
use serde_json::Value;

use super::ground::Cluster;
use crate::{bench::figures::Route, process, wait};

const OBJECTS: &str = include_str!("pods.yaml");
const NAMESPACE: &str = "bench";
const LIMIT: Duration = Duration::from_mins(2);

/// Everything that is measured on a cluster.
pub(super) struct Pods<'a> {
    cluster: &'a Cluster,
    /// The server's own address and its Service's, by route.
    servers: [[IpAddr; 2]; 2],
    services: u32,
}

impl<'a> Pods<'a> {
    /// Starts them on the cluster's last two nodes, which have no control plane, and waits until the Services answer.
    pub(super) fn start(cluster: &'a Cluster) -> Result<Self> {
        let nodes = get(cluster, &["nodes"])?;
        let names = || nodes["items"].as_array().into_iter().flatten().filter_map(|node| node["metadata"]["name"].as_str()).rev();
        let (node, other) = names().next().zip(names().nth(1)).context("the cluster has less than two nodes")?;
        let objects = OBJECTS.replace("NODE", node).replace("OTHER", other);
        // A namespace has its service account, without which there are no pods, a moment later.
        wait::until("the pods", LIMIT, || process::feed(cluster.kubectl().args(["apply", "-f", "-"]), &objects))?;
        process::output(cluster.kubectl().args(["-n", NAMESPACE, "wait", "pod", "--all", "--for=condition=Ready", "--timeout=2m"]))?;
        let address = |kind: &str, route: Route, field: &str| -> Result<IpAddr> {
            let object = get(cluster, &["-n", NAMESPACE, kind, server(route)])?;
            let address =
                object.pointer(field).and_then(Value::as_str).with_context(|| format!("{kind} {} has no address", server(route)))?;
            address.parse().with_context(|| format!("reading {address}"))
        };
        let mut servers = [[IpAddr::V4(Ipv4Addr::UNSPECIFIED); 2]; 2];
        for route in Route::ALL {
            servers[route as usize] = [address("pod", route, "/status/podIP")?, address("service", route, "/spec/clusterIP")?];
        }
        let services = get(cluster, &["services", "--all-namespaces"])?;
        let services = services["items"].as_array().map_or(0, Vec::len).try_into().context("counting the Services")?;
        let pods = Self { cluster, servers, services };
        for to in pods.servers.as_flattened() {
            let ask = || pods.run(&["curl", "-sS", "--max-time", "1", "-o", "/dev/null", &format!("http://{to}/")]).map(drop);
            wait::until(&format!("an answer of {to}"), LIMIT, ask)?;
        }
        Ok(pods)
    }

    /// Of the server itself.
    pub(super) const fn address(&self, route: Route) -> IpAddr {
        self.servers[route as usize][0]
    }

    /// Of the Service in front of it.
    pub(super) const fn service(&self, route: Route) -> IpAddr {
        self.servers[route as usize][1]
    }

    /// How many Services the cluster has.
    pub(super) const fn services(&self) -> u32 {
        self.services
    }

    /// Runs a command inside the client, and gives what it prints.
    pub(super) fn run(&self, command: &[&str]) -> Result<String> {
        process::output(self.cluster.kubectl().args(["-n", NAMESPACE, "exec", "client", "--"]).args(command))
    }
}

/// The name of the server, and of its Service.
const fn server(route: Route) -> &'static str {
    match route {
        Route::SameNode => "near",
        Route::AcrossNodes => "far",
    }
}

fn get(cluster: &Cluster, what: &[&str]) -> Result<Value> {
    process::json(cluster.kubectl().args(["get", "-o", "json"]).args(what))
}
