//! For whom the node stands in, and whose packets are none of a Service's though they come to one.

use std::net::{Ipv4Addr, UdpSocket};

use anyhow::{Context as _, ensure};
use serde_json::json;
use shunt_tests::{
    Cases, Daemon, Family, Host as _, addr, gate,
    gate::Need,
    objects::Endpoint,
    packet::Packet,
    traffic::{EchoServer, patience, send_frame},
};

use crate::scene::{PORT, Scene, Seen, TARGET, both, open, sees};

const HERE: u8 = 9;
const ELSEWHERE: u8 = 10;
const ITSELF: u8 = 11;
/// So often is a connection used.
const PINGS: usize = 20;

/// As the daemon does it by itself: only for clients outside whose backend is elsewhere, and for who reaches itself.
#[test]
fn the_node_stands_in_where_it_has_to() {
    let cluster_ips = [(HERE, Seen::Client), (ELSEWHERE, Seen::Client), (ITSELF, Seen::Node)];
    stand_in(&[], cluster_ips, [(HERE, Seen::Client), (ELSEWHERE, Seen::Node)]);
}

#[test]
fn the_node_stands_in_as_with_kube_proxy() {
    let cluster_ips = [(HERE, Seen::Client), (ELSEWHERE, Seen::Client), (ITSELF, Seen::Node)];
    stand_in(&["--masquerade", "kube-proxy"], cluster_ips, [(HERE, Seen::Node), (ELSEWHERE, Seen::Node)]);
}

#[test]
fn the_node_stands_in_for_every_pod() {
    let cluster_ips = [(HERE, Seen::Node), (ELSEWHERE, Seen::Node), (ITSELF, Seen::Node)];
    // It is about ClusterIPs: outside clients fare as they would without.
    stand_in(&["--masquerade-all"], cluster_ips, [(HERE, Seen::Client), (ELSEWHERE, Seen::Node)]);
}

/// A device with VLANs sees their packets as well, with the tag already taken off: they are the business of the VLAN's own device.
#[test]
fn packets_of_a_vlan_are_its_devices() {
    if gate::skip(gate::DAEMON) || gate::skip(&[Need::Vlan]) {
        return;
    }
    let scene = Scene::new();
    let servers = scene.servers();
    scene.write(&open("elsewhere", ELSEWHERE), &[Endpoint::pod(&scene.c)]);
    let vlan =
        |addr: &str| format!("link add link eth0 name eth0.100 type vlan id 100\nlink set eth0.100 up\naddr add {addr}/24 dev eth0.100\n");
    scene.n1().netns().ip(&vlan("198.18.100.11")).unwrap();
    scene.bed.router().ip(&vlan("198.18.100.1")).unwrap();
    let to = addr::external_ips(ELSEWHERE).at(Family::V4, PORT);
    scene.bed.router().ip(&format!("route replace {} via 198.18.100.11\n", to.ip())).unwrap();
    let daemon = Daemon::on(scene.n1(), &scene.bed).start().unwrap();
    let mut cases = Cases::new();
    cases.run("it is an uplink", || {
        let devices = daemon.show("devices")?;
        let roles = devices.as_array().into_iter().flatten().map(|it| (&it["name"], &it["role"])).collect::<Vec<_>>();
        ensure!(roles.contains(&(&json!("eth0.100"), &json!("uplink"))), "{roles:?}");
        Ok(())
    });
    cases.run("a client comes by it", || sees(scene.client(), to, Seen::Node));
    cases.finish();
    drop(servers);
}

