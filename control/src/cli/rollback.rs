//! `evenkeel rollback`: everything, or a kind or namespace of it, as it was at a revision; as a new revision. Cold.

use std::process::ExitCode;

use crate::cli::apply::finish;
use crate::cli::client::{Client, Failure, Server, path};
use crate::cli::kinds::kind;
use crate::cli::output::{Output, end};
use crate::cli::waiting::{Canary, Wait};
use crate::cli::why::Why;

/// Where to go back to.
#[derive(clap::Args)]
pub struct RollbackArgs {
    /// The revision whose state shall be again
    revision: u64,
    /// Only documents of this kind
    #[arg(long, value_name = "KIND")]
    kind: Option<String>,
    /// Only documents of this namespace
    #[arg(short = 'n', long, value_name = "NAMESPACE")]
    namespace: Option<String>,
    #[command(flatten)]
    wait: Wait,
    #[command(flatten)]
    canary: Canary,
    /// Tell what it would come to, and change nothing
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    why: Why,
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    server: Server,
}

/// Goes back, and tells.
pub fn run(args: RollbackArgs) -> ExitCode {
    end(rollback(&args))
}

fn rollback(args: &RollbackArgs) -> Result<ExitCode, Failure> {
    let kind = args.kind.as_deref().map(kind).transpose()?;
    let client = Client::open(&args.server)?;
    let [message, break_glass] = args.why.parameters();
    let bake = args.canary.bake();
    let parameters = [
        ("revision", Some(&*args.revision.to_string())),
        ("kind", kind.as_deref()),
        ("namespace", args.namespace.as_deref()),
        ("dryRun", args.dry_run.then_some("true")),
        message,
        break_glass,
        ("canary", args.canary.canary.as_deref()),
        ("bake", bake.as_deref()),
    ];
    let answer = client.post(&path("/api/v1/rollback", &parameters), Vec::new())?;
    finish(&client, answer, &args.wait, &args.output, |problem| problem["text"].as_str().unwrap_or_default().to_owned())
}
