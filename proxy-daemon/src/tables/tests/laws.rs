//! Laws that hold for any sequence of plans.

use std::collections::BTreeSet;

use proptest::{prelude::*, sample::Index};
use proxy_common::Undefined;

use super::{
    kernel::{Kernel, Outcome, SCOPES, assert_mirrors},
    *,
};

const SERVICES: [&str; 4] = ["a", "b", "c", "d"];
const FRONTENDS: [&str; 6] = ["10.96.0.1:80", "10.96.0.2:80", "10.96.0.3:80", "192.0.2.1:30080", "[fd00::1]:80", "[fd00::2]:80"];
const SOURCES: [&str; 5] = ["192.0.2.0/24", "192.0.2.8/32", "0.0.0.0/0", "fd00:2::/64", "fd00:2::8/128"];
const CLUSTER_IPS: [&str; 4] = ["10.96.0.1", "10.96.0.2", "fd00::1", "fd00::2"];
const CLIENTS: [&str; 5] = ["192.0.2.8", "192.0.2.9", "198.51.100.1", "fd00:2::8", "fd00:2::9"];
const TIGHT: Sizes = Sizes { frontends: 3, rows: 5, backends: 12, live: 9, services: 4, sources: 3, cluster_ips: 2 };

/// Brings a service port to a plan, after a while.
#[derive(Clone, Debug)]
struct Step {
    service: usize,
    plan: Option<ServicePlan>,
    millis: u64,
}

/// What ought to be the case.
#[derive(Clone, Default)]
struct Wish {
    plans: BTreeMap<ServicePortName, ServicePlan>,
}

/// Backends of a family, by the bits of a byte.
fn endpoints(family: IpFamily, bits: u8) -> Vec<SocketAddr> {
    let addr = |last: u8| match family {
        IpFamily::V4 => IpAddr::from([10, 1, 0, last]),
        IpFamily::V6 => IpAddr::from([0xfd01, 0, 0, 0, 0, 0, 0, u16::from(last)]),
    };
    (0..8).filter(|bit| bits & 1 << bit != 0).map(|last| SocketAddr::new(addr(last), 8080)).collect()
}

/// The same with where they are, by the bits of another byte.
fn backends(family: IpFamily, bits: u8, elsewhere: u8) -> Vec<Backend> {
    let far = endpoints(family, elsewhere);
    endpoints(family, bits).into_iter().map(|addr| Backend { addr, is_elsewhere: far.contains(&addr) }).collect()
}

fn kind() -> impl Strategy<Value = FrontendKind> {
    prop_oneof![
        Just(FrontendKind::ClusterIp),
        Just(FrontendKind::NodePort),
        Just(FrontendKind::ExternalIp),
        Just(FrontendKind::LoadBalancerIp)
    ]
}

/// Which of the plan's three sets a frontend has inside and outside, or none of them; whether it has affinity, and is limited.
type Choice = (FrontendKind, usize, usize, [bool; 2], Masquerade);

fn a_plan() -> impl Strategy<Value = ServicePlan> {
    let masquerade = any::<[bool; 2]>().prop_map(|[internal, external]| Masquerade { internal, external });
    let choice = (kind(), 0..4_usize, 0..4_usize, any::<[bool; 2]>(), masquerade);
    let frontends = proptest::collection::btree_map(0..FRONTENDS.len(), choice, 0..4);
    let elsewhere = prop_oneof![Just(0), any::<u8>()];
    let sources = proptest::sample::subsequence(SOURCES.to_vec(), 0..=2);
    let undefined = prop_oneof![Just(Undefined::REFUSE), Just(Undefined::LEAVE)];
    let cluster_ips = proptest::collection::btree_map(0..CLUSTER_IPS.len(), undefined, 0..3);
    (any::<[u8; 3]>(), elsewhere, frontends, any::<[u8; 2]>(), sources, cluster_ips).prop_map(
        |(sets, elsewhere, choices, live, sources, cluster_ips)| {
            let sources = sources.iter().map(|source| source.parse().unwrap()).collect();
            let cluster_ips = cluster_ips.into_iter().map(|(index, undefined)| (CLUSTER_IPS[index].parse().unwrap(), undefined)).collect();
            ServicePlan { sources, cluster_ips, ..build(sets, elsewhere, &choices, live) }
        },
    )
}

