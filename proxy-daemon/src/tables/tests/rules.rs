//! One test for each rule.

use proxy_common::{FrontendRef, Range, RangeWord, RowFlags, ServiceRow, SlotRange, Undefined};

use super::{
    kernel::{Kernel, Outcome, assert_mirrors},
    *,
};

const A: &str = "10.96.0.1:80";
const B: &str = "10.96.0.2:80";

/// A mirror and its kernel, which take each change together.
struct Pair {
    tables: Tables,
    kernel: Kernel,
    now: Instant,
}

impl Pair {
    fn new(sizes: Sizes) -> Self {
        Self { tables: Tables::new(sizes), kernel: Kernel::default(), now: Instant::now() }
    }

    fn set(&mut self, service: &str, plan: Option<&ServicePlan>) -> Result<Vec<Change>, Error> {
        let before = self.tables.dump();
        let mut result = self.tables.set(&name(service), plan, self.now);
        match &mut result {
            Ok(changes) => {
                changes.extend(self.tables.write_claims());
                self.apply(changes);
            }
            Err(_) => assert_eq!(self.tables.dump(), before, "a failure changed the mirror"),
        }
        assert_mirrors(&self.tables, &self.kernel);
        result
    }

    fn sweep(&mut self) -> Vec<Change> {
        let changes = self.tables.sweep(self.now);
        self.apply(&changes);
        changes
    }

    fn restart(&mut self, sizes: Sizes) {
        self.tables = Tables::restore(sizes, &self.kernel.snapshot(), self.now);
    }

    fn apply(&mut self, changes: &[Change]) {
        for change in changes {
            self.kernel.apply(change, self.now);
        }
    }

    fn wait(&mut self, millis: u64) {
        self.now = after(self.now, millis);
    }

    fn backends(&self, addr: &str) -> Vec<SocketAddr> {
        let outcome = self.kernel.resolve(&frontend(addr), Scope::Internal);
        let Outcome::Backends(_, backends) = outcome else { panic!("{addr} has {outcome:?}") };
        backends.iter().map(|backend| backend.addr).collect()
    }
}

/// The kinds of changes, in order.
fn kinds(changes: &[Change]) -> Vec<&'static str> {
    let kind = |change: &Change| match change {
        Change::Service { row: Some(_), .. } => "name",
        Change::Service { row: None, .. } => "unname",
        Change::Live { reference: BackendRef::NONE, .. } => "end",
        Change::Live { .. } => "begin",
        Change::Backends4 { .. } | Change::Backends6 { .. } => "fill",
        Change::Row { .. } => "row",
        Change::Publish { .. } => "publish",
        Change::RowFlags { .. } => "flags",
        Change::Affinity { .. } => "affinity",
        Change::ClusterIp { undefined: Some(Undefined::LEAVE), .. } => "leave",
        Change::ClusterIp { undefined: Some(_), .. } => "refuse",
        Change::ClusterIp { undefined: None, .. } => "forget",
        Change::Networks4(_) | Change::Networks6(_) => "networks",
        Change::InsertSource { .. } => "let in",
        Change::RemoveSource { .. } => "shut out",
        Change::SetFrontend { .. } => "insert",
        Change::RemoveFrontend { .. } => "remove",
    };
    changes.iter().map(kind).collect()
}

#[test]
fn a_new_service_port_is_named_filled_and_only_then_inserted() {
    let mut pair = Pair::new(ROOMY);
    let changes = pair.set("web", Some(&plan(&[A, B], [1, 2]))).unwrap();
    assert_eq!(kinds(&changes), ["name", "begin", "begin", "fill", "row", "insert", "row", "insert"]);
    assert_eq!(pair.backends(A), addrs([1, 2]));
    assert_eq!(pair.backends(B), addrs([1, 2]));
}

#[test]
fn the_same_plan_again_changes_nothing() {
    let mut pair = Pair::new(ROOMY);
    let plan = plan(&[A, B], [1, 2]);
    pair.set("web", Some(&plan)).unwrap();
    assert_eq!(pair.set("web", Some(&plan)).unwrap(), []);
    assert_eq!(pair.set("other", None).unwrap(), []);
}

