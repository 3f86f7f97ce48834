//! Second opinions on HTTP/1.1 that share no code with ours. Requests of a corpus are mutated with a seed and shown
//! to `proxy::h1` and to llhttp, h11, HAProxy and nginx. Two questions: do they accept what we accept and refuse what
//! we refuse, and what both accept, do they read with the same head, body and end? A difference is a row in
//! `differences` with the clause that settles it, or it is a finding. Cold.

mod backend;
mod compose;
mod corpus;
mod differences;
mod gateway;
mod mutate;
mod ours;
mod parser;
mod reading;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::Path;

use crate::Outcome;

use differences::{Row, row_for};
use gateway::Gateway;
use ours::Ours;
use parser::Parser;
use reading::Verdict;

/// Whose opinion it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Peer {
    /// Node's parser.
    Llhttp,
    /// Python's sans-io implementation.
    H11,
    /// HAProxy as a gateway, in strict mode as it comes.
    Haproxy,
    /// nginx as a gateway.
    Nginx,
}

/// What was found.
#[derive(Debug, Default)]
pub struct Report {
    /// Requests shown.
    pub shown: u64,
    /// How many of them we accept.
    pub accepted: u64,
    /// Opinions that agree with ours.
    pub agreed: u64,
    /// Opinions that differ as a row says: how often, by the row's words.
    pub explained: BTreeMap<String, u64>,
    /// Opinions that differ and should not: how often, and the first request with both readings.
    pub findings: BTreeMap<String, (u64, String)>,
}

/// What to show.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// How many mutations, after the corpus itself
    #[arg(long, default_value_t = 100_000)]
    pub count: u64,
    /// The same seed makes the same mutations
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
}

/// Asks everybody, prints what they say, and tells whether nothing is left to explain.
pub fn run(arguments: &Arguments) -> Outcome<bool> {
    let report = ask(arguments.seed, arguments.count)?;
    println!("{report}");
    Ok(report.findings.is_empty())
}

/// Shows the corpus and then `count` mutations of it to all peers.
pub fn ask(seed: u64, count: u64) -> Outcome<Report> {
    // Beside what else is built; cargo may have been told of another place, which costs one more installation.
    let venv = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/h11-venv");
    let mut parsers = [(Peer::Llhttp, Parser::llhttp()?), (Peer::H11, Parser::h11(&venv)?)];
    let mut gateways = [(Peer::Haproxy, Gateway::haproxy()?), (Peer::Nginx, Gateway::nginx()?)];
    let mut report = Report::default();
    let mutations = (0..count).map(|index| mutate::mutation(seed, index));
    for input in corpus::requests().into_iter().chain(mutations) {
        let ours = Ours::of(&input);
        report.shown += 1;
        report.accepted += u64::from(matches!(ours.verdict, Verdict::Accepted(_)));
        for (peer, parser) in &mut parsers {
            let theirs = parser.judge(&input)?;
            report.add(*peer, &ours, &theirs, ours.difference_as_parsers(&theirs), &input);
            // What we send on leaves nothing to opinions.
            if let Verdict::Accepted(sent) = &ours.sent {
                let theirs = parser.judge(&ours.sent_bytes)?;
                let said = ours::difference(sent, &theirs);
                report.add(*peer, &ours, &theirs, said.map(|said| format!("sent: {said}")), &ours.sent_bytes);
            }
        }
        if matches!(ours.verdict, Verdict::Unfinished) {
            continue; // A gateway would take what follows for the rest.
        }
        // What follows the request is the gateway's own business.
        let end = if let Verdict::Accepted(came) = &ours.verdict { came.end } else { None };
        for (peer, gateway) in &mut gateways {
            let theirs = gateway.judge(&input[..end.unwrap_or(input.len())])?;
            report.add(*peer, &ours, &theirs, ours.difference_as_gateways(&theirs), &input);
        }
    }
    Ok(report)
}

impl Report {
    fn add(&mut self, peer: Peer, ours: &Ours, theirs: &Verdict, difference: Option<String>, input: &[u8]) {
        let Some(said) = difference else {
            self.agreed += 1;
            return;
        };
        if let Some(Row { said, clause, why, .. }) = row_for(peer, ours, &said, input) {
            let key = format!("{peer:?} {why}: we say {}, they {said} ({clause})", ours.word());
            *self.explained.entry(key).or_default() += 1;
            return;
        }
        // The beginning tells kinds apart; what follows may be the request.
        let key = format!("{peer:?}: we say {}, they {said:.40}", ours.word());
        let example = || format!("{}\n    we:   {:?}\n    they: {theirs:?}", input.escape_ascii(), ours.verdict);
        self.findings.entry(key).or_insert_with(|| (0, example())).0 += 1;
    }
}

impl std::fmt::Display for Report {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Report { shown, accepted, agreed, explained, findings } = self;
        writeln!(formatter, "{shown} requests, {accepted} accepted; {agreed} opinions agree")?;
        for (row, times) in explained {
            writeln!(formatter, "{times:8} {row}")?;
        }
        for (finding, (times, example)) in findings {
            writeln!(formatter, "{times:8} FINDING {finding}\n    {example}")?;
        }
        write!(formatter, "{} kinds of findings", findings.len())
    }
}
