//! What Gateway API demands of its kinds, each MUST a row with the field it stands at.

mod actions;
mod attachment;
mod dns;
mod lanes;
mod matching;
mod protection;
mod shadow;
mod sidecar;

use crate::route::tests::Request;
use crate::snapshot::{Bind, ClientAddress, Filter, Rule, Snapshot};
use crate::{Checked, Source, read};

/// Gateways `shop` (one listener for all hosts, at 8080) and Services `a` to `c` of one endpoint each.
const BASE: &str = "
{apiVersion: gateway.networking.k8s.io/v1, kind: Gateway, metadata: {name: shop},
 spec: {gatewayClassName: evenkeel, listeners: [{name: http, port: 8080, protocol: HTTP}]}}
---
{apiVersion: evenkeel.dev/v1alpha1, kind: Service, metadata: {name: a},
 spec: {ports: [{name: http, port: 80}], endpoints: [{address: 127.0.0.1, ports: {http: 7001}}]}}
---
{apiVersion: evenkeel.dev/v1alpha1, kind: Service, metadata: {name: b},
 spec: {ports: [{name: http, port: 80}], endpoints: [{address: 127.0.0.1, ports: {http: 7002}}]}}
---
{apiVersion: evenkeel.dev/v1alpha1, kind: Service, metadata: {name: empty}, spec: {ports: [{name: http, port: 80}]}}
---
{apiVersion: evenkeel.dev/v1alpha1, kind: Service, metadata: {name: far, namespace: other},
 spec: {ports: [{name: http, port: 80}], endpoints: [{address: 127.0.0.1, ports: {http: 7003}}]}}
";

/// A route of the Gateway `shop` with the fields given of its spec, in flow style.
fn route(name: &str, spec: &str) -> String {
    format!(
        "---\n{{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {{{name}}}, spec: {{{spec}}}}}\n"
    )
}

/// A route named `r` of the Gateway `shop` with these rules.
fn rules(rules: &str) -> String {
    route("name: r", &format!("parentRefs: [{{name: shop}}], rules: [{rules}]"))
}

fn try_read(documents: &str) -> Result<Checked, Vec<String>> {
    let source = Source { name: "rules.yaml".into(), bytes: format!("{BASE}{documents}").into_bytes() };
    read(&[source]).map_err(|problems| problems.iter().map(ToString::to_string).collect())
}

fn checked(documents: &str) -> Checked {
    try_read(documents).unwrap_or_else(|problems| panic!("{}\n{documents}", problems.join("\n")))
}

/// `GET host/path?query` and then header fields, `name: value`, separated by two blanks.
fn request(line: &str) -> Request {
    let mut parts = line.split("  ");
    let (method, target) = parts.next().and_then(|start| start.split_once(' ')).expect("rows start with a method");
    let slash = target.find(['/', '*']).expect("rows have a path");
    let (path, query) = target[slash..].split_once('?').unwrap_or((&target[slash..], ""));
    let headers = parts.map(|header| header.split_once(": ").expect("rows have name: value"));
    Request {
        method: method.to_owned(),
        host: target[..slash].to_owned(),
        path: path.to_owned(),
        query: query.to_owned(),
        headers: headers.map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
    }
}

/// The rule's name and its targets with their weights, such as `default/r/0 a=1 500=1`; 404 if there is none.
fn describe(snapshot: &Snapshot, bind: &Bind, line: &str) -> String {
    let Some(found) = bind.table.find(&request(line)) else {
        return "404".to_owned();
    };
    let targets = found.rule.backends.choices.iter().map(|choice| {
        let cluster = choice.cluster.map(|index| &snapshot.clusters[index]);
        let name = cluster.map_or("500", |cluster| if cluster.endpoints.is_empty() { "503" } else { &cluster.service });
        format!(" {name}={}", choice.weight)
    });
    format!("{}{}", found.rule.name.trim_start_matches("default/"), targets.collect::<String>())
}

/// What requests meet at the first bind.
fn check(documents: &str, rows: &[(&str, &str)]) {
    let snapshot = checked(documents).snapshot;
    for (line, expected) in rows {
        assert_eq!(describe(&snapshot, &snapshot.binds[0], line), *expected, "{line}\n{documents}");
    }
}

/// The warnings of documents that can be used.
fn check_warnings(documents: &str, expected: &[&str]) {
    let warnings: Vec<String> = checked(documents).warnings.iter().map(ToString::to_string).collect();
    assert_eq!(warnings.len(), expected.len(), "{warnings:#?}");
    for (warning, expected) in warnings.iter().zip(expected) {
        assert!(warning.ends_with(expected), "{warning}\n{expected}");
    }
}

/// The problems of documents that are refused.
fn check_errors(documents: &str, expected: &[&str]) {
    let problems = try_read(documents).expect_err(documents);
    assert_eq!(problems.len(), expected.len(), "{problems:#?}");
    for (problem, expected) in problems.iter().zip(expected) {
        assert!(problem.ends_with(expected), "{problem}\n{expected}");
    }
}

fn only_rule(documents: &str) -> Rule {
    let snapshot = checked(documents).snapshot;
    let found = snapshot.binds[0].table.find(&request("GET any.test/")).expect("the rule takes everything");
    (**found.rule).clone()
}

const UNDERSCORED: &str = "clients' fields with '_' in their name are dropped before rules see them";

const TO_A: &str = "backendRefs: [{name: a, port: 80}]";
const TO_B: &str = "backendRefs: [{name: b, port: 80}]";

/// A Gateway `g` at 8081 with these listeners; its bind is the second.
fn gateway(listeners: &str) -> String {
    format!(
        "---\n{{apiVersion: gateway.networking.k8s.io/v1, kind: Gateway, metadata: {{name: g}},\n \
         spec: {{gatewayClassName: evenkeel, listeners: [{listeners}]}}}}\n"
    )
}
