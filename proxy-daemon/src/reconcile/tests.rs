//! Rounds against maps in memory that may refuse.

use std::{
    net::{IpAddr, SocketAddr},
    thread,
    time::Duration,
};

use aya::maps::MapError;
use proxy_common::{Protocol, Undefined};

use super::*;
use crate::{
    model::{Event, FrontendAddr, ObjectName, ServiceCidr, convert, testing::empty_lists},
    tables::{
        Snapshot,
        tests::kernel::{Kernel, Outcome},
    },
};

const SIZES: Sizes = Sizes { frontends: 64, rows: 128, backends: 1024, live: 1024, services: 64, sources: 64, cluster_ips: 64 };

/// Maps that refuse the n-th change from now, once, and frontends of some addresses, always. Reading them takes a while.
#[derive(Clone, Default)]
pub(super) struct Fake {
    pub(super) kernel: Kernel,
    pub(super) refuse_in: Option<usize>,
    refused: Vec<IpAddr>,
    applied: usize,
    read_time: Duration,
    unreadable: bool,
    /// Frontends that are looked up after every change, and what a client met there, as often as that changed.
    watched: BTreeMap<FrontendAddr, Vec<Met>>,
}

/// What a client meets at an address and a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Met {
    Frontend,
    Refusal,
    Nobody,
}

impl Maps for Fake {
    fn apply(&mut self, change: &tables::Change) -> Result<(), maps::Error> {
        let never = matches!(change, tables::Change::SetFrontend { addr, .. } if self.refused.contains(&addr.addr));
        if never || self.refuse_in == Some(0) {
            self.refuse_in = None;
            return Err(maps::Error::Write { map: "TEST", source: MapError::KeyNotFound });
        }
        self.refuse_in = self.refuse_in.map(|left| left - 1);
        self.applied += 1;
        self.kernel.apply(change, Instant::now());
        for (addr, met) in &mut self.watched {
            let now = meet(&self.kernel, addr);
            if met.last() != Some(&now) {
                met.push(now);
            }
        }
        Ok(())
    }

    fn snapshot(&self) -> Result<Snapshot, maps::Error> {
        if self.unreadable {
            return Err(maps::Error::Read { map: "TEST", source: MapError::KeyNotFound });
        }
        let snapshot = self.kernel.snapshot();
        thread::sleep(self.read_time);
        Ok(snapshot)
    }
}

fn yaml<T: serde::de::DeserializeOwned>(text: &str) -> T {
    serde_yaml_ng::from_str(text).unwrap()
}

fn service(name: &str, ip: &str) -> Change {
    let text = format!(
        "{{metadata: {{name: {name}, namespace: d}}, spec: {{type: ClusterIP, clusterIP: {ip}, clusterIPs: [{ip}], ports: [{{port: 80}}]}}}}"
    );
    Change::Service(Event::Applied(convert::service(&yaml(&text)).object.unwrap()))
}

fn slice(service: &str, backends: &[&str]) -> Change {
    let endpoints: Vec<_> = backends.iter().map(|addr| format!("{{addresses: [{addr}], nodeName: n1}}")).collect();
    let text = format!(
        "{{metadata: {{name: {service}-1, namespace: d, labels: {{kubernetes.io/service-name: {service}}}}}, addressType: IPv4, \
         ports: [{{name: '', port: 8080, protocol: TCP}}], endpoints: [{}]}}",
        endpoints.join(", ")
    );
    Change::Slice(Event::Applied(convert::endpoint_slice(&yaml(&text)).object.unwrap()))
}

fn reconciler(maps: Fake, changes: impl IntoIterator<Item = Change>) -> Reconciler<Fake> {
    let mut reconciler = Reconciler::new("n1".to_owned(), Settings::default(), SIZES, maps);
    for change in empty_lists().into_iter().chain(changes) {
        reconciler.change(change);
    }
    reconciler
}

fn frontend(ip: &str) -> FrontendAddr {
    FrontendAddr { addr: ip.parse().unwrap(), port: 80, protocol: Protocol::Tcp }
}

