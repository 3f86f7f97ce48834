//! `evenkeel token`: who may ask control what. A token's secret is shown once, alone on standard output. Cold.

use std::process::ExitCode;
use std::time::Duration;

use hyper::Method;
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::cli::client::{Client, Failure, PATIENCE, Server, escaped};
use crate::cli::output::{Output, complain, end, say};
use crate::cli::table::Table;

/// What about tokens.
#[derive(clap::Args)]
pub struct TokenArgs {
    #[command(subcommand)]
    command: TokenCommand,
}

#[derive(clap::Subcommand)]
enum TokenCommand {
    /// Make one, and print its secret: evenkeel token create ci --role operator > token
    Create(CreateArgs),
    /// Tell which there are
    List(ListArgs),
    /// Take one back: whoever has it is nobody from now on
    Delete(DeleteArgs),
}

#[derive(clap::Args)]
struct CreateArgs {
    /// What it is called in the history
    name: String,
    /// What it lets do
    #[arg(long, value_parser = ["viewer", "operator", "admin", "proxy"])]
    role: String,
    /// Only in these namespaces
    #[arg(short = 'n', long = "namespace", alias = "namespaces", value_name = "NAMESPACE", value_delimiter = ',')]
    namespaces: Vec<String>,
    /// Only as proxy of this Gateway
    #[arg(long, value_name = "NAMESPACE/NAME", conflicts_with = "service")]
    gateway: Option<String>,
    /// Only as proxy of this Service's instances
    #[arg(long, value_name = "NAMESPACE/NAME")]
    service: Option<String>,
    /// Only in these lanes
    #[arg(long = "lane", alias = "lanes", value_name = "LANE", value_delimiter = ',')]
    lanes: Vec<String>,
    /// For so long, such as 90d or 12h, or until a time such as 2027-01-31T12:00:00Z [default: without an end]
    #[arg(long, value_name = "TIME")]
    expires: Option<String>,
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

#[derive(clap::Args)]
struct DeleteArgs {
    /// Which
    name: String,
    #[command(flatten)]
    server: Server,
}

/// Does it.
pub fn run(args: TokenArgs) -> ExitCode {
    end(match &args.command {
        TokenCommand::Create(args) => create(args),
        TokenCommand::List(args) => list(args),
        TokenCommand::Delete(args) => delete(args),
    })
}

fn create(args: &CreateArgs) -> Result<ExitCode, Failure> {
    let wanted = wanted(args, Timestamp::now()).map_err(Failure::Usage)?;
    let answer = Client::open(&args.server)?.post("/api/v1/tokens", wanted.to_string().into_bytes())?;
    if !args.output.tell_raw(&answer) {
        let word = |name: &str| answer[name].as_str().unwrap_or_default();
        say(&format!("{}\n", word("token")));
        let until = answer["expires"].as_str().map_or(String::new(), |expires| format!(" until {expires}"));
        let place = match places(&answer) {
            place if place.is_empty() => String::new(),
            place => format!(" of {place}"),
        };
        complain(format_args!("token {} for role {}{place}{until}; it is not shown again", word("name"), word("role")));
    }
    Ok(ExitCode::SUCCESS)
}

/// What is asked for, in the words of the API: a Gateway or Service without its namespace.
fn wanted(args: &CreateArgs, now: Timestamp) -> Result<Value, String> {
    let mut wanted = json!({ "name": args.name, "role": args.role });
    let mut namespaces = args.namespaces.clone();
    for (field, given) in [("gateway", &args.gateway), ("service", &args.service)] {
        let Some(given) = given else { continue };
        let (namespace, name) = match given.split_once('/') {
            Some((namespace, name)) => (Some(namespace), name),
            None => (None, &**given),
        };
        match (&namespaces[..], namespace) {
            ([], _) => namespaces.push(namespace.unwrap_or("default").to_owned()),
            ([only], Some(namespace)) if only != namespace => {
                return Err(format!("--{field} {given}: it is not in namespace {only}, as -n says"));
            }
            _ => {}
        }
        wanted[field] = name.into();
    }
    let lists = [("namespaces", namespaces), ("lanes", args.lanes.clone())];
    for (field, list) in lists.into_iter().filter(|(_, list)| !list.is_empty()) {
        wanted[field] = list.into();
    }
    if let Some(text) = &args.expires {
        wanted["expires"] = expiry(text, now).map_err(|reason| format!("--expires {text}: {reason}"))?.into();
    }
    Ok(wanted)
}

/// A time as RFC 3339 says it, of one or of so long from now on.
fn expiry(text: &str, now: Timestamp) -> Result<String, String> {
    let wrong = || "it is neither such as 30m, 12h or 90d nor a time such as 2027-01-31T12:00:00Z".to_owned();
    let end = text.find(|letter: char| !letter.is_ascii_digit()).ok_or_else(wrong)?;
    let second = match &text[end..] {
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        _ => return text.parse::<Timestamp>().map(|time| time.to_string()).map_err(|_| wrong()),
    };
    let seconds = text[..end].parse::<u64>().ok().and_then(|number| number.checked_mul(second)).ok_or_else(wrong)?;
    let time = now.checked_add(Duration::from_secs(seconds)).map_err(|_| wrong())?;
    // To the second, as people think of it.
    Timestamp::from_second(time.as_second()).map(|time| time.to_string()).map_err(|_| wrong())
}

/// Where a token is for, in words; empty: everywhere.
fn places(token: &Value) -> String {
    let list = |field: &str| {
        let words = token[field].as_array().into_iter().flatten().filter_map(Value::as_str);
        words.collect::<Vec<_>>().join(",")
    };
    let mut words = Vec::new();
    let namespaces = list("namespaces");
    match [("Gateway", &token["gateway"]), ("Service", &token["service"])]
        .into_iter()
        .find(|(_, name)| name.is_string())
    {
        Some((kind, name)) => words.push(format!("{kind} {namespaces}/{}", name.as_str().unwrap_or_default())),
        None if namespaces.is_empty() => {}
        None => words.push(format!("namespace {namespaces}")),
    }
    match list("lanes") {
        lanes if lanes.is_empty() => {}
        lanes => words.push(format!("lane {lanes}")),
    }
    words.join(", ")
}

fn list(args: &ListArgs) -> Result<ExitCode, Failure> {
    let answer = Client::open(&args.server)?.get("/api/v1/tokens")?;
    if args.output.tell_raw(&answer) {
        return Ok(ExitCode::SUCCESS);
    }
    let mut table = Table::new(&["NAME", "ROLE", "FOR", "EXPIRES", "MADE BY"]);
    let now = Timestamp::now();
    for token in answer["tokens"].as_array().into_iter().flatten() {
        let word = |name: &str| token[name].as_str().unwrap_or_default().to_owned();
        let is_over = word("expires").parse::<Timestamp>().is_ok_and(|time| time <= now);
        let expires = match token["expires"].as_str() {
            None => "never".to_owned(),
            Some(time) if is_over => format!("{time} (over)"),
            Some(time) => time.to_owned(),
        };
        let place = Some(places(token)).filter(|place| !place.is_empty()).unwrap_or_else(|| "everything".into());
        table.row([word("name"), word("role"), place, expires, word("author")]);
    }
    match table.is_empty() {
        true => complain("there is none"),
        false => args.output.tell(&table),
    }
    Ok(ExitCode::SUCCESS)
}

fn delete(args: &DeleteArgs) -> Result<ExitCode, Failure> {
    let path = format!("/api/v1/tokens/{}", escaped(&args.name));
    Client::open(&args.server)?.call(Method::DELETE, &path, Vec::new(), PATIENCE)?;
    say(&format!("token {} is taken back\n", args.name));
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_asked_for_in_the_words_of_the_api() {
        let now: Timestamp = "2026-11-21T21:00:00.5Z".parse().expect("a time");
        let args = |namespaces: &[&str], gateway: Option<&str>, expires: Option<&str>| CreateArgs {
            name: "t".into(),
            role: "proxy".into(),
            namespaces: namespaces.iter().map(|name| name.to_string()).collect(),
            gateway: gateway.map(String::from),
            service: None,
            lanes: Vec::new(),
            expires: expires.map(String::from),
            output: Output { form: crate::cli::output::Form::Table, full: false },
            server: Server::default(),
        };
        for (namespaces, gateway, expires, expected) in [
            (&[][..], None, None, r#"{"name":"t","role":"proxy"}"#),
            (&["a", "b"], None, None, r#"{"name":"t","namespaces":["a","b"],"role":"proxy"}"#),
            (&[], Some("shop/edge"), None, r#"{"gateway":"edge","name":"t","namespaces":["shop"],"role":"proxy"}"#),
            (&[], Some("edge"), None, r#"{"gateway":"edge","name":"t","namespaces":["default"],"role":"proxy"}"#),
            (&["shop"], Some("edge"), None, r#"{"gateway":"edge","name":"t","namespaces":["shop"],"role":"proxy"}"#),
            (&["pay"], Some("shop/edge"), None, "--gateway shop/edge: it is not in namespace pay, as -n says"),
            (&[], None, Some("90d"), r#"{"expires":"2027-02-19T21:00:00Z","name":"t","role":"proxy"}"#),
            (&[], None, Some("30m"), r#"{"expires":"2026-11-21T21:30:00Z","name":"t","role":"proxy"}"#),
            (
                &[],
                None,
                Some("2027-01-31T12:00:00+01:00"),
                r#"{"expires":"2027-01-31T11:00:00Z","name":"t","role":"proxy"}"#,
            ),
            (
                &[],
                None,
                Some("soon"),
                "--expires soon: it is neither such as 30m, 12h or 90d nor a time such as 2027-01-31T12:00:00Z",
            ),
        ] {
            let seen = wanted(&args(namespaces, gateway, expires), now);
            assert_eq!(seen.map_or_else(|problem| problem, |wanted| wanted.to_string()), expected);
        }
        for text in ["", "90", "99999999999999999999d", "18446744073709551615s", "d"] {
            assert!(expiry(text, now).is_err(), "{text:?}");
        }
    }
}
