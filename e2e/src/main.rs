//! The command line of the harness. What it can do is the library's business. Cold.

#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser;

/// Whole processes and real sockets: measures evenkeel beside its peers.
#[derive(Parser)]
#[command(name = "e2e")]
enum Command {
    /// Measure proxies beside each other
    Bench(e2e::bench::Arguments),
}

fn main() -> e2e::Outcome<ExitCode> {
    let Command::Bench(arguments) = Command::parse();
    let good = e2e::bench::run(&arguments)?;
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
