//! The testbed of the measurements: a node for each contender, one more for backends elsewhere, and a real control plane.

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::{Contender, acceptor::Acceptor, responder, running::Running};
use crate::{
    addr::{self, Addrs, Family},
    cni::Cni,
    control_plane::ControlPlane,
    host::Host as _,
    objects::{Endpoint, Service},
    pod::Pod,
    process::Process,
    testbed::Testbed,
    wait,
};

pub(super) const IPERF: u16 = 5201;
pub(super) const RESPONDER: u16 = 7000;
const FAMILY: Family = Family::V4;
/// The Service whose backend is on the node without a contender; those with backends on the contenders' nodes come after it.
const REMOTE: u8 = 10;
/// For thousands of Services in a proxy of any kind.
const LIMIT: Duration = Duration::from_mins(5);

/// Where a client's backend is.
#[derive(Clone, Copy, Debug)]
pub(super) enum Route {
    SameNode,
    AcrossNodes,
}

/// Everything that is measured.
pub(super) struct Scene {
    places: Vec<Place>,
    remote: Server,
    services: u32,
    growths: u8,
    control: ControlPlane,
    _bed: Testbed,
}

/// A contender's node with a client and a backend.
pub(super) struct Place {
    pub(super) contender: Contender,
    pub(super) client: Pod,
    server: Server,
    service: Addrs,
    remote_pod: Addrs,
    _running: Running,
}

/// A pod that serves.
struct Server {
    pod: Pod,
    _responder: Acceptor,
    _iperf: Process,
}

impl Route {
    pub(super) const ALL: [Self; 2] = [Self::SameNode, Self::AcrossNodes];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::SameNode => "same node",
            Self::AcrossNodes => "across nodes",
        }
    }
}

// === impl Scene ===

impl Scene {
    pub(super) fn build() -> Result<Self> {
        let contenders = Contender::ALL;
        let nodes = u8::try_from(contenders.len() + 1).context("counting the nodes")?;
        let bed = Testbed::builder().style(Cni::Routed).nodes(nodes).build()?;
        let control = ControlPlane::start(&bed)?;
        let remote = Server::start(bed.node(contenders.len()).pod("remote")?)?;
        publish(&control, "remote", addr::cluster_ips(REMOTE), &remote.pod)?;
        let mut places = Vec::new();
        for (index, contender) in contenders.into_iter().enumerate() {
            let node = bed.node(index);
            let client = node.pod(&format!("client{index}"))?;
            client.netns().sysctl(&[("ipv4/tcp_tw_reuse", "1"), ("ipv4/ip_local_port_range", "1024 65535")])?;
            let server = Server::start(node.pod(&format!("server{index}"))?)?;
            let service = addr::cluster_ips(REMOTE + 1 + u8::try_from(index)?);
            publish(&control, &format!("local{index}"), service, &server.pod)?;
            let running = Running::start(contender, &bed, &control, node)?;
            places.push(Place { contender, client, server, service, remote_pod: remote.pod.addrs(), _running: running });
        }
        let scene = Self { places, remote, services: 0, growths: 0, control, _bed: bed };
        scene.wait_for_all()?;
        Ok(scene)
    }

    pub(super) fn place(&self, index: usize) -> &Place {
        &self.places[index]
    }

    /// Adds Services until there are as many beside those that are measured, and waits until every contender has them.
    pub(super) fn grow_to(&mut self, services: u32) -> Result<()> {
        let fillers: Vec<_> = (self.services..services).flat_map(filler).collect();
        self.control.api().create_all(&fillers)?;
        self.services = self.services.max(services);
        // Whoever serves what was made last has all of them.
        self.growths += 1;
        let last = Addrs::new(&format!("10.96.255.{}", self.growths), &format!("fd00:10:96::ff{:02x}", self.growths));
        publish(&self.control, &format!("last{}", self.growths), last, &self.remote.pod)?;
        self.wait_for(last.at(FAMILY, RESPONDER))
    }

    fn wait_for_all(&self) -> Result<()> {
        for place in &self.places {
            place.wait_for(place.target(Route::SameNode, RESPONDER))?;
            place.wait_for(place.target(Route::AcrossNodes, RESPONDER))?;
        }
        Ok(())
    }

    fn wait_for(&self, to: SocketAddr) -> Result<()> {
        self.places.iter().filter(|place| place.contender != Contender::Direct).try_for_each(|place| place.wait_for(to))
    }
}

impl Place {
    /// What the client dials.
    pub(super) fn target(&self, route: Route, port: u16) -> SocketAddr {
        let addrs = match (self.contender, route) {
            (Contender::Direct, Route::SameNode) => self.server.pod.addrs(),
            (Contender::Direct, Route::AcrossNodes) => self.remote_pod,
            (_, Route::SameNode) => self.service,
            (_, Route::AcrossNodes) => addr::cluster_ips(REMOTE),
        };
        addrs.at(FAMILY, port)
    }

    /// Waits until the client reaches it.
    fn wait_for(&self, to: SocketAddr) -> Result<()> {
        let what = format!("{to} through {}", self.contender);
        wait::until(&what, LIMIT, || {
            self.client.netns().run(|| std::net::TcpStream::connect_timeout(&to, Duration::from_secs(1)))?;
            Ok(())
        })
    }
}

impl Server {
    fn start(pod: Pod) -> Result<Self> {
        let responder = responder::start(pod.netns(), RESPONDER)?;
        let iperf = pod.netns().spawn(&format!("exec iperf3 --server --port {IPERF} >/dev/null"))?;
        Ok(Self { pod, _responder: responder, _iperf: iperf })
    }
}

fn publish(control: &ControlPlane, name: &str, addrs: Addrs, pod: &Pod) -> Result<()> {
    let service = Service::named(name).cluster_ips(addrs).port(IPERF, IPERF).port(RESPONDER, RESPONDER);
    let service = service.with("ipFamilyPolicy", json!("RequireDualStack"));
    let objects = service.with_endpoints(&[Endpoint::pod(pod)]);
    control.api().create_all(&objects)
}

/// A Service with one backend that nobody asks, as objects.
pub(super) fn filler(number: u32) -> [Value; 2] {
    let name = format!("filler{number}");
    let from = |first: Ipv4Addr, number: u32| Ipv4Addr::from_bits(first.to_bits() + number).to_string();
    let cluster_ip = from(Ipv4Addr::new(10, 96, 1, 0), number);
    let service = json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "type": "ClusterIP",
            "clusterIP": cluster_ip,
            "clusterIPs": [cluster_ip],
            "ipFamilies": ["IPv4"],
            "ports": [{"name": "web", "protocol": "TCP", "port": 80, "targetPort": 8080}],
        },
    });
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": name, "namespace": "default", "labels": {"kubernetes.io/service-name": name}},
        "addressType": "IPv4",
        "ports": [{"name": "web", "protocol": "TCP", "port": 8080}],
        "endpoints": [{"addresses": [from(Ipv4Addr::new(10, 244, 100, 0), number % 10_000)], "conditions": {"ready": true}}],
    });
    [service, slice]
}
