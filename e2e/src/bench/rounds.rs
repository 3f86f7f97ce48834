//! Interleaves the cells of a workload: each round has every proxy once, each time another one first, so that what
//! drifts drifts for all. What the cells mean is `ratio`'s and `table`'s business. Cold.

use std::time::Duration;

use super::cell::{self, Cell};
use super::table::Row;
use super::workload::Workload;
use crate::Outcome;
use crate::load::{Lab, Request};
use crate::peers::Running;

/// A proxy that takes part in a workload.
pub(crate) struct Contender {
    pub(crate) label: String,
    pub(crate) workload: Workload,
    pub(crate) requests: Vec<Request>,
    pub(crate) running: Running,
}

/// Measures all contenders `count` times.
pub(crate) fn run(
    lab: &mut Lab,
    title: &str,
    contenders: &[Contender],
    count: u32,
    cell_time: Duration,
) -> Outcome<Row> {
    let mut rounds = Vec::new();
    let mut voids: Vec<String> = Vec::new();
    for number in 0..count as usize {
        let mut round: Vec<Option<Cell>> = vec![None; contenders.len()];
        for place in 0..contenders.len() {
            let subject = (number + place) % contenders.len();
            let label = &contenders[subject].label;
            match cell::measure(lab, contenders, subject, cell_time)? {
                Ok(cell) => {
                    eprintln!("{title}, round {}, {label}: {:.2} µs per request", number + 1, cell.cpu_us);
                    round[subject] = Some(cell);
                }
                Err(void) => {
                    eprintln!("{title}, round {}, {label}: {void}", number + 1);
                    voids.push(format!("{title}, round {}, {label}: {void}", number + 1));
                }
            }
        }
        rounds.push(round);
    }
    let labels = contenders.iter().map(|contender| contender.label.clone()).collect();
    let saturated = contenders.iter().all(|contender| contender.workload.saturates());
    Ok(Row { title: title.to_owned(), labels, saturated, rounds, voids })
}
