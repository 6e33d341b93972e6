//! Short names for the objects of this module's tests, and network namespaces for these and others'.

use std::{net::IpAddr, process::Command, thread};

use nix::{
    sched::{CloneFlags, unshare},
    unistd::geteuid,
};

use super::message::{Address, Kind, Link, NextHop, Peer, Route, RouteKey};

/// A device called `dev` and its index.
pub(super) fn link(ifindex: u32, kind: Kind) -> Link {
    Link { ifindex, name: format!("dev{ifindex}"), kind, ethernet: true, mtu: 1500, mac: [0; 6], master: None, peer: Peer::None }
}

pub(super) fn pair(ifindex: u32, peer: Peer) -> Link {
    Link { peer, ..link(ifindex, Kind::Pair) }
}

pub(super) fn address(ifindex: u32, text: &str) -> Address {
    let ip: IpAddr = text.parse().expect("an address");
    let global = !text.starts_with("fe80") && !ip.is_loopback();
    Address { ifindex, ip, prefix_len: if ip.is_ipv4() { 24 } else { 64 }, global, ready: true, primary: true }
}

/// A route of the main table: its hops are an ifindex and a gateway each.
pub(super) fn route(destination: &str, hops: &[(u32, Option<&str>)]) -> Route {
    let destination = destination.parse().expect("a prefix");
    let hop = |&(ifindex, gateway): &(u32, Option<&str>)| NextHop {
        ifindex,
        gateway: gateway.map(|gateway| gateway.parse().expect("an address")),
        source: None,
    };
    let key = RouteKey { table: 254, destination, metric: 0, tos: 0 };
    Route { key, next_hops: hops.iter().map(hop).collect() }
}

/// Runs a test on a thread with a network namespace of its own, or says why not.
pub(crate) fn in_namespace(name: &str, test: impl FnOnce() + Send + 'static) {
    if !geteuid().is_root() {
        return skip(name, "needs root");
    }
    let run = thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).expect("unshare");
        ip("link set lo up");
        test();
    });
    if let Err(panic) = run.join() {
        std::panic::resume_unwind(panic);
    }
}

#[expect(clippy::print_stderr, reason = "a skip must be seen")]
pub(crate) fn skip(name: &str, why: &str) {
    eprintln!("SKIP: {name}: {why}");
}

/// Runs an `ip` command in the namespace of this thread and yields what it says.
pub(crate) fn ip(line: &str) -> String {
    command("ip", line)
}

/// Runs a `tc` command in the namespace of this thread and yields what it says.
pub(crate) fn tc(line: &str) -> String {
    command("tc", line)
}

fn command(program: &str, line: &str) -> String {
    let output = Command::new(program).args(line.split_whitespace()).output().expect("iproute2 is installed");
    assert!(output.status.success(), "{program} {line}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}
