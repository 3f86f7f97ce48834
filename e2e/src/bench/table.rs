//! Prints what was measured as Markdown: ratios first, then the cells behind them. Pure.

use std::fmt::Write;

use super::cell::Cell;
use super::ratio::{Spread, ratios, spread};

/// At saturation the proxy's CPU must be this busy, else the generator was the limit.
const SATURATED_PERCENT: f64 = 97.0;

/// All cells of one workload.
pub(crate) struct Row {
    pub(crate) title: String,
    /// Of the contenders, in the order of the cells of a round.
    pub(crate) labels: Vec<String>,
    pub(crate) saturated: bool,
    /// `rounds[round][contender]`; a void cell is `None`.
    pub(crate) rounds: Vec<Vec<Option<Cell>>>,
    pub(crate) voids: Vec<String>,
}

impl Row {
    /// Whether no cell is void.
    pub(crate) fn is_whole(&self) -> bool {
        self.voids.is_empty()
    }

    fn base(&self) -> usize {
        self.labels.iter().position(|label| label == "haproxy").unwrap_or(0)
    }

    fn cpu_us(&self) -> Vec<Vec<Option<f64>>> {
        let figures = |round: &Vec<Option<Cell>>| round.iter().map(|cell| Some(cell.as_ref()?.cpu_us)).collect();
        self.rounds.iter().map(figures).collect()
    }

    fn spread(&self, contender: usize, figure: impl Fn(&Cell) -> f64) -> Option<Spread> {
        spread(self.rounds.iter().filter_map(|round| round[contender].as_ref()).map(figure))
    }
}

/// CPU time of the base, and the ratio of each other proxy to it, median and range.
fn ratios_of(row: &Row, contender: usize) -> String {
    match ratios(&row.cpu_us(), contender, row.base()) {
        Some(Spread { median, min, max }) => format!("{median:.2} [{min:.2}-{max:.2}]"),
        None => "VOID".into(),
    }
}

/// One line per workload. All rows must have the same contenders.
pub(crate) fn ratios_table(rows: &[Row]) -> String {
    let mut text = String::new();
    let Some(first) = rows.first() else { return text };
    let (base, others) = (first.base(), (0..first.labels.len()).filter(|index| *index != first.base()));
    let others: Vec<usize> = others.collect();
    write!(text, "| CPU per request | {} µs |", first.labels[base]).expect(INFALLIBLE);
    for other in &others {
        write!(text, " {} ratio |", first.labels[*other]).expect(INFALLIBLE);
    }
    text.push_str("\n|---|---|");
    text.push_str(&"---|".repeat(others.len()));
    for row in rows {
        let cpu_us = match row.spread(base, |cell| cell.cpu_us) {
            Some(Spread { median, min, max }) => format!("{median:.1} [{min:.1}-{max:.1}]"),
            None => "VOID".into(),
        };
        write!(text, "\n| {} | {cpu_us} |", row.title).expect(INFALLIBLE);
        for other in &others {
            write!(text, " {} |", ratios_of(row, *other)).expect(INFALLIBLE);
        }
    }
    text.push('\n');
    text
}

const INFALLIBLE: &str = "a String takes all";

/// One line per workload and proxy: medians of the cells, and what disturbed them.
pub(crate) fn details(rows: &[Row]) -> String {
    let mut text = String::from(
        "| workload | proxy | µs per request | requests/s | CPU 0 busy | foreign | steal | latency p50/p99/p99.9 µs | notes |\n\
         |---|---|---|---|---|---|---|---|---|\n",
    );
    for row in rows {
        for (contender, label) in row.labels.iter().enumerate() {
            if row.rounds.iter().all(|round| round[contender].is_none()) {
                writeln!(text, "| {} | {label} | VOID | - | - | - | - | - | |", row.title).expect(INFALLIBLE);
                continue;
            }
            let median = |figure: fn(&Cell) -> f64| row.spread(contender, figure).map_or(f64::NAN, |it| it.median);
            writeln!(
                text,
                "| {} | {label} | {:.2} | {:.0} | {:.0} % | {:.1} % | {:.1} % | {} | {} |",
                row.title,
                median(|cell| cell.cpu_us),
                median(|cell| cell.per_second),
                median(|cell| cell.busy_percent),
                median(|cell| cell.foreign_percent),
                median(|cell| cell.steal_percent),
                latency(row, contender),
                notes(row, contender),
            )
            .expect(INFALLIBLE);
        }
    }
    for void in rows.iter().flat_map(|row| &row.voids) {
        writeln!(text, "\n{void}").expect(INFALLIBLE);
    }
    text
}

fn latency(row: &Row, contender: usize) -> String {
    let median = |figure: fn(&crate::load::Latency) -> f64| {
        let cells = row.rounds.iter().filter_map(|round| round[contender].as_ref());
        spread(cells.filter_map(|cell| cell.latency.as_ref()).map(figure)).map(|it| it.median)
    };
    match (median(|it| it.p50_us), median(|it| it.p99_us), median(|it| it.p999_us)) {
        (Some(p50), Some(p99), Some(p999)) => format!("{p50:.0}/{p99:.0}/{p999:.0}"),
        _ => "-".into(),
    }
}

fn notes(row: &Row, contender: usize) -> String {
    let cells: Vec<&Cell> = row.rounds.iter().filter_map(|round| round[contender].as_ref()).collect();
    let mut notes = Vec::new();
    let idle = cells.iter().filter(|cell| cell.busy_percent < SATURATED_PERCENT).count();
    if row.saturated && idle > 0 {
        notes.push(format!("{idle} of {} cells not saturated: only CPU per request counts", cells.len()));
    }
    let overloaded = cells.iter().filter(|cell| cell.busy_percent >= SATURATED_PERCENT).count();
    if !row.saturated && overloaded > 0 {
        notes.push(format!("{overloaded} of {} cells overloaded: latency is that of a growing queue", cells.len()));
    }
    let repeats: u32 = cells.iter().map(|cell| cell.attempts - 1).sum();
    if repeats > 0 {
        notes.push(format!("{repeats} repeats"));
    }
    let noisy = cells.iter().filter(|cell| !cell.is_quiet()).count();
    if noisy > 0 {
        notes.push(format!("{noisy} noisy"));
    }
    if row.rounds.len() > cells.len() {
        notes.push(format!("{} VOID", row.rounds.len() - cells.len()));
    }
    notes.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cell(cpu_us: f64) -> Option<Cell> {
        Some(Cell { cpu_us, busy_percent: 99.0, attempts: 1, ..Cell::default() })
    }

    #[test]
    fn the_ratio_table_compares_with_haproxy_wherever_it_stands() {
        let row = Row {
            title: "GET".into(),
            labels: vec!["nginx".into(), "haproxy".into(), "evenkeel".into()],
            saturated: true,
            rounds: vec![vec![cell(9.0), cell(10.0), cell(6.0)], vec![cell(8.0), cell(10.0), None]],
            voids: vec!["GET, round 2, evenkeel: VOID: x".into()],
        };
        assert_eq!(
            ratios_table(std::slice::from_ref(&row)),
            "| CPU per request | haproxy µs | nginx ratio | evenkeel ratio |\n|---|---|---|---|\n\
             | GET | 10.0 [10.0-10.0] | 0.85 [0.80-0.90] | 0.60 [0.60-0.60] |\n"
        );
        assert!(!row.is_whole());
        assert!(details(&[row]).contains("1 VOID |"));
    }
}
