//! Changes that must not be made now, and limits that must be in force at once.

use std::time::Duration;

use e2e::kit::{Backend, Launch, Rules, Scratch, until};

use crate::server::{Control, service};

/// A Service of a namespace with an instance.
fn instance(namespace: &str, name: &str, port: u16, instance: u16) -> String {
    format!(
        "{{apiVersion: evenkeel.dev/v1alpha1, kind: Service, metadata: {{name: {name}, namespace: {namespace}}}, spec: \
         {{ports: [{{name: http, port: {port}}}], endpoints: [{{address: 127.0.0.1, ports: {{http: {instance}}}}}]}}}}"
    )
}

#[test]
fn a_freeze_holds_what_it_names_and_lets_pass_what_it_says() {
    let folder = Scratch::create("control").expect("a folder");
    let control = Control::start(&folder);
    let freeze = |window: &str| {
        format!(
            "{{apiVersion: evenkeel.dev/v1alpha1, kind: ChangeFreeze, metadata: {{name: night}}, spec: {{scope: \
             {{namespaces: [shop]}}, windows: [{window}], allow: [rollback, emergencyLimit]}}}}"
        )
    };
    let objects = "POST /api/v1/objects";
    let web = |port, end| instance("shop", "web", port, end);
    let open = freeze("{start: \"2026-01-01T00:00:00Z\", duration: 87600h}");
    let json = "Content-Type: application/json\r\n";
    let limit = r#"{"requestsPerSecond": 5, "for": "1h"}"#;
    // What is asked, its status, and what the answer says somewhere.
    for (start, headers, body, status, words) in [
        (objects, "", web(80, 7001), 200, r#""revision":1"#),
        (objects, "", web(81, 7001), 200, r#""revision":2"#),
        (objects, "", freeze("{cron: \"99 * * * *\", duration: 1h}"), 422, "is not a schedule"),
        (
            objects,
            "",
            freeze("{cron: \"0 18 * * 5\", timeZone: Mars/Olympus, duration: 1h}"),
            422,
            "is not a time zone",
        ),
        (objects, "", freeze("{duration: 1h}"), 422, "needs start or cron"),
        (objects, "", open.clone(), 200, r#""revision":3"#),
        (objects, "", web(82, 7001), 423, "Service/shop/web must not be changed before 2035-12-30"),
        ("POST /api/v1/objects?dryRun=true", "", web(82, 7001), 200, "ChangeFreeze default/night"),
        ("DELETE /api/v1/objects/Service/shop/web", "", String::new(), 423, "these roles may: admin"),
        // Instances come and go whatever people do.
        (objects, "", web(81, 7002), 200, r#""revision":4"#),
        (objects, "", instance("other", "web", 80, 7001), 200, r#""revision":5"#),
        // Nobody takes it away, either.
        ("DELETE /api/v1/objects/ChangeFreeze/default/night", "", String::new(), 423, "ChangeFreeze/default/night"),
        ("POST /api/v1/rollback?revision=2", "", String::new(), 423, "ChangeFreeze/default/night"),
        ("POST /api/v1/rollback?revision=1&kind=Service&namespace=shop", "", String::new(), 200, r#""revision":6"#),
        ("PUT /api/v1/emergency/limits/shop/web", json, limit.to_owned(), 200, r#""revision":7"#),
        ("POST /api/v1/objects?breakGlass=true", "", web(83, 7001), 400, "needs a message"),
        ("POST /api/v1/objects?breakGlass=true&message=fire", "", web(83, 7001), 200, r#""revision":8"#),
        ("GET /api/v1/audit?count=1", "", String::new(), 200, r#""breaksGlass":true"#),
        ("GET /api/v1/history?count=1", "", String::new(), 200, "fire"),
    ] {
        let (seen, answer) = control.ask(start, headers, &body);
        let text = answer.to_string();
        assert!(seen == status && text.contains(words), "{start} {body}: {seen} {text}");
    }
}

#[test]
fn an_emergency_limit_is_in_force_at_once_and_ends_by_itself() {
    let folder = Scratch::create("control").expect("a folder");
    let control = Control::start(&folder);
    let backend = Backend::canned("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    let gateway = Launch::under(control.xds).spawn();
    control.wait_until_in_force(control.apply(&gateway.fill(&Rules::to(backend.address()).yaml())));
    control.apply(&service("lonely", 80));
    let json = "Content-Type: application/json\r\n";
    let at = |service: &str| format!("PUT /api/v1/emergency/limits/default/{service}");
    let web = at("web");
    for (start, body, status, words) in [
        (&*at("none"), r#"{"requestsPerSecond": 5, "for": "1h"}"#, 404, "there is no Service/default/none"),
        (&web, r#"{"requestsPerSecond": 0, "for": "1h"}"#, 422, "at least 1"),
        (&web, r#"{"requestsPerSecond": 5, "for": "1 hour"}"#, 422, "is not a time such as"),
        (&web, r#"{"requestsPerSecond": 1, "for": "1h"}"#, 200, "RateLimit/default/emergency-web"),
        ("GET /api/v1/emergency/limits", "", 200, r#""requestsPerSecond":1,"revision":3,"service":"default/web""#),
    ] {
        let (seen, answer) = control.ask(start, json, body);
        let text = answer.to_string();
        assert!(seen == status && text.contains(words), "{start} {body}: {seen} {text}");
    }
    let (_, waited) = control.ask("GET /api/v1/wait?revision=3", "", "");
    assert_eq!((&waited["outcome"], &waited["on"]), (&"inForce".into(), &1.into()), "{waited}");
    assert!(waited["milliseconds"].as_u64().is_some_and(|time| time < 1_000), "{waited}");
    let mut client = gateway.connect();
    let mut ask = || {
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        client.read().map(|answer| answer.status())
    };
    assert_eq!([ask(), ask()], [Ok(200), Ok(429)]);

    // Another one in its place, for a moment: control takes it away when its time is over.
    let (status, _) = control.ask(&web, json, r#"{"requestsPerSecond": 1, "for": "1s"}"#);
    assert_eq!(status, 200);
    let limits = || control.ask("GET /api/v1/emergency/limits", "", "").1["limits"].as_array().map_or(1, Vec::len);
    let (_, time) = until("no limit", || (limits() == 0).then_some(()));
    assert!(time < Duration::from_secs(10), "{time:?}");
    let (_, history) = control.ask("GET /api/v1/history?count=1", "", "");
    assert_eq!(history["revisions"][0]["author"], "control", "{history}");
    control.wait_until_in_force(history["revisions"][0]["revision"].as_u64().expect("a number"));
    assert_eq!([ask(), ask(), ask()], [Ok(200), Ok(200), Ok(200)]);
}
