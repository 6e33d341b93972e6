//! A flood of new flows: a CPU begins so many in a second and no more, and known flows do not notice.

use std::{
    iter, thread,
    time::{Duration, Instant},
};

use proxy_common::reason::Reason;
use proxy_daemon::datapath::Options;
use shunt_tests::{
    Family, addr,
    cpus::stay_on_one_cpu,
    gate,
    packet::{Packet, flags},
    test_run::{NEEDS, OPTIONS, TestNode, Verdict},
};

use crate::expect::{POD_INGRESS, Setup, data, pod_at, service_at, syn};

const LIMIT: u32 = 100;
const FLOOD: u16 = 1000;

fn limited() -> Setup {
    let mut setup = Setup::new();
    setup.node = TestNode::load(&addr::node(1).both(), Options { new_flows: LIMIT, ..OPTIONS }).unwrap();
    setup.serve(1, &[10]);
    setup
}

/// How many of a reason were counted since the last look.
fn counted(setup: &mut Setup, reason: Reason) -> u64 {
    setup.node.take_counted().unwrap().iter().find(|(counted, _)| *counted == reason).map_or(0, |(_, n)| *n)
}

#[test]
fn a_flood_begins_so_many_flows_a_second_and_leaves_known_ones_alone() {
    if gate::skip(NEEDS) {
        return;
    }
    let mut setup = limited();
    stay_on_one_cpu().unwrap();
    for family in Family::ALL {
        // Another second than that of the flow before.
        thread::sleep(Duration::from_secs(1));
        let (known, service) = (pod_at(family, 3, 40_000), service_at(family, 1));
        setup.backend(&syn(known, service));
        setup.ignore_counted();
        let mut dropped = 0_u32;
        for port in 1024..1024 + FLOOD {
            let verdict = setup.node.run(POD_INGRESS, &syn(pod_at(family, 4, port), service).build()).unwrap().verdict;
            dropped += u32::from(verdict == Verdict::Shot);
            // In the midst of it.
            setup.backend(&data(known, service));
        }
        // The flood may have come in two or more seconds.
        let begun = u32::from(FLOOD) - dropped;
        assert!(dropped > 0 && begun >= LIMIT - 1, "{begun} flows were begun, {dropped} packets dropped");
        assert_eq!(counted(&mut setup, Reason::FlowsLimited), u64::from(dropped));
        thread::sleep(Duration::from_secs(1));
        setup.backend(&syn(pod_at(family, 5, 40_000), service));
    }
}

/// Every CPU has as many.
#[test]
fn no_second_has_more_new_flows_than_are_allowed() {
    if gate::skip(NEEDS) {
        return;
    }
    let mut setup = limited();
    stay_on_one_cpu().unwrap();
    for family in Family::ALL {
        let mut ports = 1024..=u16::MAX;
        let mut begins = || {
            let packet = syn(pod_at(family, 4, ports.next().unwrap()), service_at(family, 1));
            setup.node.run(POD_INGRESS, &packet.build()).unwrap().verdict == Verdict::Next
        };
        let begun = loop {
            // What is left of this second goes first.
            while begins() {}
            let mut start = Instant::now();
            while !begins() {
                thread::sleep(Duration::from_millis(1));
                start = Instant::now();
            }
            let begun = 1 + iter::repeat_with(&mut begins).take_while(|begins| *begins).count();
            // A slow machine may have needed the next second, too.
            if start.elapsed() < Duration::from_secs(1) {
                break begun;
            }
        };
        assert_eq!(begun, usize::try_from(LIMIT).unwrap());
    }
}

/// A connection that lost its entry goes on without one: its backend is found by its hash as long as there is a flood.
#[test]
fn connections_under_way_are_not_dropped_in_a_flood() {
    if gate::skip(NEEDS) {
        return;
    }
    let mut setup = limited();
    for family in Family::ALL {
        let service = service_at(family, 1);
        for port in 1024..1024 + FLOOD {
            drop(setup.node.run(POD_INGRESS, &syn(pod_at(family, 4, port), service).build()).unwrap());
            let late = Packet::tcp(pod_at(family, 6, port), service, flags::ACK).payload("late");
            setup.backend(&late);
        }
        setup.node.forget_flows().unwrap();
    }
}
