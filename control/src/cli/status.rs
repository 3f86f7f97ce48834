//! `evenkeel status`: whether everything is in force everywhere, and if not, what is not where and why. Exit code 0: it is;
//! 1: it is not, or instances are refused, told to nobody, or lost in numbers. Cold.

use std::process::ExitCode;

use serde_json::Value;

use crate::cli::apply::stored;
use crate::cli::client::{Client, Failure, Server, path};
use crate::cli::get::{in_force, note, object};
use crate::cli::kinds::kind;
use crate::cli::output::{Output, end, say};
use crate::cli::table::{Table, count, milliseconds};
use crate::cli::waiting::{names, refused};

/// Warnings that are shown unless all are asked for.
const WARNINGS_MAX: usize = 5;
/// And proxies that have gone, and places where lanes leak.
const GONE_MAX: usize = 3;

/// Of what.
#[derive(clap::Args)]
pub struct StatusArgs {
    /// A kind of document
    kind: Option<String>,
    /// One of that kind
    name: Option<String>,
    /// The namespace; all of them, or default for a document that is named
    #[arg(short = 'n', long, value_name = "NAMESPACE")]
    namespace: Option<String>,
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    server: Server,
}

/// Tells it.
pub fn run(args: StatusArgs) -> ExitCode {
    end(status(&args))
}

fn status(args: &StatusArgs) -> Result<ExitCode, Failure> {
    let client = Client::open(&args.server)?;
    let kind = args.kind.as_deref().map(kind).transpose()?;
    if let (Some(kind), Some(name)) = (&kind, &args.name) {
        let answer =
            client.get(&format!("{}/status", object(kind, args.namespace.as_deref().unwrap_or("default"), name)))?;
        if !args.output.tell_raw(&answer) {
            say(&text(&answer));
        }
        return Ok(code(is_everywhere(&answer) && awaited(&answer).is_empty()));
    }
    let answer =
        client.get(&path("/api/v1/status", &[("kind", kind.as_deref()), ("namespace", args.namespace.as_deref())]))?;
    let objects = answer["objects"].as_array().map_or(&[][..], Vec::as_slice);
    if objects.is_empty() && (kind.is_some() || args.namespace.is_some()) {
        // That nothing is in force everywhere would be no answer to a name that was mistyped.
        let place = args.namespace.as_ref().map_or(String::new(), |namespace| format!(" in namespace {namespace}"));
        return Err(Failure::Usage(format!("there is no {}{place}", kind.as_deref().unwrap_or("document"))));
    }
    let files = files(&answer["files"]);
    let missing: Vec<&Value> = objects.iter().filter(|object| !is_everywhere(object)).collect();
    let awaited = awaited(&answer);
    if !args.output.tell_raw(&answer) {
        let proxies = count(answer["proxies"].as_u64().unwrap_or(0) as usize, "proxy", "proxies");
        let all = count(objects.len(), "document", "documents");
        say(&match missing.len() {
            0 if answer["proxies"] == 0 && awaited.is_empty() && !objects.is_empty() => {
                format!("revision {}: {all} kept, and in force nowhere: no proxy is connected\n", answer["revision"])
            }
            0 if !awaited.is_empty() => {
                format!("revision {}, {proxies}: {all} in force where it is known\n", answer["revision"])
            }
            0 => format!("revision {}, {proxies}: {all} in force wherever they are wanted\n", answer["revision"]),
            number => {
                format!("revision {}, {proxies}: {number} of {all} not in force everywhere\n", answer["revision"])
            }
        });
        say(&awaited);
        say(&gone(&answer["gone"]));
        say(&files);
        say(&instances(&answer["instances"]));
        say(&leaks(&answer["laneLeaks"]));
        if answer["canary"].is_object() {
            say(&crate::cli::canary::text(&answer["canary"]));
        }
        if !missing.is_empty() {
            let mut table = Table::new(&["DOCUMENT", "REVISION", "IN FORCE", "NOTE"]);
            for object in &missing {
                let name = object["object"].as_str().unwrap_or_default().to_owned();
                table.row([name, object["revision"].to_string(), in_force(object), note(object)]);
            }
            args.output.tell(&table);
            say("evenkeel status KIND NAME says where and why\n");
        }
        say(&warnings(objects, args.output.full));
    }
    let instances = &answer["instances"];
    let is_braked = instances["braked"].as_array().is_some_and(|braked| !braked.is_empty());
    let are_well =
        !is_braked && ["nowhere", "refusedNow"].iter().all(|name| instances[name].as_u64().unwrap_or(0) == 0);
    Ok(code(missing.is_empty() && awaited.is_empty() && files.is_empty() && are_well))
}

