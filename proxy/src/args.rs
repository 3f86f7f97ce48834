//! What a gateway and a sidecar are started with, as people type it. Cold.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use config::Sidecar;
use config::wire::evenkeel::v1::Member;
use filters::lane::trace;
use prost::bytes::Bytes;

use crate::admin::AdminAddress;
use crate::cgroup;
use crate::control::ControlAddress;
use crate::drain::Terms;
use crate::instance::Check;
use crate::log::{Format, event};
use crate::workload::Workload;

/// Kubernetes grants a pod 30 s by default.
const FINISH_WITHIN_S: u64 = 25;
const DRAIN_WITHIN_S: u64 = 27;
/// Balancers look every few seconds, and want to see it more than once.
const OUTSIDE_GRACE_S: u64 = 10;

/// Endpoints of so many Services are cheaper to have than to wait for.
const PRELOAD_SERVICES: u32 = 1_000;

const ZONE_LETTERS_MAX: usize = 253;

/// The label that names an instance's lane.
const LANE: &str = "lane";

/// What a gateway is started with.
#[derive(Debug, Clone, clap::Args)]
#[command(mut_arg("control", |control| control.requires("name")))]
pub struct GatewayArgs {
    /// What all proxies are started with.
    #[command(flatten)]
    pub process: ProcessArgs,
    /// Which Gateway this is at the control server
    #[arg(long, value_name = "NAMESPACE/NAME", requires = "control")]
    pub name: Option<String>,
}

/// What a Service's proxy beside one of its instances is started with.
#[derive(Debug, Clone, clap::Args)]
pub struct SidecarArgs {
    /// The Service whose instance stands beside this
    #[arg(long, value_name = "NAME")]
    pub service: String,
    /// The Service's namespace
    #[arg(long, value_name = "NAME", default_value = "default", env = "EVENKEEL_NAMESPACE")]
    pub namespace: String,
    /// What tells this instance from others of the Service [default: the host's name and the number of this process]
    #[arg(long, value_name = "NAME", env = "EVENKEEL_INSTANCE")]
    pub instance: Option<String>,
    /// The lane that the instance is in, by its label `lane`
    #[arg(long, value_name = "LANE", env = "EVENKEEL_LANE")]
    pub lane: Option<String>,
    /// A label of the instance; may be there several times
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = label)]
    pub labels: Vec<(String, String)>,
    /// Where the instance listens
    #[arg(long, value_name = "ADDRESS:PORT", value_parser = address)]
    pub app: SocketAddr,
    /// Where requests to the instance come in
    #[arg(long, value_name = "ADDRESS:PORT", value_parser = address)]
    pub inbound: SocketAddr,
    /// Where the instance sends its calls
    #[arg(long, value_name = "ADDRESS:PORT", value_parser = address)]
    pub outbound: SocketAddr,
    /// What the instance is asked for to learn whether it is ready, such as /healthz [default: it is when it takes connections]
    #[arg(long, value_name = "PATH", value_parser = path)]
    pub app_ready: Option<String>,
    /// For how long the instance must be ready before callers are told, for one that is slow after that
    #[arg(long, value_name = "SECONDS", default_value_t = 0, value_parser = clap::value_parser!(u64).range(..=3_600))]
    pub ready_after: u64,
    /// Where callers find the inbound address, if not at its own [default: that, or the address that control sees]
    #[arg(long, value_name = "ADDRESS")]
    pub advertise: Option<IpAddr>,
    /// Which port of its Service the instance serves, by name [default: the first]
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
    pub port: String,
    /// The instance's share of requests among the others
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub weight: u32,
    /// How long the instance may take to go, from SIGTERM or /drain on: a few seconds less than whoever ends it waits
    #[arg(long, value_name = "SECONDS", default_value_t = DRAIN_WITHIN_S, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub drain_within: u64,
    /// What callers outside the mesh are given to hear that the instance goes, where one came within the last minute
    #[arg(long, value_name = "SECONDS", default_value_t = OUTSIDE_GRACE_S, value_parser = clap::value_parser!(u64).range(..=86_400))]
    pub outside_grace: u64,
    /// The token for GET /drain at the probe address; without it, nobody may
    #[arg(long, value_name = "PATH", requires = "probe")]
    pub drain_token_file: Option<PathBuf>,
    /// Traces whose lane is remembered at most, each for its requests and 30 s, in some 72 bytes: of more it is not known
    #[arg(long, value_name = "N", default_value_t = trace::ENTRIES_MAX as u32, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    pub trace_map_entries: u32,
    /// What all proxies are started with.
    #[command(flatten)]
    pub process: ProcessArgs,
}

