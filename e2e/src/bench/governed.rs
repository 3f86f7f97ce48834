//! The usual GET with everything on, beside peers with nothing on, and the proof that all of it was at work: what the
//! gateway counted must have moved with the requests. Cold.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use serde_json::Value;

use super::Installed;
use super::rounds::{self, Contender};
use super::table::Row;
use super::workload::Workload;
use crate::kit::Peer;
use crate::load::Lab;
use crate::peers::{Kind, Launch, free_port, governed};
use crate::{Failure, Outcome};

/// What the gateway counted.
pub(crate) struct Moved {
    /// Requests that each policy let through, by its name.
    admitted: Vec<(String, u64)>,
    /// Requests in the metrics.
    requests: f64,
}

impl Moved {
    /// Each of the three rules and the metrics saw requests, and all of them the same number but for those under way.
    pub(crate) fn is_good(&self) -> bool {
        let is_near = |count: u64| (count as f64 - self.requests).abs() <= 200.0;
        self.requests > 1_000.0 && self.admitted.len() == 3 && self.admitted.iter().all(|(_, count)| is_near(*count))
    }
}

impl fmt::Display for Moved {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(formatter, "\nwith everything on: {} requests in the metrics", self.requests)?;
        self.admitted.iter().try_for_each(|(policy, count)| writeln!(formatter, "- {policy}: let {count} through"))
    }
}

/// Measures evenkeel with everything on, evenkeel as it is, and the others.
pub(crate) fn run(lab: &mut Lab, installed: &[Installed], count: u32, time: Duration) -> Outcome<(Row, Moved)> {
    let ours = installed.iter().find(|installed| installed.kind == Kind::Evenkeel);
    let ours = ours.ok_or_else(|| Failure::new("governed is measured of evenkeel beside others"))?;
    let admin = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()?));
    let rules = governed();
    let workload = Workload::Get;
    let mut contenders = super::start_all(lab, installed, workload)?;
    let mut launch = Launch::new(Kind::Evenkeel, &ours.program);
    (launch.rules, launch.admin) = (Some(rules.as_str()), Some(admin));
    let running = launch.start(lab)?;
    let label = "evenkeel, all on".to_owned();
    contenders.push(Contender { label, workload, requests: workload.requests(), running });
    let row = rounds::run(lab, "GET with everything on", &contenders, count, time)?;
    Ok((row, moved(admin)?))
}

fn moved(admin: SocketAddr) -> Outcome<Moved> {
    let get = |path: &str| -> Outcome<String> {
        let mut peer = Peer::try_connect(admin)?;
        peer.send(format!("GET {path} HTTP/1.1\r\nHost: admin\r\nConnection: close\r\n\r\n"));
        peer.read().map(|answer| answer.text()).map_err(|ended| Failure(format!("{path}: {ended:?}")))
    };
    let policies: Value = serde_json::from_str(&get("/policies")?)?;
    let policies = policies.as_array().ok_or_else(|| Failure::new("/policies is no list"))?;
    let admitted = policies.iter().map(|policy| {
        let name = policy["policy"].as_str().unwrap_or_default().to_owned();
        (name, policy["admitted"].as_u64().unwrap_or(0))
    });
    let metrics = get("/metrics")?;
    let of_requests = metrics.lines().filter(|line| line.starts_with("istio_requests_total{"));
    let requests = of_requests.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum();
    Ok(Moved { admitted: admitted.collect(), requests })
}
