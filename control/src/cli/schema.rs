//! `evenkeel schema`: the rule language as JSON Schema, for editors. Cold.

use std::io::Write;
use std::process::ExitCode;

/// Prints it.
pub fn run() -> ExitCode {
    let schema = serde_json::to_string_pretty(&config::schema()).expect("a JSON value can be written");
    // A reader such as `head` may have seen enough.
    let _ = writeln!(std::io::stdout(), "{schema}");
    ExitCode::SUCCESS
}
