//! `--wait`: asks control whether a revision is in force everywhere, and says in words who has not taken it and why. Cold.

use std::process::ExitCode;
use std::time::Duration;

use hyper::Method;
use serde_json::Value;

use crate::cli::client::{Client, Failure, PATIENCE, path};
use crate::cli::table::{count, milliseconds};

/// The longest wait that control grants.
const TIME_MAX: Duration = Duration::from_secs(600);

/// Who tries a change before all others.
#[derive(Debug, Clone, clap::Args)]
pub struct Canary {
    /// So many proxies try it first, a number such as 2 or a share such as 10%
    #[arg(long, value_name = "PROXIES", value_parser = share)]
    pub canary: Option<String>,
    /// For how long they try it, such as 10s, which is usual
    #[arg(long, value_name = "TIME", requires = "canary", value_parser = duration)]
    bake: Option<Duration>,
}

impl Canary {
    /// As control is told.
    pub fn bake(&self) -> Option<String> {
        self.bake.map(|bake| format!("{}ms", bake.as_millis()))
    }
}

/// How long to wait.
#[derive(Debug, Clone, clap::Args)]
pub struct Wait {
    /// Wait until it is in force on every proxy that is connected
    #[arg(long)]
    wait: bool,
    /// How long to wait, such as 500ms, 30s or 2m
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = duration)]
    timeout: Duration,
}

/// What became of a revision.
pub struct Outcome {
    pub answer: Value,
}

impl Wait {
    /// To wait, whatever is asked for.
    pub fn at_most(timeout: Duration) -> Wait {
        Wait { wait: true, timeout }
    }

    /// Waits, if that is asked for.
    pub fn ask(&self, client: &Client, revision: u64, bake: Duration) -> Result<Option<Outcome>, Failure> {
        if !self.wait {
            return Ok(None);
        }
        // What others try first is in force everywhere no earlier than after that.
        let time = (self.timeout + bake).min(TIME_MAX);
        let (revision, timeout) = (revision.to_string(), format!("{}ms", time.as_millis()));
        let path = path("/api/v1/wait", &[("revision", Some(&revision)), ("timeout", Some(&timeout))]);
        let answer = client.call(Method::GET, &path, Vec::new(), time + PATIENCE)?;
        Ok(Some(Outcome { answer }))
    }
}

