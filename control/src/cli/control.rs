//! `evenkeel control`: the control server; and what its store becomes without it: lines of JSON, and back. Cold.

use std::io::{BufReader, BufWriter};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use crate::log;
use crate::server;
use crate::store::dump;

/// The server, or its store.
#[derive(clap::Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct ControlCommand {
    #[command(subcommand)]
    command: Option<StoreCommand>,
    #[command(flatten)]
    server: Option<server::ControlArgs>,
}

#[derive(clap::Subcommand)]
enum StoreCommand {
    /// Write everything that a control server which is not running keeps: evenkeel control export --data DIR > backup
    Export(StoreArgs),
    /// Make what a control server shall keep of that, where there is nothing so far: evenkeel control import --data DIR < backup
    Import(StoreArgs),
    /// Begin with nothing where a store was lost and nobody has a backup: proxies are told that there are no rules
    New(StoreArgs),
    /// Make another secret of the token `admin` of a control server that is not running, where nobody has the old one
    ResetAdmin(StoreArgs),
}

#[derive(clap::Args)]
struct StoreArgs {
    /// Where everything is kept
    #[arg(long, value_name = "FOLDER")]
    data: PathBuf,
}

/// Does it.
pub fn run(args: ControlCommand) -> ExitCode {
    let result = match (args.command, args.server) {
        (Some(command), _) => keep(command),
        (None, Some(args)) => serve(args),
        (None, None) => Err("--data FOLDER says where everything is kept".into()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            log::plain(problem);
            ExitCode::FAILURE
        }
    }
}

fn serve(args: server::ControlArgs) -> Result<(), String> {
    runtime()?.block_on(server::run(args, proxy::watch::start))
}

fn runtime() -> Result<tokio::runtime::Runtime, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|error| format!("cannot start: {error}"))
}

fn keep(command: StoreCommand) -> Result<(), String> {
    let told =
        |count: u64, word: &str, data: &Path| log::plain(format_args!("{count} lines {word} {}", data.display()));
    match command {
        StoreCommand::Export(StoreArgs { data }) => {
            let mut out = BufWriter::new(std::io::stdout().lock());
            let count = dump::export(&data, &mut out).map_err(|error| error.to_string())?;
            told(count, "exported from", &data);
        }
        StoreCommand::Import(StoreArgs { data }) => {
            server::make_folder(&data)?;
            let mut input = BufReader::new(std::io::stdin().lock());
            let count = dump::import(&data, &mut input).map_err(|error| error.to_string())?;
            told(count, "imported into", &data);
        }
        StoreCommand::New(StoreArgs { data }) => {
            server::make_folder(&data)?;
            dump::begin(&data).map_err(|error| error.to_string())?;
            log::plain(format_args!("an empty store is in {}", data.display()));
        }
        StoreCommand::ResetAdmin(StoreArgs { data }) => runtime()?.block_on(server::reset_admin(&data))?,
    }
    Ok(())
}
