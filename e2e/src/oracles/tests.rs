//! A small count of mutations; the program shows more.
use super::*;

#[test]
fn others_agree_or_a_row_says_why_not() {
    let report = ask(1, 200).expect("node, python3, haproxy and nginx are there or can be installed");
    assert!(report.findings.is_empty(), "seed 1\n{report}");
}
