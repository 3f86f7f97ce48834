//! `evenkeel token`: who may ask control what. A token's secret is shown once, alone on standard output. Cold.

use std::process::ExitCode;

use hyper::Method;
use serde_json::{Value, json};

use crate::cli::client::{Client, Failure, PATIENCE, Server, escaped};
use crate::cli::output::{Output, end, say};
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
    /// What it lets do: viewer, operator, admin, proxy
    #[arg(long)]
    role: String,
    /// Only in these namespaces
    #[arg(long, value_name = "NAMESPACE", value_delimiter = ',')]
    namespaces: Vec<String>,
    /// Only as proxy of this Gateway
    #[arg(long, value_name = "NAMESPACE/NAME")]
    gateway: Option<String>,
    /// Only as proxy of this Service's instances
    #[arg(long, value_name = "NAMESPACE/NAME")]
    service: Option<String>,
    /// Only in these lanes
    #[arg(long, value_name = "LANE", value_delimiter = ',')]
    lanes: Vec<String>,
    /// For so long, such as 90d
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
    let mut wanted = json!({ "name": args.name, "role": args.role });
    let fields = [
        ("namespaces", (!args.namespaces.is_empty()).then(|| json!(args.namespaces))),
        ("gateway", args.gateway.as_ref().map(|gateway| json!(gateway))),
        ("service", args.service.as_ref().map(|service| json!(service))),
        ("lanes", (!args.lanes.is_empty()).then(|| json!(args.lanes))),
        ("expires", args.expires.as_ref().map(|expires| json!(expires))),
    ];
    for (name, value) in fields {
        if let Some(value) = value {
            wanted[name] = value;
        }
    }
    let answer = Client::open(&args.server)?.post("/api/v1/tokens", wanted.to_string().into_bytes())?;
    if !args.output.tell_raw(&answer) {
        say(&format!("{}\n", answer["secret"].as_str().unwrap_or_default()));
        eprintln!("token {} for role {}; it is not shown again", args.name, args.role);
    }
    Ok(ExitCode::SUCCESS)
}

fn list(args: &ListArgs) -> Result<ExitCode, Failure> {
    let answer = Client::open(&args.server)?.get("/api/v1/tokens")?;
    if args.output.tell_raw(&answer) {
        return Ok(ExitCode::SUCCESS);
    }
    let mut table = Table::new(&["NAME", "ROLE", "NAMESPACES", "BOUND TO", "EXPIRES"]);
    for token in answer["tokens"].as_array().into_iter().flatten() {
        let word = |name: &str| token[name].as_str().unwrap_or_default().to_owned();
        let words = |name: &str| {
            let words = token[name].as_array().into_iter().flatten().filter_map(Value::as_str);
            words.collect::<Vec<_>>().join(",")
        };
        let bounds = [word("gateway"), word("service"), words("lanes")];
        let bound: Vec<String> = bounds.into_iter().filter(|bound| !bound.is_empty()).collect();
        table.row([word("name"), word("role"), words("namespaces"), bound.join(" "), word("expires")]);
    }
    match table.is_empty() {
        true => eprintln!("there is none"),
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
