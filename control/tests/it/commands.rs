//! `evenkeel check` and `evenkeel schema`, and the lines of the access log: what people and their tools read.

use std::net::SocketAddr;
use std::process::Command;

use e2e::kit::{Backend, Launch, Rules, Scratch, evenkeel, free_port, until};
use serde_json::Value;

fn run(arguments: &[&str]) -> (i32, String, String) {
    let output = Command::new(evenkeel()).args(arguments).output().expect("evenkeel can be started");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().expect("no signal"), text(&output.stdout), text(&output.stderr))
}

#[test]
fn check_tells_all_problems_and_the_verdict() {
    let good = Rules::to(([127, 0, 0, 1], 9).into()).yaml().replace("{{port}}", "8080");
    let dangling = good.replace("backendRefs: [{name: web,", "backendRefs: [{name: other,");
    let bad = good.replace("gatewayClassName", "gatewayClasName").replace("port: 80}]", "port: 80000}]");
    // Rules, flags, exit code, words on standard output, words on standard error.
    let rows: [(&str, &str, i32, &[&str], &str); 5] = [
        (&good, "", 0, &[], "ok: 1 address, 1 rule, 1 backend; 0 warnings"),
        (&good, "--strict", 0, &[], "ok: "),
        (&dangling, "", 0, &["warning: ", "rules.yaml:", "other"], "1 warning"),
        (&dangling, "--strict", 1, &["warning: "], "1 warning"),
        (&bad, "", 1, &["error: ", "gatewayClasName", "80000"], "refused: "),
    ];
    for (yaml, flag, code, out, err) in rows {
        let scratch = Scratch::create("check").expect("a folder");
        let file = scratch.write("rules.yaml", yaml).expect("a file").display().to_string();
        let mut arguments = vec!["check", &file];
        arguments.extend((!flag.is_empty()).then_some(flag));
        let (seen, stdout, stderr) = run(&arguments);
        let context = format!("{flag} of\n{yaml}\n{stdout}\n{stderr}");
        assert_eq!(seen, code, "{context}");
        assert!(out.iter().all(|word| stdout.contains(word)) && stderr.contains(err), "{context}");
        assert_eq!(out.is_empty(), stdout.is_empty(), "{context}");
    }
    let (code, stdout, _) = run(&["check", "/nowhere/at/all.yaml"]);
    assert!(code == 1 && stdout.contains("/nowhere/at/all.yaml"), "{stdout}");
}

#[test]
fn the_mistake_in_the_readme_is_told_as_it_says() {
    let readme = include_str!("../../../README.md");
    let part = |after: &str, end: &str| {
        let rest = readme.split_once(after).unwrap_or_else(|| panic!("{after:?} is not in it")).1;
        rest.split_once(end).expect("it has an end").0
    };
    let scratch = Scratch::create("readme").expect("a folder");
    scratch.write("bad.yaml", part("$ cat bad.yaml\n", "$ ")).expect("a file");
    let mut check = Command::new(evenkeel());
    let output =
        check.args(["check", "bad.yaml"]).current_dir(scratch.path()).output().expect("evenkeel can be started");
    let told = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert_eq!(told, part("evenkeel check bad.yaml\n", "```"));
}

#[test]
fn the_schema_is_json_and_knows_every_kind() {
    let (code, stdout, stderr) = run(&["schema"]);
    assert_eq!((code, &stderr[..]), (0, ""));
    let schema: Value = serde_json::from_str(&stdout).expect("JSON");
    assert!(schema.is_object());
    for kind in ["Gateway", "HTTPRoute", "Service", "ListenerPolicy", "ReferenceGrant", "TrafficPolicy"] {
        assert!(stdout.contains(&format!("\"{kind}\"")), "{kind} is missing");
    }
}

#[test]
fn each_request_is_a_line_with_its_reason() {
    let backend = Backend::start(|served| {
        while let Some(request) = served.request() {
            if request.start.contains("/broken") {
                served.peer.send("nonsense\r\n\r\n");
                return;
            } else if request.start.contains("/closed") {
                return;
            } else if request.start.contains("/silent") {
                served.peer.read_to_end();
                return;
            }
            served.peer.send("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello");
        }
    });
    let nobody = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let to = |path: &str, name: &str| {
        format!("matches: [{{path: {{value: {path}}}}}]\nbackendRefs: [{{name: {name}, port: 80}}]")
    };
    let rules = Rules::new()
        .service("web", &[backend.address()])
        .service("down", &[nobody])
        .service("empty", &[])
        .rule(&to("/web", "web"))
        .rule(&format!("timeouts: {{request: 100ms}}\n{}", to("/silent", "web")))
        .rule(&to("/down", "down"))
        .rule(&to("/empty", "empty"))
        .rule(&to("/missing", "missing"))
        .policy("maxRequestBody: 10")
        .yaml();
    let rows = [
        ("GET /web?q=1 HTTP/1.1\r\nHost: a\r\n\r\n", 200, "-"),
        ("POST /web HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc", 200, "-"),
        ("GET /web/broken HTTP/1.1\r\nHost: a\r\n\r\n", 502, "UPE"),
        ("GET /web/closed HTTP/1.1\r\nHost: a\r\n\r\n", 502, "UC"),
        ("GET /silent HTTP/1.1\r\nHost: a\r\n\r\n", 504, "UT"),
        ("GET /down HTTP/1.1\r\nHost: a\r\n\r\n", 503, "UF"),
        ("GET /empty HTTP/1.1\r\nHost: a\r\n\r\n", 503, "UH"),
        ("GET /missing HTTP/1.1\r\nHost: a\r\n\r\n", 500, "NC"),
        ("GET /other HTTP/1.1\r\nHost: a\r\n\r\n", 404, "NR"),
        ("POST /web HTTP/1.1\r\nHost: a\r\nContent-Length: 11\r\n\r\n", 413, "BL"),
        ("GET /web HTTP/1.1\r\nHost: a b\r\n\r\n", 400, "DPE"),
        ("GET /web HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n", 501, "UU"),
    ];
    for format in ["json", "text"] {
        let flags = ["--access-log", "-", "--access-log-format", format];
        let gateway = Launch::new(rules.clone()).flags(&flags).start();
        for (number, (request, status, flag)) in rows.iter().enumerate() {
            let mut client = gateway.connect();
            client.send(request);
            assert_eq!(client.read().map(|answer| answer.status()), Ok(*status), "{request:?}");
            let (line, _) = until("a line for the request", || gateway.stdout().lines().nth(number).map(str::to_owned));
            if format == "text" {
                assert!(line.contains(&format!(" {status} {flag} ")), "{request:?}: {line}");
                continue;
            }
            let line: Value = serde_json::from_str(&line).expect("JSON");
            assert_eq!(
                (line["status"].as_u64(), line["flag"].as_str()),
                (Some(u64::from(*status)), Some(*flag)),
                "{line}"
            );
            assert_eq!(line["client"], "127.0.0.1", "{line}");
            if number == 0 {
                assert_eq!(
                    (&line["method"], &line["host"], &line["path"], &line["query"]),
                    (&"GET".into(), &"a".into(), &"/web".into(), &"q=1".into())
                );
                assert_eq!(
                    (line["endpoint"].as_str(), line["response_bytes"].as_u64()),
                    (Some(&backend.address().to_string()[..]), Some(5))
                );
                assert_eq!(line["cluster"], "default/web:80");
            }
        }
    }
}
