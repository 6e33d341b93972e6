//! New flows on several CPUs while the set of backends is published anew, or the frontend changes hands, as fast as can be: every packet
//! meets one set, and one that was current while it was under way.

use std::{
    net::SocketAddr,
    sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use proxy_common::reason::Reason;
use shunt_tests::{
    Family,
    addr::external_ips,
    gate,
    packet::Packet,
    test_run::{NEEDS, Runner, TestNode, Verdict},
    tracer::Plans,
};

use crate::expect::{POD_INGRESS, PORT, Setup, TARGET, datagram, pod_at, service_at};

/// How long it lasts at least; on a slow machine until there were enough sets and packets.
const LASTS: Duration = Duration::from_secs(4);
const LIMIT: Duration = Duration::from_mins(2);
const ENOUGH_SETS: u32 = 100;
const ENOUGH_PACKETS: u64 = 1000;
const READERS: u8 = 2;
/// So few that ranges are used again as soon as they have rested.
const SLOTS: u32 = 1 << 12;
/// Sets differ from each other until so many others have been published.
const SETS: u32 = 60;
const FIRST_POD: u8 = 10;
const PODS: u32 = 3;

/// What readers and the writer share.
#[derive(Default)]
struct Shared {
    /// How many sets were published before the one that is current.
    published: AtomicU32,
    packets: AtomicU64,
    ended: AtomicBool,
}

/// The pods of a set.
fn pods(set: u32) -> Vec<u8> {
    (0..PODS).map(|pod| u8::try_from(u32::from(FIRST_POD) + set % SETS * PODS + pod).unwrap()).collect()
}

#[test]
fn no_packet_meets_half_a_set_or_an_old_one() {
    if gate::skip(NEEDS) {
        return;
    }
    for family in Family::ALL {
        let mut setup = Setup::new();
        setup.node = TestNode::with_backends(setup.cluster.node_ips(), SLOTS).unwrap();
        setup.serve(1, &pods(0));
        hammer(&mut setup, service_at(family, 1), |setup, set| setup.plans_with(1, &pods(set)), is_of);
    }
}

#[test]
fn every_packet_finds_a_frontend_that_changes_hands() {
    if gate::skip(NEEDS) {
        return;
    }
    for family in Family::ALL {
        let mut setup = Setup::new();
        setup.serve_external(1, 9, &[FIRST_POD]);
        setup.serve(2, &[FIRST_POD + 1]);
        let owner = |set: u32| u8::try_from(set % 2).unwrap();
        let plans = |setup: &mut Setup, set| {
            setup.plans_with_external(1 + owner(set), 9, &[FIRST_POD + owner(set)]);
            setup.plans_with(2 - owner(set), &[FIRST_POD + 1 - owner(set)])
        };
        let is_owners = |set, backend| backend == pod_at(family, FIRST_POD + owner(set), TARGET);
        hammer(&mut setup, external_ips(9).at(family, PORT), plans, is_owners);
    }
}

/// Publishes one set after the other while readers dial: whom each packet finds `is_of` a set that was current.
fn hammer(
    setup: &mut Setup,
    dialled: SocketAddr,
    plans: impl Fn(&mut Setup, u32) -> Plans,
    is_of: impl Fn(u32, SocketAddr) -> bool + Copy + Send,
) {
    let shared = Shared::default();
    let runners: Vec<Runner> = (0..READERS).map(|_| setup.node.runner(POD_INGRESS).unwrap()).collect();
    thread::scope(|scope| {
        for (reader, runner) in (0..READERS).zip(&runners) {
            let shared = &shared;
            scope.spawn(move || {
                let _ended = EndsOnDrop(shared);
                read(runner, dialled, reader, shared, is_of);
            });
        }
        let _ended = EndsOnDrop(&shared);
        publish(setup, &shared, plans);
    });
    let (sets, packets) = (shared.published.into_inner(), shared.packets.into_inner());
    println!("{packets} packets to {dialled} while {sets} sets were published");
    assert!(sets > ENOUGH_SETS && packets > ENOUGH_PACKETS, "{packets} packets met {sets} sets: too few to say anything");
    let counted = setup.node.take_counted().unwrap();
    let reasons: Vec<Reason> = counted.iter().map(|(reason, _)| *reason).collect();
    assert_eq!(reasons, [Reason::NewFlow], "{counted:?}");
}

/// Tells the others when a thread ends, also by a failure.
struct EndsOnDrop<'a>(&'a Shared);

impl Drop for EndsOnDrop<'_> {
    fn drop(&mut self) {
        self.0.ended.store(true, Ordering::Release);
    }
}

fn publish(setup: &mut Setup, shared: &Shared, plans: impl Fn(&mut Setup, u32) -> Plans) {
    let start = Instant::now();
    let mut set = 0;
    let goes_on = |set| match start.elapsed() {
        elapsed if elapsed < LASTS => true,
        elapsed => elapsed < LIMIT && (set <= ENOUGH_SETS || shared.packets.load(Ordering::Relaxed) <= ENOUGH_PACKETS),
    };
    while goes_on(set) && !shared.ended.load(Ordering::Acquire) {
        let plans = plans(setup, set + 1);
        if setup.node.apply_now(&plans).unwrap() {
            set += 1;
            shared.published.store(set, Ordering::Release);
        } else {
            thread::sleep(Duration::from_millis(1));
        }
    }
}

/// Every packet is of a flow of its own.
fn read(runner: &Runner, dialled: SocketAddr, reader: u8, shared: &Shared, is_of: impl Fn(u32, SocketAddr) -> bool) {
    let family = if dialled.is_ipv4() { Family::V4 } else { Family::V6 };
    let clients = (0..).flat_map(|host: u8| (1024..=u16::MAX).map(move |port| client(family, reader, host, port)));
    for client in clients {
        if shared.ended.load(Ordering::Acquire) {
            return;
        }
        let before = shared.published.load(Ordering::Acquire);
        let ran = runner.run(&datagram(client, dialled).build()).unwrap();
        let after = shared.published.load(Ordering::Acquire);
        assert_eq!(ran.verdict, Verdict::Next);
        let backend = Packet::decode(&ran.frame).unwrap().dst;
        // The set after the last that is known may be there already.
        let found = after - before >= SETS - 1 || (before..=after + 1).any(|set| is_of(set, backend));
        assert!(found, "{backend} is of none of the sets {before} to {}", after + 1);
        shared.packets.fetch_add(1, Ordering::Relaxed);
    }
}

fn is_of(set: u32, backend: SocketAddr) -> bool {
    let family = if backend.is_ipv4() { Family::V4 } else { Family::V6 };
    pods(set).into_iter().any(|pod| pod_at(family, pod, TARGET) == backend)
}

/// A client on another node, of the reader's own.
fn client(family: Family, reader: u8, host: u8, port: u16) -> SocketAddr {
    shunt_tests::addr::pod(100 + reader, host).at(family, port)
}
