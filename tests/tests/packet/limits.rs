//! Floods: a CPU begins so many flows in a second and no more, and refuses so many packets; known flows do not notice.

use std::{
    iter,
    num::NonZero,
    thread,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use proxy_common::reason::Reason;
use proxy_daemon::datapath::Options;
use shunt_tests::{
    Family, addr,
    cpus::stay_on_one_cpu,
    gate,
    packet::{Packet, flags},
    test_run::{NEEDS, OPTIONS, TestNode, Verdict},
    wait,
};

use crate::expect::{POD_INGRESS, Setup, data, pod_at, service_at, syn};

const LIMIT: u32 = 100;
const FLOOD: u16 = 1000;
const SECOND: Duration = Duration::from_secs(1);

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
        thread::sleep(SECOND);
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
        thread::sleep(SECOND);
        setup.backend(&syn(pod_at(family, 5, 40_000), service));
    }
}

/// How often something is done in a second of which nothing has been used, if this machine is so fast that it comes to the end well within it.
fn in_a_second(mut is_done: impl FnMut() -> bool) -> Option<u32> {
    const ATTEMPTS: usize = 10;
    const WITHIN: Duration = Duration::from_millis(900);
    let mut until_not_done = || {
        let start = Instant::now();
        let done = iter::repeat_with(&mut is_done).take_while(|is_done| *is_done && start.elapsed() < WITHIN).count();
        (start.elapsed() < WITHIN).then(|| u32::try_from(done).unwrap())
    };
    let mut attempt = || {
        // What is left of this second goes first; the next one has begun when something is done again.
        until_not_done()?;
        let next = || until_not_done().map(|done| NonZero::new(done).context("nothing")).transpose();
        wait::until("something done in the next second", 2 * SECOND, next).unwrap().map(NonZero::get)
    };
    (0..ATTEMPTS).find_map(|_| attempt())
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
        let begun = in_a_second(|| {
            let packet = syn(pod_at(family, 4, ports.next().unwrap()), service_at(family, 1));
            setup.node.run(POD_INGRESS, &packet.build()).unwrap().verdict == Verdict::Next
        });
        assert_eq!(begun, Some(LIMIT));
    }
}

/// As many as the kernel sends of its own (`icmp_msgs_per_sec`).
#[test]
fn no_second_has_more_refusals_than_are_allowed() {
    const REFUSALS: u32 = 1000;
    if gate::skip(NEEDS) {
        return;
    }
    let mut setup = Setup::new();
    setup.serve(1, &[]);
    stay_on_one_cpu().unwrap();
    for family in Family::ALL {
        let frame = Packet::udp(pod_at(family, 4, 40_000), service_at(family, 1)).build();
        let refused = in_a_second(|| setup.node.run(POD_INGRESS, &frame).unwrap().verdict == Verdict::Redirect);
        // An emulated machine may be too slow for as many.
        let refused = refused.or_else(|| (wait::slowness() > 1).then_some(REFUSALS));
        assert_eq!(refused, Some(REFUSALS));
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
