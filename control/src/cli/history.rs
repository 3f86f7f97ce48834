//! `evenkeel history`: who changed what when and why; or what became of one document. Cold.

use std::collections::HashMap;
use std::process::ExitCode;

use serde_json::Value;

use crate::cli::client::{Client, Failure, Server, path};
use crate::cli::get::object;
use crate::cli::kinds::kind;
use crate::cli::output::{Output, complain, end};
use crate::cli::table::{Table, cut, cut_start};
use crate::diff::differences;

/// Whose history.
#[derive(clap::Args)]
pub struct HistoryArgs {
    /// The kind of one document
    #[arg(requires = "name")]
    kind: Option<String>,
    /// Its name
    name: Option<String>,
    /// Its namespace
    #[arg(short = 'n', long, value_name = "NAMESPACE", default_value = "default", requires = "kind")]
    namespace: String,
    /// Revisions to ask for, the newest first; 1000 at most
    #[arg(long, default_value_t = 50)]
    count: usize,
    /// Only revisions before this one
    #[arg(long, value_name = "REVISION")]
    before: Option<u64>,
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    server: Server,
}

/// Letters of what is cut to the line unless all is asked for.
const LETTERS_MAX: usize = 40;

/// Tells it.
pub fn run(args: HistoryArgs) -> ExitCode {
    end(history(&args))
}

fn history(args: &HistoryArgs) -> Result<ExitCode, Failure> {
    let client = Client::open(&args.server)?;
    match args.kind.as_deref().zip(args.name.as_deref()) {
        Some((word, name)) => one(&client, args, &object(&kind(word)?, &args.namespace, name))?,
        None => all(&client, args)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn revisions(client: &Client, count: usize, before: Option<u64>) -> Result<Value, Failure> {
    let before = before.map(|before| before.to_string());
    client.get(&path("/api/v1/history", &[("count", Some(&count.to_string())), ("before", before.as_deref())]))
}

fn all(client: &Client, args: &HistoryArgs) -> Result<(), Failure> {
    let answer = revisions(client, args.count, args.before)?;
    if args.output.tell_raw(&answer) {
        return Ok(());
    }
    let mut table = Table::new(&["REVISION", "TIME", "WHO", "DOCUMENTS", "WHY"]);
    for record in answer["revisions"].as_array().into_iter().flatten() {
        let objects: Vec<&str> = record["objects"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let shown = match objects[..] {
            [] => String::new(),
            [only] => only.to_owned(),
            [first, ..] => format!("{first} and {} more", objects.len() - 1),
        };
        let [time, who, why] = ["time", "author", "message"].map(|name| record[name].as_str().unwrap_or_default());
        table.row([record["revision"].to_string(), second(time), who.into(), shown, fitting(why, args)]);
    }
    match table.is_empty() {
        true => complain("nothing has been changed so far"),
        false => args.output.tell(&table),
    }
    Ok(())
}

fn one(client: &Client, args: &HistoryArgs, object: &str) -> Result<(), Failure> {
    let answer = client.get(&format!("{object}/history"))?;
    if args.output.tell_raw(&answer) {
        return Ok(());
    }
    let versions = answer["versions"].as_array().map_or(&[][..], Vec::as_slice);
    // Who and why is known of revisions, not of versions.
    let newest = versions.first().and_then(|version| version["revision"].as_u64()).unwrap_or(0);
    let records = revisions(client, 1_000, Some(newest.saturating_add(1)))?;
    let records: HashMap<u64, &Value> = records["revisions"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|record| Some((record["revision"].as_u64()?, record)))
        .collect();
    let mut table = Table::new(&["REVISION", "TIME", "WHO", "CHANGE", "WHY"]);
    for (place, version) in versions.iter().enumerate() {
        let revision = version["revision"].as_u64().unwrap_or(0);
        let word = |name: &str| records.get(&revision).and_then(|record| record[name].as_str()).unwrap_or("-");
        let before = versions.get(place + 1).map(|before| &before["object"]);
        let change = change(before, &version["object"], args.output.full);
        let cells = [revision.to_string(), second(word("time")), word("author").into()];
        table.row(cells.into_iter().chain([change, fitting(word("message"), args)]));
    }
    args.output.tell(&table);
    Ok(())
}

/// What became of a document from one version to the next, in a line: of a field that is deep inside, the end of its name.
fn change(before: Option<&Value>, after: &Value, is_full: bool) -> String {
    let Some(before) = before.filter(|before| !before.is_null()) else {
        return if after.is_null() { "removed" } else { "created" }.to_owned();
    };
    if after.is_null() {
        return "removed".into();
    }
    let fields: Vec<String> = differences(before, after)
        .iter()
        .map(|one| format!("{}: {} -> {}", one.field, one.before, one.after))
        .collect();
    match &fields[..] {
        all if is_full => all.join(", "),
        [] => String::new(),
        [only] => cut_start(only, LETTERS_MAX),
        [first, rest @ ..] => format!("{} and {} more", cut_start(first, LETTERS_MAX - 12), rest.len()),
    }
}

/// A time without what is below a second.
fn second(time: &str) -> String {
    match time.split_once('.') {
        Some((second, _)) => format!("{second}Z"),
        None => time.to_owned(),
    }
}

fn fitting(text: &str, args: &HistoryArgs) -> String {
    if args.output.full { text.to_owned() } else { cut(text, LETTERS_MAX) }
}
