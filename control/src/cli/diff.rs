//! `evenkeel diff`: what `apply` would change, field by field, and nothing is. Exit code 0: nothing; 1: something; 2: it cannot
//! be told, or is wrong. Cold.

use std::process::ExitCode;

use serde_json::Value;

use crate::cli::client::{Client, Failure, Server};
use crate::cli::input::{Input, Paths};
use crate::cli::output::{Output, complain, end, say};

/// What to compare.
#[derive(clap::Args)]
pub struct DiffArgs {
    #[command(flatten)]
    paths: Paths,
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    server: Server,
}

/// Fields shown of one document unless all are asked for.
const FIELDS_MAX: usize = 10;
/// Documents shown unless all are asked for.
const DOCUMENTS_MAX: usize = 10;

/// Compares, and tells.
pub fn run(args: DiffArgs) -> ExitCode {
    match diff(&args) {
        Ok(code) => code,
        Err(failure) => {
            end(Err(failure));
            ExitCode::from(2)
        }
    }
}

fn diff(args: &DiffArgs) -> Result<ExitCode, Failure> {
    let input = Input::read(&args.paths)?;
    let client = Client::open(&args.server)?;
    let answer = client.post("/api/v1/objects?dryRun=true", input.body.clone());
    let answer = answer.map_err(|failure| input.located(failure))?;
    let changes = answer["changes"].as_array().map_or(&[][..], Vec::as_slice);
    if !args.output.tell_raw(&answer) {
        say(&text(changes, args.output.full));
    }
    if let Some(refusal) = Failure::of_dry_run(&answer) {
        complain(format_args!("apply would be refused now: {refusal}"));
    }
    Ok(if changes.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn text(changes: &[Value], is_full: bool) -> String {
    let mut text = String::new();
    let shown = if is_full { changes.len() } else { changes.len().min(DOCUMENTS_MAX) };
    for change in &changes[..shown] {
        let word = |name: &str| change[name].as_str().unwrap_or_default();
        text += &format!("{:<7}  {}\n", word("change"), word("object"));
        let fields = lines(&change["differences"]);
        let shown = if is_full { fields.len() } else { fields.len().min(FIELDS_MAX) };
        fields[..shown].iter().for_each(|field| text += &format!("  {field}\n"));
        if shown < fields.len() {
            text += &format!("  ... and {} more fields; --full shows all\n", fields.len() - shown);
        }
    }
    if shown < changes.len() {
        text += &format!("... and {} more documents; --full shows all\n", changes.len() - shown);
    }
    text
}

/// A line for each field: how it was, and how it is. Those of a document that came or went say nothing more.
pub fn lines(differences: &Value) -> Vec<String> {
    let value = |value: &Value| if value.is_null() { "(nothing)".to_owned() } else { value.to_string() };
    let fields = differences.as_array().into_iter().flatten().filter(|one| one["field"] != "");
    fields
        .map(|one| {
            let field = one["field"].as_str().unwrap_or_default();
            format!("{field}: {} -> {}", value(&one["before"]), value(&one["after"]))
        })
        .collect()
}