fn meet(kernel: &Kernel, addr: &FrontendAddr) -> Met {
    match (kernel.resolve(addr, tables::Scope::Internal), kernel.cluster_ips.get(&addr.addr)) {
        (Outcome::NoService, Some(&Undefined::REFUSE)) => Met::Refusal,
        (Outcome::NoService, _) => Met::Nobody,
        _ => Met::Frontend,
    }
}

fn outcome(kernel: &Kernel, ip: &str) -> Outcome {
    kernel.resolve(&frontend(ip), tables::Scope::Internal)
}

fn backends(kernel: &Kernel, ip: &str) -> Vec<SocketAddr> {
    let Outcome::Backends(_, backends) = outcome(kernel, ip) else { panic!("{ip} leads to no backend") };
    backends.iter().map(|backend| backend.addr).collect()
}

#[test]
fn nothing_is_written_before_every_kind_has_listed() {
    let mut reconciler = Reconciler::new("n1".to_owned(), Settings::default(), SIZES, Fake::default());
    let [services, slices, node] = empty_lists();
    for change in [service("web", "10.96.0.1"), services, node] {
        reconciler.change(change);
        assert_eq!(reconciler.round(), Round::default());
    }
    assert!(!reconciler.is_synced());
    reconciler.change(slices);
    reconciler.round();
    assert!(reconciler.is_synced());
}

#[test]
fn a_change_that_the_kernel_refuses_anywhere_is_made_good() {
    let mut refused_at = 0;
    loop {
        let maps = Fake { refuse_in: Some(refused_at), ..Fake::default() };
        let mut reconciler = reconciler(maps, [service("web", "10.96.0.1"), slice("web", &["10.0.0.1", "10.0.0.2"])]);
        let first = reconciler.round();
        if first.retry {
            reconciler.retry();
            assert!(!reconciler.round().retry);
        }
        assert_eq!(backends(&reconciler.maps.kernel, "10.96.0.1").len(), 2, "refused at {refused_at}");
        if !first.retry {
            break;
        }
        refused_at += 1;
    }
    assert!(refused_at > 3, "there were changes to refuse");
}

fn cidr(name: &str, network: &str) -> ServiceCidr {
    ServiceCidr { name: ObjectName::new("", name), networks: vec![network.parse().unwrap()] }
}

#[test]
fn networks_of_services_are_followed_unless_they_are_not_wanted() {
    for (drop_unallocated, expected) in [(true, [true, true, false]), (false, [false; 3])] {
        let settings = Settings { drop_unallocated, ..Settings::default() };
        let mut reconciler = Reconciler::new("n1".to_owned(), settings, SIZES, Fake::default());
        let has_any = |reconciler: &Reconciler<Fake>| reconciler.maps.kernel.networks4.unwrap() != tables::no_networks();
        reconciler.change(Change::ServiceCidr(Event::Applied(cidr("kubernetes", "10.96.0.0/12"))));
        reconciler.round();
        assert_eq!(reconciler.maps.kernel.networks4, None, "nothing is written before every kind has listed");
        let changes = [
            Change::Service(Event::Reset(vec![])),
            Change::ServiceCidr(Event::Applied(cidr("kubernetes", "10.112.0.0/12"))),
            Change::ServiceCidr(Event::Reset(vec![])),
        ];
        for change in empty_lists() {
            reconciler.change(change);
        }
        let found = changes.map(|change| {
            reconciler.change(change);
            reconciler.round();
            has_any(&reconciler)
        });
        assert_eq!(found, expected);
    }
}