#[test]
fn another_set_gets_fresh_slots_and_one_store_a_word() {
    let mut pair = Pair::new(ROOMY);
    pair.set("web", Some(&plan(&[A], [1, 2]))).unwrap();
    let changes = pair.set("web", Some(&plan(&[A], [2, 3]))).unwrap();
    assert_eq!(kinds(&changes), ["begin", "fill", "publish", "publish", "end"]);
    let words: Vec<_> = changes
        .iter()
        .filter_map(|change| if let Change::Publish { word, .. } = change { Some((word.range(), word.generation())) } else { None })
        .collect();
    let fresh = Range::Slots(SlotRange::new(2, 2).unwrap());
    assert_eq!(words, [(fresh, 1), (fresh, 2)]);
}

#[test]
fn slots_that_were_retired_are_used_again_after_their_rest() {
    let mut pair = Pair::new(Sizes { backends: 4, ..ROOMY });
    pair.set("web", Some(&plan(&[A], [1, 2]))).unwrap();
    pair.set("web", Some(&plan(&[A], [2, 3]))).unwrap();
    pair.wait(1_999);
    let full = pair.set("web", Some(&plan(&[A], [3, 4]))).unwrap_err();
    assert_eq!(full.to_string(), "no room for more IPv4 backends: there is room for 4, --backends makes more");
    assert_eq!(pair.backends(A), addrs([2, 3]));
    pair.wait(1);
    pair.set("web", Some(&plan(&[A], [3, 4]))).unwrap();
    assert_eq!(pair.backends(A), addrs([3, 4]));
}

#[test]
fn a_backend_that_stays_keeps_its_reference_and_one_that_returns_gets_another() {
    let mut pair = Pair::new(ROOMY);
    let reference = |pair: &Pair, last| pair.tables.services[&ServiceId(1)].reference(addrs([last])[0]);
    pair.set("web", Some(&plan(&[A], [1, 2]))).unwrap();
    let first = [reference(&pair, 1), reference(&pair, 2)];
    pair.set("web", Some(&plan(&[A], [2]))).unwrap();
    assert_eq!(reference(&pair, 1), None);
    pair.set("web", Some(&plan(&[A], [1, 2]))).unwrap();
    assert_ne!(reference(&pair, 1), first[0]);
    assert_eq!(reference(&pair, 2), first[1]);
}

#[test]
fn a_backend_that_leaves_every_set_lives_as_long_as_the_plan_says() {
    let mut pair = Pair::new(ROOMY);
    pair.set("web", Some(&plan(&[A], [1, 2]))).unwrap();
    let mut draining = plan(&[A], [2]);
    draining.live.extend(addrs([1]));
    let changes = pair.set("web", Some(&draining)).unwrap();
    assert_eq!(kinds(&changes), ["fill", "fill", "publish", "publish"]);
    assert_eq!(pair.backends(A), addrs([2]));
    pair.restart(ROOMY);
    assert_eq!(pair.set("web", Some(&draining)).unwrap(), []);
    assert_eq!(kinds(&pair.set("web", Some(&plan(&[A], [2]))).unwrap()), ["end"]);
}

#[test]
fn backends_that_no_frontend_uses_are_not_worth_a_failure() {
    let mut pair = Pair::new(Sizes { backends: 2, ..ROOMY });
    let mut plan = plan(&[A], [1, 2]);
    plan.live.extend(addrs([3]));
    pair.set("web", Some(&plan)).unwrap();
    assert_eq!(pair.kernel.live.len(), 3);
}

#[test]
fn an_empty_set_needs_no_slots() {
    let mut pair = Pair::new(ROOMY);
    pair.set("web", Some(&plan(&[A], [1]))).unwrap();
    let mut nobody = plan(&[A], []);
    assert_eq!(kinds(&pair.set("web", Some(&nobody)).unwrap()), ["publish", "publish", "end"]);
    assert_eq!(pair.kernel.resolve(&frontend(A), Scope::External), Outcome::Reject);
    nobody.frontends.insert(frontend(A), cluster_ip(BackendSet::Reject, BackendSet::Drop));
    assert_eq!(kinds(&pair.set("web", Some(&nobody)).unwrap()), ["publish"]);
    assert_eq!(pair.kernel.resolve(&frontend(A), Scope::External), Outcome::Drop);
    assert_eq!(pair.tables.usage().slots4.used, 0);
}

