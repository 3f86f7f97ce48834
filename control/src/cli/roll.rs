//! Instances and drains in tables, and a drain in words. Pure, Cold.

use serde_json::Value;

use crate::cli::table::{Table, milliseconds};

/// A mark that is stored later than this has waited for something.
const TOLD_LATE_MS: f64 = 1_000.0;

/// The instances that proxies speak for, and those that were refused.
pub fn instances(answer: &Value) -> Table {
    let mut table = Table::new(&["INSTANCE", "ADDRESS", "LANE", "ZONE", "PHASE", "NOTE"]);
    for one in list(&answer["instances"]) {
        let ports = one["ports"].as_object().into_iter().flatten();
        let ports: Vec<String> = ports.map(|(_, port)| port.to_string()).collect();
        let address = word(&one["address"]);
        let address = if address.contains(':') { format!("[{address}]") } else { address };
        let mut notes: Vec<String> = list(&one["notes"]).map(word).collect();
        if let Some(left) = one["leftMilliseconds"].as_u64() {
            notes.push(format!("{} left", milliseconds(left)));
        }
        table.row([
            word(&one["instance"]),
            format!("{address}:{}", ports.join(",")),
            word(&one["labels"]["lane"]),
            word(&one["zone"]),
            word(&one["phase"]),
            notes.join(", "),
        ]);
    }
    for one in list(&answer["refused"]) {
        let ago = milliseconds(one["agoMilliseconds"].as_u64().unwrap_or(0));
        let note = format!("{} ({ago} ago)", word(&one["reason"]));
        let empty = String::new;
        table.row([word(&one["instance"]), empty(), empty(), empty(), "refused".into(), note]);
    }
    table
}

/// Drains that are under way, and those that are over, newest first.
pub fn drains(answer: &Value) -> Table {
    let mut table = Table::new(&["INSTANCE", "BEGAN", "FORGOTTEN BY", "LAST REQUEST", "TOOK", "NOTE"]);
    for one in list(&answer["underWay"]).chain(list(&answer["over"])) {
        let began = one["began"].as_i64().and_then(|began| jiff::Timestamp::from_millisecond(began).ok());
        let began = began.map_or(String::new(), |began| format!("{:.0}", began));
        let is_over = !one["reason"].is_null();
        let took = if is_over { after(&one["tookMilliseconds"]) } else { "under way".into() };
        table.row([word(&one["instance"]), began, forgotten(one), last_request(one), took, note(one)]);
    }
    table
}

/// What became of a drain, in a few lines.
pub fn receipt(one: &Value) -> String {
    let mut lines = vec![format!(
        "{} has gone after {}: {}",
        word(&one["instance"]),
        after(&one["tookMilliseconds"]),
        word(&one["reason"])
    )];
    if let Some(told) = told_late(one) {
        lines.push(format!("  {told}"));
    }
    if !one["holders"].is_null() {
        lines.push(format!("  forgotten by {}", forgotten(one)));
    }
    if !one["lastRequestMilliseconds"].is_null() {
        lines.push(format!("  last request: {}", last_request(one)));
    }
    if let late @ 1.. = one["lateRequests"].as_u64().unwrap_or(0) {
        lines.push(format!("  {late} requests came after all callers in reach had forgotten it"));
    }
    for proxy in list(&one["proxies"]).filter(|proxy| !matches!(proxy["state"].as_str(), Some("forgot" | "ended"))) {
        lines.push(format!(
            "  {} did not say that it has forgotten it ({})",
            word(&proxy["proxy"]),
            word(&proxy["state"])
        ));
    }
    lines.extend(list(&one["cutRequests"]).map(|cut| format!("  cut: {}", word(cut))));
    let named = list(&one["cutRequests"]).count() as u64;
    if let more @ 1.. = one["cut"].as_u64().unwrap_or(0).saturating_sub(named) {
        lines.push(format!("  cut: {more} that are not named"));
    }
    lines.join("\n") + "\n"
}

fn forgotten(one: &Value) -> String {
    forgotten_by(one, |count| if count == 1 { " proxy" } else { " proxies" })
}

/// `n of m proxies after 12 ms`, with this word.
pub fn forgotten_by(one: &Value, word: impl Fn(u64) -> &'static str) -> String {
    if one["holders"].is_null() {
        return String::new();
    }
    let number = |name: &str| one[name].as_u64().unwrap_or(0);
    let of = number("holders");
    let on = of.saturating_sub(number("waiting") + number("unreachable"));
    let word = word(of);
    match of {
        0 => "nobody knew it".into(),
        _ if one["forgottenMilliseconds"].is_null() => format!("{on} of {of}{word}"),
        _ => format!("{on} of {of}{word} after {}", after(&one["forgottenMilliseconds"])),
    }
}

fn last_request(one: &Value) -> String {
    match one["lastRequestMilliseconds"].as_u64() {
        None => String::new(),
        Some(0) => "none came since".into(),
        Some(time) => format!("after {}", milliseconds(time)),
    }
}

