//! `evenkeel export`: every document as YAML that `apply` takes again, always in the same order. Cold.

use std::process::ExitCode;

use crate::cli::client::{Client, Failure, Server};
use crate::cli::output::{Form, Output, documents, end, print};

/// From where.
#[derive(clap::Args)]
pub struct ExportArgs {
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    server: Server,
}

/// Prints all.
pub fn run(args: ExportArgs) -> ExitCode {
    end(export(&args))
}

fn export(args: &ExportArgs) -> Result<ExitCode, Failure> {
    let answer = Client::open(&args.server)?.get("/api/v1/objects")?;
    match args.output.form {
        Form::Json => drop(args.output.tell_raw(&answer)),
        _ => {
            let all = answer["objects"].as_array().map_or(&[][..], Vec::as_slice);
            print(&documents(all.iter().map(|one| &one["object"])));
        }
    }
    Ok(ExitCode::SUCCESS)
}