/// What all proxies are started with.
#[derive(Debug, Clone, clap::Args)]
#[command(group = clap::ArgGroup::new("rules").args(["files", "control"]).required(true))]
pub struct ProcessArgs {
    /// Rule files and folders of them (.yaml, .yml, .json); watched for changes
    #[arg(short = 'f', long = "file", value_name = "PATH")]
    pub files: Vec<PathBuf>,
    /// A control server to get rules from, in place of files
    #[arg(long, value_name = "HOST:PORT", conflicts_with = "files")]
    pub control: Option<ControlAddress>,
    /// The CA that control's certificate is from (PEM). Without it there is no TLS, and control must be on this machine
    #[arg(long, value_name = "PATH", requires = "control")]
    pub control_ca: Option<PathBuf>,
    /// The token that says to control who this is; read again with each connection
    #[arg(long, value_name = "PATH", requires = "control")]
    pub token_file: Option<PathBuf>,
    /// Where the last good configuration of control is kept, for a start without it; made if it is not there
    #[arg(long, value_name = "FOLDER", requires = "control")]
    pub data: Option<PathBuf>,
    /// How many Services' endpoints control is asked for before a request needs them; beyond, with the first request
    #[arg(long, value_name = "N", default_value_t = PRELOAD_SERVICES, requires = "control")]
    pub preload_services: u32,
    /// Worker threads [default: for a gateway one per core that the cgroup allows, for a sidecar one]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    pub workers: Option<u16>,
    /// Where /live and /ready are answered
    #[arg(long, value_name = "ADDRESS:PORT", value_parser = address)]
    pub probe: Option<SocketAddr>,
    /// Where /metrics is answered
    #[arg(long, value_name = "ADDRESS:PORT", value_parser = address)]
    pub metrics: Option<SocketAddr>,
    /// Where /config, /endpoints, /policies, /stats and `evenkeel explain` are answered: a loopback address or the path of a
    /// unix socket
    #[arg(long, value_name = "ADDRESS:PORT | PATH")]
    pub admin: Option<AdminAddress>,
    /// Where requests are logged: a file, or - for standard output [default: nowhere]
    #[arg(long, value_name = "PATH")]
    pub access_log: Option<PathBuf>,
    /// How they are logged
    #[arg(long, value_enum, default_value_t = Format::Json)]
    pub access_log_format: Format,
    /// After SIGTERM, how long requests in flight may take
    #[arg(long, value_name = "SECONDS", default_value_t = FINISH_WITHIN_S, value_parser = clap::value_parser!(u64).range(..=86_400))]
    pub finish_within: u64,
    /// Which DNS server is asked for names of Services; may be there several times [default: those of /etc/resolv.conf]
    #[arg(long = "resolver", value_name = "ADDRESS:PORT", value_parser = address)]
    pub resolvers: Vec<SocketAddr>,
    /// The zone in which this proxy stands, for policies that prefer what is near
    #[arg(long, value_name = "ZONE", env = "EVENKEEL_ZONE", value_parser = zone)]
    pub zone: Option<String>,
    /// How many proxies like this one share what RateLimits with scope sharedByReplicas allow
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub replicas: u32,
}

/// What a process is started with, once it is known that it makes sense.
pub(crate) struct Start {
    pub(crate) workload: Workload,
    pub(crate) workers: usize,
    pub(crate) process: ProcessArgs,
    /// None: a gateway.
    pub(crate) beside: Option<Beside>,
}

/// What is known of the instance beside which a sidecar stands.
#[derive(Debug, Clone)]
pub(crate) struct Beside {
    /// As control is told.
    pub(crate) member: Member,
    pub(crate) check: Check,
    pub(crate) terms: Terms,
    pub(crate) drain_token: Option<PathBuf>,
    pub(crate) trace_map_entries: usize,
}

impl Start {
    pub(crate) fn of_gateway(args: GatewayArgs) -> Result<Start, String> {
        let GatewayArgs { process, name } = args;
        let workers = process.workers.map_or_else(cgroup::cores, usize::from);
        Ok(Start { workload: Workload::gateway(name)?, workers, process, beside: None })
    }

