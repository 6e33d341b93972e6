//! The testbed of the measurements: a node for each contender, one more for backends elsewhere, and a real control plane.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::{acceptor::Acceptor, responder, running::Running};
use crate::{
    addr::{self, Addrs, Family},
    bench::figures::{Contender, Route},
    cni::Cni,
    control_plane::ControlPlane,
    host::Host as _,
    netns::Netns,
    objects::{Endpoint, Service},
    pod::Pod,
    process::Process,
    testbed::Testbed,
    wait,
};

pub(super) const IPERF: u16 = 5201;
pub(super) const RESPONDER: u16 = 7000;
/// A port of the server elsewhere at which nothing is measured.
const GREETER: u16 = 7001;
const FAMILY: Family = Family::V4;
/// The Service whose backend is on the node without a contender; those with backends on the contenders' nodes come after it.
const REMOTE: u8 = 10;
/// Of so many Services in a row each server serves one of the last, at an address of its own: where iptables finds a Service depends on its place in a list
/// that is in no order, so one alone says little; and behind one address connection tracking would have to find other client ports for them.
const APART: u32 = 100;
/// The further addresses of a server end in this and what comes after it.
const FURTHER: u8 = 100;
const FURTHER_ADDRESSES: u8 = 100;
/// How many client ports there are, shared by all that is dialled: connection tracking remembers each pair for two minutes, and drops what it has
/// no room for.
const CLIENT_PORTS: usize = 30_000;
const FIRST_CLIENT_PORT: usize = 32_768;
/// For thousands of Services in a proxy of any kind.
const LIMIT: Duration = Duration::from_mins(5);

/// Everything that is measured.
pub(super) struct Scene {
    places: Vec<Place>,
    remote: Server,
    services: u32,
    greetings: u8,
    control: ControlPlane,
    _greeter: Acceptor,
    _bed: Testbed,
}

/// A contender's node with a client and a backend.
pub(super) struct Place {
    pub(super) contender: Contender,
    pub(super) client: Pod,
    server: Server,
    /// What the client dials for the server on its node, and for the one elsewhere.
    same_node: Vec<IpAddr>,
    across_nodes: Vec<IpAddr>,
    _running: Running,
}

/// A pod that serves, at many addresses.
struct Server {
    pod: Pod,
    further: Vec<Ipv4Addr>,
    _responder: Acceptor,
    _iperf: Process,
}

// === impl Scene ===

impl Scene {
    pub(super) fn build() -> Result<Self> {
        let contenders = Contender::ALL;
        let nodes = u8::try_from(contenders.len() + 1).context("counting the nodes")?;
        let bed = Testbed::builder().style(Cni::Routed).nodes(nodes).build()?;
        let control = ControlPlane::start(&bed)?;
        let remote = Server::start(bed.node(contenders.len()).pod("remote")?)?;
        let greeter = responder::start(remote.pod.netns(), GREETER)?;
        publish(&control, "remote", addr::cluster_ips(REMOTE), &remote.pod)?;
        let mut places = Vec::new();
        for (index, contender) in contenders.into_iter().enumerate() {
            let node = bed.node(index);
            let client = node.pod(&format!("client{index}"))?;
            client.netns().sysctl(&[("ipv4/tcp_tw_reuse", "1")])?;
            let server = Server::start(node.pod(&format!("server{index}"))?)?;
            let service = addr::cluster_ips(REMOTE + 1 + u8::try_from(index)?);
            publish(&control, &format!("local{index}"), service, &server.pod)?;
            let running = Running::start(contender, &bed, &control, node)?;
            let [same_node, across_nodes] =
                if contender.is_direct() { [server.pod.addrs(), remote.pod.addrs()] } else { [service, addr::cluster_ips(REMOTE)] };
            let [same_node, across_nodes] = [same_node, across_nodes].map(|it| vec![it.of(FAMILY)]);
            places.push(Place { contender, client, server, same_node, across_nodes, _running: running });
        }
        let pods = places.iter().flat_map(|place| [&place.client, &place.server.pod]).chain([&remote.pod]);
        pods.flat_map(|pod| [pod.netns(), pod.node().netns()]).try_for_each(keep_neighbours)?;
        let mut scene = Self { places, remote, services: 0, greetings: 0, control, _greeter: greeter, _bed: bed };
        scene.greet()?;
        scene.ready_clients()?;
        Ok(scene)
    }

    pub(super) fn place(&self, index: usize) -> &Place {
        &self.places[index]
    }

    /// Adds Services until there are as many beside those that are measured, and waits until every contender has them.
    pub(super) fn grow_to(&mut self, services: u32) -> Result<()> {
        let mut objects = Vec::new();
        for filler in (self.services..services).map(Filler) {
            let server = self.places.iter().map(|place| &place.server).chain([&self.remote]).nth(filler.server());
            let backend = server.map_or_else(|| filler.nobody(), |server| server.further[filler.row() % server.further.len()]);
            objects.extend(filler.objects(backend));
            self.have_dialled(filler, backend);
        }
        self.control.api().create_all(&objects)?;
        self.services = self.services.max(services);
        self.greet()?;
        self.ready_clients()
    }