#[test]
fn a_backend_that_moves_to_another_node_gets_another_slot_and_keeps_its_life() {
    let mut pair = Pair::new(ROOMY);
    let mut plan = plan(&[A], [1, 2]);
    pair.set("web", Some(&plan)).unwrap();
    let mut moved = here(&addrs([1, 2]));
    moved[1].is_elsewhere = true;
    plan.frontends.insert(frontend(A), cluster_ip(set(moved.clone()), set(moved.clone())));
    assert_eq!(kinds(&pair.set("web", Some(&plan)).unwrap()), ["fill", "publish", "publish"]);
    let moved = Outcome::Backends(ServiceId(1), moved);
    assert_eq!(pair.kernel.resolve(&frontend(A), Scope::External), moved);
    pair.restart(ROOMY);
    assert_eq!(pair.set("web", Some(&plan)).unwrap(), []);
    assert_eq!(pair.kernel.resolve(&frontend(A), Scope::External), moved);
}

#[test]
fn flags_and_affinity_are_stored_by_themselves() {
    let mut pair = Pair::new(ROOMY);
    let mut plan = plan(&[A], [1]);
    pair.set("web", Some(&plan)).unwrap();
    let of_a = plan.frontends.get_mut(&frontend(A)).unwrap();
    of_a.affinity = Some(Duration::from_hours(3));
    of_a.kind = FrontendKind::ExternalIp;
    of_a.masquerade = Masquerade { internal: true, external: true };
    let changes = pair.set("web", Some(&plan)).unwrap();
    let row = RowIndex(0);
    let flags = RowFlags::EXTERNAL_IP.with(RowFlags::MASQUERADE_INTERNAL).with(RowFlags::MASQUERADE_EXTERNAL);
    assert_eq!(changes, [Change::RowFlags { row, flags }, Change::Affinity { row, secs: 10_800 }]);
}

#[test]
fn affinity_is_switched_while_packets_read() {
    let mut pair = Pair::new(ROOMY);
    let mut plan = plan(&[A, B], [1]);
    pair.set("web", Some(&plan)).unwrap();
    for secs in [10_800, 30, 0, 86_400] {
        for frontend in plan.frontends.values_mut() {
            frontend.affinity = (secs > 0).then(|| Duration::from_secs(secs));
        }
        let secs = u32::try_from(secs).unwrap();
        let switched = [0, 1].map(|row| Change::Affinity { row: RowIndex(row), secs });
        assert_eq!(pair.set("web", Some(&plan)).unwrap(), switched, "nothing else is touched");
    }
    pair.restart(ROOMY);
    assert_eq!(pair.set("web", Some(&plan)).unwrap(), []);
}

/// A plan with one frontend that only these networks' clients may use.
fn limited(networks: &[&str]) -> ServicePlan {
    let mut plan = plan(&[A], [1]);
    plan.sources = networks.iter().map(|network| network.parse().unwrap()).collect();
    for frontend in plan.frontends.values_mut() {
        (frontend.kind, frontend.has_source_ranges) = (FrontendKind::LoadBalancerIp, !networks.is_empty());
    }
    plan
}

#[test]
fn clients_are_let_in_before_a_frontend_is_limited_and_shut_out_afterwards() {
    let mut pair = Pair::new(ROOMY);
    pair.set("web", Some(&limited(&[]))).unwrap();
    assert_eq!(kinds(&pair.set("web", Some(&limited(&["10.0.0.0/8", "fd00::/8"]))).unwrap()), ["let in", "let in", "flags"]);
    assert_eq!(kinds(&pair.set("web", Some(&limited(&["10.0.0.0/8", "192.0.2.0/24"]))).unwrap()), ["let in", "shut out"]);
    assert_eq!(kinds(&pair.set("web", Some(&limited(&[]))).unwrap()), ["flags", "shut out", "shut out"]);
    assert_eq!(kinds(&pair.set("new", Some(&limited(&["10.0.0.0/8"]))).unwrap())[..3], ["name", "begin", "fill"]);
    assert_eq!(kinds(&pair.set("new", None).unwrap()), ["remove", "shut out", "end", "unname"]);
}

