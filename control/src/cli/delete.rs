//! `evenkeel delete`: one document goes. Cold.

use std::process::ExitCode;

use hyper::Method;

use crate::cli::apply::finish;
use crate::cli::client::{Client, Failure, PATIENCE, Server, path};
use crate::cli::get::object;
use crate::cli::kinds::kind;
use crate::cli::output::{Output, end};
use crate::cli::waiting::{Canary, Wait};
use crate::cli::why::Why;

/// What goes.
#[derive(clap::Args)]
pub struct DeleteArgs {
    /// Its kind
    kind: String,
    /// Its name
    name: String,
    /// Its namespace
    #[arg(short = 'n', long, value_name = "NAMESPACE", default_value = "default")]
    namespace: String,
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

/// Removes, and tells.
pub fn run(args: DeleteArgs) -> ExitCode {
    end(delete(&args))
}

fn delete(args: &DeleteArgs) -> Result<ExitCode, Failure> {
    let object = object(&kind(&args.kind)?, &args.namespace, &args.name);
    let client = Client::open(&args.server)?;
    let dry_run = args.dry_run.then_some("true");
    let [message, break_glass] = args.why.parameters();
    let bake = args.canary.bake();
    let canary = ("canary", args.canary.canary.as_deref());
    let parameters = [("dryRun", dry_run), message, break_glass, canary, ("bake", bake.as_deref())];
    let path = path(&object, &parameters);
    let answer = client.call(Method::DELETE, &path, Vec::new(), PATIENCE)?;
    finish(&client, answer, &args.wait, &args.output, |problem| problem["text"].as_str().unwrap_or_default().to_owned())
}
