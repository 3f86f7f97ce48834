//! Requests of several lanes through eight services that forward nothing but `traceparent`:
//! `cargo run --release -p e2e -- lanes --requests 100000`. Each must be served by its lane wherever the lane has an instance,
//! and by the baseline elsewhere. Some apps lose the trace of some requests: as many leaks as were made must be told by
//! control, on the ways on which they were made. Cold.

mod app;

use std::collections::BTreeMap;
use std::fmt;
use std::io::BufReader;
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;

use self::app::{App, Next, ask};
use crate::fleet::server::{Server, apply};
use crate::kit::{Beside, Gateway, Launch, Peer, Rules, Sidecar, until};
use crate::{Failure, Outcome};

/// The services in the order in which they call each other, with the lanes that have an instance of them.
const CHAIN: [(&str, &[&str]); 8] = [
    ("s1", &["red", "blue"]),
    ("s2", &["green", "blue"]),
    ("s3", &["red"]),
    ("s4", &["green"]),
    ("s5", &["red", "blue"]),
    ("s6", &["green"]),
    ("s7", &["red"]),
    ("s8", &["green", "blue"]),
];
/// Whose requests they are; the first is the baseline.
const LANES: [&str; 4] = ["", "red", "green", "blue"];
/// What all clients send that repeat their trace.
const CONSTANT: &str = "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n";
/// Wrong answers that are told.
const TOLD_MAX: usize = 5;

/// Arguments of `e2e lanes`.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct Arguments {
    /// Requests
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    pub requests: u64,
    /// Connections on which they are asked
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u64).range(1..=64))]
    pub connections: u64,
    /// One request in so many loses its trace at one of the services; with 0 none does
    #[arg(long, default_value_t = 50)]
    pub lost_each: u64,
    /// All clients send the same `traceparent` all the time
    #[arg(long)]
    pub constant: bool,
}

/// What a run found.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Found {
    /// Requests that were asked.
    pub requests: u64,
    /// Those whose way was not that of their lane, and the first of them.
    pub wrong: u64,
    /// The first of them.
    pub examples: Vec<String>,
    /// Leaks that were made, by lane, caller and callee; and those that control was told.
    pub made: BTreeMap<String, u64>,
    /// As control tells them.
    pub told: BTreeMap<String, u64>,
    /// Requests of lanes as control counts them, by lane, on the way from the gateway.
    pub entered: BTreeMap<String, u64>,
    /// How long the requests took.
    pub elapsed: Duration,
}

/// Runs and prints; false where a request was in a wrong lane, or leaks were not told as they were made.
pub fn run(arguments: &Arguments) -> Outcome<bool> {
    let found = measure(arguments)?;
    println!("{found}");
    Ok(found.is_good())
}

impl Found {
    /// Whether it is as it must be.
    pub fn is_good(&self) -> bool {
        self.wrong == 0 && self.made == self.told
    }
}

impl fmt::Display for Found {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Found { requests, wrong, examples, made, told, entered, elapsed } = self;
        let sum = |leaks: &BTreeMap<String, u64>| leaks.values().sum::<u64>();
        writeln!(
            formatter,
            "{requests} requests through {} services in {elapsed:.1?}: {wrong} in a wrong lane",
            CHAIN.len()
        )?;
        examples.iter().try_for_each(|example| writeln!(formatter, "  {example}"))?;
        let lanes: Vec<String> = entered.iter().map(|(lane, count)| format!("{lane} {count}")).collect();
        writeln!(formatter, "in lanes, as control tells: {}", lanes.join(", "))?;
        write!(formatter, "leaks: {} made, {} told, on {} ways", sum(made), sum(told), made.len())?;
        for way in made.keys().chain(told.keys()).collect::<std::collections::BTreeSet<_>>() {
            let [made, told] = [made, told].map(|leaks| leaks.get(way).copied().unwrap_or(0));
            if made != told {
                write!(formatter, "\n  {way}: {made} made, {told} told")?;
            }
        }
        Ok(())
    }
}

/// What a path ends with if that service is to lose its trace.
fn lost_at(service: &str) -> String {
    format!("-lost-at-{service}")
}