#[test]
fn who_is_let_in_survives_a_restart_and_traces_are_swept() {
    let mut pair = Pair::new(ROOMY);
    let plan = limited(&["10.0.0.0/8", "fd00::/8"]);
    pair.set("web", Some(&plan)).unwrap();
    let stray = ["192.0.2.0/24", "198.51.100.0/24"].map(|network| network.parse().unwrap());
    pair.kernel.sources.extend([(ServiceId(2), stray[0]), (ServiceId(9), stray[1])]);
    pair.restart(ROOMY);
    assert_eq!(pair.tables.set(&name("web"), Some(&plan), pair.now).unwrap(), []);
    let changes = pair.tables.set(&name("new"), Some(&super::plan(&[B], [1])), pair.now).unwrap();
    pair.apply(&changes);
    assert!(changes.contains(&Change::RemoveSource { id: ServiceId(2), network: stray[0] }), "the id had a trace");
    assert_eq!(pair.sweep(), [Change::RemoveSource { id: ServiceId(9), network: stray[1] }]);
    assert_eq!((pair.tables.usage().sources4.used, pair.tables.usage().sources6.used), (1, 1));
}

/// A plan with that ClusterIP, at which it serves one frontend unless the address is left to the node.
fn at_cluster_ip(frontend: &str, undefined: Undefined) -> ServicePlan {
    let addr = frontend.parse::<SocketAddr>().unwrap().ip();
    let frontends = [frontend];
    let served = if undefined == Undefined::LEAVE { &[][..] } else { &frontends };
    ServicePlan { cluster_ips: [(addr, undefined)].into(), ..plan(served, [1]) }
}

#[test]
fn what_a_cluster_ip_does_not_serve_is_refused_as_long_as_it_serves_anything() {
    let mut pair = Pair::new(ROOMY);
    let (one, two) = (at_cluster_ip(A, Undefined::REFUSE), at_cluster_ip("10.96.0.1:443", Undefined::REFUSE));
    assert_eq!(kinds(&pair.set("one", Some(&one)).unwrap()), ["name", "begin", "fill", "row", "insert", "networks", "refuse"]);
    assert_eq!(kinds(&pair.set("two", Some(&two)).unwrap()), ["name", "begin", "fill", "row", "insert"]);
    assert_eq!(kinds(&pair.set("one", None).unwrap()), ["remove", "end", "unname"]);
    assert_eq!(kinds(&pair.set("two", None).unwrap()), ["forget", "remove", "end", "unname"]);
}

#[test]
fn a_cluster_ip_that_the_node_takes_is_left_to_it_before_its_frontends_go() {
    let mut pair = Pair::new(ROOMY);
    let served = at_cluster_ip(A, Undefined::REFUSE);
    pair.set("web", Some(&served)).unwrap();
    assert_eq!(kinds(&pair.set("web", Some(&at_cluster_ip(A, Undefined::LEAVE))).unwrap()), ["leave", "remove"]);
    assert_eq!(kinds(&pair.set("web", Some(&served)).unwrap()), ["row", "insert", "refuse"]);
}

#[test]
fn an_address_is_left_alone_whatever_service_ports_say_of_it() {
    let mut pair = Pair::new(Sizes { cluster_ips: 1, ..ROOMY });
    let served = at_cluster_ip(A, Undefined::REFUSE);
    let left: BTreeSet<IpAddr> = ["10.96.0.1".parse().unwrap()].into();
    let apply = |pair: &mut Pair, changes: Vec<Change>| {
        pair.apply(&changes);
        kinds(&changes)
    };
    // A Service that another proxy takes: at no time is its address nobody's.
    pair.set("web", Some(&served)).unwrap();
    let changes = pair.tables.leave(&left);
    assert_eq!(apply(&mut pair, changes), ["leave"]);
    assert_eq!(kinds(&pair.set("web", None).unwrap()), ["remove", "end", "unname"]);
    // What is left alone takes room; what finds none is not.
    assert_eq!(pair.tables.leave(&["10.96.0.1", "10.96.0.2"].map(|addr| addr.parse().unwrap()).into()), []);
    pair.restart(Sizes { cluster_ips: 1, ..ROOMY });
    assert_eq!(pair.tables.leave(&left), []);
    assert_eq!(pair.sweep(), []);
    // And back.
    let changes = pair.set("web", Some(&served)).unwrap();
    assert!(!kinds(&changes).contains(&"refuse") && kinds(&changes).contains(&"insert"), "{changes:?}");
    let changes = pair.tables.leave_only(&BTreeSet::new());
    assert_eq!(apply(&mut pair, changes), ["refuse"]);
}