/// Files that control reads by itself, if it refuses what they say; a line each.
fn files(refused: &Value) -> String {
    let lines: Vec<&str> = refused["first"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let Some(since) = refused["since"].as_str() else { return String::new() };
    let more = (refused["count"].as_u64().unwrap_or(0) as usize).saturating_sub(lines.len());
    let rest = (more > 0).then(|| format!("    and {more} more; the log of control has them all\n"));
    let head = format!("  files are refused since {since}, and what they said before is kept:\n");
    std::iter::once(head).chain(lines.iter().map(|line| format!("    {line}\n"))).chain(rest).collect()
}

/// Whose connection broke not long ago; a line each.
fn gone(list: &Value) -> String {
    let named = list["proxies"].as_array().map_or(&[][..], Vec::as_slice);
    let named = &named[..named.len().min(GONE_MAX)];
    let line = |proxy: &Value| {
        let [id, why] = ["id", "why"].map(|name| proxy[name].as_str().unwrap_or_default());
        format!("  gone: {id}: {why} {} ago\n", milliseconds(proxy["goneMilliseconds"].as_u64().unwrap_or(0)))
    };
    let more = (list["count"].as_u64().unwrap_or(0) as usize).saturating_sub(named.len());
    let rest = (more > 0).then(|| format!("  gone: {}\n", count(more, "more proxy", "more proxies")));
    named.iter().map(line).chain(rest).collect()
}

/// What is wrong with instances; a line each.
fn instances(told: &Value) -> String {
    let number = |name: &str| told[name].as_u64().unwrap_or(0) as usize;
    let braked: Vec<&str> = told["braked"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let mut lines = Vec::new();
    if !braked.is_empty() {
        let names = braked.join(", ");
        lines.push(format!("  so many instances of {names} are unconfirmed that none of them is taken away\n"));
    }
    if let unconfirmed @ 1.. = number("unconfirmed") {
        lines.push(format!(
            "  {} unconfirmed: evenkeel get instances -A\n",
            count(unconfirmed, "instance is", "instances are")
        ));
    }
    if let nowhere @ 1.. = number("nowhere") {
        lines.push(format!(
            "  {} ready, and nobody is told: evenkeel get instances -A says why\n",
            count(nowhere, "instance is", "instances are")
        ));
    }
    let (refused, now) = (number("refused"), number("refusedNow"));
    if now > 0 {
        lines.push(format!("  {} refused: evenkeel get instances -A\n", count(now, "instance is", "instances are")));
    }
    if let given_up @ 1.. = refused.saturating_sub(now) {
        let were = count(given_up, "instance was", "instances were");
        lines.push(format!("  {were} refused in the last hour: evenkeel get instances -A\n"));
    }
    lines.concat()
}

/// Lanes that leak, the worst first; a line each.
fn leaks(list: &Value) -> String {
    let all = list.as_array().map_or(&[][..], Vec::as_slice);
    let line = |edge: &Value| {
        let [lane, from, to] = ["lane", "from", "to"].map(|name| edge[name].as_str().unwrap_or_default());
        let from = if from.is_empty() { "outside the mesh" } else { from };
        let number = |name: &str| edge[name].as_u64().unwrap_or(0) as usize;
        let leaks = count(number("lost") + number("untagged"), "request", "requests");
        format!("  lane {lane} leaks from {from} to {to}, {leaks}: evenkeel lanes {lane}\n")
    };
    let more = all.len().saturating_sub(GONE_MAX);
    let rest = (more > 0).then(|| format!("  and in {}\n", count(more, "more place", "more places")));
    all.iter().take(GONE_MAX).map(line).chain(rest).collect()
}

/// What is hardly meant as it stands, the first of it; a line each.
fn warnings(objects: &[Value], is_full: bool) -> String {
    let all = objects.iter().flat_map(|object| object["warnings"].as_array().into_iter().flatten());
    let all: Vec<String> = all.map(|warning| format!("  warning: {}\n", stored(warning))).collect();
    let shown = if is_full { all.len() } else { all.len().min(WARNINGS_MAX) };
    let more = match all.len() - shown {
        0 => String::new(),
        more => format!("  and {}; --full shows all\n", count(more, "more warning", "more warnings")),
    };
    all[..shown].concat() + &more
}

/// Who was connected before control started, and is not back; a line each.
fn awaited(answer: &Value) -> String {
    let list = &answer["awaited"];
    let named = list["proxies"].as_array().map_or(&[][..], Vec::as_slice);
    let line = |proxy: &Value| {
        let [id, why] = ["id", "why"].map(|name| proxy[name].as_str().unwrap_or_default());
        format!("  not known of {id}: {why}\n")
    };
    let more = (list["count"].as_u64().unwrap_or(0) as usize).saturating_sub(named.len());
    let rest = (more > 0).then(|| format!("  nor of {}\n", count(more, "more proxy", "more proxies")));
    named.iter().map(line).chain(rest).collect()
}

fn code(is_good: bool) -> ExitCode {
    if is_good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn is_everywhere(object: &Value) -> bool {
    let is_on_trial = object["onTrial"].is_u64();
    object["applied"]["on"] == object["applied"]["of"] && object["notEnforced"]["count"] == 0 && !is_on_trial
}

/// One document, in full.
fn text(object: &Value) -> String {
    let name = object["object"].as_str().unwrap_or_default();
    let mut lines = vec![format!("{name} of revision {}: accepted", object["revision"])];
    for warning in object["warnings"].as_array().into_iter().flatten() {
        lines.push(format!("  warning: {}", stored(warning)));
    }
    if let Some(revision) = object["onTrial"].as_u64() {
        lines.push(format!("  on trial at revision {revision}: evenkeel canary status says by whom"));
    }
    lines.push(match object["applied"]["of"].as_u64() {
        Some(0) => "  no proxy that is connected is to have it".into(),
        _ => format!("  in force on {} proxies", in_force(object)),
    });
    lines.extend(refused(&object["refused"], "refused by"));
    let behind = &object["behind"];
    let named = behind["proxies"].as_array().map_or(&[][..], Vec::as_slice);
    for proxy in named {
        let [id, why] = ["id", "why"].map(|name| proxy[name].as_str().unwrap_or_default());
        lines.push(format!("  not on {id}: {why}"));
    }
    let more = (behind["count"].as_u64().unwrap_or(0) as usize).saturating_sub(named.len());
    if more > 0 {
        lines.push(format!("  not on {}", count(more, "more proxy", "more proxies")));
    }
    if let number @ 1.. = object["notEnforced"]["count"].as_u64().unwrap_or(0) {
        let names = names(&object["notEnforced"]["proxies"], number);
        lines.push(format!("  not enforced by {names}: too old to know this kind"));
    }
    lines.join("\n") + "\n" + &awaited(object)
}