/// The way of a request, and where its lane leaks, if it is lost at a service.
fn way(lane: &str, lost_at: Option<&str>) -> (String, Option<String>) {
    let (mut lane, mut leak) = (lane, None);
    let mut passed = Vec::new();
    for (place, (service, lanes)) in CHAIN.iter().enumerate() {
        let by = if lanes.contains(&lane) { lane } else { "base" };
        passed.push(format!("{service}-{by}"));
        // An instance of the lane calls in its own.
        if lost_at == Some(*service) && by == "base" && !lane.is_empty() {
            leak = CHAIN.get(place + 1).map(|(next, _)| format!("{lane} {service} > {next}"));
            lane = "";
        }
    }
    (passed.join(" "), leak)
}

/// What runs. The order is that in which it ends.
struct World {
    gateway: Gateway,
    instances: Vec<(Sidecar, App)>,
    server: Server,
}

/// Asks, and compares.
pub fn measure(arguments: &Arguments) -> Outcome<Found> {
    let world = World::start()?;
    let mut found = Found::default();
    let begun = Instant::now();
    let address = world.gateway.address();
    std::thread::scope(|scope| {
        let client = |first: u64| scope.spawn(move || ask_all(address, arguments, first));
        let clients: Vec<_> = (0..arguments.connections).map(client).collect();
        for client in clients {
            found.add(client.join().expect("a client panicked"));
        }
    });
    found.elapsed = begun.elapsed();
    // Proxies tell what has ended once in a while; what they never tell is missing in what is found.
    let (expected, mut peer) = (found.made.values().sum::<u64>(), Peer::connect(world.server.api));
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        (found.told, found.entered) = told(&mut peer)?;
        let entered: u64 = found.entered.values().sum();
        let is_all = entered >= found.requests && found.told.values().sum::<u64>() >= expected;
        if is_all || Instant::now() > deadline {
            return Ok(found);
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

impl Found {
    fn add(&mut self, more: Found) {
        self.requests += more.requests;
        self.wrong += more.wrong;
        self.examples.extend(more.examples);
        self.examples.truncate(TOLD_MAX);
        more.made.into_iter().for_each(|(way, count)| *self.made.entry(way).or_default() += count);
    }
}

/// The requests of one connection: every so manyth, from the first on.
fn ask_all(address: SocketAddr, arguments: &Arguments, first: u64) -> Found {
    let (mut found, mut kept) = (Found::default(), None::<BufReader<TcpStream>>);
    for number in (first..arguments.requests).step_by(arguments.connections as usize) {
        // Each client is everybody by turns, and each service loses as often as another (Stafford's mix of SplitMix64).
        let mixed = number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let pick = |shift: u32, count: usize| (mixed >> shift) as usize % count;
        let lane = LANES[pick(32, LANES.len())];
        let is_lost = arguments.lost_each > 0 && number % arguments.lost_each == 0;
        let loser = CHAIN[pick(40, CHAIN.len())].0;
        let path = if is_lost { format!("/{number}{}", lost_at(loser)) } else { format!("/{number}") };
        let user = if lane.is_empty() { String::new() } else { format!("x-user: {lane}\r\n") };
        let trace = if arguments.constant { CONSTANT } else { "" };
        let question = format!("GET {path} HTTP/1.1\r\nHost: shop\r\n{user}{trace}\r\n");
        let (expected, leak) = way(lane, is_lost.then_some(loser));
        let answer = ask(&mut kept, Some(address), &question);
        found.requests += 1;
        leak.into_iter().for_each(|leak| *found.made.entry(leak).or_default() += 1);
        if answer != (200, expected.clone()) {
            found.wrong += 1;
            if found.examples.len() < TOLD_MAX {
                found.examples.push(format!("{path} of {lane:?}: {} {}, not {expected}", answer.0, answer.1));
            }
        }
    }
    found
}

/// What control tells: leaks by lane and way, and requests that came in by lane.
fn told(peer: &mut Peer) -> Outcome<(BTreeMap<String, u64>, BTreeMap<String, u64>)> {
    peer.send("GET /api/v1/lanes HTTP/1.1\r\nHost: control\r\n\r\n");
    let answer = peer.read().map_err(|ended| Failure(format!("control: {ended:?}")))?;
    let told: Value = serde_json::from_slice(&answer.body)?;
    let (mut leaks, mut entered) = (BTreeMap::new(), BTreeMap::new());
    for lane in told["lanes"].as_array().into_iter().flatten() {
        let name = lane["lane"].as_str().unwrap_or("base");
        for edge in lane["edges"].as_array().into_iter().flatten() {
            let [from, to] = ["from", "to"].map(|end| edge[end].as_str().unwrap_or_default());
            let number = |name: &str| edge[name].as_u64().unwrap_or(0);
            if from.starts_with("Gateway/") {
                *entered.entry(name.to_owned()).or_default() += number("requests");
            }
            if let leaked @ 1.. = number("lost") + number("untagged") {
                let short = |name: &str| name.rsplit('/').next().unwrap_or_default().to_owned();
                *leaks.entry(format!("{name} {} > {}", short(from), short(to))).or_default() += leaked;
            }
        }
    }
    Ok((leaks, entered))
}

impl World {
    fn start() -> Outcome<World> {
        let server = Server::start(false)?;
        let gateway = Launch::under(server.xds).spawn();
        apply(&mut Peer::connect(server.api), &gateway.fill(&rules()))?;
        let mut planned = Vec::new();
        for (place, (service, lanes)) in CHAIN.iter().enumerate() {
            let next = CHAIN.get(place + 1).map(|(next, _)| *next);
            for lane in std::iter::once(&"base").chain(*lanes) {
                let next = next.map(|next| Arc::new(Next { service: next.to_owned(), door: OnceLock::new() }));
                let app = App::start(service, lane, next.clone())?;
                let beside = Beside::under(server.xds, service, app.address);
                let own = if *lane == "base" { &[][..] } else { &["--lane", lane] };
                planned.push((
                    beside.flags(&["--instance", &format!("{service}-{lane}")]).flags(own).spawn(),
                    app,
                    next,
                ));
            }
        }
        let mut instances = Vec::new();
        for (sidecar, app, next) in planned {
            if let Some(next) = next {
                next.door.get_or_init(|| sidecar.address());
            }
            instances.push((sidecar, app));
        }
        let world = World { gateway, instances, server };
        // All of them are known to all that call them when each lane's requests go its way.
        let mut kept = None;
        for lane in LANES {
            let user = if lane.is_empty() { String::new() } else { format!("x-user: {lane}\r\n") };
            let question = format!("GET /warm-up HTTP/1.1\r\nHost: shop\r\n{user}\r\n");
            let expected = (200, way(lane, None).0);
            until("requests that go their way", || {
                let answer = ask(&mut kept, Some(world.gateway.address()), &question);
                (answer == expected).then_some(())
            });
        }
        Ok(world)
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // Nobody is to be waited for: the last instance of a lane would go on for as long as it may.
        self.instances.iter().for_each(|(sidecar, _)| sidecar.signal(Signal::KILL));
    }
}

/// A gateway that decides by the user, and Services whose instances register themselves.
fn rules() -> String {
    let service = |rules: Rules, (name, _): &(&str, &[&str])| {
        rules.text(&format!(
            "apiVersion: evenkeel.dev/v1alpha1\nkind: Service\nmetadata: {{name: {name}}}\nspec:\n  ports: [{{name: http, port: 80}}]\n"
        ))
    };
    let lane = |name: &&&str| {
        format!("{{name: {name}, selector: {{lane: {name}}}, match: [{{headers: [{{name: x-user, value: {name}}}]}}]}}")
    };
    let lanes: Vec<String> = LANES.iter().filter(|name| !name.is_empty()).map(|name| lane(&name)).collect();
    let group = format!(
        "apiVersion: evenkeel.dev/v1alpha1\nkind: LaneGroup\nmetadata: {{name: lanes}}\nspec:\n  entries: [{{group: \
         gateway.networking.k8s.io, kind: Gateway, name: edge}}]\n  lanes: [{}]\n",
        lanes.join(", ")
    );
    let rules = Rules::new().rule(&format!("backendRefs: [{{name: {}, port: 80}}]", CHAIN[0].0)).text(&group);
    CHAIN.iter().fold(rules, service).yaml()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_way_is_in_its_lane_until_it_is_lost() {
        let check = |lane: &str, lost: Option<&str>, expected: &str, leak: Option<&str>| {
            let (told, leaks) = way(lane, lost);
            let told: Vec<&str> = told.split(' ').map(|hop| &hop[3..4]).collect();
            assert_eq!((told.concat().as_str(), leaks.as_deref()), (expected, leak), "{lane} {lost:?}");
        };
        check("", None, "bbbbbbbb", None);
        check("red", None, "rbrbrbrb", None);
        check("green", None, "bgbgbgbg", None);
        check("red", Some("s2"), "rbbbbbbb", Some("red s2 > s3"));
        // An instance of the lane does not lose it, and the last service has nobody to call.
        check("red", Some("s3"), "rbrbrbrb", None);
        check("red", Some("s8"), "rbrbrbrb", None);
        check("", Some("s2"), "bbbbbbbb", None);
    }
}
