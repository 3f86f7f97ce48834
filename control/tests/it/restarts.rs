//! The harness of rolling restarts itself, without sidecars: what nobody disturbs does not fail, and nothing is served twice.

use e2e::restarts::{Arguments, measure};

const DIRECT: Arguments = Arguments {
    restarts: 0,
    requests: 300,
    rate: 200,
    instances: 2,
    work: 2,
    control_kill: 0,
    direct: true,
    envoy: false,
};

#[test]
fn a_chain_that_nobody_disturbs_answers_each_request() {
    let found = measure(&DIRECT).expect("a run");
    assert!(found.is_good() && found.requests() >= 300 && found.restarts() == 0, "{found}");
}

#[test]
fn instances_that_are_replaced_serve_nothing_twice() {
    let found = measure(&Arguments { restarts: 6, ..DIRECT }).expect("a run");
    // How many requests fail is chance.
    assert_eq!((found.restarts(), found.duplicated()), (6, 0), "{found}");
    assert!(found.requests() >= 300 && found.failed() < found.requests() / 2, "{found}");
}
