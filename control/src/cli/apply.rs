//! `evenkeel apply`: makes what files say so, all of it or nothing, and with `--wait` tells whether it is in force everywhere.
//! Exit code 0: done; 1: refused, or not in force in time; 2: it cannot be read. Cold.

use std::process::ExitCode;
use std::time::Duration;

use serde_json::Value;

use crate::cli::client::{Client, Failure, Server, path};
use crate::cli::input::{Input, Paths};
use crate::cli::output::{Output, complain, end, say};
use crate::cli::table::{ROWS_MAX, count};
use crate::cli::waiting::{Canary, Wait};
use crate::cli::why::Why;

/// What to apply.
#[derive(clap::Args)]
pub struct ApplyArgs {
    #[command(flatten)]
    paths: Paths,
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

/// Applies, waits, and tells.
pub fn run(args: ApplyArgs) -> ExitCode {
    end(apply(&args))
}

fn apply(args: &ApplyArgs) -> Result<ExitCode, Failure> {
    let input = Input::read(&args.paths)?;
    let client = Client::open(&args.server)?;
    let dry_run = args.dry_run.then_some("true");
    let [message, break_glass] = args.why.parameters();
    let bake = args.canary.bake();
    let canary = ("canary", args.canary.canary.as_deref());
    let parameters = [("dryRun", dry_run), message, break_glass, canary, ("bake", bake.as_deref())];
    let path = path("/api/v1/objects", &parameters);
    let answer = client.post(&path, input.body.clone()).map_err(|failure| input.located(failure))?;
    finish(&client, answer, &args.wait, &args.output, |problem| input.text(problem))
}

/// Tells what a change came to, and what becomes of it if that is asked for.
pub fn finish(
    client: &Client,
    mut answer: Value,
    wait: &Wait,
    output: &Output,
    warning: impl Fn(&Value) -> String,
) -> Result<ExitCode, Failure> {
    let bake = Duration::from_millis(answer["canary"]["bakeMilliseconds"].as_u64().unwrap_or(0));
    let (revision, is_dry) = (answer["revision"].as_u64().unwrap_or(0), answer["dryRun"] == true);
    let people = output.form == crate::cli::output::Form::Table;
    if people {
        say(&changes(&answer, output.full));
        for kept in answer["kept"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            say(&format!("kept     {kept}: evenkeel emergency end takes it away\n"));
        }
        let changes = answer["changes"].as_array().into_iter().flatten();
        for problem in changes.flat_map(|change| change["warnings"].as_array().into_iter().flatten()) {
            complain(format_args!("warning: {}", warning(problem)));
        }
        let elsewhere = answer["warnings"]["first"].as_array().map_or(&[][..], Vec::as_slice);
        elsewhere.iter().for_each(|problem| complain(format_args!("warning: {}", stored(problem))));
        let more = (answer["warnings"]["count"].as_u64().unwrap_or(0) as usize).saturating_sub(elsewhere.len());
        if more > 0 {
            complain(format_args!(
                "warning: and {} about other documents; evenkeel status names them",
                count(more, "more", "more")
            ));
        }
    }
    let refusal = Failure::of_dry_run(&answer);
    let asked = if is_dry { Ok(None) } else { wait.ask(client, revision, bake) };
    let outcome = asked
        .inspect_err(|_| complain(format_args!("revision {revision} is made; where it is in force is not known:")))?;
    if let Some(outcome) = &outcome {
        answer["wait"] = outcome.answer.clone();
    }
    if !output.tell_raw(&answer) {
        match &outcome {
            Some(outcome) => say(&outcome.text()),
            None => say(&format!("{}\n", verdict(&answer, revision, is_dry))),
        }
    }
    if let Some(refusal) = refusal {
        complain(format_args!("and now it would be refused: {refusal}"));
        return Ok(ExitCode::FAILURE);
    }
    Ok(outcome.map_or(ExitCode::SUCCESS, |outcome| outcome.exit_code()))
}

/// A warning about a document that control keeps: its lines are nobody's.
pub fn stored(problem: &Value) -> String {
    let word = |name: &str| problem[name].as_str().unwrap_or_default();
    let hint = problem["hint"].as_str().map_or(String::new(), |hint| format!(" ({hint})"));
    format!("{}: {}: {}{hint}", word("where"), word("field"), word("reason"))
}

/// A line for each document that is other than before, the first of them.
fn changes(answer: &Value, is_full: bool) -> String {
    let all = answer["changes"].as_array().map_or(&[][..], Vec::as_slice);
    let shown = if is_full { all.len() } else { all.len().min(ROWS_MAX - 5) };
    let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut text: String = all[..shown]
        .iter()
        .map(|change| format!("{:<7}  {}\n", word(&change["change"]), word(&change["object"])))
        .collect();
    if shown < all.len() {
        text += &format!("... and {} more of {}; --full shows all\n", all.len() - shown, all.len());
    }
    text
}

fn verdict(answer: &Value, revision: u64, is_dry: bool) -> String {
    match (answer["changes"].as_array().map_or(0, Vec::len), is_dry) {
        (0, _) => format!("nothing changes: at revision {revision} it is so already"),
        (number, true) => format!("a dry run: {} would change, nothing did", count(number, "document", "documents")),
        (number, false) if answer["canary"].is_object() => {
            let documents = count(number, "document", "documents");
            format!("revision {revision}: {documents}, on trial; evenkeel canary status says what becomes of it")
        }
        (number, false) => format!("revision {revision}: {}", count(number, "document", "documents")),
    }
}
