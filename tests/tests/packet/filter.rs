//! The service filter: a packet is looked up wherever something is known, and after a while nowhere else.

use proxy_common::{filter::About, reason::Reason};
use shunt_tests::{Family, gate, packet::Packet, test_run::NEEDS};

use crate::expect::{POD_EGRESS, POD_INGRESS, Setup, accept, data, pod_at, service_at, syn};

/// For each family, a packet to the Service and the answer to it.
fn exchanges() -> [[Packet; 2]; 2] {
    Family::ALL.map(|family| {
        let (client, backend) = (pod_at(family, 3, 40_000), pod_at(family, 10, 8080));
        [data(client, service_at(family, 1)), accept(backend, client)]
    })
}

/// Nothing is known any more, and packets pass.
#[track_caller]
fn assert_forgotten(setup: &mut Setup) {
    for [question, answer] in exchanges() {
        assert!(
            !setup.node.is_marked(About::Entering, question.dst).unwrap() && !setup.node.is_marked(About::Leaving, answer.src).unwrap()
        );
        for (hook, packet) in [(POD_INGRESS, question), (POD_EGRESS, answer)] {
            let frame = packet.build();
            assert_eq!(setup.node.run(hook, &frame).unwrap().frame, frame);
            setup.assert_counted(&[Reason::NoService]);
        }
    }
}

#[test]
fn marks_stay_as_long_as_a_frontend_or_a_flow() {
    if gate::skip(NEEDS) {
        return;
    }
    let mut setup = Setup::new();
    assert_forgotten(&mut setup);
    setup.serve(1, &[10]);
    for [question, _] in exchanges() {
        setup.backend(&syn(question.src, question.dst));
    }
    setup.cluster.delete_service("s1");
    setup.node.apply(&setup.cluster.plans()).unwrap();
    for _ in 0..3 {
        setup.node.age_filter().unwrap();
        for [question, answer] in exchanges() {
            setup.backend(&question);
            setup.translated(POD_EGRESS, &answer);
        }
    }
    setup.node.forget_flows().unwrap();
    assert!(
        exchanges().iter().all(|[question, _]| setup.node.is_marked(About::Entering, question.dst).unwrap()),
        "only the daemon takes marks back"
    );
    setup.node.age_filter().unwrap();
    setup.ignore_counted();
    assert_forgotten(&mut setup);
    setup.serve(1, &[10]);
    for [question, answer] in exchanges() {
        setup.backend(&syn(question.src, question.dst));
        setup.translated(POD_EGRESS, &answer);
    }
}

/// What goes to a backend by itself is not looked up for what its clients at Services have there.
#[test]
fn a_flows_answers_mark_nothing_where_packets_enter() {
    if gate::skip(NEEDS) {
        return;
    }
    let mut setup = Setup::new();
    setup.serve(1, &[10]);
    for [question, answer] in exchanges() {
        setup.backend(&question);
        assert!(setup.node.is_marked(About::Leaving, answer.src).unwrap());
        assert!(!setup.node.is_marked(About::Entering, answer.src).unwrap());
        setup.passed(POD_INGRESS, &data(answer.dst, answer.src));
    }
}

/// For as long as a socket is connected to it: years, perhaps.
#[test]
fn a_backend_that_a_socket_was_given_stays_marked() {
    if gate::skip(NEEDS) {
        return;
    }
    let mut setup = Setup::new();
    let backend = "10.244.1.10:8080".parse().unwrap();
    setup.node.set_socket_given(true, backend).unwrap();
    for given in [true, false] {
        for _ in 0..3 {
            setup.node.age_filter().unwrap();
        }
        assert_eq!(setup.node.is_marked(About::Given, backend.into()).unwrap(), given);
        setup.node.set_socket_given(false, backend).unwrap();
    }
}

#[test]
fn what_is_made_while_marks_are_taken_back_keeps_its_own() {
    if gate::skip(NEEDS) {
        return;
    }
    let mut setup = Setup::new();
    setup.serve(1, &[10]);
    let [[question, answer], _] = exchanges();
    for _ in 0..3 {
        // The answer's mark is old from the flow before, or gone.
        setup.node.age_filter().unwrap();
        setup.backend(&syn(question.src, question.dst));
        setup.node.age_filter().unwrap();
        setup.translated(POD_EGRESS, &answer);
        setup.node.forget_flows().unwrap();
    }
}