    /// Has the clients of all that serve dial a Service that is made now: who serves it has those that were made before. A pod's first connection goes by
    /// packets, and for some minutes all others to the same backend cost more for it, so that is none of those that are measured.
    fn greet(&mut self) -> Result<()> {
        self.greetings += 1;
        let addrs = Addrs::new(&format!("10.96.255.{}", self.greetings), &format!("fd00:10:96::ff{:02x}", self.greetings));
        let service = Service::named(&format!("greeter{}", self.greetings)).cluster_ips(addrs).port(GREETER, GREETER);
        create(&self.control, service, &self.remote.pod)?;
        let mut serving = self.places.iter().filter(|place| !place.contender.is_direct());
        serving.try_for_each(|place| place.wait_for(addrs.at(FAMILY, GREETER)))
    }

    /// Adds it to what is dialled by those whose client it is for.
    fn have_dialled(&mut self, filler: Filler, backend: Ipv4Addr) {
        let remote = self.places.len();
        for (index, place) in self.places.iter_mut().enumerate() {
            let to = if place.contender.is_direct() { backend } else { filler.cluster_ip() };
            match filler.server() {
                server if server == index => place.same_node.push(to.into()),
                server if server == remote => place.across_nodes.push(to.into()),
                _ => {}
            }
        }
    }

    /// Gives every client its ports, and waits until it reaches all that it dials.
    fn ready_clients(&self) -> Result<()> {
        for place in &self.places {
            place.share_ports()?;
            for route in Route::ALL {
                place.targets(route, RESPONDER).into_iter().try_for_each(|to| place.wait_for(to))?;
            }
        }
        Ok(())
    }
}

impl Place {
    /// What the client dials; the first is there with any number of Services.
    pub(super) fn targets(&self, route: Route, port: u16) -> Vec<SocketAddr> {
        let addrs = match route {
            Route::SameNode => &self.same_node,
            Route::AcrossNodes => &self.across_nodes,
        };
        addrs.iter().map(|addr| SocketAddr::new(*addr, port)).collect()
    }

    fn share_ports(&self) -> Result<()> {
        let dialled = self.same_node.len().max(self.across_nodes.len());
        let range = format!("{FIRST_CLIENT_PORT} {}", FIRST_CLIENT_PORT + CLIENT_PORTS / dialled);
        self.client.netns().sysctl(&[("ipv4/ip_local_port_range", &range)])
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
        let [a, b, c, _] = pod.addrs().v4.octets();
        let further: Vec<_> = (0..FURTHER_ADDRESSES).map(|n| Ipv4Addr::new(a, b, c, FURTHER + n)).collect();
        let each = |line: &dyn Fn(&Ipv4Addr) -> String| further.iter().map(line).collect::<String>();
        pod.netns().ip(&each(&|ip| format!("addr add {ip}/32 dev eth0\n")))?;
        pod.node().netns().ip(&each(&|ip| format!("route add {ip}/32 dev {} scope link\n", pod.host_device())))?;
        Ok(Self { pod, further, _responder: responder, _iperf: iperf })
    }
}

/// Has neighbours stay known: packets cost more while one is asked for again, which comes at any time and takes seconds.
fn keep_neighbours(netns: &Netns) -> Result<()> {
    const HOUR: &str = "3600000";
    netns.run(|| {
        for device in fs::read_dir("/proc/sys/net/ipv4/neigh")? {
            fs::write(device?.path().join("base_reachable_time_ms"), HOUR)?;
        }
        Ok(())
    })
}

fn publish(control: &ControlPlane, name: &str, addrs: Addrs, pod: &Pod) -> Result<()> {
    create(control, Service::named(name).cluster_ips(addrs).port(IPERF, IPERF).port(RESPONDER, RESPONDER), pod)
}

/// Creates a Service that this pod serves.
fn create(control: &ControlPlane, service: Service, pod: &Pod) -> Result<()> {
    let service = service.with("ipFamilyPolicy", json!("RequireDualStack"));
    control.api().create_all(&service.with_endpoints(&[Endpoint::pod(pod)]))
}

/// One of many Services, by its number.
#[derive(Clone, Copy)]
pub(super) struct Filler(pub(super) u32);

impl Filler {
    /// Itself and its one backend as objects.
    pub(super) fn objects(self, backend: Ipv4Addr) -> [Value; 2] {
        let (name, cluster_ip) = (format!("filler{}", self.0), self.cluster_ip());
        let service = json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": name, "namespace": "default"},
            "spec": {
                "type": "ClusterIP",
                "clusterIP": cluster_ip,
                "clusterIPs": [cluster_ip],
                "ipFamilies": ["IPv4"],
                "ports": [{"name": "web", "protocol": "TCP", "port": RESPONDER, "targetPort": RESPONDER}],
            },
        });
        let slice = json!({
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {"name": name, "namespace": "default", "labels": {"kubernetes.io/service-name": name}},
            "addressType": "IPv4",
            "ports": [{"name": "web", "protocol": "TCP", "port": RESPONDER}],
            "endpoints": [{"addresses": [backend], "conditions": {"ready": true}}],
        });
        [service, slice]
    }

    /// The address of a backend that is not there.
    pub(super) fn nobody(self) -> Ipv4Addr {
        after(Ipv4Addr::new(10, 244, 100, 0), self.0 % 10_000)
    }

    fn cluster_ip(self) -> Ipv4Addr {
        after(Ipv4Addr::new(10, 96, 1, 0), self.0)
    }

    /// The number of its server, if there is such a one.
    const fn server(self) -> usize {
        (APART - 1 - self.0 % APART) as usize
    }

    /// Its number among those of its server.
    const fn row(self) -> usize {
        (self.0 / APART) as usize
    }
}

fn after(first: Ipv4Addr, number: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(first.to_bits() + number)
}