impl Outcome {
    /// 0: it is in force everywhere.
    pub fn exit_code(&self) -> ExitCode {
        if self.answer["outcome"] == "inForce" { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }

    /// The verdict, then each reason, a line each.
    pub fn text(&self) -> String {
        let answer = &self.answer;
        let number = |value: &Value| value.as_u64().unwrap_or(0);
        if answer["outcome"] == "takenBack" {
            return taken_back(answer);
        }
        let (revision, on, of) = (number(&answer["revision"]), number(&answer["on"]), number(&answer["of"]));
        let after =
            answer["milliseconds"].as_u64().map_or(String::new(), |time| format!(" after {}", milliseconds(time)));
        let mut lines = vec![match answer["outcome"].as_str() {
            _ if of == 0 => {
                format!("revision {revision} is kept, and in force nowhere: no proxy is connected")
            }
            Some("inForce") => format!("revision {revision} in force on {on} of {of} proxies{after}"),
            Some("onTrial") => {
                let canary = &answer["canary"];
                let tries = canary["tries"].as_array().map_or(0, Vec::len);
                format!(
                    "revision {revision} is still on trial{after}: in force on {} of {tries} proxies that try it",
                    canary["on"]
                )
            }
            Some("refused") => {
                let refused = number(&answer["refused"]["count"]);
                format!("revision {revision} refused by {refused} of {of} proxies; in force on {on}{after}")
            }
            _ => format!("revision {revision} in force on only {on} of {of} proxies{after}"),
        }];
        let canary = &answer["canary"];
        if answer["outcome"] != "onTrial" && canary.is_object() {
            let (tried, tries) = (&canary["revision"], canary["tries"].as_array().map_or(0, Vec::len));
            lines.push(format!(
                "  revision {tried} is on trial meanwhile: in force on {} of {tries} proxies that try it",
                canary["on"]
            ));
        }
        lines.extend(answer["promoted"].as_str().map(|why| format!("  {why}")));
        lines.extend(refused(&answer["refused"], "refused by"));
        if answer["outcome"] == "refused" {
            lines.push("  their rules from before stay in force there; mend it and apply again, or roll back".into());
        }
        let behind = &answer["behind"];
        for proxy in behind["proxies"].as_array().into_iter().flatten() {
            let [id, why] = ["id", "why"].map(|name| proxy[name].as_str().unwrap_or_default());
            lines.push(format!("  not on {id}: {why}"));
        }
        lines.extend(more(behind, "not on"));
        let gone = &answer["gone"];
        for proxy in gone["proxies"].as_array().into_iter().flatten() {
            let ago = milliseconds(number(&proxy["goneMilliseconds"]));
            let [id, why] = ["id", "why"].map(|name| proxy[name].as_str().unwrap_or_default());
            lines.push(format!("  not waited for {id}: {why} {ago} ago, before it had taken it"));
        }
        lines.extend(more(gone, "not waited for"));
        lines.extend(refused(&answer["refusedBefore"], "still refused from before by"));
        if let count @ 1.. = number(&answer["notEnforced"]["count"]) {
            let names = names(&answer["notEnforced"]["proxies"], count);
            lines.push(format!("  not enforced by {names}: too old to know a kind of document in it"));
        }
        lines.join("\n") + "\n"
    }
}

/// What nobody has any more.
fn taken_back(answer: &Value) -> String {
    let text = |name: &str| answer[name].as_str().unwrap_or_default();
    let after = answer["milliseconds"].as_u64().map_or(String::new(), |time| format!(" after {}", milliseconds(time)));
    let (revision, why) = (&answer["revision"], text("why").replace('\n', "\n    "));
    format!(
        "revision {revision} taken back by {}{after}\n  {why}\n  revision {} is as it was\n",
        text("by"),
        answer["backAt"]
    )
}

/// Who refused what and why, a line for each reason.
pub fn refused(refused: &Value, words: &str) -> Vec<String> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let reason = |one: &Value| {
        let names = names(&one["proxies"], one["count"].as_u64().unwrap_or(0));
        let objects: Vec<String> = one["objects"].as_array().into_iter().flatten().map(text).collect();
        // Collections are a word between control and proxies.
        let objects: Vec<String> = objects.into_iter().filter(|name| !name.ends_with("/*")).collect();
        let shown = match &objects[..] {
            [first, second, third, rest @ ..] if !rest.is_empty() => {
                format!("{first}, {second}, {third} and {} more", rest.len())
            }
            few => few.join(", "),
        };
        let reason = text(&one["reason"]).replace('\n', "\n    ");
        format!("  {words} {names}: {shown}\n    {reason}")
    };
    refused["reasons"].as_array().into_iter().flatten().map(reason).collect()
}

/// The first names of so many.
pub fn names(named: &Value, total: u64) -> String {
    let named = named.as_array().into_iter().flatten().filter_map(|one| one.as_str().or_else(|| one["id"].as_str()));
    let shown: Vec<&str> = named.take(3).collect();
    match total.saturating_sub(shown.len() as u64) {
        0 => shown.join(", "),
        more => format!("{} and {}", shown.join(", "), count(more as usize, "more proxy", "more proxies")),
    }
}

fn more(list: &Value, words: &str) -> Option<String> {
    let named = list["proxies"].as_array().map_or(0, Vec::len) as u64;
    let more = list["count"].as_u64().unwrap_or(0).saturating_sub(named);
    (more > 0).then(|| format!("  {words} {}", count(more as usize, "more proxy", "more proxies")))
}

