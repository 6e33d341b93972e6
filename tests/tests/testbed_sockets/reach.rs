//! Who reaches what, by which kind of socket, and who answers.

use std::net::SocketAddr;

use anyhow::{Context as _, Result, ensure};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use proxy_daemon::maps::{Pins, names_in};
use shunt_tests::{Cases, Cni, Daemon, Family, Host, Testbed, gate, traffic::UdpClient};

use crate::scene::{Backend, Dialled, NEEDS, Scene, Socket, entries, flows, is_refused};

fn reaches(caller: &dyn Host, to: SocketAddr, socket: Socket, backend: Backend) -> Result<()> {
    let called = caller.netns().run(|| socket.call(to));
    let expected = match backend {
        Backend::Local => "b",
        Backend::Remote => "c",
        Backend::Host => "n1",
        Backend::None => return is_refused(called),
    };
    let server = called.with_context(|| format!("dialled {to}"))?;
    ensure!(server == expected, "{to} is answered by {server}, not {expected}");
    Ok(())
}

#[test]
fn everybody_reaches_every_frontend_with_routed_pods() {
    reached(Cni::Routed);
}

#[test]
fn everybody_reaches_every_frontend_with_bridged_pods() {
    reached(Cni::Bridge);
}

fn reached(cni: Cni) {
    if gate::skip(gate::DAEMON) || gate::skip(NEEDS) {
        return;
    }
    let scene = Scene::build(cni);
    let node = scene.bed.node(0);
    let (on_host, pod) = (node.host_network_pod("h").unwrap(), node.pod("a").unwrap());
    let mut daemon = Daemon::on(node, &scene.bed).sockets("all").start().unwrap();
    let mut cases = Cases::new();
    run(&mut cases, &scene, "a process of the node", node, |_| true);
    run(&mut cases, &scene, "a hostNetwork pod", &on_host, |_| true);
    cases.run("no packet of the node's own meets a service", || {
        let flows = flows(&daemon)?;
        ensure!(flows == 0, "{flows} entries of flows");
        Ok(())
    });
    // Whose the pod's network namespace is shows when a first packet has left it.
    reaches(&pod, Dialled::ClusterIp.at(node, Family::V4, Backend::Local.number()), Socket::Tcp, Backend::Local).unwrap();
    let first = flows(&daemon).unwrap();
    assert!(first > 0, "nothing was known of the pod, and no packet was translated");
    // A pod's loopback is its own. Refusals are those of packets, of which a socket that is not connected hears nothing.
    let served = |(dialled, _, backend): Case| dialled != Dialled::Localhost && backend != Backend::None;
    run(&mut cases, &scene, "a pod", &pod, served);
    cases.run("no further packet of a pod's meets a service", || {
        let flows = flows(&daemon)?;
        ensure!(flows == first, "{flows} entries of flows, {first} before");
        Ok(())
    });
    let refused = |(dialled, socket, backend): Case| dialled != Dialled::Localhost && backend == Backend::None && socket != Socket::Udp;
    run(&mut cases, &scene, "a pod without endpoints", &pod, refused);
    cases.run("a node port at a pod's loopback is nobody's", || {
        let to = Dialled::Localhost.at(node, Family::V4, Backend::Local.number());
        is_refused(pod.netns().run(|| Socket::Tcp.call(to)))
    });
    daemon.set_sockets("auto");
    daemon.restart().unwrap();
    let before = flows(&daemon).unwrap();
    run(&mut cases, &scene, "a pod by auto", &pod, |case| served(case) && case.1 == Socket::Tcp);
    cases.run("no packet of a pod's TCP meets a service", || {
        let flows = flows(&daemon)?;
        ensure!(flows == before, "{flows} entries of flows, {before} before");
        Ok(())
    });
    run(&mut cases, &scene, "a pod by auto", &pod, |case| served(case) && case.1 != Socket::Tcp);
    cases.run("a pod's UDP has flows", || {
        let flows = flows(&daemon)?;
        ensure!(flows > before, "{flows} entries of flows, {before} before");
        Ok(())
    });
    daemon.set_sockets("host");
    daemon.restart().unwrap();
    let known = entries(&daemon).unwrap();
    run(&mut cases, &scene, "a pod by host", &pod, served);
    cases.run("no socket of a pod's is given a backend", || {
        let entries = entries(&daemon)?;
        ensure!(entries <= known, "{entries} entries of sockets, {known} before");
        Ok(())
    });
    cases.finish();
}

type Case = (Dialled, Socket, Backend);

fn run(cases: &mut Cases, scene: &Scene, who: &str, caller: &dyn Host, wanted: impl Fn(Case) -> bool) {
    for dialled in Dialled::ALL {
        for socket in Socket::ALL {
            for backend in Backend::ALL {
                if !wanted((dialled, socket, backend)) {
                    continue;
                }
                for family in Family::ALL {
                    let to = dialled.at(scene.bed.node(0), family, backend.number());
                    let name = format!("{who}: {dialled:?} {socket:?} {family:?} {backend:?}");
                    cases.run(name, || reaches(caller, to, socket, backend));
                }
            }
        }
    }
}

