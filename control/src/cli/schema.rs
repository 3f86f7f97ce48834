//! `evenkeel schema`: the rule language as JSON Schema, for editors. Cold.

use std::process::ExitCode;

use crate::cli::output::say;

/// Prints it.
pub fn run() -> ExitCode {
    let schema = serde_json::to_string_pretty(&config::schema()).expect("a JSON value can be written");
    say(&format!("{schema}\n"));
    ExitCode::SUCCESS
}
