//! `evenkeel lanes`: each lane over the graph of calls, as the traffic of the last minutes draws it: from where it comes in,
//! with its share of all requests there, to where the baseline serves it and where it leaks. Cold.

use std::collections::BTreeMap;
use std::process::ExitCode;

use serde_json::Value;

use crate::cli::client::{Client, Failure, Server, path};
use crate::cli::output::{Output, complain, end, say};
use crate::cli::scope::Scope;
use crate::cli::table::{count, milliseconds};

/// Services below each other that are drawn; calls in a circle end earlier.
const DEPTH_MAX: usize = 32;

/// Which lanes.
#[derive(clap::Args)]
pub struct LanesArgs {
    /// One lane; all if absent
    lane: Option<String>,
    #[command(flatten)]
    scope: Scope,
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    server: Server,
}

/// Draws them. Exit code 1: one leaks, or nobody was in the one that was asked for.
pub fn run(args: LanesArgs) -> ExitCode {
    end(lanes(&args))
}

fn lanes(args: &LanesArgs) -> Result<ExitCode, Failure> {
    let client = Client::open(&args.server)?;
    // The baseline is what shares are of.
    let answer = client.get(&path("/api/v1/lanes", &[("namespace", args.scope.namespace())]))?;
    let is_meant = |lane: &&Value| args.lane.as_deref().is_none_or(|name| lane["lane"] == *name);
    let meant: Vec<&Value> = list(&answer["lanes"]).filter(|lane| !lane["lane"].is_null()).filter(is_meant).collect();
    if !args.output.tell_raw(&answer) {
        let now_ms = jiff::Timestamp::now().as_millisecond().max(0) as u64;
        match meant.is_empty() {
            true => {
                let lane = args.lane.as_ref().map_or("a lane".into(), |lane| format!("lane {lane}"));
                complain(format_args!("no request was in {lane} in the last {}", span(&answer)));
            }
            false => say(&draw(&answer, &meant, now_ms)),
        }
    }
    let leaks = meant.iter().any(|lane| lane["leaks"].as_u64().unwrap_or(0) > 0);
    // Of a lane that nobody was in, perhaps since its name is another, nothing good is known.
    let is_missed = args.lane.is_some() && meant.is_empty();
    Ok(if leaks || is_missed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// All of these lanes.
fn draw(answer: &Value, lanes: &[&Value], now_ms: u64) -> String {
    // What comes in at each entry, whatever its lane.
    let mut entries: BTreeMap<&str, u64> = BTreeMap::new();
    for edge in list(&answer["lanes"]).flat_map(|lane| list(&lane["edges"])).filter(|edge| is_entry(edge)) {
        *entries.entry(word(&edge["from"])).or_default() += number(edge, "requests");
    }
    let drawn = lanes.iter().map(|lane| {
        let edges: Vec<&Value> = list(&lane["edges"]).collect();
        let mut drawing = Drawing { edges, lines: Vec::new(), seen: Vec::new(), now_ms };
        drawing.draw(&entries);
        let is_sure = list(&lane["edges"]).all(|edge| number(edge, "doubtful") == 0);
        let leaks = match number(lane, "leaks") {
            0 if is_sure => "no leak".into(),
            0 => "no leak that is sure".into(),
            leaks => count(leaks as usize, "leak", "leaks"),
        };
        format!("{}: {leaks} in {}\n{}", word(&lane["lane"]), span(answer), drawing.lines.concat())
    });
    drawn.collect::<Vec<_>>().join("\n")
}

/// A lane on its way to paper.
struct Drawing<'a> {
    edges: Vec<&'a Value>,
    lines: Vec<String>,
    /// Services that have been drawn with whom they call.
    seen: Vec<String>,
    now_ms: u64,
}

impl Drawing<'_> {
    fn draw(&mut self, entries: &BTreeMap<&str, u64>) {
        // From where it comes: gateways, and callers that nobody in the lane calls.
        let is_called = |from: &str| self.edges.iter().any(|edge| format!("Service/{}", word(&edge["to"])) == from);
        let mut roots: Vec<String> = self.edges.iter().map(|edge| word(&edge["from"]).to_owned()).collect();
        roots.sort();
        roots.dedup();
        let (first, circles): (Vec<String>, Vec<String>) = roots.into_iter().partition(|from| !is_called(from));
        for root in first {
            let share = entries.get(&*root).filter(|_| root.starts_with("Gateway/")).map(|all| {
                let own = self.edges.iter().filter(|edge| edge["from"] == *root).map(|edge| number(edge, "requests"));
                format!("  {} of what comes in", percent(own.sum(), *all))
            });
            self.root(&root, &share.unwrap_or_default());
        }
        // Who is only called in a circle.
        for root in circles {
            if !self.seen.contains(&root) {
                self.root(&root, "");
            }
        }
    }

    fn root(&mut self, root: &str, note: &str) {
        let name = if root.is_empty() { "from outside the mesh" } else { root };
        self.lines.push(format!("  {name}{note}\n"));
        self.below(root, "  ", 0);
    }

    fn below(&mut self, from: &str, indent: &str, depth: usize) {
        self.seen.push(from.to_owned());
        let of: Vec<Value> =
            self.edges.iter().filter(|edge| edge["from"] == *from).map(|edge| (*edge).clone()).collect();
        for (place, edge) in of.iter().enumerate() {
            let is_last = place + 1 == of.len();
            let to = word(&edge["to"]);
            let (branch, bar) = if is_last { ("└─", "  ") } else { ("├─", "│ ") };
            self.lines.push(format!("{indent}{branch} {to}  {}\n", self.said(edge)));
            let service = format!("Service/{to}");
            let is_drawn = self.seen.contains(&service) || depth == DEPTH_MAX;
            if !is_drawn {
                self.below(&service, &format!("{indent}{bar} "), depth + 1);
            }
        }
    }

    /// What became of the requests on a way.
    fn said(&self, edge: &Value) -> String {
        let all = number(edge, "requests");
        let mut said = Vec::new();
        if all > 0 {
            said.push(count(all as usize, "request", "requests"));
            match (number(edge, "inLane"), number(edge, "absent"), number(edge, "notReady")) {
                (_, 0, 0) => said.push("all in the lane".into()),
                (0, _, 0) => said.push("by the baseline: the lane has none there".into()),
                (own, absent, not_ready) => {
                    said.push(format!("{own} in the lane"));
                    said.extend((absent > 0).then(|| format!("{absent} by the baseline: the lane had none there")));
                    said.extend(
                        (not_ready > 0).then(|| format!("{not_ready} by the baseline: none of the lane was ready")),
                    );
                }
            }
        }
        if let refused @ 1.. = number(edge, "refused") {
            said.push(format!("{refused} REFUSED: the lane is strict, and had none there that was ready"));
        }
        for (name, words) in [("lost", "LOST"), ("untagged", "UNTAGGED")] {
            if let leaks @ 1.. = number(edge, name) {
                said.push(format!("{words} {leaks}{}", self.example(&edge["lastLeak"])));
            }
        }
        if let doubtful @ 1.. = number(edge, "doubtful") {
            said.push(format!("perhaps lost {doubtful} (the caller calls there of its own accord, too)"));
        }
        said.join(", ")
    }

    fn example(&self, last: &Value) -> String {
        if last.is_null() {
            return String::new();
        }
        let why = match word(&last["reason"]) {
            "noTrace" => "the call has no trace",
            "unknownTrace" => "the call has a trace of no request",
            "ambiguousTrace" => "requests of several lanes have its trace",
            "noTag" => "the call has no tag",
            "untagged" => "it came to an instance of the lane, and is not of it",
            other => other,
        };
        let ago = milliseconds(self.now_ms.saturating_sub(last["at"].as_u64().unwrap_or(0)));
        format!(" ({why}; the last {ago} ago: {})", word(&last["request"]))
    }
}

