//! Packets that do not fit: datagrams in fragments, and hops that are narrower than the devices at the ends.

#[cfg(test)]
mod tests {
    use std::{net::SocketAddr, time::Duration};

    use anyhow::{Context as _, Result, ensure};
    use shunt_tests::{
        Cases, Cni, Daemon, Family, Host, Pod, Testbed, addr,
        gate::{self, Need},
        objects::{Endpoint, Service},
        traffic::{EchoServer, UdpClient, exchange},
        wait,
    };

    const PORT: u16 = 80;
    const TARGET: u16 = 8080;
    const LOCAL: u8 = 1;
    const REMOTE: u8 = 2;
    /// Two fragments and three, on a device for 1,500 bytes.
    const LARGE: [usize; 2] = [2000, 4000];
    /// How often a client asks until it has learnt what fits.
    const QUESTIONS: usize = 5;
    const NARROW: u16 = 1400;

    struct Scene {
        a: Pod,
        _backends: [Pod; 2],
        _servers: Vec<EchoServer>,
        daemons: Vec<Daemon>,
        bed: Testbed,
    }

    /// The pods a and b are on n1, c on n2; b and c serve.
    fn scene(cni: Cni) -> Scene {
        let bed = Testbed::builder().style(cni).build().unwrap();
        let [a, b] = ["a", "b"].map(|name| bed.node(0).pod(name).unwrap());
        let c = bed.node(1).pod("c").unwrap();
        let servers = [&b, &c].map(|pod| EchoServer::start(pod, TARGET).unwrap());
        for (name, n, pod) in [("local", LOCAL, &b), ("remote", REMOTE, &c)] {
            let service = Service::named(name).cluster_ips(addr::cluster_ips(n)).node_port(PORT, TARGET, addr::node_port(n));
            bed.manifests().write(name, &service.with_endpoints(&[Endpoint::pod(pod)])).unwrap();
        }
        let daemons = [0, 1].map(|node| Daemon::on(bed.node(node), &bed).start().unwrap());
        Scene { a, _backends: [b, c], _servers: servers.into(), daemons: daemons.into(), bed }
    }

    impl Scene {
        /// Everywhere a Service is dialled.
        fn ways(&self, family: Family) -> Vec<(&dyn Host, SocketAddr, &'static str)> {
            let services = [(LOCAL, "b"), (REMOTE, "c")];
            let ways = services.into_iter().flat_map(|(n, server)| {
                let node_port = self.bed.node(0).addrs().at(family, addr::node_port(n));
                let from_pod: &dyn Host = &self.a;
                let from_outside: &dyn Host = self.bed.client();
                [
                    (from_pod, addr::cluster_ips(n).at(family, PORT), server),
                    (from_pod, node_port, server),
                    (from_outside, node_port, server),
                ]
            });
            ways.collect()
        }
    }

    /// Whoever is told that a datagram was too large sends smaller pieces from then on.
    fn ask_until_answered(from: &dyn Host, to: SocketAddr, server: &str, bytes: usize) -> Result<()> {
        let mut client = from.netns().run(|| UdpClient::unconnected(to))?;
        let mut last = None;
        for _ in 0..QUESTIONS {
            match client.ask_at_length(bytes, wait::at_most(Duration::from_secs(1))) {
                Ok(answer) => {
                    ensure!(answer.server == server, "answered by {}", answer.server);
                    return Ok(());
                }
                Err(error) => last = Some(error),
            }
        }
        Err(last.context("no question was asked")?).with_context(|| format!("{QUESTIONS} questions"))
    }

    fn large_datagrams(cni: Cni) {
        if gate::skip(gate::DAEMON) {
            return;
        }
        let scene = scene(cni);
        let mut cases = Cases::new();
        for family in Family::ALL {
            for ((from, to, server), bytes) in scene.ways(family).into_iter().flat_map(|way| LARGE.map(|bytes| (way, bytes))) {
                let name = format!("{bytes} bytes from {} to {to}, served by {server}", from.name());
                cases.run(name, || ask_until_answered(from, to, server, bytes));
            }
        }
        cases.finish();
    }

    #[test]
    fn large_datagrams_arrive_with_routed_pods() {
        large_datagrams(Cni::Routed);
    }

    #[test]
    fn large_datagrams_arrive_with_bridged_pods() {
        large_datagrams(Cni::Bridge);
    }

    #[test]
    fn large_datagrams_arrive_with_vxlan_between_nodes() {
        large_datagrams(Cni::Vxlan);
    }

    #[test]
    fn large_datagrams_arrive_with_ipip_between_nodes() {
        if !gate::skip(&[Need::Ipip]) {
            large_datagrams(Cni::Ipip);
        }
    }

    /// The router's link to the client takes less than both ends' devices: only its ICMP errors tell the backend, which has to be told in words
    /// that it understands.
    #[test]
    fn a_narrow_hop_to_the_client_is_found_out_through_a_node_port() {
        if gate::skip(gate::DAEMON) {
            return;
        }
        let scene = scene(Cni::Routed);
        scene.bed.narrow_clients_link(NARROW).unwrap();
        let mut cases = Cases::new();
        for family in Family::ALL {
            for n in [LOCAL, REMOTE] {
                let to = scene.bed.node(0).addrs().at(family, addr::node_port(n));
                cases.run(format!("4 MiB each way through {to}"), || {
                    let connection = scene.bed.client().connect(to)?;
                    Ok(exchange(&connection, 4 << 20)?)
                });
            }
        }
        cases.run("they were told", || {
            let count = scene.daemons[0].counted("icmp_error")?;
            ensure!(count >= 4, "{count} errors were translated");
            Ok(())
        });
        cases.finish();
    }

    /// The nodes' own links take less than their pods': they tell them themselves.
    #[test]
    fn a_narrow_hop_to_the_backend_is_found_out_through_a_cluster_ip() {
        if gate::skip(gate::DAEMON) {
            return;
        }
        let scene = scene(Cni::Routed);
        for node in [0, 1] {
            scene.bed.node(node).netns().ip(&format!("link set eth0 mtu {NARROW}\n")).unwrap();
        }
        let mut cases = Cases::new();
        for family in Family::ALL {
            let to = addr::cluster_ips(REMOTE).at(family, PORT);
            cases.run(format!("4 MiB each way through {to}"), || {
                let connection = scene.a.connect(to)?;
                Ok(exchange(&connection, 4 << 20)?)
            });
            cases.run(format!("a datagram of 1,450 bytes to {to}"), || ask_until_answered(&scene.a, to, "c", 1450));
        }
        cases.finish();
    }
}