/// Of one Service there is nothing but the address: it is another proxy's. The node has one of the others itself.
#[test]
fn addresses_that_are_not_ours_to_answer_for_are_left_alone() {
    let mut reconciler = reconciler(Fake::default(), [service("web", "10.96.0.1")]);
    let left = |reconciler: &mut Reconciler<Fake>| -> Vec<String> {
        reconciler.round();
        let entries = reconciler.maps.kernel.cluster_ips.iter();
        entries.filter(|(_, undefined)| **undefined == Undefined::LEAVE).map(|(addr, _)| addr.to_string()).collect()
    };
    let theirs = "{metadata: {name: web, namespace: d, labels: {service.kubernetes.io/service-proxy-name: other}}, \
                  spec: {clusterIP: 10.96.0.1, ports: [{port: 80}]}}";
    let theirs = Change::Service(Event::Applied(convert::service(&yaml(theirs)).object.unwrap()));
    assert_eq!(left(&mut reconciler), <[&str; 0]>::default());
    reconciler.set_machine(Machine::with(&["10.96.0.10", "192.0.2.1", "fd00::1"].map(|addr| addr.parse().unwrap())));
    assert_eq!(left(&mut reconciler), <[&str; 0]>::default(), "where no network is known, nothing is dropped");
    reconciler.change(Change::ServiceCidr(Event::Applied(cidr("kubernetes", "10.96.0.0/12"))));
    assert_eq!(left(&mut reconciler), ["10.96.0.10"]);
    reconciler.change(theirs);
    assert_eq!(left(&mut reconciler), ["10.96.0.1", "10.96.0.10"]);
    assert_eq!(outcome(&reconciler.maps.kernel, "10.96.0.1"), Outcome::NoService);
    reconciler.set_machine(Machine::default());
    assert_eq!(left(&mut reconciler), ["10.96.0.1"]);
    reconciler.change(service("web", "10.96.0.1"));
    assert_eq!(left(&mut reconciler), <[&str; 0]>::default());
    assert_eq!(outcome(&reconciler.maps.kernel, "10.96.0.1"), Outcome::Reject);
}

#[test]
fn a_port_that_gets_another_name_goes_on_being_served() {
    let named = |name: &str| {
        let text =
            format!("{{metadata: {{name: web, namespace: d}}, spec: {{clusterIP: 10.96.0.1, ports: [{{name: {name}, port: 80}}]}}}}");
        Change::Service(Event::Applied(convert::service(&yaml(&text)).object.unwrap()))
    };
    for (before, after) in [("a", "b"), ("b", "a")] {
        let mut reconciler = reconciler(Fake::default(), [named(before)]);
        reconciler.round();
        reconciler.maps.watched = [(frontend("10.96.0.1"), Vec::new())].into();
        reconciler.change(named(after));
        reconciler.round();
        assert_eq!(reconciler.maps.watched[&frontend("10.96.0.1")], [Met::Frontend]);
    }
}

/// From who goes or stays to who is new or was there, by a chain of them, and whatever their names are.
#[test]
fn what_changes_hands_is_served_all_the_time() {
    let with = |name: &str, ip: &str, external_ips: &[&str]| {
        let externals = external_ips.join(", ");
        let text = format!(
            "{{metadata: {{name: {name}, namespace: d}}, spec: {{clusterIP: {ip}, externalIPs: [{externals}], ports: [{{port: 80}}]}}}}"
        );
        Change::Service(Event::Applied(convert::service(&yaml(&text)).object.unwrap()))
    };
    let gone = |name| Change::Service(Event::Deleted(ObjectName::new("d", name)));
    let [ip, other_ip, third_ip] = ["10.96.0.1", "10.96.0.2", "10.96.0.3"];
    let [x, y] = ["198.51.100.1", "198.51.100.2"];
    for [first, second, third] in [["a", "b", "c"], ["c", "b", "a"], ["b", "a", "c"]] {
        let before = [with(first, ip, &[x]), with(second, other_ip, &[y])];
        let moves = [
            (vec![with(first, ip, &[]), with(second, other_ip, &[y, x])], vec![x]),
            (vec![with(first, ip, &[]), with(second, other_ip, &[x]), with(third, third_ip, &[y])], vec![x, y]),
            (vec![gone(first), with(third, ip, &[x])], vec![ip, x]),
            (vec![gone(first), with(second, other_ip, &[x]), with(third, third_ip, &[y])], vec![x, y]),
        ];
        for (changes, moved) in moves {
            let mut reconciler = reconciler(Fake::default(), before.clone());
            reconciler.round();
            reconciler.maps.watched = moved.iter().map(|ip| (frontend(ip), Vec::new())).collect();
            let owners: Vec<_> = moved.iter().map(|ip| reconciler.maps.kernel.owner(&frontend(ip))).collect();
            for change in changes {
                reconciler.change(change);
            }
            reconciler.round();
            for ((addr, met), before) in reconciler.maps.watched.iter().zip(owners) {
                assert_eq!(met[..], [Met::Frontend], "{addr}, from {first} to {second} and {third}");
                assert_ne!(reconciler.maps.kernel.owner(addr), before, "{addr} has not changed hands");
            }
        }
    }
}

