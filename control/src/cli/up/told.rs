//! What the gateway tells of itself at its admin door, in the words of this demonstration. Pure, but for `follow`.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use hyper::header::HeaderMap;
use serde_json::Value;

use super::call::{Caller, Place};
use super::world::World;

/// How often the gateway is asked.
const PERIOD: Duration = Duration::from_millis(250);

/// What the gateway last told.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Told {
    /// For each endpoint: its state, and the seconds that it is still left alone.
    pub endpoints: HashMap<SocketAddr, (String, Option<u64>)>,
    /// Each policy with how it stands.
    pub policies: Vec<PolicyFigures>,
    /// Attempts after a failed one.
    pub retries: u64,
}

/// How a policy stands.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PolicyFigures {
    /// Its kind and name.
    pub name: String,
    /// Requests that it let pass.
    pub admitted: u64,
    /// Requests that it refused.
    pub refused: u64,
    /// What only its kind has.
    pub standing: String,
    /// Whether it keeps all away just now.
    pub is_open: bool,
}

/// Asks the gateway again and again, until the world ends.
pub async fn follow(world: Arc<World>, door: PathBuf) {
    let admin = Caller::new(Place::Path(door), "admin");
    let mut ending = world.ending.subscribe();
    let mut ticks = tokio::time::interval(PERIOD);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            _ = ending.wait_for(|is_ending| *is_ending) => return,
        }
        if let Some(told) = ask(&admin).await {
            for instance in &world.instances {
                if told.endpoints.get(&instance.address).is_none_or(|(state, _)| state != "ready") {
                    instance.trouble();
                }
            }
            *world.told() = told;
        }
        world.take_rates();
    }
}

async fn ask(admin: &Caller) -> Option<Told> {
    let mut bodies = Vec::new();
    for path in ["/endpoints", "/policies", "/metrics"] {
        let answer = admin.get(path, &HeaderMap::new()).await.ok()?;
        bodies.push((answer.status == 200).then_some(answer.body)?);
    }
    let document = |index: usize| serde_json::from_str::<Value>(&bodies[index]).ok();
    Some(Told {
        endpoints: endpoints(&document(0)?),
        policies: policies(&document(1)?),
        retries: metric(&bodies[2], "evenkeel_retries_total"),
    })
}

fn list(document: &Value) -> impl Iterator<Item = &Value> {
    document.as_array().into_iter().flatten()
}

fn endpoints(document: &Value) -> HashMap<SocketAddr, (String, Option<u64>)> {
    let of_all = list(document).flat_map(|cluster| list(&cluster["endpoints"]));
    let known = of_all.filter_map(|endpoint| {
        let seconds = endpoint["forSeconds"].as_f64().map(|seconds| seconds as u64);
        Some((endpoint["address"].as_str()?.parse().ok()?, (endpoint["state"].as_str()?.to_owned(), seconds)))
    });
    known.collect()
}

fn policies(document: &Value) -> Vec<PolicyFigures> {
    let policy = |told: &Value| {
        let figure = |name: &str| told[name].as_u64();
        let phase = told["phase"].as_str();
        let standing = match (phase, figure("limit"), figure("values")) {
            (Some(phase), ..) => format!("{phase}, opened {} times", figure("opened").unwrap_or(0)),
            (_, Some(limit), _) => {
                let in_flight = figure("inFlight").unwrap_or(0);
                format!("{in_flight} of {limit} under way, {} waiting", figure("waiting").unwrap_or(0))
            }
            (.., Some(values)) => format!("{values} values"),
            _ => String::new(),
        };
        Some(PolicyFigures {
            name: name(told["policy"].as_str()?),
            admitted: figure("admitted").unwrap_or(0),
            refused: figure("refused").unwrap_or(0),
            standing,
            is_open: phase.is_some_and(|phase| phase != "closed"),
        })
    };
    list(document).filter_map(policy).collect()
}

/// `CircuitBreaker default/price on Service default/price` is `CircuitBreaker price`: in this shop that says it all.
fn name(key: &str) -> String {
    key.split(" on ").next().unwrap_or(key).replace(" default/", " ")
}

fn metric(text: &str, name: &str) -> u64 {
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok());
    value.unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_admin_doors_words_become_ours() {
        let clusters = r#"[{"name": "default/web:80", "panic": false, "endpoints": [
            {"address": "127.0.0.1:7001", "state": "ready", "ejections": 0},
            {"address": "127.0.0.1:7002", "state": "ejected", "ejections": 2, "forSeconds": 4.0},
            {"address": "nonsense"}, 7]}]"#;
        let endpoints = endpoints(&serde_json::from_str(clusters).expect("JSON"));
        let state = |port: u16| endpoints.get(&SocketAddr::from(([127, 0, 0, 1], port))).cloned();
        assert_eq!(state(7001), Some(("ready".into(), None)));
        assert_eq!(state(7002), Some(("ejected".into(), Some(4))));
        assert_eq!(endpoints.len(), 2);

        let rules = r#"[{"policy": "A default/a on Service default/a", "admitted": 7, "refused": 1, "phase": "halfOpen", "opened": 2},
            {"policy": "b", "admitted": 9, "inFlight": 3, "limit": 16, "waiting": 1},
            {"policy": "c", "refused": 5, "values": 6}, {"policy": 5}]"#;
        let told: Vec<String> = policies(&serde_json::from_str(rules).expect("JSON"))
            .iter()
            .map(|told| format!("{} {}/{} {} {}", told.name, told.admitted, told.refused, told.standing, told.is_open))
            .collect();
        let expected = [
            "A a 7/1 halfOpen, opened 2 times true",
            "b 9/0 3 of 16 under way, 1 waiting false",
            "c 0/5 6 values false",
        ];
        assert_eq!(told, expected);
        assert_eq!(metric("evenkeel_retries_total_x 9\nevenkeel_retries_total 5\n", "evenkeel_retries_total"), 5);
    }
}
