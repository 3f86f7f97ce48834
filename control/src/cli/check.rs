//! `evenkeel check`: the same reading of rules as a gateway does, without one. Exit code 0: they can be used;
//! 1: they cannot, or `--strict` and there are warnings. Cold.

use std::path::PathBuf;
use std::process::ExitCode;

use config::Severity;

use crate::cli::output::{complain, say};

/// What to check.
#[derive(clap::Args)]
pub struct CheckArgs {
    /// Rule files and folders of them
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// Warnings count as errors
    #[arg(long)]
    strict: bool,
}

/// Tells all problems at once, on standard output; the verdict goes to standard error.
pub fn run(args: CheckArgs) -> ExitCode {
    let (snapshot, problems) = match config::load(&args.paths).result {
        Ok(checked) => (Some(checked.snapshot), checked.warnings),
        Err(problems) => (None, problems),
    };
    for problem in &problems {
        let severity = match problem.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        say(&format!("{severity}: {problem}\n"));
    }
    let of = |severity: Severity| problems.iter().filter(|problem| problem.severity == severity).count();
    let (errors, warnings) = (of(Severity::Error), of(Severity::Warning));
    match &snapshot {
        Some(snapshot) => {
            let rules: usize = snapshot.binds.iter().map(|bind| bind.table.rules().count()).sum();
            complain(format_args!(
                "ok: {}, {}, {}; {}",
                count(snapshot.binds.len(), "address"),
                count(rules, "rule"),
                count(snapshot.clusters.len(), "backend"),
                count(warnings, "warning")
            ));
        }
        None => complain(format_args!("refused: {}, {}", count(errors, "error"), count(warnings, "warning"))),
    }
    match snapshot.is_none() || (args.strict && warnings > 0) {
        true => ExitCode::FAILURE,
        false => ExitCode::SUCCESS,
    }
}

fn count(number: usize, noun: &str) -> String {
    match (number, noun.ends_with('s')) {
        (1, _) => format!("1 {noun}"),
        (_, true) => format!("{number} {noun}es"),
        (_, false) => format!("{number} {noun}s"),
    }
}
