//! `evenkeel emergency`: a limit for a Service that is in force everywhere at once, and ends by itself. Cold.

use std::process::ExitCode;
use std::time::Duration;

use hyper::Method;
use serde_json::{Value, json};

use crate::cli::client::{Client, Failure, PATIENCE, Server, escaped, path};
use crate::cli::output::{Output, complain, end as told, say};
use crate::cli::table::Table;
use crate::cli::waiting::{Wait, duration};
use crate::cli::why::Why;

/// What about an emergency.
#[derive(clap::Args)]
pub struct EmergencyArgs {
    #[command(subcommand)]
    command: EmergencyCommand,
}

#[derive(clap::Subcommand)]
enum EmergencyCommand {
    /// Let so many requests a second through to a Service, each proxy by itself: evenkeel emergency limit web --rps 100 --for 10m
    Limit(LimitArgs),
    /// Tell which limits there are, and until when
    List(ListArgs),
    /// Take a Service's limit away before its time is over
    End(EndArgs),
}

#[derive(clap::Args)]
struct LimitArgs {
    #[command(flatten)]
    change: ChangeArgs,
    /// Requests in a second that each proxy lets through
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    rps: u64,
    /// How long, such as 30s, 10m or 2h, 7d at most; then control takes it away
    #[arg(long = "for", value_name = "TIME")]
    time: String,
}

#[derive(clap::Args)]
struct EndArgs {
    #[command(flatten)]
    change: ChangeArgs,
}

/// What a limit and its end have in common.
#[derive(clap::Args)]
struct ChangeArgs {
    /// The Service
    service: String,
    /// Its namespace
    #[arg(short = 'n', long, value_name = "NAMESPACE", default_value = "default")]
    namespace: String,
    /// Do not wait until it is in force on every proxy that is connected
    #[arg(long, conflicts_with = "timeout")]
    no_wait: bool,
    /// How long to wait, such as 500ms, 30s or 2m
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = duration)]
    timeout: Duration,
    #[command(flatten)]
    why: Why,
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    server: Server,
}

#[derive(clap::Args)]
struct ListArgs {
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    server: Server,
}

/// Does it.
pub fn run(args: EmergencyArgs) -> ExitCode {
    told(match &args.command {
        EmergencyCommand::Limit(args) => limit(args),
        EmergencyCommand::List(args) => list(args),
        EmergencyCommand::End(args) => change(&args.change, Method::DELETE, Vec::new(), "the limit is gone: "),
    })
}

fn limit(args: &LimitArgs) -> Result<ExitCode, Failure> {
    let body = json!({ "requestsPerSecond": args.rps, "for": args.time }).to_string();
    let words = format!("at most {} a second to {}/{}: ", args.rps, args.change.namespace, args.change.service);
    change(&args.change, Method::PUT, body.into_bytes(), &words)
}

/// Changes it, waits, and tells.
fn change(args: &ChangeArgs, method: Method, body: Vec<u8>, words: &str) -> Result<ExitCode, Failure> {
    let client = Client::open(&args.server)?;
    let place = format!("/api/v1/emergency/limits/{}/{}", escaped(&args.namespace), escaped(&args.service));
    let mut answer = client.call(method, &path(&place, &args.why.parameters()), body, PATIENCE)?;
    let revision = answer["revision"].as_u64().unwrap_or(0);
    let asked =
        if args.no_wait { Ok(None) } else { Wait::at_most(args.timeout).ask(&client, revision, Duration::ZERO) };
    let outcome = asked
        .inspect_err(|_| complain(format_args!("revision {revision} is made; where it is in force is not known:")))?;
    if let Some(outcome) = &outcome {
        answer["wait"] = outcome.answer.clone();
    }
    if !args.output.tell_raw(&answer) {
        let verdict = outcome.as_ref().map_or_else(|| format!("revision {revision}\n"), |outcome| outcome.text());
        let until = answer["until"].as_str().map_or(String::new(), |until| format!(", until {until}"));
        // The reasons, if there are some, stand below.
        let (first, rest) = verdict.split_once('\n').unwrap_or((&verdict, ""));
        say(&format!("{words}{first}{until}\n{rest}"));
    }
    Ok(outcome.map_or(ExitCode::SUCCESS, |outcome| outcome.exit_code()))
}

fn list(args: &ListArgs) -> Result<ExitCode, Failure> {
    let answer = Client::open(&args.server)?.get("/api/v1/emergency/limits")?;
    if args.output.tell_raw(&answer) {
        return Ok(ExitCode::SUCCESS);
    }
    let mut table = Table::new(&["SERVICE", "REQUESTS/S", "UNTIL", "REVISION"]);
    for limit in answer["limits"].as_array().into_iter().flatten() {
        let word = |name: &str| match &limit[name] {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        table.row(["service", "requestsPerSecond", "until", "revision"].map(word));
    }
    match table.is_empty() {
        true => complain("there is none"),
        false => args.output.tell(&table),
    }
    Ok(ExitCode::SUCCESS)
}
