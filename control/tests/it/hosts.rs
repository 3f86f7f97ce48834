//! Hosts without number at a gateway under control: nothing grows with them, at neither end. `e2e hosts` asks for more.

use e2e::hosts::{Arguments, measure};

#[test]
fn hosts_without_number_leave_nothing_behind() {
    let found = measure(&Arguments { hosts: 10_000, connections: 8 }).expect("a gateway that serves");
    assert!(found.problems().is_empty(), "{:#?}\n{found}", found.problems());
}
