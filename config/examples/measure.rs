//! Measures what ten and ten thousand mixed routes cost: to read, to compile, to clone, and to look up.
//! Run with `cargo run --release -p config --example measure`; given files, it prints what becomes of them.

use std::fmt::Write as _;
use std::hint::black_box;
use std::time::Instant;

use config::route::RequestView;
use config::{Reader, Source, read};

fn main() {
    let paths: Vec<_> = std::env::args_os().skip(1).map(Into::into).collect();
    if !paths.is_empty() {
        match config::load(&paths).result {
            Ok(checked) => {
                checked.warnings.iter().for_each(|warning| println!("{warning}"));
                println!("{:#?}", checked.snapshot);
            }
            Err(problems) => problems.iter().for_each(|problem| println!("{problem}")),
        }
        return;
    }
    for count in [10, 1_000, 10_000] {
        measure(count);
    }
}

/// A request for one of the routes.
struct Request {
    host: String,
    path: String,
    version: String,
}

impl RequestView for Request {
    fn method(&self) -> &[u8] {
        b"GET"
    }

    fn host(&self) -> &[u8] {
        self.host.as_bytes()
    }

    fn authority(&self) -> &[u8] {
        self.host.as_bytes()
    }

    fn path(&self) -> &[u8] {
        self.path.as_bytes()
    }

    fn query(&self) -> &[u8] {
        b""
    }

    fn header<'h>(&'h self, name_lower: &'h str) -> impl Iterator<Item = &'h [u8]> {
        (name_lower == "x-version").then_some(self.version.as_bytes()).into_iter()
    }
}

fn measure(count: usize) {
    let mut text = String::from(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: edge}\nspec:\n  \
         gatewayClassName: evenkeel\n  listeners:\n  - {name: http, port: 8080, protocol: HTTP}\n---\n\
         apiVersion: evenkeel.dev/v1alpha1\nkind: Service\nmetadata: {name: web}\nspec:\n  \
         ports: [{name: http, port: 80}]\n  endpoints: [{address: 127.0.0.1, ports: {http: 7001}}]\n",
    );
    let mut requests = Vec::new();
    for index in 0..count {
        let (host, version) = (format!("www{}.example", index / 10), format!("v{index}"));
        let (conditions, path) = match index % 10 {
            0 => (format!("path: {{type: Exact, value: /exact/{index}}}"), format!("/exact/{index}")),
            1..5 => (format!("path: {{value: /prefix/{index}}}"), format!("/prefix/{index}/some/page.html")),
            5 => (
                format!("path: {{type: RegularExpression, value: '/regex/{index}/[a-z]+'}}"),
                format!("/regex/{index}/abc"),
            ),
            6 => (format!("path: {{value: /method/{index}}}\n      method: GET"), format!("/method/{index}")),
            _ => (
                format!("path: {{value: /api}}\n      headers: [{{name: x-version, value: {version}}}]"),
                "/api/items".to_owned(),
            ),
        };
        let _ = write!(
            text,
            "---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: r{index}}}\nspec:\n  \
             parentRefs: [{{name: edge}}]\n  hostnames: [{host}]\n  rules:\n  - matches:\n    - {conditions}\n    \
             backendRefs: [{{name: web, port: 80}}]\n"
        );
        requests.push(Request { host, path, version });
    }
    let sources = [Source { name: "measure.yaml".into(), bytes: text.into_bytes() }];
    let megabytes = sources[0].bytes.len() as f64 / 1e6;
    let mut read_ms = f64::MAX;
    let mut clone_ms = f64::MAX;
    let mut snapshot = None;
    // The machine may be busy with other work: the least of a few rounds is nearest to what the code costs.
    for _ in 0..5 {
        let started = Instant::now();
        let checked = read(&sources).unwrap_or_else(|problems| panic!("{}", problems[0]));
        read_ms = read_ms.min(started.elapsed().as_secs_f64() * 1e3);
        let started = Instant::now();
        snapshot = Some(checked.snapshot.clone());
        clone_ms = clone_ms.min(started.elapsed().as_secs_f64() * 1e3);
    }
    let mut reader = Reader::default();
    let mut again_ms = f64::MAX;
    let text = String::from_utf8_lossy(&sources[0].bytes).into_owned();
    for round in 0..6 {
        let changed = text.replacen("http: 7001", &format!("http: {}", 7001 + round), 1);
        let changed = [Source { name: "measure.yaml".into(), bytes: changed.into_bytes() }];
        let started = Instant::now();
        let _ = black_box(reader.read(&changed));
        again_ms = again_ms.min(started.elapsed().as_secs_f64() * 1e3);
    }
    let Some(snapshot) = snapshot else {
        return;
    };
    let table = &snapshot.binds[0].table;
    // A step that shares no factor with the count visits all requests in an order no cache foresees.
    let step = 7_919 % count;
    let looks = 200_000;
    let mut nanoseconds = f64::MAX;
    for _ in 0..10 {
        let started = Instant::now();
        let mut position = 0;
        for _ in 0..looks {
            position = (position + step) % count;
            assert!(black_box(table.find(&requests[position])).is_some(), "every request has a route");
        }
        nanoseconds = nanoseconds.min(started.elapsed().as_nanos() as f64 / f64::from(looks));
    }
    println!(
        "{count:6} routes ({megabytes:.1} MB): read {read_ms:.1} ms, after one change {again_ms:.1} ms, clone {clone_ms:.1} ms, find {nanoseconds:.0} ns"
    );
}