#[test]
fn a_cluster_ip_that_nobody_has_any_more_is_swept_after_a_restart() {
    let mut pair = Pair::new(ROOMY);
    let plan = at_cluster_ip(A, Undefined::REFUSE);
    pair.set("web", Some(&plan)).unwrap();
    pair.kernel.cluster_ips.insert("10.96.0.9".parse().unwrap(), Undefined::LEAVE);
    pair.restart(ROOMY);
    assert_eq!(pair.set("web", Some(&plan)).unwrap(), []);
    assert_eq!(kinds(&pair.sweep()), ["forget"]);
    assert_eq!(pair.sweep(), []);
}

#[test]
fn networks_survive_a_restart() {
    let mut pair = Pair::new(ROOMY);
    let networks = ["10.96.0.0/12", "fd00:96::/112"].map(|network| network.parse().unwrap()).into();
    let changes = pair.tables.set_networks(&networks);
    assert_eq!(kinds(&changes), ["networks", "networks"]);
    pair.apply(&changes);
    pair.restart(ROOMY);
    assert_eq!(pair.tables.set_networks(&networks), []);
}

#[test]
fn a_row_rests_is_cleared_once_and_is_used_again() {
    let mut pair = Pair::new(Sizes { rows: 1, ..ROOMY });
    pair.set("web", Some(&plan(&[A], [1]))).unwrap();
    assert_eq!(kinds(&pair.set("web", Some(&plan(&[], [1]))).unwrap()), ["remove"]);
    pair.wait(1_999);
    assert_eq!(pair.sweep(), []);
    assert!(matches!(pair.set("web", Some(&plan(&[B], [1]))), Err(Error::Full { what: "frontend rows", max: 1, .. })));
    pair.wait(1);
    assert_eq!(pair.sweep(), [Change::Row { row: RowIndex(0), value: FrontendRow::zeroed() }]);
    assert_eq!(pair.sweep(), []);
    pair.set("web", Some(&plan(&[B], [1]))).unwrap();
    assert_eq!(pair.backends(B), addrs([1]));
}

#[test]
fn a_frontend_is_taken_over_from_its_loser_whichever_comes_first() {
    let mut pair = Pair::new(ROOMY);
    pair.set("old", Some(&plan(&[A, B], [1]))).unwrap();
    let changes = pair.set("new", Some(&plan(&[A], [2]))).unwrap();
    assert_eq!(kinds(&changes), ["name", "begin", "fill", "row", "insert"]);
    assert_eq!(pair.backends(A), addrs([2]));
    assert_eq!(pair.set("old", Some(&plan(&[B], [1]))).unwrap(), []);
    assert_eq!(kinds(&pair.set("old", None).unwrap()), ["remove", "end", "unname"]);
    assert_eq!(pair.backends(A), addrs([2]));
}

#[test]
fn a_take_over_needs_no_room() {
    let mut pair = Pair::new(Sizes { frontends: 1, ..ROOMY });
    pair.set("old", Some(&plan(&[A], [1]))).unwrap();
    pair.set("new", Some(&plan(&[A], [2]))).unwrap();
    assert_eq!(pair.backends(A), addrs([2]));
}

#[test]
fn a_removed_service_port_loses_frontends_first_and_its_name_last() {
    let mut pair = Pair::new(ROOMY);
    pair.set("web", Some(&plan(&[A, B], [1, 2]))).unwrap();
    assert_eq!(kinds(&pair.set("web", None).unwrap()), ["remove", "remove", "end", "end", "unname"]);
    let usage = pair.tables.usage();
    assert!([usage.frontends4, usage.rows, usage.slots4, usage.live, usage.services].iter().all(|fill| fill.used == 0));
    assert_eq!(pair.tables.dump(), "");
    assert_eq!(pair.tables.names().count(), 0);
}

#[test]
fn ids_stay_and_are_used_again_late() {
    let mut pair = Pair::new(ROOMY);
    let id = |pair: &Pair, service| pair.tables.id(&name(service)).map(|id| id.0);
    pair.set("a", Some(&plan(&[A], [1]))).unwrap();
    pair.set("b", Some(&plan(&[B], [1]))).unwrap();
    pair.set("a", None).unwrap();
    pair.wait(599_999);
    pair.set("c", Some(&plan(&[], [1]))).unwrap();
    assert_eq!((id(&pair, "b"), id(&pair, "c")), (Some(2), Some(3)));
    pair.wait(1);
    pair.set("d", Some(&plan(&[], [1]))).unwrap();
    assert_eq!(id(&pair, "d"), Some(1));
    pair.restart(ROOMY);
    assert_eq!((id(&pair, "b"), id(&pair, "c"), id(&pair, "d")), (Some(2), Some(3), Some(1)));
}