/// Without the flag, or with another cgroup, nothing is left of it.
#[test]
fn sockets_are_left_alone_where_nobody_asks() {
    if gate::skip(gate::DAEMON) {
        return;
    }
    let bed = Testbed::builder().style(Cni::Bridge).nodes(1).build().unwrap();
    let mut daemon = Daemon::on(bed.node(0), &bed).start().unwrap();
    let links = Pins::new(daemon.bpffs()).links();
    let of_sockets = || names_in(&links).unwrap().iter().filter(|name| Pins::is_socket_link(name)).count();
    assert_eq!(of_sockets(), 9);
    daemon.terminate().unwrap();
    let mut off = Daemon::on(bed.node(0), &bed).sockets("off").start().unwrap();
    assert_eq!(of_sockets(), 0);
    off.terminate().unwrap();
    daemon.restart().unwrap();
    assert_eq!(of_sockets(), 9);
    daemon.terminate().unwrap();
    daemon.cleanup().unwrap();
}

/// Pods and clients outside are served all the same, and the log says who is not.
#[test]
fn pods_are_served_where_sockets_cannot_be() {
    if gate::skip(gate::DAEMON) {
        return;
    }
    let scene = Scene::build(Cni::Routed);
    let node = scene.bed.node(0);
    let pod = node.pod("a").unwrap();
    let mut cases = Cases::new();
    let off = Daemon::on(node, &scene.bed).sockets("off");
    let elsewhere = Daemon::on(node, &scene.bed).sockets("auto").cgroup(scene.bed.files());
    for (why, builder) in [("off", off), ("a folder that is no cgroup", elsewhere)] {
        let mut daemon = builder.start().unwrap();
        for family in Family::ALL {
            let to = Dialled::ClusterIp.at(node, family, Backend::Remote.number());
            cases.run(format!("{why}: a pod, {family}"), || reaches(&pod, to, Socket::Tcp, Backend::Remote));
            let to = Dialled::NodePort.at(node, family, Backend::Local.number());
            cases.run(format!("{why}: a client outside, {family}"), || reaches(scene.bed.client(), to, Socket::Tcp, Backend::Local));
        }
        cases.run(format!("{why}: the log says so"), || {
            let (log, what) = (daemon.log(), "processes of the node and hostNetwork pods do not reach Services");
            ensure!(log.matches(what).count() == 1, "the log is {log}");
            Ok(())
        });
        daemon.terminate().unwrap();
    }
    // What works already is not torn down by that.
    let mut before = Daemon::on(node, &scene.bed).start().unwrap();
    before.terminate().unwrap();
    let _daemon = Daemon::on(node, &scene.bed).sockets("auto").cgroup(scene.bed.files()).start().unwrap();
    for family in Family::ALL {
        let to = Dialled::ClusterIp.at(node, family, Backend::Remote.number());
        cases.run(format!("a process of the node by the run before, {family}"), || reaches(node, to, Socket::Tcp, Backend::Remote));
    }
    cases.finish();
}

/// Those that are used least recently are not remembered any more: they go on, and new ones are served.
#[test]
fn more_sockets_than_there_is_room_for() {
    const ROOM: usize = 1024;
    if gate::skip(gate::DAEMON) || gate::skip(NEEDS) {
        return;
    }
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, most, most).unwrap();
    let scene = Scene::build(Cni::Bridge);
    let node = scene.bed.node(0);
    let daemon = Daemon::on(node, &scene.bed).args(&["--sockets", &ROOM.to_string()]).start().unwrap();
    let to = |family| Dialled::ClusterIp.at(node, family, Backend::Local.number());
    let mut connections = Family::ALL.map(|family| node.connect(to(family)).unwrap());
    let sockets: Vec<UdpClient> =
        (0..3 * ROOM).map(|n| node.netns().run(|| UdpClient::connected(to(Family::ALL[n % 2]))).unwrap()).collect();
    let entries = entries(&daemon).unwrap();
    assert!(entries > ROOM && entries <= 2 * ROOM, "{entries} entries");
    let mut cases = Cases::new();
    for family in Family::ALL {
        for socket in Socket::ALL {
            cases.run(format!("a new one, {socket:?}, {family}"), || reaches(node, to(family), socket, Backend::Local));
        }
    }
    cases.run("connections from before", || connections.iter_mut().try_for_each(|connection| Ok(connection.ping()?)));
    cases.run("the last socket is known", || {
        ensure!(sockets[3 * ROOM - 1].peer()? == to(Family::ALL[1]), "it is not");
        Ok(())
    });
    cases.finish();
}