fn build(sets: [u8; 3], elsewhere: u8, choices: &BTreeMap<usize, Choice>, live: [u8; 2]) -> ServicePlan {
    let mut plan = ServicePlan::default();
    for (&index, &(kind, internal, external, [has_affinity, has_source_ranges], masquerade)) in choices {
        let addr = frontend(FRONTENDS[index]);
        let of = |choice: usize| match sets.get(choice).map(|bits| backends(IpFamily::of(addr.addr), *bits, elsewhere)) {
            Some(backends) => set(backends),
            None => BackendSet::Drop,
        };
        let affinity = has_affinity.then_some(Duration::from_secs(30));
        plan.frontends
            .insert(addr, FrontendPlan { kind, internal: of(internal), external: of(external), affinity, masquerade, has_source_ranges });
    }
    for (family, bits) in IpFamily::ALL.into_iter().zip(live) {
        plan.live.extend(endpoints(family, bits));
    }
    plan
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = (0..SERVICES.len(), proptest::option::weighted(0.85, a_plan()), 0..3_000_u64);
    proptest::collection::vec(step.prop_map(|(service, plan, millis)| Step { service, plan, millis }), 1..25)
}

// === impl Wish ===

impl Wish {
    /// The latest plan for a frontend counts.
    fn set(&mut self, name: &ServicePortName, plan: Option<&ServicePlan>) {
        self.plans.remove(name);
        if let Some(plan) = plan {
            for other in self.plans.values_mut() {
                other.frontends.retain(|addr, _| !plan.frontends.contains_key(addr));
            }
            self.plans.insert(name.clone(), plan.clone());
        }
    }

    fn outcome(&self, tables: &Tables, addr: &FrontendAddr, scope: Scope) -> Outcome {
        let Some((name, frontend)) = self.plans.iter().find_map(|(name, plan)| Some((name, plan.frontends.get(addr)?))) else {
            return Outcome::NoService;
        };
        let set = match scope {
            Scope::Internal => &frontend.internal,
            Scope::External => &frontend.external,
        };
        match set {
            BackendSet::Backends(backends) => Outcome::Backends(tables.id(name).unwrap(), backends.to_vec()),
            BackendSet::Reject => Outcome::Reject,
            BackendSet::Drop => Outcome::Drop,
        }
    }

    fn lets_in(&self, addr: &FrontendAddr, client: IpAddr) -> bool {
        let limited = self.plans.values().find(|plan| plan.frontends.get(addr).is_some_and(|frontend| frontend.has_source_ranges));
        limited.is_none_or(|plan| plan.sources.iter().any(|source| source.contains(&client)))
    }

    fn undefined(&self, addr: IpAddr) -> Option<Undefined> {
        let said: Vec<Undefined> = self.plans.values().filter_map(|plan| plan.cluster_ips.get(&addr).copied()).collect();
        if said.contains(&Undefined::LEAVE) { Some(Undefined::LEAVE) } else { said.first().copied() }
    }

    fn assert_holds(&self, tables: &Tables, kernel: &Kernel) {
        for addr in CLUSTER_IPS.map(|addr| addr.parse().unwrap()) {
            assert_eq!(kernel.cluster_ips.get(&addr).copied(), self.undefined(addr), "{addr}");
        }
        for addr in FRONTENDS.map(frontend) {
            for client in clients() {
                assert_eq!(kernel.lets_in(&addr, client), self.lets_in(&addr, client), "{addr} {client}");
            }
            for scope in SCOPES {
                assert_eq!(kernel.resolve(&addr, scope), self.outcome(tables, &addr, scope), "{addr} {scope:?}");
            }
        }
        assert!(tables.names().eq(self.plans.keys()));
    }
}

