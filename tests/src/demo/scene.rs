//! What the demo plays in: two nodes with pods, a client outside behind a router, the daemons, and the Services.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Result, anyhow};

use super::{
    cluster::{Backed, Cluster},
    step,
};
use crate::{
    addr::{self, Family},
    cni::Cni,
    daemon::Daemon,
    host::Host as _,
    node::Node,
    objects::Service,
    pod::Pod,
    testbed::Testbed,
    traffic::EchoServer,
    wait,
};

pub(super) const PORT: u16 = 80;
pub(super) const WEB_NODE_PORT: u16 = 30_080;
pub(super) const EMPTY_NODE_PORT: u16 = 30_081;
const TARGET: u16 = 8080;
const LIMIT: Duration = Duration::from_secs(15);

/// The Services, each with the last number of its `ClusterIP`s; the first of the range is the API server's.
pub(super) const LOCAL: (&str, u8) = ("local", 10);
pub(super) const REMOTE: (&str, u8) = ("remote", 11);
pub(super) const ITSELF: (&str, u8) = ("itself", 12);
pub(super) const WEB: (&str, u8) = ("web", 13);
pub(super) const EMPTY: (&str, u8) = ("empty", 14);
pub(super) const CHANGING: (&str, u8) = ("changing", 15);

/// Which pods there are, and on which node.
const PODS: [(&str, usize); 6] = [("a", 0), ("b", 0), ("blue", 0), ("c", 1), ("d", 1), ("green", 1)];
/// Which pods serve what.
const SERVED_BY: [((&str, u8), &[&str]); 6] =
    [(LOCAL, &["b"]), (REMOTE, &["c"]), (ITSELF, &["a"]), (WEB, &["b", "c", "d"]), (EMPTY, &[]), (CHANGING, &["blue", "green"])];

/// All of it; what serves ends before what it stands on.
#[derive(Debug)]
pub(super) struct Scene {
    daemons: Vec<Daemon>,
    cluster: Cluster,
    _servers: Vec<EchoServer>,
    pods: Vec<Pod>,
    bed: Testbed,
}

impl Scene {
    pub(super) fn build(is_real: bool) -> Result<Self> {
        println!("== scene ==");
        let bed = step("nodes, router and client as network namespaces", || Testbed::builder().style(Cni::Bridge).build())?;
        let pods = PODS.iter().map(|(name, node)| bed.node(*node).pod(name)).collect::<Result<Vec<_>>>()?;
        let servers = pods.iter().map(|pod| EchoServer::start(pod, TARGET)).collect::<Result<_>>()?;
        let (cluster, source) = if is_real {
            let what = "etcd, kube-apiserver and the EndpointSlice controller, ready";
            (step(what, || Cluster::start(&bed, true))?, "the API server, with the rights that deploy/kustomize/base/shunt.yaml gives")
        } else {
            (Cluster::start(&bed, false)?, "manifests")
        };
        let what = format!("shunt on both nodes, fed by {source}");
        let start = |node: &Node| cluster.show_to(Daemon::on(node, &bed)).sockets("auto").start();
        let daemons = step(&what, || bed.nodes().iter().map(start).collect())?;
        let scene = Self { daemons, cluster, _servers: servers, pods, bed };
        scene.serve()?;
        Ok(scene)
    }

    /// Makes the Services known and waits until each is served.
    fn serve(&self) -> Result<()> {
        let services = SERVED_BY
            .map(|(it, pods)| Backed { service: service(it), pods: self.pods.iter().filter(|pod| pods.contains(&pod.name())).collect() });
        step(&format!("{} Services and {} pods, known to all", services.len(), self.pods.len()), || {
            self.cluster.publish(&self.bed, &self.pods, &services)?;
            wait::until("every Service served", LIMIT, || self.is_served())
        })
    }

    fn is_served(&self) -> Result<()> {
        let (client, a) = (self.bed.client(), self.pod("a")?);
        for family in Family::ALL {
            for service in [LOCAL, REMOTE, ITSELF, WEB, CHANGING] {
                a.connect(cluster_ip(service, family))?;
            }
            for node in self.bed.nodes() {
                client.connect(node.addrs().at(family, WEB_NODE_PORT))?;
            }
        }
        Ok(())
    }

    pub(super) fn pod(&self, name: &str) -> Result<&Pod> {
        self.pods.iter().find(|pod| pod.name() == name).ok_or_else(|| anyhow!("there is no pod {name}"))
    }

    pub(super) fn pods_on<'a>(&'a self, node: &'a Node) -> impl Iterator<Item = &'a Pod> {
        self.pods.iter().filter(|pod| pod.node().name() == node.name())
    }

    pub(super) fn bed(&self) -> &Testbed {
        &self.bed
    }

    pub(super) fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// The daemon of the first node.
    pub(super) fn daemon(&self) -> &Daemon {
        &self.daemons[0]
    }

    pub(super) fn daemon_mut(&mut self) -> &mut Daemon {
        &mut self.daemons[0]
    }
}

pub(super) fn cluster_ip((_, n): (&str, u8), family: Family) -> SocketAddr {
    addr::cluster_ips(n).at(family, PORT)
}

/// A Service of the scene, without what says who serves it.
pub(super) fn service((name, n): (&str, u8)) -> Service {
    let service = Service::named(name).cluster_ips(addr::cluster_ips(n));
    match n {
        n if n == WEB.1 => service.node_port(PORT, TARGET, WEB_NODE_PORT),
        n if n == EMPTY.1 => service.node_port(PORT, TARGET, EMPTY_NODE_PORT),
        _ => service.port(PORT, TARGET),
    }
}
