//! Very many Hosts at a gateway under control: `cargo run --release -p e2e -- hosts`. Most of them no route knows, some match a
//! wildcard, and a RateLimit counts each apart as far as its bound goes: nothing may grow with them, at neither end. Cold.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::Range;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::fleet::server::{Server, apply};
use crate::kit::{Backend, Gateway, Launch, Peer, Rules, until};
use crate::{Failure, Outcome};

/// Of this many Hosts, one is below the wildcard.
const WILD_EACH: u64 = 4;
/// Hosts that the RateLimit counts apart; it may count an eighth more (docs/rules.md).
const VALUES_MAX: u64 = 1_000;
/// By so much the memory of either end may differ from what it was after the first tenth.
const GROWTH_KIB_MAX: u64 = 2 << 10;

/// Arguments of `e2e hosts`.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct Arguments {
    /// Hosts, each of which is asked for once
    #[arg(long, default_value_t = 100_000)]
    pub hosts: u64,
    /// Connections on which they are asked for
    #[arg(long, default_value_t = 16)]
    pub connections: u64,
}

/// What is held after so many Hosts.
#[derive(Clone, Debug)]
pub struct Row {
    /// Hosts so far.
    pub hosts: u64,
    /// Resident memory of the gateway.
    pub gateway_kib: u64,
    /// Resident memory of control.
    pub control_kib: u64,
    /// Lines of the gateway's metrics.
    pub series: usize,
    /// Names that the gateway asks control for.
    pub subscriptions: u64,
    /// Requests that wait for endpoints.
    pub awaiting: f64,
    /// Hosts that the RateLimit counts apart.
    pub values: f64,
    /// A Service that nobody has asked for, and whose endpoints control was not asked for either.
    pub is_awaited: bool,
}

/// What a run found.
#[derive(Clone, Debug)]
pub struct Found {
    /// Before, after a tenth, and at the end.
    pub rows: Vec<Row>,
    /// Requests by the status of their answer.
    pub answers: BTreeMap<u16, u64>,
    /// Requests without an answer.
    pub failed: u64,
    /// How long it took.
    pub elapsed: Duration,
}

impl Found {
    /// Everything that is not as it should be.
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let [_, early, last] = &self.rows[..] else { return vec!["there are not three rows".into()] };
        let mut demand = |is_so: bool, what: &str| problems.extend((!is_so).then(|| what.to_owned()));
        let below = (0..last.hosts).filter(|number| number % WILD_EACH == 0).count() as u64;
        demand(self.failed == 0, "requests failed");
        demand(
            self.answers == [(200, below), (404, last.hosts - below)].into(),
            "answers are not 404, or 200 below *.wild.test",
        );
        demand(last.series == early.series, "metrics have other lines");
        demand(self.rows.iter().all(|row| row.subscriptions == early.subscriptions), "subscriptions differ");
        demand(last.awaiting == 0.0, "requests wait");
        demand(last.is_awaited, "a Service that nobody needs was asked for");
        let most = VALUES_MAX.min(below) as f64;
        demand(
            (most * 0.875..=most * 1.125).contains(&last.values),
            "the RateLimit counts more or fewer than it should",
        );
        demand(last.gateway_kib < early.gateway_kib + GROWTH_KIB_MAX, "the gateway has grown");
        demand(last.control_kib < early.control_kib + GROWTH_KIB_MAX, "control has grown");
        problems
    }
}

impl std::fmt::Display for Found {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for row in &self.rows {
            writeln!(
                formatter,
                "after {:>6} Hosts: gateway {:.1} MiB, control {:.1} MiB; {} lines of metrics, {} subscriptions, {} requests wait, \
                 {} values of the RateLimit",
                row.hosts,
                row.gateway_kib as f64 / 1024.0,
                row.control_kib as f64 / 1024.0,
                row.series,
                row.subscriptions,
                row.awaiting,
                row.values,
            )?;
        }
        let answers: Vec<String> = self.answers.iter().map(|(status, count)| format!("{count} of {status}")).collect();
        write!(formatter, "answers: {}; {} failed; {:.1?}", answers.join(", "), self.failed, self.elapsed)
    }
}

/// Runs and prints; false where something has grown.
pub fn run(arguments: &Arguments) -> Outcome<bool> {
    let found = measure(arguments)?;
    println!("{found}");
    let problems = found.problems();
    problems.iter().for_each(|problem| println!("not as it should be: {problem}"));
    Ok(problems.is_empty())
}

/// Asks for all of them.
pub fn measure(arguments: &Arguments) -> Outcome<Found> {
    let &Arguments { hosts, connections } = arguments;
    let server = Server::start(false)?;
    let backend = Backend::start(|served| {
        // What was asked is not kept here: it would be this process that grows.
        while served.peer.read().is_ok() && served.peer.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n") {}
    });
    let gateway = Launch::under(server.xds).flags(&["--preload-services", "0"]).spawn();
    apply(&mut Peer::connect(server.api), &gateway.fill(&rules(backend.address())))?;
    until("a gateway that is ready", || gateway.get("/ready").filter(|answer| answer.status() == 200));
    let begun = Instant::now();
    let mut found = Found { rows: Vec::new(), answers: BTreeMap::new(), failed: 0, elapsed: Duration::ZERO };
    // The first request below the wildcard is the first use of its Service.
    flood(gateway.address(), 0..1, 1, &mut found);
    found.rows.push(row(&server, &gateway, 0)?);
    for (first, last) in [(1, hosts / 10), (hosts / 10, hosts)] {
        flood(gateway.address(), first..last, connections, &mut found);
        gateway.settle();
        found.rows.push(row(&server, &gateway, last)?);
    }
    found.elapsed = begun.elapsed();
    Ok(found)
}

