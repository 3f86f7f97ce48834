//! `evenkeel get`: the documents that control keeps, the proxies that are connected, the instances that they speak for, and
//! drains. Cold.

use std::process::ExitCode;

use serde_json::Value;

use crate::cli::client::{Client, Failure, Server, escaped, path};
use crate::cli::kinds::kind;
use crate::cli::output::{Form, Output, complain, documents, end, print};
use crate::cli::roll;
use crate::cli::scope::Scope;
use crate::cli::table::{Table, milliseconds};
use crate::cli::waiting::names;

/// What to get.
#[derive(clap::Args)]
pub struct GetArgs {
    /// A kind of document, such as httproutes or svc; or proxies, instances or drains
    kind: Option<String>,
    /// One of that kind; of instances and drains, those of this Service
    name: Option<String>,
    #[command(flatten)]
    scope: Scope,
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    server: Server,
}

/// Gets, and tells.
pub fn run(args: GetArgs) -> ExitCode {
    end(get(&args))
}

fn get(args: &GetArgs) -> Result<ExitCode, Failure> {
    let client = Client::open(&args.server)?;
    if matches!(args.kind.as_deref(), Some("proxy" | "proxies")) {
        proxies(&client, args)?;
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(word @ ("instance" | "instances" | "drain" | "drains")) = args.kind.as_deref() {
        of_roll(&client, args, word.trim_end_matches('s'))?;
        return Ok(ExitCode::SUCCESS);
    }
    let kind = args.kind.as_deref().map(kind).transpose()?;
    let parameters = [("kind", kind.as_deref()), ("namespace", args.scope.namespace())];
    let one = kind.as_ref().zip(args.name.as_ref()).map(|(kind, name)| object(kind, args.scope.named(), name));
    match args.output.form {
        Form::Table => {
            let objects = match &one {
                Some(one) => vec![client.get(&format!("{one}/status"))?],
                None => {
                    let answer = client.get(&path("/api/v1/status", &parameters))?;
                    answer["objects"].as_array().cloned().unwrap_or_default()
                }
            };
            tell(&objects, args);
        }
        _ => {
            let answer = client.get(&one.unwrap_or_else(|| path("/api/v1/objects", &parameters)))?;
            match args.output.form {
                // Documents as `apply` takes them.
                Form::Yaml => {
                    let alone = std::slice::from_ref(&answer);
                    let all = answer["objects"].as_array().map_or(alone, Vec::as_slice);
                    print(&documents(all.iter().map(|one| &one["object"])));
                }
                _ => drop(args.output.tell_raw(&answer)),
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The path of a document.
pub fn object(kind: &str, namespace: &str, name: &str) -> String {
    format!("/api/v1/objects/{}/{}/{}", escaped(kind), escaped(namespace), escaped(name))
}

fn tell(objects: &[Value], args: &GetArgs) {
    if objects.is_empty() {
        complain(format_args!("there is none{}", elsewhere(args)));
        return;
    }
    let mut table = Table::new(&["KIND", "NAMESPACE", "NAME", "REVISION", "IN FORCE", "NOTE"]);
    for object in objects {
        let mut name = object["object"].as_str().unwrap_or_default().splitn(3, '/').map(str::to_owned);
        let mut part = || name.next().unwrap_or_default();
        let (kind, namespace, name) = (part(), part(), part());
        table.row([kind, namespace, name, object["revision"].to_string(), in_force(object), note(object)]);
    }
    args.output.tell(&table);
}

/// Where nothing was found, and where to look.
fn elsewhere(args: &GetArgs) -> String {
    let place =
        args.scope.namespace().map(|namespace| format!(" in namespace {namespace}; -A looks at all namespaces"));
    place.unwrap_or_default()
}

/// `n of m`.
pub fn in_force(object: &Value) -> String {
    match object["applied"]["of"].as_u64() {
        Some(0) => "nobody's".into(),
        _ => format!("{} of {}", object["applied"]["on"], object["applied"]["of"]),
    }
}

/// What is to be known of it, in few words.
pub fn note(object: &Value) -> String {
    let count = |name: &str| object[name]["count"].as_u64().unwrap_or(0);
    let mut notes = Vec::new();
    if object["onTrial"].is_u64() {
        notes.push("on trial".to_owned());
    }
    for (name, words) in [("refused", "refused by"), ("behind", "behind"), ("notEnforced", "not enforced by")] {
        if let number @ 1.. = count(name) {
            notes.push(format!("{words} {number}"));
        }
    }
    if let number @ 1.. = object["warnings"].as_array().map_or(0, Vec::len) {
        notes.push(format!("{number} warnings"));
    }
    notes.join(", ")
}

/// Instances or drains, of a Service if one is named.
fn of_roll(client: &Client, args: &GetArgs, what: &str) -> Result<(), Failure> {
    let parameters = [("namespace", args.scope.namespace()), ("service", args.name.as_deref())];
    let answer = client.get(&path(&format!("/api/v1/{what}s"), &parameters))?;
    if args.output.tell_raw(&answer) {
        return Ok(());
    }
    let table = if what == "instance" { roll::instances(&answer) } else { roll::drains(&answer) };
    match table.is_empty() {
        true => complain(format_args!("there is none{}", elsewhere(args))),
        false => args.output.tell(&table),
    }
    Ok(())
}

fn proxies(client: &Client, args: &GetArgs) -> Result<(), Failure> {
    let mut answer = client.get("/api/v1/proxies")?;
    if let (Some(name), Some(list)) = (&args.name, answer["proxies"].as_array_mut()) {
        list.retain(|proxy| proxy["id"] == **name);
    }
    if args.output.tell_raw(&answer) {
        return Ok(());
    }
    let list = answer["proxies"].as_array().map_or(&[][..], Vec::as_slice);
    if list.is_empty() {
        complain(format_args!("{}", if args.name.is_some() { "it is not connected" } else { "no proxy is connected" }));
        return Ok(());
    }
    let revision = answer["revision"].as_u64().unwrap_or(0);
    let mut table = Table::new(&["PROXY", "VERSION", "CONNECTED", "IN FORCE", "NOTE"]);
    for proxy in list {
        let word = |name: &str| proxy[name].as_str().unwrap_or_default().to_owned();
        let connected = proxy["connectedMilliseconds"].as_u64().map_or(String::new(), milliseconds);
        let in_force = format!("{} of {revision}", proxy["inForce"]);
        table.row([word("id"), word("version"), connected, in_force, state(proxy)]);
    }
    args.output.tell(&table);
    Ok(())
}

fn state(proxy: &Value) -> String {
    let refused = proxy["refused"].as_array().map_or(&[][..], Vec::as_slice);
    let mut states = Vec::new();
    if let [first, ..] = refused {
        let objects = first["objects"].as_array().map_or(0, Vec::len) as u64;
        states.push(format!("refuses {}", names(&first["objects"], objects.min(3))));
    }
    if proxy["canary"] == true {
        states.push("canary".to_owned());
    }
    if let Some(silent) = proxy["silentMilliseconds"].as_u64() {
        states.push(format!("has not answered for {}", milliseconds(silent)));
    }
    states.join(", ")
}
