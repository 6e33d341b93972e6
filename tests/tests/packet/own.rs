//! Connections that are none of a Service's, under ports that are node ports as well: those of the node's own processes, and those of pods that
//! a CNI plugin masquerades.

use std::{
    net::{SocketAddr, UdpSocket},
    os::fd::{AsRawFd as _, OwnedFd},
    time::Duration,
};

use anyhow::Result;
use nix::{
    errno::Errno,
    sys::socket::{self, AddressFamily, SockFlag, SockType, SockaddrStorage},
};
use proxy_common::{FlowState, V4, V6, reason::Reason};
use shunt_tests::{
    Family, gate,
    packet::{Packet, flags},
    test_run::{NEEDS, Ran, Verdict},
    tracer::Hook,
    wait,
};

use crate::{
    expect::{POD_EGRESS, POD_INGRESS, UPLINK_EGRESS, UPLINK_INGRESS, data, datagram, syn},
    masquerade::{Setup, client, node_port},
};

/// Far more than a process takes to become another program.
const SOON: Duration = Duration::from_mins(1);
/// From where nobody is called.
const STRANGER: u16 = 50_001;

fn any_address(family: Family) -> &'static str {
    if family == Family::V4 { "0.0.0.0:30080" } else { "[::]:30080" }
}

/// A connection that is being made: its SYN has left, and nobody has answered yet.
fn dial(from: SocketAddr, to: SocketAddr) -> nix::Result<OwnedFd> {
    let family = if to.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let socket = socket::socket(family, SockType::Stream, SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC, None)?;
    socket::bind(socket.as_raw_fd(), &SockaddrStorage::from(from))?;
    match socket::connect(socket.as_raw_fd(), &SockaddrStorage::from(to)) {
        Err(Errno::EINPROGRESS) | Ok(()) => Ok(socket),
        Err(error) => Err(error),
    }
}

/// Whether nobody has an address and port any more. A process that another test starts has all files of this one for a moment, sockets too.
fn may_bind(addr: SocketAddr) -> Result<()> {
    let family = if addr.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let socket = socket::socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    Ok(socket::bind(socket.as_raw_fd(), &SockaddrStorage::from(addr))?)
}

#[track_caller]
fn assert_passes(setup: &mut Setup, hook: Hook, packet: &Packet, reason: Reason) {
    let frame = packet.build();
    if hook == UPLINK_INGRESS {
        assert_eq!(setup.node.run_xdp(&frame).unwrap(), frame);
        setup.assert_counted(&[]);
    }
    assert_eq!(setup.node.run(hook, &frame).unwrap(), Ran { verdict: Verdict::Next, frame });
    setup.assert_counted(&[reason]);
}

#[track_caller]
fn assert_is_served(setup: &mut Setup, packet: &Packet) {
    setup.sent_on(packet);
    setup.ignore_counted();
    setup.node.forget_flows().unwrap();
}

/// Those of all flows there are.
fn states(setup: &Setup) -> Vec<FlowState> {
    let (v4, v6) = (setup.node.flows::<V4>(), setup.node.flows::<V6>());
    v4.iter().map(|(_, flow)| flow.owner.state()).chain(v6.iter().map(|(_, flow)| flow.owner.state())).collect()
}

#[test]
fn answers_to_a_connection_of_the_nodes_own_are_left_to_it() {
    if gate::skip(NEEDS) {
        return;
    }
    let mut setup = Setup::new();
    for family in Family::ALL {
        let (own, peer, stranger) = (node_port(family), client(family, 443), client(family, STRANGER));
        let local = any_address(family).parse().unwrap();
        let socket = setup.node.place().run(|| dial(local, peer)).unwrap();
        for hook in [UPLINK_INGRESS, POD_INGRESS] {
            for answer in [Packet::tcp(peer, own, flags::SYN | flags::ACK), data(peer, own), Packet::tcp(peer, own, flags::RST)] {
                assert_passes(&mut setup, hook, &answer, Reason::NoService);
            }
        }
        // A connection that is begun from outside is the Service's, and so is one that another client has.
        for packet in [syn(peer, own), syn(stranger, own), data(stranger, own)] {
            assert_is_served(&mut setup, &packet);
        }
        drop(socket);
        wait::until("the socket's end", SOON, || setup.node.place().run(|| may_bind(local))).unwrap();
        assert_is_served(&mut setup, &data(peer, own));
    }
}