/// Some devices and networks mark how urgent a packet is by a tag of VLAN 0. Not every network that the packet is sent on to takes such frames: here
/// the other node drops them.
#[test]
fn a_tag_that_is_no_vlans_does_not_go_on() {
    if gate::skip(gate::DAEMON) {
        return;
    }
    let scene = Scene::new();
    let servers = scene.servers();
    scene.write(&open("elsewhere", ELSEWHERE), &[Endpoint::pod(&scene.c)]);
    let to = addr::external_ips(ELSEWHERE).at(Family::V4, PORT);
    scene.bed.route(&format!("{}/32", to.ip()), scene.n1()).unwrap();
    let _daemon = Daemon::on(scene.n1(), &scene.bed).start().unwrap();
    let dropping = "table netdev tags {\nchain in {\ntype filter hook ingress device eth0 priority 0\nether type vlan drop\n}\n}\n";
    scene.n2().netns().nft(dropping).unwrap();
    let (router, client) = (scene.bed.router(), scene.client());
    let socket = client.netns().run(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))).unwrap();
    socket.set_read_timeout(Some(patience())).unwrap();
    let from = client.addrs().at(Family::V4, socket.local_addr().unwrap().port());
    let mac = |text: String| -> [u8; 6] {
        let bytes: Vec<u8> = text.split(':').map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect();
        bytes.try_into().unwrap()
    };
    let [eth_src, eth_dst] = [router, scene.n1().netns()].map(|netns| mac(netns.mac("eth0").unwrap()));
    let packet = Packet { eth_src, eth_dst, ..Packet::udp(from, to).payload("question") };
    // The highest of eight priorities.
    let tags: [&[u8]; 2] = [&[], &[0x81, 0x00, 0xe0, 0x00]];
    for tag in tags {
        let mut frame = packet.build();
        frame.splice(12..12, tag.iter().copied());
        send_frame(router, "eth0", &frame).unwrap();
        let mut answer = [0; 256];
        let (length, answered_by) = socket.recv_from(&mut answer).unwrap_or_else(|error| panic!("with the tag {tag:x?}: {error}"));
        let answer = String::from_utf8_lossy(&answer[..length]);
        assert!(answered_by == to && answer.ends_with("question"), "{answered_by}: {answer}");
    }
    drop(servers);
}

fn stand_in(args: &[&str], cluster_ips: [(u8, Seen); 3], node_ports: [(u8, Seen); 2]) {
    if gate::skip(gate::DAEMON) {
        return;
    }
    let scene = Scene::new();
    let servers = scene.servers();
    let backends = [(HERE, &scene.b), (ELSEWHERE, &scene.c), (ITSELF, &scene.a)];
    for (n, backend) in backends {
        scene.write(&open(&format!("backend-{n}"), n), &[Endpoint::pod(backend)]);
    }
    let daemons = [0, 1].map(|node| Daemon::on(scene.bed.node(node), &scene.bed).args(args).start().unwrap());
    let mut cases = Cases::new();
    for (n, expected) in cluster_ips {
        both(&mut cases, &format!("a pod dials {n} with {args:?}"), addr::cluster_ips(n), PORT, |to| {
            sees(&scene.a, to, expected).with_context(|| format!("{expected:?} expected"))
        });
    }
    for (n, expected) in node_ports {
        both(&mut cases, &format!("a client outside dials {n} with {args:?}"), scene.n1().addrs(), addr::node_port(n), |to| {
            sees(scene.client(), to, expected).with_context(|| format!("{expected:?} expected"))
        });
    }
    cases.run("no flow of a Service's is taken for another's", || {
        for daemon in &daemons {
            let count = daemon.counted("foreign")?;
            ensure!(count == 0, "{count} packets on {}", daemon.node().name());
        }
        Ok(())
    });
    cases.finish();
    drop((daemons, servers));
}

/// Plugins let the kernel choose the port under which a pod's connection leaves, and it may be a node port.
#[test]
fn what_a_plugin_masquerades_is_not_the_services() {
    if gate::skip(gate::DAEMON) {
        return;
    }
    let scene = Scene::new();
    let servers = (scene.servers(), EchoServer::start(scene.client(), TARGET).unwrap());
    scene.write(&open("elsewhere", ELSEWHERE), &[Endpoint::pod(&scene.c)]);
    let port = addr::node_port(ELSEWHERE);
    let rules = format!("oifname \"eth0\" meta l4proto {{ tcp, udp }} th dport {TARGET} masquerade to :{port}");
    let chain = "type nat hook postrouting priority srcnat;";
    scene.n1().netns().nft(&format!("table inet cni {{\nchain postrouting {{\n{chain}\n{rules}\n}}\n}}\n")).unwrap();
    let daemon = Daemon::on(scene.n1(), &scene.bed).start().unwrap();
    let mut cases = Cases::new();
    both(&mut cases, "a pod's connection", scene.client().addrs(), TARGET, |to| {
        let mut connection = scene.a.connect(to)?;
        let datagram = scene.a.ask(to)?;
        for (server, seen) in [(&connection.server, connection.seen), (&datagram.server, datagram.seen)] {
            ensure!((server.as_str(), seen.port()) == ("client", port), "{server} sees {seen}");
        }
        (0..PINGS).try_for_each(|_| Ok(connection.ping()?))
    });
    cases.run("they are counted", || {
        ensure!(daemon.counted("foreign")? > 0);
        Ok(())
    });
    cases.finish();
    drop(servers);
}
