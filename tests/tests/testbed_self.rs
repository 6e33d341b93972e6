//! The testbed without Shunt: what is asked of it later must work by itself first.

#[cfg(test)]
mod tests {
    use std::{
        io::{BufRead as _, BufReader},
        process::{Command, Stdio},
    };

    use shunt_tests::{
        Cni, Family, Host, Pod, Testbed,
        gate::{self, Need},
        leftovers,
        traffic::{EchoServer, Load, Pinger, exchange},
    };

    const PORT: u16 = 8080;

    #[test]
    fn routed_pods_reach_each_other() {
        everyone_reaches_everyone(Cni::Routed);
    }

    #[test]
    fn bridged_pods_reach_each_other() {
        everyone_reaches_everyone(Cni::Bridge);
    }

    #[test]
    fn vxlan_pods_reach_each_other() {
        everyone_reaches_everyone(Cni::Vxlan);
    }

    #[test]
    fn ipip_pods_reach_each_other() {
        if !gate::skip(&[Need::Ipip]) {
            everyone_reaches_everyone(Cni::Ipip);
        }
    }

    /// The two may not disturb each other, though their addresses are the same.
    #[test]
    fn two_testbeds_live_side_by_side() {
        if gate::skip(gate::TESTBED) {
            return;
        }
        let beds = [0, 1].map(|_| Testbed::builder().nodes(1).build().unwrap());
        for (name, bed) in ["first", "second"].into_iter().zip(&beds) {
            let node = bed.node(0);
            let (pod, _server) = (node.pod("a").unwrap(), EchoServer::named(node, name, PORT).unwrap());
            let connection = pod.connect(node.addrs().at(Family::V4, PORT)).unwrap();
            assert_eq!(connection.server, name);
        }
    }

    #[test]
    fn what_a_killed_process_left_is_swept() {
        if gate::skip(gate::TESTBED) {
            return;
        }
        let mut holder = Command::new(env!("CARGO_BIN_EXE_testbed"));
        let mut holder = holder.arg("hold").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let said = BufReader::new(holder.stdout.take().unwrap());
        let ready = said.lines().map_while(Result::ok).find(|line| line.ends_with("ready"));
        assert!(ready.is_some(), "the holder never was ready");
        let id = holder.id();
        let left = || leftovers::list().into_iter().filter(|left| left.owner == id).count();
        assert!(left() >= 12, "two nodes with a pod each leave more than {}", left());
        leftovers::sweep();
        assert!(left() >= 12, "the sweep took what belongs to a living process");
        holder.kill().unwrap();
        holder.wait().unwrap();
        leftovers::sweep();
        assert_eq!(left(), 0, "{:?}", leftovers::list());
    }

    #[test]
    fn a_panic_leaves_nothing() {
        if gate::skip(gate::TESTBED) {
            return;
        }
        let name = std::panic::catch_unwind(|| {
            let bed = Testbed::builder().nodes(1).build().unwrap();
            let node = bed.node(0);
            let _sleeper = node.netns().spawn("sleep 1000 & sleep 1000").unwrap();
            std::panic::panic_any(node.netns().name().to_owned());
        });
        let name = name.unwrap_err().downcast::<String>().unwrap();
        let bed = name.strip_suffix("n1").unwrap();
        let left = leftovers::list().into_iter().map(|left| left.to_string());
        assert_eq!(left.filter(|left| left.contains(bed)).collect::<Vec<_>>(), Vec::<String>::new());
    }

