//! `evenkeel-proxy`: the data plane alone, for images that need nothing else.

use std::process::ExitCode;

use clap::Parser;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The data plane of evenkeel: a gateway that runs rule files.
#[derive(Parser)]
#[command(name = "evenkeel-proxy", version, about)]
struct Args {
    #[command(flatten)]
    gateway: proxy::GatewayArgs,
}

fn main() -> ExitCode {
    proxy::run(Args::parse().gateway)
}