#[test]
fn names_survive_a_restart() {
    let mut pair = Pair::new(ROOMY);
    let names = [ServicePortName::new("ns", "a", "", Protocol::Udp), ServicePortName::new("ns", "a", "dns", Protocol::Tcp)];
    for name in &names {
        let changes = pair.tables.set(name, Some(&plan(&[], [1])), pair.now).unwrap();
        pair.apply(&changes);
    }
    pair.restart(ROOMY);
    assert!(pair.tables.names().eq(&names));
}

#[test]
fn what_cannot_be_loaded_leaves_what_is() {
    let mut pair = Pair::new(Sizes { services: 3, frontends: 2, live: 4, ..ROOMY });
    pair.set("web", Some(&plan(&[A], [1, 2]))).unwrap();
    let what = |result: Result<Vec<Change>, Error>| {
        let Err(Error::Full { what, max, flag }) = result else { panic!("{result:?}") };
        (what, max, flag)
    };
    assert_eq!(what(pair.set("web", Some(&plan(&[A], 1..6)))), ("backends", 4, "--backends"));
    assert_eq!(what(pair.set("web", Some(&plan(&[A, B, "10.96.0.3:80"], [1])))), ("IPv4 frontends", 2, "--frontends"));
    pair.set("other", Some(&plan(&[B], [1]))).unwrap();
    assert_eq!(what(pair.set("third", Some(&plan(&[], [])))), ("services", 2, "--services"));
    let many: Vec<String> = (0..65).map(|n| format!("192.0.2.{n}")).map(|ip| ip + "/32").collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    assert_eq!(what(pair.set("web", Some(&limited(&many)))), ("IPv4 source ranges", 64, "--source-ranges"));
    assert_eq!(pair.backends(A), addrs([1, 2]));
}

#[test]
fn a_name_that_does_not_fit_is_refused() {
    let mut tables = Tables::new(ROOMY);
    let name = ServicePortName::new(&"n".repeat(63), &"s".repeat(70), &"p".repeat(63), Protocol::Tcp);
    let error = tables.set(&name, Some(&plan(&[A], [1])), Instant::now()).unwrap_err();
    assert_eq!(error, Error::Name { name });
    assert_eq!(tables.dump(), "");
}

#[test]
fn a_set_that_no_range_holds_is_refused() {
    let mut pair = Pair::new(Sizes { backends: 1 << 18, live: 1 << 18, ..ROOMY });
    let many =
        |count: u32| -> Vec<_> { (0..count).map(|last| SocketAddr::new(IpAddr::from((0x0a00_0000 + last).to_be_bytes()), 80)).collect() };
    let mut plan = plan(&[A], [1]);
    pair.set("web", Some(&plan)).unwrap();
    plan.frontends.insert(frontend(A), cluster_ip(set(here(&many(65_536))), BackendSet::Drop));
    assert_eq!(pair.set("web", Some(&plan)).unwrap_err(), Error::TooManyBackends { name: name("web"), count: 65_536 });
    assert_eq!(pair.backends(A), addrs([1]));
    plan.frontends.insert(frontend(A), cluster_ip(set(here(&many(65_535))), BackendSet::Drop));
    pair.set("web", Some(&plan)).unwrap();
    assert_eq!(pair.backends(A).len(), 65_535);
}