/// A Service below a wildcard, one that has a name of its own, and a limit that tells Hosts apart.
fn rules(backend: SocketAddr) -> String {
    let limit = format!(
        "by: [{{header: host}}]\n  maxValues: {VALUES_MAX}\n  limits: [{{requests: 1, per: 1m, burst: 1000000}}]"
    );
    let other = "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: other}\nspec:\n  parentRefs: [{name: \
                 edge}]\n  hostnames: [other.test]\n  rules: [{backendRefs: [{name: other, port: 80}]}]\n";
    let rules = Rules::to(backend).protect("RateLimit", "hosts", Rules::WEB, &limit);
    let yaml = rules.yaml().replace("\n  rules:", "\n  hostnames: [\"*.wild.test\"]\n  rules:");
    let service = Rules::new().service("other", &[backend]).yaml();
    let service = service.split_once("---\n").expect("a Gateway stands before it").1.to_owned();
    format!("{yaml}---\n{other}---\n{service}")
}

/// Asks for each of these Hosts once.
fn flood(address: SocketAddr, hosts: Range<u64>, connections: u64, found: &mut Found) {
    let ask = |first: u64| {
        let mut peer = Peer::connect(address);
        let (mut answers, mut failed) = (BTreeMap::new(), 0);
        for number in (hosts.start + first..hosts.end).step_by(connections as usize) {
            // Nothing like the one before it (Stafford's mix of SplitMix64).
            let mixed = number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let place = if number % WILD_EACH == 0 { "wild" } else { "nowhere" };
            peer.send(format!("GET / HTTP/1.1\r\nHost: h{:016x}.{place}.test\r\n\r\n", mixed ^ (mixed >> 27)));
            match peer.read() {
                Ok(answer) => *answers.entry(answer.status()).or_insert(0) += 1,
                Err(_) => {
                    failed += 1;
                    peer = Peer::connect(address);
                }
            }
        }
        (answers, failed)
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..connections).map(|first| scope.spawn(move || ask(first))).collect();
        for thread in threads {
            let (answers, failed): (BTreeMap<u16, u64>, u64) = thread.join().expect("a client panicked");
            answers.into_iter().for_each(|(status, count)| *found.answers.entry(status).or_insert(0) += count);
            found.failed += failed;
        }
    });
}

fn row(server: &Server, gateway: &Gateway, hosts: u64) -> Outcome<Row> {
    let mut peer = Peer::connect(server.api);
    peer.send("GET /api/v1/proxies HTTP/1.1\r\nHost: c\r\n\r\n");
    let answer = peer.read().map_err(|ended| Failure(format!("control: {ended:?}")))?;
    let told: Value = serde_json::from_slice(&answer.body)?;
    let config = gateway.config();
    let clusters = config["clusters"].as_array().cloned().unwrap_or_default();
    Ok(Row {
        hosts,
        gateway_kib: gateway.resident_kib(),
        control_kib: server.resident_kib()?,
        series: gateway.metrics().lines().count(),
        subscriptions: told["proxies"][0]["subscriptions"].as_u64().ok_or(Failure::new("no gateway is there"))?,
        awaiting: gateway.metric("evenkeel_control_awaiting_requests"),
        values: gateway.metric("evenkeel_policy_values"),
        is_awaited: clusters.iter().any(|one| one["name"] == "default/other:80" && one["awaited"] == true),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_grows_is_a_problem() {
        let row = |hosts: u64| Row {
            hosts,
            gateway_kib: 20_000,
            control_kib: 30_000,
            series: 100,
            subscriptions: 2,
            awaiting: 0.0,
            values: 1_000.0,
            is_awaited: true,
        };
        let answers = BTreeMap::from([(200, 5_000), (404, 15_000)]);
        let rows = vec![row(0), row(2_000), row(20_000)];
        let good = Found { rows, answers, failed: 0, elapsed: Duration::ZERO };
        assert_eq!(good.problems(), Vec::<String>::new());
        let check = |change: &dyn Fn(&mut Found), expected: &str| {
            let mut found = good.clone();
            change(&mut found);
            assert_eq!(found.problems(), [expected]);
        };
        check(&|found| found.failed = 1, "requests failed");
        check(&|found| found.answers = [(404, 20_000)].into(), "answers are not 404, or 200 below *.wild.test");
        check(&|found| found.rows[2].series += 1, "metrics have other lines");
        check(&|found| found.rows[2].subscriptions += 1, "subscriptions differ");
        check(&|found| found.rows[2].awaiting = 1.0, "requests wait");
        check(&|found| found.rows[2].is_awaited = false, "a Service that nobody needs was asked for");
        check(&|found| found.rows[2].values = 5_000.0, "the RateLimit counts more or fewer than it should");
        check(&|found| found.rows[2].gateway_kib += 2_048, "the gateway has grown");
        check(&|found| found.rows[2].control_kib += 2_048, "control has grown");
    }
}
