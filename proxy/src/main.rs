//! `evenkeel-proxy`: the data plane alone, for images that need nothing else.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The data plane of evenkeel: a gateway, or with `proxy` a sidecar.
#[derive(Parser)]
#[command(
    name = "evenkeel-proxy",
    version,
    about,
    subcommand_negates_reqs = true,
    args_conflicts_with_subcommands = true
)]
struct Args {
    #[command(flatten)]
    gateway: proxy::GatewayArgs,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Run beside one instance of a Service: what comes in goes to it, and its calls go out to Services by their names
    Proxy(Box<proxy::SidecarArgs>),
}

fn main() -> ExitCode {
    let Args { gateway, command } = Args::parse();
    match command {
        None => proxy::run(gateway),
        Some(Command::Proxy(sidecar)) => proxy::run_sidecar(*sidecar),
    }
}
