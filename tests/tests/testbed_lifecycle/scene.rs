//! The testbed of all these tests.

use std::{net::SocketAddr, time::Duration};

use shunt_tests::{
    Cni, Family, Node, Pod, Testbed, addr,
    objects::{Endpoint, Service},
    traffic::EchoServer,
};

pub(crate) const PORT: u16 = 80;
pub(crate) const TARGET: u16 = 8080;
pub(crate) const NODE_PORT: u16 = 30_080;
/// For what takes milliseconds on a machine with nothing else to do.
pub(crate) const LIMIT: Duration = Duration::from_mins(1);

/// The pods a, b and d are on n1, c is on n2; all but a serve, and so does n1 itself.
pub(crate) struct Scene {
    pub(crate) a: Pod,
    pub(crate) b: Pod,
    pub(crate) c: Pod,
    pub(crate) d: Pod,
    _servers: Vec<EchoServer>,
    pub(crate) bed: Testbed,
}

impl Scene {
    pub(crate) fn build(cni: Cni) -> Self {
        let bed = Testbed::builder().style(cni).build().unwrap();
        let (n1, n2) = (bed.node(0), bed.node(1));
        let [a, b, d] = ["a", "b", "d"].map(|name| n1.pod(name).unwrap());
        let c = n2.pod("c").unwrap();
        let of_pods = [&b, &c, &d].map(|pod| EchoServer::start(pod, TARGET).unwrap());
        let servers = of_pods.into_iter().chain([EchoServer::start(n1, TARGET).unwrap()]).collect();
        Self { a, b, c, d, _servers: servers, bed }
    }

    pub(crate) fn n1(&self) -> &Node {
        self.bed.node(0)
    }

    /// Publishes the service of these tests with these endpoints.
    pub(crate) fn publish(&self, pods: &[&Pod]) {
        let service = Service::named("web").cluster_ips(addr::cluster_ips(1));
        let service = service.node_port(PORT, TARGET, NODE_PORT);
        let endpoints: Vec<_> = pods.iter().map(|pod| Endpoint::pod(pod)).collect();
        self.bed.manifests().write("web", &service.with_endpoints(&endpoints)).unwrap();
    }
}

/// What clients in the cluster dial.
pub(crate) fn cluster_ip(family: Family) -> SocketAddr {
    addr::cluster_ips(1).at(family, PORT)
}
