//! `evenkeel drain`: one instance goes, and nobody notices. Cold.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::cli::client::{Client, Failure, Server, escaped, path};
use crate::cli::output::{Output, complain, end, say};
use crate::cli::roll;
use crate::cli::waiting::duration;

/// From one look at how far it is to the next.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// For the receipt of one that has gone.
const RECEIPT_WITHIN: Duration = Duration::from_secs(2);
/// Clocks differ.
const SKEW_MS: i64 = 5_000;

/// What goes.
#[derive(clap::Args)]
pub struct DrainArgs {
    /// An instance, SERVICE/NAME, as `evenkeel get instances` tells them
    #[arg(value_name = "SERVICE/NAME")]
    instance: String,
    /// Its namespace
    #[arg(short = 'n', long, value_name = "NAMESPACE", default_value = "default")]
    namespace: String,
    /// Wait until it has gone
    #[arg(long)]
    wait: bool,
    /// How long to wait, such as 30s or 2m
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = duration)]
    timeout: Duration,
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    server: Server,
}

/// Asks for it, and tells what became of it. Exit code 1: it has not gone in time, or somebody did not say that it has
/// forgotten it.
pub fn run(args: DrainArgs) -> ExitCode {
    end(drain(&args))
}

fn drain(args: &DrainArgs) -> Result<ExitCode, Failure> {
    // As it is told, with its namespace before it.
    let parts: Vec<&str> = args.instance.splitn(3, '/').collect();
    let (namespace, service, name) = match parts[..] {
        [service, name] => (&*args.namespace, service, name),
        [namespace, service, name] => (namespace, service, name),
        _ => ("", "", ""),
    };
    if [namespace, service, name].contains(&"") {
        return Err(Failure::Usage(format!("{:?} is no instance: SERVICE/NAME is", args.instance)));
    }
    let client = Client::open(&args.server)?;
    let place = format!("/api/v1/instances/{}/{}/{}", escaped(namespace), escaped(service), escaped(name));
    let full = format!("{namespace}/{service}/{name}");
    let drains = path("/api/v1/drains", &[("namespace", Some(namespace)), ("service", Some(service))]);
    let instance = client.get(&place).inspect_err(|failure| {
        // It may just have gone.
        let is_absent = matches!(failure, Failure::Refused(404, _));
        if let Some(answer) = is_absent.then(|| client.get(&drains).ok()).flatten()
            && let Some(receipt) = receipts(&answer, &full).next()
            && !args.output.tell_raw(receipt)
        {
            say(&roll::receipt(receipt));
        }
    })?;
    let asked = client.post(&format!("{place}/drain"), Vec::new())?;
    if !args.wait {
        if !args.output.tell_raw(&asked) {
            let is_unconfirmed = instance["unconfirmed"] == true;
            let how = if is_unconfirmed { "its proxy is not connected: callers are told" } else { "its proxy is told" };
            say(&format!("{full} is to go: {how}\n"));
        }
        return Ok(ExitCode::SUCCESS);
    }
    let (asked_ms, deadline) = (jiff::Timestamp::now().as_millisecond(), Instant::now() + args.timeout);
    let mut gone = None;
    loop {
        let is_there = match client.get(&place) {
            Err(Failure::Refused(404, _)) => false,
            found => found?["incarnation"] == instance["incarnation"],
        };
        if !is_there {
            let answer = client.get(&drains)?;
            let ended = |one: &Value| {
                one["began"].as_i64().unwrap_or(0) + one["tookMilliseconds"].as_f64().unwrap_or(0.0) as i64
            };
            let receipt = receipts(&answer, &full).find(|one| ended(one) + SKEW_MS >= asked_ms);
            let since = *gone.get_or_insert_with(Instant::now);
            if receipt.is_some() || since.elapsed() >= RECEIPT_WITHIN {
                return Ok(tell(args, &full, receipt));
            }
        }
        if Instant::now() >= deadline {
            complain(format_args!(
                "{full} has not gone within {:?}; evenkeel get drains tells how far it is",
                args.timeout
            ));
            return Ok(ExitCode::FAILURE);
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

/// The receipts of an instance, newest first.
fn receipts<'a>(answer: &'a Value, full: &'a str) -> impl Iterator<Item = &'a Value> {
    answer["over"].as_array().into_iter().flatten().filter(move |one| one["instance"] == *full)
}

fn tell(args: &DrainArgs, full: &str, receipt: Option<&Value>) -> ExitCode {
    let Some(receipt) = receipt else {
        say(&format!("{full} has gone, and left no receipt: callers never knew it\n"));
        return ExitCode::SUCCESS;
    };
    if !args.output.tell_raw(receipt) {
        say(&roll::receipt(receipt));
    }
    // Nobody was told to forget it.
    let is_drained = !receipt["holders"].is_null();
    let is_clean =
        is_drained && ["waiting", "unreachable", "cut"].iter().all(|name| receipt[name].as_u64().unwrap_or(0) == 0);
    if is_clean { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
