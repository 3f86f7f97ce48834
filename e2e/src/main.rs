//! The command line of the harness. What it can do is the library's business. Cold.

#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser;

/// As the gateway has: what is simulated of it costs what it costs there.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Whole processes and real sockets: measures evenkeel beside its peers, and repeats what must never fail.
#[derive(Parser)]
#[command(name = "e2e")]
enum Command {
    /// Measure proxies beside each other
    Bench(e2e::bench::Arguments),
    /// Hold what is explained against what is served
    Explain(e2e::explain::Arguments),
    /// Measure a control server with ten thousand proxies
    Fleet(e2e::fleet::Arguments),
    /// Ask a gateway under control for very many Hosts
    Hosts(e2e::hosts::Arguments),
    /// Send requests of several lanes through eight services, and lose some on the way
    Lanes(e2e::lanes::Arguments),
    /// Ask llhttp, h11, HAProxy and nginx what they make of mutated requests
    Oracles(e2e::oracles::Arguments),
    /// Replace instances of a chain of services under load: no request may fail
    Restarts(e2e::restarts::Arguments),
    /// Repeat what must never fail
    Soak(e2e::soak::Arguments),
    /// Measure what control keeps: changes a second, and a start with very many documents
    Store(e2e::store::Arguments),
}

fn main() -> e2e::Outcome<ExitCode> {
    let good = match Command::parse() {
        Command::Bench(arguments) => e2e::bench::run(&arguments)?,
        Command::Explain(arguments) => e2e::explain::run(&arguments)?,
        Command::Fleet(arguments) => e2e::fleet::run(&arguments)?,
        Command::Hosts(arguments) => e2e::hosts::run(&arguments)?,
        Command::Lanes(arguments) => e2e::lanes::run(&arguments)?,
        Command::Oracles(arguments) => e2e::oracles::run(&arguments)?,
        Command::Restarts(arguments) => e2e::restarts::run(&arguments)?,
        Command::Soak(arguments) => e2e::soak::run(&arguments)?,
        Command::Store(arguments) => e2e::store::run(&arguments)?,
    };
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