/// Everything that every client meets.
fn outcomes(kernel: &Kernel) -> Vec<Outcome> {
    FRONTENDS.map(frontend).iter().flat_map(|addr| SCOPES.map(|scope| kernel.resolve(addr, scope))).collect()
}

fn clients() -> [IpAddr; 5] {
    CLIENTS.map(|client| client.parse().unwrap())
}

/// Who is let in where.
fn let_in(kernel: &Kernel) -> Vec<bool> {
    FRONTENDS.map(frontend).iter().flat_map(|addr| clients().map(|client| kernel.lets_in(addr, client))).collect()
}

/// Applies changes; after each, every client meets what it met before, or what it is to meet afterwards.
fn apply(kernel: &mut Kernel, changes: &[Change], now: Instant) {
    let (before, let_in_before) = (outcomes(kernel), let_in(kernel));
    let mut last = kernel.clone();
    for change in changes {
        last.apply(change, now);
    }
    let (afterwards, let_in_afterwards) = (outcomes(&last), let_in(&last));
    for change in changes {
        kernel.apply(change, now);
        for (outcome, (old, new)) in outcomes(kernel).into_iter().zip(before.iter().zip(&afterwards)) {
            assert!(outcome == *old || outcome == *new, "{outcome:?} after {change:?}");
        }
        for (is_let_in, (old, new)) in let_in(kernel).into_iter().zip(let_in_before.iter().zip(&let_in_afterwards)) {
            assert!(is_let_in == *old || is_let_in == *new, "{is_let_in} after {change:?}");
        }
    }
}

/// Plays steps; what fails changes nothing.
fn play(tables: &mut Tables, kernel: &mut Kernel, steps: &[Step], now: &mut Instant) -> Wish {
    let mut wish = Wish::default();
    for Step { service, plan, millis } in steps {
        *now = after(*now, *millis);
        let name = name(SERVICES[*service]);
        let before = tables.dump();
        match tables.set(&name, plan.as_ref(), *now) {
            Ok(changes) => {
                apply(kernel, &changes, *now);
                wish.set(&name, plan.as_ref());
                assert_eq!(tables.clone().set(&name, plan.as_ref(), *now), Ok(Vec::new()), "the same plan again");
                apply(kernel, &tables.write_claims(), *now);
            }
            Err(_) => assert_eq!(tables.dump(), before),
        }
        assert_mirrors(tables, kernel);
        wish.assert_holds(tables, kernel);
    }
    wish
}

/// Brings everything to the wish, as a daemon does when it starts.
fn bring_all(tables: &mut Tables, kernel: &mut Kernel, wish: &Wish, now: Instant) -> Vec<Change> {
    let mut all = Vec::new();
    let names: BTreeSet<_> = tables.names().chain(wish.plans.keys()).cloned().collect();
    for name in names {
        let changes = tables.set(&name, wish.plans.get(&name), now).unwrap();
        apply(kernel, &changes, now);
        all.extend(changes);
    }
    let changes = tables.write_claims();
    apply(kernel, &changes, now);
    all.extend(changes);
    all
}