    fn everyone_reaches_everyone(cni: Cni) {
        if gate::skip(gate::TESTBED) {
            return;
        }
        let bed = Testbed::builder().style(cni).build().unwrap();
        let (n1, n2) = (bed.node(0), bed.node(1));
        let pods = [n1.pod("a"), n1.pod("b"), n2.pod("c")].map(Result::unwrap);
        let servers: Vec<EchoServer> = pods.iter().map(serve).chain([serve(n1), serve(n2)]).collect();
        for from in &pods {
            for to in &pods {
                greets(from, to, true);
            }
            // Pods of a network that is unknown outside reach other nodes with their own node's address.
            greets(from, n1, cni.pods_are_routed() || from.node().name() == "n1");
            greets(from, n2, cni.pods_are_routed() || from.node().name() == "n2");
        }
        greets(n1, &pods[0], true);
        greets(bed.client(), n1, true);
        greets(bed.client(), n2, true);
        let later = n1.pod("later").unwrap();
        let server = serve(&later);
        greets(&later, &pods[2], true);
        greets(&pods[2], &later, true);
        nobody_listens(&pods[0], &pods[2]);
        bulk(&pods[0], &pods[2]);
        steady(&pods[1], &pods[2]);
        assert!(servers.iter().all(|server| server.served() > 0));
        drop(server);
        a_removed_pod_takes_its_device_along(later);
    }

    /// The router's link to the client takes less than both ends' devices.
    #[test]
    fn a_narrow_hop_is_found_out() {
        if gate::skip(gate::TESTBED) {
            return;
        }
        let bed = Testbed::builder().style(Cni::Routed).build().unwrap();
        let pod = bed.node(0).pod("a").unwrap();
        let _server = serve(&pod);
        bed.narrow_clients_link(1400).unwrap();
        for family in Family::ALL {
            let connection = bed.client().connect(pod.addrs().at(family, PORT)).unwrap();
            exchange(&connection, 4 << 20).unwrap();
        }
    }

    fn serve(host: &impl Host) -> EchoServer {
        EchoServer::start(host, PORT).unwrap()
    }

    /// TCP and UDP, both families: the right server answers and sees the client's own address.
    #[track_caller]
    fn greets(from: &impl Host, to: &impl Host, own_address: bool) {
        for family in Family::ALL {
            let case = format!("{} to {} over {family}", from.name(), to.name());
            let target = to.addrs().at(family, PORT);
            let mut connection = from.connect(target).unwrap_or_else(|error| panic!("{case}: {error}"));
            assert_eq!(connection.server, to.name(), "{case}");
            assert_eq!(connection.seen == connection.local, own_address, "{case}: {connection:?}");
            connection.ping().unwrap();
            for answer in [from.ask(target), from.ask_connected(target)] {
                let answer = answer.unwrap_or_else(|error| panic!("{case}, UDP: {error}"));
                assert_eq!(answer.server, to.name(), "{case}, UDP");
            }
        }
    }

    fn nobody_listens(from: &Pod, to: &Pod) {
        for family in Family::ALL {
            let target = to.addrs().at(family, PORT + 1);
            let refused = std::io::ErrorKind::ConnectionRefused;
            assert_eq!(from.connect(target).unwrap_err().kind(), refused);
            assert_eq!(from.ask_connected(target).unwrap_err().kind(), refused);
        }
    }

    fn bulk(from: &Pod, to: &Pod) {
        for family in Family::ALL {
            let connection = from.connect(to.addrs().at(family, PORT)).unwrap();
            exchange(&connection, 16 << 20).unwrap();
        }
    }

    fn steady(from: &Pod, to: &Pod) {
        let targets = Family::ALL.map(|family| to.addrs().at(family, PORT));
        let pinger = Pinger::start(from, &targets, 4).unwrap();
        let load = Load::start(from, &targets, 500);
        load.wait_for(300).unwrap();
        load.finish().check(300).unwrap();
        pinger.finish().check().unwrap();
    }

    fn a_removed_pod_takes_its_device_along(pod: Pod) {
        let (node, device) = (pod.node().clone(), pod.host_device().to_owned());
        node.netns().exec(&format!("ip link show {device}")).unwrap();
        drop(pod);
        node.netns().exec(&format!("ip link show {device}")).unwrap_err();
    }
}