#[test]
fn traces_that_make_no_sense_are_swept() {
    let mut pair = Pair::new(ROOMY);
    pair.set("web", Some(&plan(&[A, B], [1]))).unwrap();
    let state = pair.tables.dump();
    pair.kernel.services.insert(ServiceId(9), ServiceRow::new("no slash", Protocol::Tcp).unwrap());
    pair.kernel.live.insert(70, BackendRef::new(70, 5));
    let [a, b] = [frontend(A), frontend(B)].map(|addr| pair.kernel.frontends[&addr]);
    pair.kernel.frontends.insert(frontend("10.96.0.3:80"), b);
    pair.kernel.frontends.insert(frontend("10.96.0.4:80"), FrontendRef { service: ServiceId(7), ..a });
    pair.kernel.frontends.insert(frontend("10.96.0.5:80"), FrontendRef { row: RowIndex(5), ..a });
    pair.restart(ROOMY);
    assert_eq!(pair.tables.dump(), state);
    assert_eq!(pair.tables.usage().frontends4.used, 5);
    let gone = ["10.96.0.3:80", "10.96.0.4:80", "10.96.0.5:80"].map(|addr| Change::RemoveFrontend { addr: frontend(addr) });
    let changes = pair.tables.sweep(pair.now);
    assert_eq!(changes[..3], gone);
    assert_eq!(changes[3..], [Change::Live { index: 70, reference: BackendRef::NONE }, Change::Service { id: ServiceId(9), row: None }]);
    assert_eq!(pair.tables.usage().frontends4.used, 2);
}

#[test]
fn a_set_that_is_found_twice_is_kept_once() {
    let mut pair = Pair::new(ROOMY);
    let plan = plan(&[A], [1, 2]);
    pair.set("web", Some(&plan)).unwrap();
    for slot in 0..2 {
        let copy = pair.kernel.slots4[&slot];
        pair.kernel.slots4.insert(10 + slot, copy);
    }
    let twice = RangeWord::new(Range::Slots(SlotRange::new(10, 2).unwrap()), 7);
    pair.kernel.rows.get_mut(&RowIndex(0)).unwrap().external = twice;
    pair.restart(ROOMY);
    let word = RangeWord::new(Range::Slots(SlotRange::new(0, 2).unwrap()), 8);
    assert_eq!(pair.set("web", Some(&plan)).unwrap(), [Change::Publish { row: RowIndex(0), scope: Scope::External, word }]);
    assert_eq!(pair.tables.usage().slots4.used, 2);
}

#[test]
fn a_dump_says_all_that_is_loaded() {
    let mut pair = Pair::new(ROOMY);
    let mut plan = plan(&[A], [1, 2]);
    plan.live.extend(addrs([3]));
    let external = FrontendPlan {
        kind: FrontendKind::NodePort,
        affinity: Some(Duration::from_mins(1)),
        ..cluster_ip(set(here(&addrs([1, 2]))), BackendSet::Drop)
    };
    plan.frontends.insert(frontend(B), external);
    pair.set("web", Some(&plan)).unwrap();
    let expected = "\
default/web:http/TCP is 1
  ClusterIP 10.96.0.1:80/TCP in row 0
    internal: 10.1.0.1:8080 10.1.0.2:8080, slots 0..2, generation 0
    external: 10.1.0.1:8080 10.1.0.2:8080, slots 0..2, generation 0
  NodePort 10.96.0.2:80/TCP in row 1
    internal: 10.1.0.1:8080 10.1.0.2:8080, slots 0..2, generation 0
    external: drop, generation 0
    affinity: 60 s
  10.1.0.1:8080 lives at 0 since generation 1
  10.1.0.2:8080 lives at 1 since generation 1
  10.1.0.3:8080 lives at 2 since generation 1
";
    assert_eq!(pair.tables.dump(), expected);
}

#[test]
fn a_cluster_ip_needs_room() {
    let mut pair = Pair::new(Sizes { cluster_ips: 1, ..ROOMY });
    pair.set("web", Some(&at_cluster_ip(A, Undefined::REFUSE))).unwrap();
    let full = pair.set("other", Some(&at_cluster_ip(B, Undefined::REFUSE)));
    assert!(matches!(full, Err(Error::Full { what: "IPv4 ClusterIPs", max: 1, .. })), "{full:?}");
}

/// No set has a backend twice: what is found so after a restart was never written as one.
#[test]
fn a_set_with_a_backend_twice_is_none() {
    let mut pair = Pair::new(ROOMY);
    pair.set("web", Some(&plan(&[A], [1, 2]))).unwrap();
    let [first, second] = pair.kernel.slots4.keys().copied().collect::<Vec<_>>()[..] else { panic!("not two slots") };
    let copy = pair.kernel.slots4[&first];
    pair.kernel.slots4.insert(second, copy);
    pair.restart(ROOMY);
    // The backend by itself, and no set of two.
    assert_eq!(pair.tables.usage().slots4.used, 1);
}
