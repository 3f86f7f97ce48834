//! `evenkeel`: everything an operator runs, in one binary. Each subcommand is a file in `cli`. Cold.

mod cli;
mod server;
mod store;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Traffic in clusters of services, kept on an even keel.
#[derive(Parser)]
#[command(name = "evenkeel", version, about, disable_help_subcommand = true)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Try it: a gateway, a shop of four services in lanes behind it, traffic, and a view of what becomes of it
    Up(cli::up::UpArgs),
    /// Run a gateway with rule files
    Gateway(proxy::GatewayArgs),
    /// Run the control server: documents with history, checked before they are kept, over a REST API
    Control(cli::control::ControlArgs),
    /// Tell what a request would meet at a running gateway: listener, lane, route, policies, endpoint
    Explain(cli::explain::ExplainArgs),
    /// Tell all that is wrong with rule files, and change nothing
    Check(cli::check::CheckArgs),
    /// Print the JSON Schema of the rule language
    Schema,
}

fn main() -> ExitCode {
    match Args::parse().command {
        Command::Up(args) => cli::up::run(args),
        Command::Gateway(args) => proxy::run(args),
        Command::Control(args) => cli::control::run(args),
        Command::Explain(args) => cli::explain::run(args),
        Command::Check(args) => cli::check::run(args),
        Command::Schema => cli::schema::run(),
    }
}
