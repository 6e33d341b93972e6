//! Backends are chosen evenly, and of the service's own.

use std::{collections::BTreeMap, net::SocketAddr};

use proxy_common::reason::Reason;
use shunt_tests::{
    Family, gate,
    test_run::{NEEDS, Verdict},
};

use crate::expect::{POD_INGRESS, Setup, pod_at, service_at, syn};

const BACKENDS: [u8; 10] = [10, 11, 12, 13, 14, 15, 16, 17, 18, 19];
const FLOWS: u16 = 10_000;
/// With nine degrees of freedom a larger value has p < 0.001.
const LIMIT: f64 = 27.88;

/// The seed is the node's own and drawn when its maps are made, so that an unlucky one in a thousand is unlucky once.
#[test]
fn ten_thousand_flows_spread_evenly() {
    if gate::skip(NEEDS) {
        return;
    }
    for family in Family::ALL {
        let values: Vec<f64> = (0..2).map(|_| chi_square(family)).take_while(|value| *value >= LIMIT).collect();
        assert!(values.len() < 2, "{family}: {values:?} with two seeds");
    }
}

fn chi_square(family: Family) -> f64 {
    let mut setup = Setup::new();
    setup.serve(1, &BACKENDS);
    let mut counts: BTreeMap<SocketAddr, f64> = BACKENDS.iter().map(|pod| (pod_at(family, *pod, 8080), 0.0)).collect();
    let service = service_at(family, 1);
    for port in 0..FLOWS {
        let backend = setup.backend(&syn(pod_at(family, 3, 20_000 + port), service));
        *counts.get_mut(&backend).expect("a backend of the service") += 1.0;
    }
    let expected = f64::from(FLOWS) / 10.0;
    counts.values().map(|count| (count - expected).powi(2) / expected).sum()
}

/// The daemon gives a slot away only after it has rested; a program that has read the row before that would find another service's backend there.
#[test]
fn a_backend_of_another_service_is_not_chosen() {
    if gate::skip(NEEDS) {
        return;
    }
    let mut setup = Setup::new();
    setup.serve(1, &[10]);
    setup.serve(2, &[11]);
    setup.node.reverse_slots().unwrap();
    for (family, service) in Family::ALL.into_iter().flat_map(|family| [1, 2].map(|service| (family, service))) {
        let ran = setup.node.run(POD_INGRESS, &syn(pod_at(family, 3, 40_000), service_at(family, service)).build()).unwrap();
        assert_eq!(ran.verdict, Verdict::Shot);
        setup.assert_counted(&[Reason::StaleSlot]);
    }
}