    pub(crate) fn of_sidecar(args: SidecarArgs) -> Result<Start, String> {
        let SidecarArgs { service, namespace, instance, lane, labels, app, inbound, outbound, process, .. } = args;
        let lane = lane.map(|lane| (LANE.to_owned(), lane));
        let mut all = BTreeMap::new();
        for (key, value) in lane.into_iter().chain(labels) {
            if all.insert(key.clone().into(), value.into()).is_some() {
                return Err(format!("label {key} is there twice"));
            }
        }
        let (namespace, service) = (namespace.into(), service.into());
        let sidecar = Sidecar { namespace, service, labels: all, app, inbound, outbound }.check()?;
        let workers = process.workers.map_or(1, usize::from);
        let terms = Terms {
            within: Duration::from_secs(args.drain_within),
            outside_grace: Duration::from_secs(args.outside_grace),
            is_announced: process.control.is_some(),
        };
        let address = args.advertise.unwrap_or(inbound.ip());
        let address = match address {
            address if address.is_unspecified() => Bytes::new(),
            IpAddr::V4(address) => Bytes::copy_from_slice(&address.octets()),
            IpAddr::V6(address) => Bytes::copy_from_slice(&address.octets()),
        };
        let member = Member {
            namespace: sidecar.namespace.to_string(),
            service: sidecar.service.to_string(),
            incarnation: incarnation(),
            address,
            ports: [(args.port, u32::from(inbound.port()))].into(),
            weight: args.weight,
            zone: process.zone.clone().unwrap_or_default(),
            labels: sidecar.labels.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect(),
            ..Member::default()
        };
        if terms.outside_grace >= terms.within {
            let problem = "--outside-grace is no shorter than --drain-within: where callers outside the mesh come, each drain ends at \
                           its deadline, and what is under way is cut";
            event("warn", problem);
        }
        let workload = Workload::sidecar(sidecar, instance)?;
        let member = Member { name: workload.instance().to_owned(), ..member };
        let check = Check { app, path: args.app_ready, settles_within: Duration::from_secs(args.ready_after) };
        // It is read again each time; one that is wrong from the beginning would be noticed when an instance is to go.
        if let Some(file) = &args.drain_token_file {
            let token = std::fs::read_to_string(file)
                .map_err(|error| format!("--drain-token-file {}: {error}", file.display()))?;
            if token.trim().is_empty() {
                return Err(format!("--drain-token-file {}: it is empty", file.display()));
            }
        }
        let (drain_token, trace_map_entries) = (args.drain_token_file, args.trace_map_entries as usize);
        let beside = Some(Beside { member, check, terms, drain_token, trace_map_entries });
        Ok(Start { workload, workers, process, beside })
    }
}

/// Which process this is: one that is started later under the same name has a greater number.
fn incarnation() -> u64 {
    let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since_1970.as_micros()).unwrap_or(u64::MAX)
}

fn path(text: &str) -> Result<String, String> {
    let is_path = text.starts_with('/') && text.bytes().all(|byte| byte.is_ascii_graphic());
    is_path.then(|| text.to_owned()).ok_or_else(|| format!("{text:?} is no path"))
}

/// As control has it; empty: none, as where the environment has a variable without a value.
fn zone(text: &str) -> Result<String, String> {
    let is_letter = |letter: char| letter.is_ascii_alphanumeric() || "-._:".contains(letter);
    let is_zone = text.len() <= ZONE_LETTERS_MAX && text.chars().all(is_letter);
    is_zone
        .then(|| text.to_owned())
        .ok_or_else(|| format!("{text:?} is no zone: at most {ZONE_LETTERS_MAX} letters, digits, - . _ :"))
}

fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse()
        .map_err(|_| format!("{text:?} is not ADDRESS:PORT, such as 127.0.0.1:8080; names are not looked up here"))
}

fn label(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or_else(|| format!("{text:?} is not KEY=VALUE"))?;
    Ok((key.to_owned(), value.to_owned()))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Typed {
        #[command(flatten)]
        sidecar: SidecarArgs,
    }

    #[test]
    fn a_sidecar_is_told_whom_it_stands_beside() {
        let addresses = "--app 127.0.0.1:1 --inbound 127.0.0.1:2 --outbound 127.0.0.1:3 -f r";
        for (words, expected) in [
            ("--service web", "Service/default/web {}"),
            (
                "--service web --namespace shop --instance a-1 --lane blue --label version=v2",
                "Service/shop/web {\"lane\": \"blue\", \"version\": \"v2\"} shop/web@a-1",
            ),
            ("--service web --lane blue --label lane=red", "label lane is there twice"),
            ("--service web --instance a@b", "\"a@b\" is not the name of an instance"),
            ("--service WEB", "\"WEB\" is not a name"),
            ("--service web --zone a,b", "\"a,b\" is no zone"),
            ("--service web --label version", "is not KEY=VALUE"),
            (
                "--service web --probe 127.0.0.1:4 --drain-token-file /nowhere/token",
                "--drain-token-file /nowhere/token: No such file",
            ),
            (
                "--service web --probe 127.0.0.1:4 --drain-token-file /dev/null",
                "--drain-token-file /dev/null: it is empty",
            ),
        ] {
            let typed = Typed::try_parse_from(format!("proxy {words} {addresses}").split(' '));
            let start = typed.map_err(|error| error.to_string()).and_then(|typed| Start::of_sidecar(typed.sidecar));
            let shown = start.map(|Start { workload, workers, .. }| {
                assert_eq!(workers, 1);
                let Workload::Sidecar { sidecar, .. } = &workload else { panic!("it is one") };
                format!("{} {:?} {}", workload.document(), sidecar.labels, workload.id())
            });
            let (Ok(shown) | Err(shown)) = shown;
            assert!(shown.contains(expected), "{shown}");
        }
    }
}