/// Also when its ports were served by a run that has ended, and when the kernel refuses a change on the way.
#[test]
fn a_service_of_several_ports_refuses_none_of_them_as_it_comes_and_goes() {
    let ports = [(53, Protocol::Udp), (53, Protocol::Tcp), (9153, Protocol::Tcp)];
    let dns = || {
        let text = "{metadata: {name: dns, namespace: d}, spec: {clusterIP: 10.96.0.10, ports: [{name: u, protocol: UDP, port: 53},                     {name: t, port: 53}, {name: m, port: 9153}]}}";
        convert::service(&yaml(text)).object.unwrap()
    };
    let watched = ports.map(|(port, protocol)| FrontendAddr { addr: "10.96.0.10".parse().unwrap(), port, protocol });
    let watch = || watched.map(|addr| (addr, Vec::new())).into();
    let maps = Fake { watched: watch(), ..Fake::default() };
    let mut coming = reconciler(maps, [Change::Service(Event::Applied(dns()))]);
    coming.round();
    for met in coming.maps.watched.values() {
        assert!(matches!(met[..], [Met::Nobody, Met::Frontend] | [Met::Frontend]), "{met:?}");
    }
    let mut refused_in = 0;
    loop {
        let maps = Fake { watched: watch(), refuse_in: Some(refused_in), ..coming.maps.clone() };
        let mut at_work = reconciler(Fake::default(), [Change::Service(Event::Applied(dns()))]);
        at_work.round();
        at_work.maps = maps.clone();
        at_work.change(Change::Service(Event::Deleted(dns().name)));
        let mut was_refused = false;
        for mut going in [at_work, reconciler(maps, [])] {
            while going.round().retry {
                was_refused = true;
                going.retry();
            }
            for met in going.maps.watched.values() {
                assert!(matches!(met[..], [Met::Frontend, Met::Nobody] | [Met::Nobody]), "{met:?}, refused in {refused_in}");
            }
        }
        if !was_refused {
            break;
        }
        refused_in += 1;
    }
    assert!(refused_in > 6, "there were changes to refuse");
}

#[test]
fn what_went_while_the_daemon_was_down_is_removed_and_the_rest_untouched() {
    let both = [service("web", "10.96.0.1"), slice("web", &["10.0.0.1"]), service("old", "10.96.0.2"), slice("old", &["10.0.0.2"])];
    let mut before = reconciler(Fake::default(), both);
    before.round();
    let maps = Fake { applied: 0, ..before.maps.clone() };
    let [web, web_slice] = [service("web", "10.96.0.1"), slice("web", &["10.0.0.1"])];
    let mut after = reconciler(maps, [web, web_slice]);
    after.round();
    assert_eq!(outcome(&after.maps.kernel, "10.96.0.2"), Outcome::NoService);
    assert_eq!(backends(&after.maps.kernel, "10.96.0.1"), backends(&before.maps.kernel, "10.96.0.1"));
}