fn note(one: &Value) -> String {
    let number = |name: &str| one[name].as_u64().unwrap_or(0);
    let mut notes = Vec::new();
    match (number("cut"), one["cutRequests"][0].as_str()) {
        (0, _) => {}
        (1, Some(name)) => notes.push(format!("cut: {name}")),
        (all, Some(name)) => notes.push(format!("cut: {name}, and {} more", all - 1)),
        (all, None) => notes.push(format!("cut: {all}")),
    }
    let is_one_of =
        |states: &[&str], proxy: &&Value| proxy["state"].as_str().is_some_and(|state| states.contains(&state));
    for (name, words, states) in
        [("unreachable", "unreachable", &["unreachable"][..]), ("waiting", "waited for", &["holding", "lost"])]
    {
        let first = list(&one["proxies"]).find(|proxy| is_one_of(states, proxy)).map(|proxy| word(&proxy["proxy"]));
        match (number(name), first) {
            (0, _) => {}
            (1, Some(first)) => notes.push(format!("{words}: {first}")),
            (all, Some(first)) => notes.push(format!("{words}: {first} and {} more", all - 1)),
            (all, None) => notes.push(format!("{words}: {all}")),
        }
    }
    if let late @ 1.. = number("lateRequests") {
        notes.push(format!("{late} requests came after callers had forgotten it"));
    }
    notes.extend(told_late(one));
    notes.extend(one["waitsFor"].as_str().map(|what| format!("waits for {what}")));
    notes.extend(one["reason"].as_str().map(str::to_owned));
    notes.join(", ")
}

/// One that was the last, or that control did not hear of at once, went for a while before callers were told.
fn told_late(one: &Value) -> Option<String> {
    let told = one["toldMilliseconds"].as_f64().filter(|told| *told >= TOLD_LATE_MS)?;
    Some(format!("callers were told after {}", milliseconds(told as u64)))
}

/// Milliseconds with their parts, as they are told.
pub fn after(value: &Value) -> String {
    match value.as_f64() {
        Some(time) if time < 10.0 => format!("{time:.1} ms"),
        Some(time) => milliseconds(time as u64),
        None => String::new(),
    }
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn word(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn drains_are_told_in_words() {
        let receipt_of = |waiting: u64, unreachable: u64, reason: Value| {
            json!({
                "instance": "shop/web/a", "began": 1_700_000_000_000_i64, "tookMilliseconds": 312.4, "forgottenMilliseconds": 8.25,
                "holders": 3, "waiting": waiting, "unreachable": unreachable, "lastRequestMilliseconds": 120, "cut": 3,
                "cutRequests": ["GET /big"], "reason": reason,
                "proxies": [{ "proxy": "shop/g@1", "state": "forgot" }, { "proxy": "shop/g@2", "state": "unreachable" }],
            })
        };
        let mut late = receipt_of(0, 0, "it was quiet".into());
        late["toldMilliseconds"] = 24_012.4.into();
        assert!(
            receipt(&late).contains("\n  callers were told after 24.0 s\n  forgotten by 3 of 3"),
            "{}",
            receipt(&late)
        );
        let undrained =
            json!({ "instance": "shop/web/a", "tookMilliseconds": 10_000, "holders": null, "reason": "silent" });
        assert_eq!(receipt(&undrained), "shop/web/a has gone after 10.0 s: silent\n");
        let told = receipt(&receipt_of(0, 1, "it was quiet".into()));
        let expected = "shop/web/a has gone after 312 ms: it was quiet\n  forgotten by 2 of 3 proxies after 8.2 ms\n  last request: \
                        after 120 ms\n  shop/g@2 did not say that it has forgotten it (unreachable)\n  cut: GET /big\n  cut: 2 that are not named\n";
        assert_eq!(told, expected);
        let mut under_way = receipt_of(1, 0, Value::Null);
        under_way["waitsFor"] = "callers to forget it".into();
        let table = drains(&json!({ "underWay": [under_way], "over": [receipt_of(0, 1, "quiet".into())] }));
        let (text, _) = table.text(true);
        let rows: Vec<&str> = text.lines().skip(1).collect();
        assert!(
            rows[0].contains("2 of 3 proxies after 8.2 ms")
                && rows[0]
                    .ends_with("under way  cut: GET /big, and 2 more, waited for: 1, waits for callers to forget it"),
            "{text}"
        );
        assert!(rows[1].ends_with("312 ms     cut: GET /big, and 2 more, unreachable: shop/g@2, quiet"), "{text}");
    }

    #[test]
    fn instances_and_those_that_were_refused_are_in_one_table() {
        let instance = json!({
            "instance": "shop/web/a", "address": "fd00::1", "ports": { "": 15006 }, "labels": { "lane": "blue" }, "zone": null,
            "phase": "draining", "notes": ["unconfirmed"], "leftMilliseconds": 2_000,
        });
        let refused = json!({ "instance": "shop/web/b", "reason": "its port is taken", "agoMilliseconds": 83 });
        let (text, _) = instances(&json!({ "instances": [instance], "refused": [refused] })).text(true);
        let rows: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(rows[1].join(" "), "shop/web/a [fd00::1]:15006 blue draining unconfirmed, 2.0 s left");
        assert_eq!(rows[2].join(" "), "shop/web/b refused its port is taken (83 ms ago)");
    }
}