/// Who tries something first, as control reads it.
fn share(text: &str) -> Result<String, String> {
    let number = text
        .strip_suffix('%')
        .map_or_else(|| text.parse().ok(), |percent| percent.parse::<u64>().ok().filter(|percent| *percent <= 100));
    match number {
        Some(1..) => Ok(text.to_owned()),
        _ => Err("a number of proxies such as 2, or 10%".to_owned()),
    }
}

/// How long to wait, as it is typed.
pub fn duration(text: &str) -> Result<Duration, String> {
    crate::server::duration(text).ok_or_else(|| "a time such as 500ms, 30s or 2m, 10m at most".to_owned())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_operator_reads_what_is_so() {
        for (answer, expected) in [
            (
                json!({"outcome": "inForce", "revision": 41, "on": 412, "of": 412, "milliseconds": 83}),
                "revision 41 in force on 412 of 412 proxies after 83 ms\n",
            ),
            (
                json!({"outcome": "inForce", "revision": 4, "on": 0, "of": 0}),
                "revision 4 is kept, and in force nowhere: no proxy is connected\n",
            ),
            (
                json!({"outcome": "late", "revision": 4, "on": 0, "of": 0, "gone": {"count": 1, "proxies": [{"id": "g",
                    "goneMilliseconds": 5, "why": "it ended by itself"}]}}),
                "revision 4 is kept, and in force nowhere: no proxy is connected\n  not waited for g: it ended by itself 5 ms ago, \
                 before it had taken it\n",
            ),
            (
                json!({"outcome": "inForce", "revision": 42, "on": 3, "of": 3, "milliseconds": 2,
                    "canary": {"revision": 41, "on": 1, "tries": ["p"]}}),
                "revision 42 in force on 3 of 3 proxies after 2 ms\n  revision 41 is on trial meanwhile: in force on 1 of 1 \
                 proxies that try it\n",
            ),
            (
                json!({"outcome": "refused", "revision": 41, "on": 407, "of": 412, "milliseconds": 91, "refused": {"count": 5,
                    "reasons": [{"reason": "a\nb", "objects": ["Gateway/d/e", "Gateway/d/e/*"], "count": 5,
                    "proxies": ["a", "b", "c", "d"]}]}}),
                "revision 41 refused by 5 of 412 proxies; in force on 407 after 91 ms\n  refused by a, b, c and 2 more \
                 proxies: Gateway/d/e\n    a\n    b\n  their rules from before stay in force there; mend it and apply \
                 again, or roll back\n",
            ),
            (
                json!({"outcome": "late", "revision": 41, "on": 1, "of": 3, "milliseconds": 30_000,
                    "behind": {"count": 2, "proxies": [{"id": "p", "why": "it sleeps"}]},
                    "gone": {"count": 1, "proxies": [{"id": "g", "goneMilliseconds": 5, "why": "its connection broke"}]},
                    "notEnforced": {"count": 1, "proxies": ["old"]}}),
                "revision 41 in force on only 1 of 3 proxies after 30.0 s\n  not on p: it sleeps\n  not on 1 more proxy\n  \
                 not waited for g: its connection broke 5 ms ago, before it had taken it\n  not enforced by old: too old to \
                 know a kind of document in it\n",
            ),
            (
                json!({"outcome": "takenBack", "revision": 41, "by": "control", "why": "canary: p refused it: a\nb", "backAt": 42,
                    "milliseconds": 41}),
                "revision 41 taken back by control after 41 ms\n  canary: p refused it: a\n    b\n  revision 42 is as it was\n",
            ),
            (
                json!({"outcome": "onTrial", "revision": 41, "on": 1, "of": 3, "milliseconds": 30_000,
                    "canary": {"on": 1, "tries": ["p", "q"]}}),
                "revision 41 is still on trial after 30.0 s: in force on 1 of 2 proxies that try it\n",
            ),
        ] {
            assert_eq!(Outcome { answer }.text(), expected);
        }
    }
}
