//! `evenkeel canary`: what some proxies try before all others; made everybody's, or taken back, before its time. Cold.

use std::process::ExitCode;

use serde_json::Value;

use crate::cli::client::{Client, Failure, Server, path};
use crate::cli::output::{Output, end, say};
use crate::cli::table::{count, milliseconds};

/// What to do with it.
#[derive(clap::Args)]
pub struct CanaryArgs {
    #[command(subcommand)]
    act: Act,
}

#[derive(clap::Subcommand)]
enum Act {
    /// Tell what is on trial, where it is in force, and for how much longer
    Status(Common),
    /// Make it everybody's now
    Promote(Common),
    /// Take it back: everything is as it was
    End(Common),
}

#[derive(clap::Args)]
struct Common {
    /// Why, for the history
    #[arg(short, long, value_name = "WHY")]
    message: Option<String>,
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    server: Server,
}

/// Does it, and tells.
pub fn run(args: CanaryArgs) -> ExitCode {
    end(match &args.act {
        Act::Status(common) => status(common),
        Act::Promote(common) => act("/api/v1/canary/promote", common),
        Act::End(common) => act("/api/v1/canary/end", common),
    })
}

fn status(common: &Common) -> Result<ExitCode, Failure> {
    let answer = Client::open(&common.server)?.get("/api/v1/canary")?;
    if !common.output.tell_raw(&answer) {
        say(&match &answer["canary"] {
            Value::Null => "nothing is on trial\n".into(),
            canary => text(canary),
        });
    }
    Ok(ExitCode::SUCCESS)
}

fn act(place: &str, common: &Common) -> Result<ExitCode, Failure> {
    let client = Client::open(&common.server)?;
    let answer = client.post(&path(place, &[("message", common.message.as_deref())]), Vec::new())?;
    if !common.output.tell_raw(&answer) {
        let (canary, revision) = (&answer["canary"], &answer["revision"]);
        say(&match answer["outcome"].as_str() {
            Some("promoted") => format!("revision {canary} is everybody's; revision {revision} says so\n"),
            _ => format!("revision {canary} is taken back; revision {revision} is as it was\n"),
        });
    }
    Ok(ExitCode::SUCCESS)
}

/// How far it is.
pub fn text(canary: &Value) -> String {
    let names =
        |name: &str| -> Vec<&str> { canary[name].as_array().into_iter().flatten().filter_map(Value::as_str).collect() };
    let tries = names("tries");
    let (revision, on) = (&canary["revision"], &canary["on"]);
    let author = canary["author"].as_str().unwrap_or_default();
    if canary["of"].is_null() {
        return format!("revision {revision} of {author} is on trial: who tries it is being chosen\n");
    }
    let mut lines = vec![format!(
        "revision {revision} of {author} is on trial: in force on {on} of {} that try it, of {} that it concerns",
        tries.len(),
        count(canary["of"].as_u64().unwrap_or(0) as usize, "proxy", "proxies"),
    )];
    lines.extend(canary["leftMilliseconds"].as_u64().map(|left| format!("  it is promoted in {}", milliseconds(left))));
    for (list, words) in [("tries", "tried by"), ("late", "not yet on"), ("gone", "gone:")] {
        let names = names(list);
        if !names.is_empty() {
            lines.push(format!("  {words} {}", names.join(", ")));
        }
    }
    lines.join("\n") + "\n"
}