#[test]
fn datagrams_to_a_connected_socket_of_the_nodes_own_are_left_to_it() {
    if gate::skip(NEEDS) {
        return;
    }
    let mut setup = Setup::new();
    for family in Family::ALL {
        let (own, peer, stranger) = (node_port(family), client(family, 53), client(family, STRANGER));
        let socket = setup.node.place().run(|| UdpSocket::bind(any_address(family))).unwrap();
        // It may wait for anybody: the Service comes first, as with kube-proxy.
        assert_is_served(&mut setup, &datagram(peer, own));
        setup.node.place().run(|| socket.connect(peer)).unwrap();
        for hook in [UPLINK_INGRESS, POD_INGRESS] {
            assert_passes(&mut setup, hook, &datagram(peer, own), Reason::NoService);
        }
        assert_is_served(&mut setup, &datagram(stranger, own));
    }
}

/// No socket of the node's knows of them. What leaves says it all.
#[test]
fn answers_to_what_left_under_a_node_port_are_left_alone() {
    if gate::skip(NEEDS) {
        return;
    }
    let mut setup = Setup::new();
    for family in Family::ALL {
        let (own, peer, stranger) = (node_port(family), client(family, 443), client(family, STRANGER));
        let connection =
            [Packet::tcp(peer, own, flags::SYN | flags::ACK), data(peer, own), Packet::tcp(peer, own, flags::FIN | flags::ACK)];
        for (question, answers) in
            [(syn(own, peer), &connection[..]), (data(own, peer), &connection), (datagram(own, peer), &[datagram(peer, own)])]
        {
            for (leaves, comes) in [(UPLINK_EGRESS, UPLINK_INGRESS), (POD_EGRESS, POD_INGRESS)] {
                assert_passes(&mut setup, leaves, &question, Reason::Foreign);
                for answer in answers {
                    assert_passes(&mut setup, comes, answer, Reason::Foreign);
                    assert_passes(&mut setup, leaves, &question, Reason::Foreign);
                }
                assert_eq!(states(&setup).len(), 1);
                setup.node.forget_flows().unwrap();
            }
        }
        // Others' connections, and who begins one from that very port, are the Service's.
        assert_passes(&mut setup, UPLINK_EGRESS, &syn(own, peer), Reason::Foreign);
        assert_is_served(&mut setup, &data(stranger, own));
        assert_passes(&mut setup, UPLINK_EGRESS, &syn(own, peer), Reason::Foreign);
        assert_is_served(&mut setup, &syn(peer, own));
        // Nor does what leaves under that port break a connection of the Service's off.
        setup.sent_on(&syn(stranger, own));
        setup.ignore_counted();
        let before = states(&setup);
        assert_passes(&mut setup, UPLINK_EGRESS, &Packet::tcp(own, stranger, flags::RST), Reason::Foreign);
        assert_eq!(states(&setup), before);
        setup.node.forget_flows().unwrap();
        // What breaks it off is noted: nothing of it need ever come in.
        assert_passes(&mut setup, UPLINK_EGRESS, &syn(own, peer), Reason::Foreign);
        assert_passes(&mut setup, UPLINK_EGRESS, &Packet::tcp(own, peer, flags::RST), Reason::Foreign);
        assert_eq!(states(&setup), [FlowState::REPLY.with(FlowState::FOREIGN).with(FlowState::RST)]);
        assert_passes(&mut setup, UPLINK_INGRESS, &data(peer, own), Reason::Foreign);
        setup.node.forget_flows().unwrap();
        // What breaks off begins nothing.
        assert_passes(&mut setup, UPLINK_EGRESS, &Packet::tcp(own, peer, flags::RST), Reason::Foreign);
        assert_is_served(&mut setup, &data(peer, own));
        // Of a port that is nobody's, nothing is asked.
        let elsewhere = SocketAddr::new(own.ip(), own.port() + 1);
        assert_passes(&mut setup, UPLINK_EGRESS, &syn(elsewhere, peer), Reason::NoService);
    }
}