fn sweep(tables: &mut Tables, kernel: &mut Kernel, now: Instant) {
    apply(kernel, &tables.sweep(now), now);
    assert_mirrors(tables, kernel);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, ..ProptestConfig::default() })]

    #[test]
    fn every_prefix_is_valid_and_all_of_them_lead_to_the_plan(steps in steps()) {
        let mut now = Instant::now();
        let (mut tables, mut kernel) = (Tables::new(ROOMY), Kernel::default());
        let wish = play(&mut tables, &mut kernel, &steps, &mut now);
        sweep(&mut tables, &mut kernel, after(now, 2_000));
        wish.assert_holds(&tables, &kernel);
        prop_assert_eq!(kernel.rows.values().filter(|row| row.owner != ServiceId::NONE).count(), kernel.frontends.len());
    }

    #[test]
    fn nothing_breaks_when_there_is_no_room(steps in steps()) {
        let mut now = Instant::now();
        let (mut tables, mut kernel) = (Tables::new(TIGHT), Kernel::default());
        play(&mut tables, &mut kernel, &steps, &mut now);
        let gone = SERVICES.map(name);
        apply(&mut kernel, &tables.release(&gone), now);
        prop_assert!(kernel.cluster_ips.is_empty());
        for name in &gone {
            let changes = tables.set(name, None, now).unwrap();
            apply(&mut kernel, &changes, now);
        }
        assert_mirrors(&tables, &kernel);
        prop_assert!(kernel.frontends.is_empty() && kernel.services.is_empty() && kernel.live.is_empty() && kernel.sources.is_empty());
        now = after(now, 2_000);
        let last = plan(&FRONTENDS[..3], 0..6);
        apply(&mut kernel, &tables.set(&name("last"), Some(&last), now).unwrap(), now);
    }

    #[test]
    fn step_by_step_is_the_same_as_all_at_once(steps in steps()) {
        let mut now = Instant::now();
        let (mut tables, mut kernel) = (Tables::new(ROOMY), Kernel::default());
        let wish = play(&mut tables, &mut kernel, &steps, &mut now);
        let (mut fresh, mut fresh_kernel) = (Tables::new(ROOMY), Kernel::default());
        bring_all(&mut fresh, &mut fresh_kernel, &wish, now);
        wish.assert_holds(&fresh, &fresh_kernel);
        let live = |tables: &Tables| -> Vec<_> {
            let backends = |service: &Service| service.backends.iter().map(|(addr, _)| (service.name.clone(), *addr)).collect::<Vec<_>>();
            tables.names.values().flat_map(|id| backends(&tables.services[id])).collect()
        };
        bring_all(&mut tables, &mut kernel, &wish, now);
        prop_assert_eq!(live(&tables), live(&fresh));
        prop_assert_eq!(tables.usage(), fresh.usage());
    }

    #[test]
    fn a_restart_changes_nothing(steps in steps()) {
        let mut now = Instant::now();
        let (mut tables, mut kernel) = (Tables::new(ROOMY), Kernel::default());
        let wish = play(&mut tables, &mut kernel, &steps, &mut now);
        bring_all(&mut tables, &mut kernel, &wish, now);
        let mut restored = Tables::restore(ROOMY, &kernel.snapshot(), now);
        assert_mirrors(&restored, &kernel);
        prop_assert_eq!(restored.dump(), tables.dump());
        prop_assert_eq!(bring_all(&mut restored, &mut kernel, &wish, now), []);
        prop_assert_eq!(restored.sweep(now), []);
    }

    #[test]
    fn a_restart_half_way_through_converges(
        steps in steps(),
        more in steps(),
        last in (0..SERVICES.len(), proptest::option::weighted(0.85, a_plan())),
        cut in any::<Index>(),
    ) {
        let mut now = Instant::now();
        let (mut tables, mut kernel) = (Tables::new(ROOMY), Kernel::default());
        play(&mut tables, &mut kernel, &steps, &mut now);
        let changes = tables.set(&name(SERVICES[last.0]), last.1.as_ref(), now).unwrap();
        let cut = cut.index(changes.len() + 1);
        apply(&mut kernel, &changes[..cut], now);

        let mut restored = Tables::restore(ROOMY, &kernel.snapshot(), now);
        let mut wish = Wish::default();
        for Step { service, plan, .. } in &more {
            wish.set(&name(SERVICES[*service]), plan.as_ref());
        }
        bring_all(&mut restored, &mut kernel, &wish, now);
        sweep(&mut restored, &mut kernel, after(now, 2_000));
        wish.assert_holds(&restored, &kernel);
        let again = Tables::restore(ROOMY, &kernel.snapshot(), after(now, 2_000));
        prop_assert_eq!(again.dump(), restored.dump());
    }
}
