//! `evenkeel`: everything an operator runs, in one binary. Each subcommand is a file in `cli`. Cold.

mod access;
mod cli;
mod diff;
mod log;
mod registry;
mod server;
mod store;

use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Traffic in clusters of services, kept on an even keel.
#[derive(Parser)]
#[command(name = "evenkeel", version, about, disable_help_subcommand = true)]
struct Args {
    /// End when this process, which started it, does: what `up` starts its children with.
    #[arg(long, value_name = "PID", hide = true)]
    ends_with: Option<u32>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Try it: control, a gateway, a shop of four services in lanes with sidecars, traffic, and a view of what becomes of it
    Up(cli::up::UpArgs),
    /// Run a gateway with rule files
    Gateway(Box<proxy::GatewayArgs>),
    /// Run beside one instance of a Service: what comes in goes to it, and its calls go out to Services by their names
    Proxy(Box<proxy::SidecarArgs>),
    /// Run the control server: documents with history, checked before they are kept, over a REST API
    Control(cli::control::ControlCommand),
    /// Tell what a request would meet at a running gateway: listener, lane, route, policies, endpoint
    Explain(cli::explain::ExplainArgs),
    /// Tell all that is wrong with rule files, and change nothing
    Check(cli::check::CheckArgs),
    /// Print the JSON Schema of the rule language
    Schema,
    /// Make what rule files say so at the control server, and wait until it is in force everywhere
    Apply(cli::apply::ApplyArgs),
    /// Tell what some proxies try before all others; make it everybody's, or take it back
    Canary(cli::canary::CanaryArgs),
    /// Tell what apply would change
    Diff(cli::diff::DiffArgs),
    /// Tell which documents the control server keeps; which proxies, instances and drains there are
    Get(cli::get::GetArgs),
    /// Remove a document
    Delete(cli::delete::DeleteArgs),
    /// Draw each lane over the graph of calls: where it comes in, where the baseline serves it, where it leaks
    Lanes(cli::lanes::LanesArgs),
    /// Let an instance go: callers forget it, then it ends
    Drain(cli::drain::DrainArgs),
    /// Tell whether everything is in force everywhere, and if not, what is not where and why
    Status(cli::status::StatusArgs),
    /// Tell who changed what, when and why
    History(cli::history::HistoryArgs),
    /// Make everything as it was at a revision
    Rollback(cli::rollback::RollbackArgs),
    /// Print all documents as YAML that apply takes again
    Export(cli::export::ExportArgs),
    /// Limit the requests to a Service everywhere at once, for a while
    Emergency(cli::emergency::EmergencyArgs),
    /// Make, list and take back tokens
    Token(cli::token::TokenArgs),
    /// Print a script that lets a shell complete commands
    Completion(cli::completion::CompletionArgs),
}

fn main() -> ExitCode {
    let Args { ends_with, command } = Args::parse();
    if ends_with.is_some_and(|parent| !cli::up::end_with(parent)) {
        return ExitCode::FAILURE;
    }
    match command {
        Command::Up(args) => cli::up::run(args),
        Command::Gateway(args) => proxy::run(*args),
        Command::Proxy(args) => proxy::run_sidecar(*args),
        Command::Control(args) => cli::control::run(args),
        Command::Explain(args) => cli::explain::run(args),
        Command::Check(args) => cli::check::run(args),
        Command::Schema => cli::schema::run(),
        Command::Apply(args) => cli::apply::run(args),
        Command::Canary(args) => cli::canary::run(args),
        Command::Diff(args) => cli::diff::run(args),
        Command::Get(args) => cli::get::run(args),
        Command::Delete(args) => cli::delete::run(args),
        Command::Lanes(args) => cli::lanes::run(args),
        Command::Drain(args) => cli::drain::run(args),
        Command::Status(args) => cli::status::run(args),
        Command::History(args) => cli::history::run(args),
        Command::Rollback(args) => cli::rollback::run(args),
        Command::Export(args) => cli::export::run(args),
        Command::Emergency(args) => cli::emergency::run(args),
        Command::Token(args) => cli::token::run(args),
        Command::Completion(args) => cli::completion::run(args, Args::command()),
    }
}