#[test]
fn what_the_kernel_never_takes_keeps_no_other_from_being_served() {
    let [a, b, c, d] = ["10.96.0.1", "10.96.0.2", "10.96.0.3", "10.96.0.4"];
    let both = [a, b].map(|ip| ip.parse().unwrap()).to_vec();
    let maps = Fake { refused: both, ..Fake::default() };
    let mut reconciler = reconciler(maps, [service("a", a), service("b", b), service("c", c)]);
    let served = |reconciler: &Reconciler<Fake>, ip| outcome(&reconciler.maps.kernel, ip) == Outcome::Reject;
    assert!(reconciler.round().retry);
    assert!(served(&reconciler, c), "in the same round");

    // Only what changes is planned while they wait.
    reconciler.change(service("d", d));
    assert_eq!(reconciler.round().planned, 1);
    assert!(served(&reconciler, d));

    // The last to fail comes last: neither stands in the other's way.
    reconciler.maps.refused.retain(|ip| ip.to_string() == a);
    for _ in 0..2 {
        reconciler.retry();
        assert!(reconciler.round().retry);
    }
    assert!(served(&reconciler, b) && !served(&reconciler, a));

    reconciler.maps.refused.clear();
    reconciler.retry();
    assert!(!reconciler.round().retry);
    assert!(served(&reconciler, a));
}

#[test]
fn what_is_free_rests_from_when_the_maps_were_read() {
    let sizes = Sizes { rows: 2, ..SIZES };
    let [a, b, c] = [service("a", "10.96.0.1"), service("b", "10.96.0.2"), service("c", "10.96.0.3")];
    let mut before = reconciler(Fake::default(), [a, b.clone()]);
    before.sizes = sizes;
    before.round();
    before.change(Change::Service(Event::Reset(vec![])));
    before.change(b.clone());
    before.round();

    let maps = Fake { read_time: Duration::from_secs(2), ..before.maps.clone() };
    let mut after = reconciler(maps, [b, c]);
    after.sizes = sizes;
    after.round();
    assert_eq!(outcome(&after.maps.kernel, "10.96.0.2"), Outcome::Reject);
    assert_eq!(outcome(&after.maps.kernel, "10.96.0.3"), Outcome::NoService, "the row may still be read");
}

/// Maps that cannot be read at first.
#[test]
fn maps_that_cannot_be_read_are_read_again() {
    let maps = Fake { unreadable: true, ..Fake::default() };
    let mut reconciler = reconciler(maps, [service("web", "10.96.0.1")]);
    assert!(reconciler.round().retry);
    assert!(!reconciler.is_synced());
    reconciler.maps.unreadable = false;
    reconciler.retry();
    assert!(!reconciler.round().retry);
    assert_eq!(outcome(&reconciler.maps.kernel, "10.96.0.1"), Outcome::Reject);
}

#[test]
fn a_round_says_how_many_changes_were_made() {
    let mut reconciler =
        reconciler(Fake::default(), [service("web", "10.96.0.1"), slice("web", &["10.0.0.1"]), service("api", "10.96.0.2")]);
    reconciler.settings = Arc::new(Settings { drop_unallocated: true, ..Settings::default() });
    let rounds = [
        vec![],
        vec![Change::ServiceCidr(Event::Applied(cidr("services", "10.96.0.0/16")))],
        vec![service("db", "10.96.0.3")],
        vec![Change::Service(Event::Reset(vec![]))],
    ];
    for (n, changes) in rounds.into_iter().enumerate() {
        for change in changes {
            reconciler.change(change);
        }
        let before = reconciler.maps.applied;
        let round = reconciler.round();
        assert_eq!(round.changes, reconciler.maps.applied - before, "in round {n}");
        assert!(round.changes > 0, "in round {n}");
    }
    assert_eq!(reconciler.round(), Round::default());
}

#[test]
fn the_nodes_addresses_are_told_once_they_are_known() {
    let node = || {
        Change::Node(Event::Applied(
            convert::node(&yaml("{metadata: {name: n1}, status: {addresses: [{type: InternalIP, address: 192.0.2.1}]}}")).object.unwrap(),
        ))
    };
    let mut reconciler = Reconciler::new("n1".to_owned(), Settings::default(), SIZES, Fake::default());
    assert_eq!(reconciler.node_object_ips(), None);
    reconciler.change(node());
    assert_eq!(reconciler.node_object_ips(), Some(&["192.0.2.1".parse().unwrap()][..]));
    let mut without = self::reconciler(Fake::default(), []);
    assert_eq!(without.node_object_ips(), None);
    without.round();
    assert_eq!(without.node_object_ips(), Some(&[][..]), "there is no such object");
}