fn is_entry(edge: &Value) -> bool {
    word(&edge["from"]).starts_with("Gateway/")
}

fn percent(part: u64, of: u64) -> String {
    match of {
        0 => "0 %".into(),
        of => format!("{:.1} %", 100.0 * part as f64 / of as f64),
    }
}

/// Of how long the figures are.
fn span(answer: &Value) -> String {
    let seconds = number(answer, "seconds");
    if seconds < 120 { format!("{seconds} s") } else { format!("{} minutes", seconds / 60) }
}

fn number(value: &Value, name: &str) -> u64 {
    value[name].as_u64().unwrap_or(0)
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn word(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_lane_is_drawn_over_the_graph_of_calls() {
        let edge = |from: &str, to: &str, requests: u64, absent: u64, not_ready: u64, lost: u64| {
            let last = json!({ "request": "GET stock/7", "reason": "noTrace", "at": 1_000 });
            json!({
                "from": from, "to": to, "requests": requests, "inLane": requests - absent - not_ready, "absent": absent,
                "notReady": not_ready, "lost": lost, "untagged": 0, "lastLeak": if lost > 0 { last } else { Value::Null },
            })
        };
        let mut doubtful = edge("Service/d/a", "d/b", 1, 0, 0, 0);
        (doubtful["doubtful"], doubtful["refused"]) = (3.into(), 2.into());
        let outside = json!({
            "from": "", "to": "d/cart", "requests": 0, "inLane": 0, "absent": 0, "notReady": 0, "lost": 0, "untagged": 2,
            "lastLeak": { "request": "GET cart/", "reason": "untagged", "at": 2_500 },
        });
        let answer = json!({ "seconds": 600, "lanes": [
            { "lane": null, "leaks": 0, "edges": [edge("Gateway/d/shop", "d/web", 90, 0, 0, 0)] },
            { "lane": "blue", "leaks": 26, "edges": [
                outside,
                edge("Gateway/d/shop", "d/web", 10, 0, 0, 0),
                edge("Service/d/cart", "d/price", 9, 9, 0, 0),
                edge("Service/d/cart", "d/web", 1, 0, 0, 0),
                edge("Service/d/price", "d/stock", 5, 0, 2, 24),
                edge("Service/d/web", "d/cart", 10, 0, 0, 0),
                edge("Service/d/web", "d/mail", 1, 0, 1, 0),
            ]},
            { "lane": "doubt", "leaks": 0, "edges": [doubtful] },
            { "lane": "circle", "leaks": 0, "edges": [edge("Service/d/a", "d/b", 1, 0, 0, 0), edge("Service/d/b", "d/a", 1, 0, 0, 0)] },
        ]});
        let lanes: Vec<&Value> = list(&answer["lanes"]).skip(1).collect();
        let expected = "\
blue: 26 leaks in 10 minutes
  from outside the mesh
  └─ d/cart  UNTAGGED 2 (it came to an instance of the lane, and is not of it; the last 500 ms ago: GET cart/)
     ├─ d/price  9 requests, by the baseline: the lane has none there
     │  └─ d/stock  5 requests, 3 in the lane, 2 by the baseline: none of the lane was ready, LOST 24 (the call has no \
trace; the last 2.0 s ago: GET stock/7)
     └─ d/web  1 request, all in the lane
        ├─ d/cart  10 requests, all in the lane
        └─ d/mail  1 request, 0 in the lane, 1 by the baseline: none of the lane was ready
  Gateway/d/shop  10.0 % of what comes in
  └─ d/web  10 requests, all in the lane

doubt: no leak that is sure in 10 minutes
  Service/d/a
  └─ d/b  1 request, all in the lane, 2 REFUSED: the lane is strict, and had none there that was ready, perhaps lost 3 (the caller calls there of its own accord, too)

circle: no leak in 10 minutes
  Service/d/a
  └─ d/b  1 request, all in the lane
     └─ d/a  1 request, all in the lane
";
        assert_eq!(draw(&answer, &lanes, 3_000), expected);
    }
}
