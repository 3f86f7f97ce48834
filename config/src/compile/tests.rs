//! What Gateway API demands of its kinds, each MUST a row with the field it stands at.

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

const TO_A: &str = "backendRefs: [{name: a, port: 80}]";
const TO_B: &str = "backendRefs: [{name: b, port: 80}]";

#[test]
fn paths() {
    // HTTPPathMatch.type PathPrefix: element by element, a trailing slash is ignored.
    for prefix in ["/foo", "/foo/"] {
        check(
            &rules(&format!("{{matches: [{{path: {{value: {prefix}}}}}], {TO_A}}}")),
            &[
                ("GET h/foo", "r/0 a=1"),
                ("GET h/foo/", "r/0 a=1"),
                ("GET h/foo/bar", "r/0 a=1"),
                ("GET h/foobar", "404"),
                ("GET h/Foo", "404"),
                ("GET h/", "404"),
            ],
        );
    }
    // HTTPPathMatch.type Exact: with case, and not with a slash more.
    check(
        &rules(&format!("{{matches: [{{path: {{type: Exact, value: /foo}}}}], {TO_A}}}")),
        &[("GET h/foo", "r/0 a=1"), ("GET h/foo/", "404"), ("GET h/Foo", "404"), ("GET h/foo/bar", "404")],
    );
    // HTTPPathMatch.type RegularExpression: ours describe the whole path.
    check(
        &rules(&format!("{{matches: [{{path: {{type: RegularExpression, value: '/v[0-9]+|/x'}}}}], {TO_A}}}")),
        &[("GET h/v12", "r/0 a=1"), ("GET h/x", "r/0 a=1"), ("GET h/v12/a", "404"), ("GET h/a/x", "404")],
    );
    // HTTPRouteMatch.path and HTTPRouteRule.matches: absent means the prefix /, which takes every request.
    for everything in ["", "matches: [], ", "matches: [{}], ", "matches: [{path: {}}], "] {
        check(
            &rules(&format!("{{{everything}{TO_A}}}")),
            &[("GET h/", "r/0 a=1"), ("GET /any/thing", "r/0 a=1"), ("OPTIONS h*", "r/0 a=1")],
        );
    }
    // A path is compared as normalised requests have it (RFC 3986 6.2.2).
    check(
        &rules(&format!("{{matches: [{{path: {{type: Exact, value: '/%41%c3%bc'}}}}], {TO_A}}}")),
        &[("GET h/A%C3%BC", "r/0 a=1")],
    );
}

#[test]
fn headers_params_and_methods() {
    // HTTPHeaderMatch.name: compared whatever its case; all conditions of a match must hold.
    check(
        &rules(&format!("{{matches: [{{headers: [{{name: X-A, value: '1'}}, {{name: x-b, value: b}}]}}], {TO_A}}}")),
        &[
            ("GET h/  x-a: 1  X-B: b", "r/0 a=1"),
            ("GET h/  x-a: 1", "404"),
            ("GET h/  x-a: 2  x-b: b", "404"),
            ("GET h/  x-a: 1  x-a: 1  x-b: b", "404"),
        ],
    );
    // HTTPHeaderMatch.name: a repeated field is one, joined as RFC 9110 5.3 says.
    check(
        &rules(&format!("{{matches: [{{headers: [{{name: x-a, value: '1, 2'}}]}}], {TO_A}}}")),
        &[("GET h/  x-a: 1  x-a: 2", "r/0 a=1"), ("GET h/  x-a: 1, 2", "r/0 a=1")],
    );
    // HTTPHeaderMatch.type RegularExpression.
    check(
        &rules(&format!(
            "{{matches: [{{headers: [{{type: RegularExpression, name: x-a, value: 'v[0-9]'}}]}}], {TO_A}}}"
        )),
        &[("GET h/  x-a: v1", "r/0 a=1"), ("GET h/  x-a: v12", "404"), ("GET h/", "404")],
    );
    // HTTPQueryParamMatch.name: with case; the first value counts; ours are decoded.
    check(
        &rules(&format!("{{matches: [{{queryParams: [{{name: q, value: a b}}]}}], {TO_A}}}")),
        &[
            ("GET h/?q=a+b", "r/0 a=1"),
            ("GET h/?x=1&q=a%20b&q=c", "r/0 a=1"),
            ("GET h/?q=c&q=a+b", "404"),
            ("GET h/?Q=a+b", "404"),
        ],
    );
    check(
        &rules(&format!("{{matches: [{{queryParams: [{{type: RegularExpression, name: q, value: '.+'}}]}}], {TO_A}}}")),
        &[("GET h/?q=a", "r/0 a=1"), ("GET h/?q=", "404")],
    );
    // HTTPRouteMatch.method.
    check(
        &rules(&format!("{{matches: [{{method: POST}}], {TO_A}}}")),
        &[("POST h/", "r/0 a=1"), ("GET h/", "404"), ("post h/", "404")],
    );
    // HTTPRouteRule.matches: any of them.
    check(
        &rules(&format!("{{matches: [{{method: POST}}, {{path: {{value: /x}}}}], {TO_A}}}")),
        &[("POST h/", "r/0 a=1"), ("GET h/x", "r/0 a=1"), ("GET h/", "404")],
    );
    // HTTPHeaderMatch.name: of equivalent names only the first is considered; told as a warning.
    let twice =
        rules(&format!("{{matches: [{{headers: [{{name: x-a, value: '1'}}, {{name: X-A, value: '2'}}]}}], {TO_A}}}"));
    check(&twice, &[("GET h/  x-a: 1", "r/0 a=1")]);
    check_warnings(
        &twice,
        &["spec.rules[0].matches[0].headers[1].name: x-a has a condition before this one, which is therefore ignored"],
    );
    // HTTPQueryParamMatch.name: the same for parameters.
    check(
        &rules(&format!("{{matches: [{{queryParams: [{{name: q, value: '1'}}, {{name: q, value: '2'}}]}}], {TO_A}}}")),
        &[("GET h/?q=1", "r/0 a=1")],
    );
}

#[test]
fn precedence() {
    // HTTPRouteRule.matches: an Exact path, the longest prefix, a method, most headers, most parameters.
    let rows = [
        ("path: {type: Exact, value: /a/b}", "path: {value: /a/b}", "GET h/a/b"),
        (
            "path: {value: /a/b}",
            "path: {value: /a}\n, method: GET, headers: [{name: x, value: '1'}]",
            "GET h/a/b  x: 1",
        ),
        ("path: {value: /a}", "path: {type: RegularExpression, value: /a.*}, method: GET", "GET h/a"),
        ("method: GET", "headers: [{name: x, value: '1'}]", "GET h/  x: 1"),
        (
            "headers: [{name: x, value: '1'}, {name: y, value: '1'}]",
            "headers: [{name: x, value: '1'}], queryParams: [{name: q, value: '1'}]",
            "GET h/?q=1  x: 1  y: 1",
        ),
        (
            "queryParams: [{name: q, value: '1'}, {name: r, value: '1'}]",
            "queryParams: [{name: q, value: '1'}]",
            "GET h/?q=1&r=1",
        ),
    ];
    for (winner, loser, line) in rows {
        let (winner, loser) =
            (format!("{{matches: [{{{winner}}}], {TO_A}}}"), format!("{{matches: [{{{loser}}}], {TO_B}}}"));
        check(&rules(&format!("{winner}, {loser}")), &[(line, "r/0 a=1")]);
        check(&rules(&format!("{loser}, {winner}")), &[(line, "r/1 a=1")]);
    }
    // HTTPRouteRule.matches: then the oldest route, then namespace/name, then the first rule.
    let one = |name: &str, to: &str| route(name, &format!("parentRefs: [{{name: shop}}], rules: [{{{to}}}]"));
    let young = one("name: a-young, creationTimestamp: '2024-01-01T00:00:00Z'", TO_B);
    let old = one("name: z-old, creationTimestamp: '2023-12-31T23:00:00-00:30'", TO_A);
    check(&format!("{young}{old}"), &[("GET h/", "z-old/0 a=1")]);
    check(&format!("{}{old}", one("name: a-timeless", TO_B)), &[("GET h/", "z-old/0 a=1")]);
    check(&format!("{}{}", one("name: y", TO_B), one("name: x", TO_A)), &[("GET h/", "x/0 a=1")]);
    check(&rules(&format!("{{{TO_A}}}, {{{TO_B}}}")), &[("GET h/", "r/0 a=1")]);
}

#[test]
fn hidden_matches() {
    let regex = "matches: [{path: {type: RegularExpression, value: /a.*}}]";
    check_warnings(
        &rules(&format!("{{{TO_A}}}, {{{regex}, {TO_B}}}, {{{TO_B}}}, {{matches: [{{method: GET}}], {TO_B}}}")),
        &[
            "spec.rules[1].matches[0]: is never met on any host: rule default/r/0, at rules.yaml:16, takes its requests before",
            "spec.rules[2]: is never met on any host: rule default/r/0, at rules.yaml:16, takes its requests before",
        ],
    );
    // Other conditions, or another host, hide nothing.
    check_warnings(
        &rules(&format!(
            "{{matches: [{{method: GET}}], {TO_A}}}, {{{regex}, {TO_B}}}, {{matches: [{{method: PUT}}], {TO_B}}}"
        )),
        &[],
    );
    let on = |name: &str, host: &str| {
        route(
            &format!("name: {name}"),
            &format!("parentRefs: [{{name: shop}}], hostnames: [{host}], rules: [{{{TO_A}}}]"),
        )
    };
    check_warnings(&(on("r", "a.test") + &on("s", "b.test")), &[]);
    check_warnings(
        &(on("r", "a.test") + &on("s", "a.test")),
        &["spec.rules[0]: is never met on a.test: rule default/r/0, at rules.yaml:16, takes its requests before"],
    );
}

/// A Gateway `g` at 8081 with these listeners; its bind is the second.
fn gateway(listeners: &str) -> String {
    format!(
        "---\n{{apiVersion: gateway.networking.k8s.io/v1, kind: Gateway, metadata: {{name: g}},\n \
         spec: {{gatewayClassName: evenkeel, listeners: [{listeners}]}}}}\n"
    )
}

fn check_hosts(listeners: &str, routes: &[(&str, &str)], rows: &[(&str, &str)]) {
    let mut documents = gateway(listeners);
    for (name, hostnames) in routes {
        documents += &route(
            &format!("name: {name}"),
            &format!("parentRefs: [{{name: g}}], hostnames: [{hostnames}], rules: [{{{TO_A}}}]"),
        );
    }
    let snapshot = checked(&documents).snapshot;
    for (line, expected) in rows {
        assert_eq!(describe(&snapshot, &snapshot.binds[1], line), *expected, "{line}\n{documents}");
    }
}

#[test]
fn host_names() {
    let all = "{name: http, port: 8081, protocol: HTTP}";
    let only = |hostname: &str| format!("{{name: http, port: 8081, protocol: HTTP, hostname: '{hostname}'}}");
    // HTTPRoute.hostnames: characters of a name without wildcard, then characters of any name.
    check_hosts(
        all,
        &[("any", ""), ("wide", "'*.test'"), ("narrow", "'*.a.test'"), ("exact", "x.a.test")],
        &[
            ("GET x.a.test/", "exact/0 a=1"),
            ("GET y.a.test/", "narrow/0 a=1"),
            ("GET z.y.a.test/", "narrow/0 a=1"),
            ("GET a.test/", "wide/0 a=1"),
            ("GET test/", "any/0 a=1"),
        ],
    );
    // Listener.hostname: a wildcard takes any number of labels, at least one.
    check_hosts(
        &only("*.test"),
        &[("any", "")],
        &[("GET a.test/", "any/0 a=1"), ("GET b.a.test/", "any/0 a=1"), ("GET test/", "404"), ("GET a.other/", "404")],
    );
    // HTTPRoute.hostnames: those that do not suit the listener MUST be ignored.
    check_hosts(
        &only("*.test"),
        &[("r", "a.test, a.other")],
        &[("GET a.test/", "r/0 a=1"), ("GET a.other/", "404"), ("GET b.test/", "404")],
    );
    check_hosts(&only("a.test"), &[("r", "'*.test'")], &[("GET a.test/", "r/0 a=1"), ("GET b.test/", "404")]);
    check_hosts(
        &only("*.a.test"),
        &[("r", "'*.test'")],
        &[("GET x.a.test/", "r/0 a=1"), ("GET x.test/", "404"), ("GET a.test/", "404")],
    );
    // Gateway.listeners: the most specific listener first, and no other after it (Listener Isolation).
    let listeners = format!("{all}, {{name: a, port: 8081, protocol: HTTP, hostname: a.test}}");
    check_hosts(&listeners, &[("r", "a.test, b.test")], &[("GET a.test/", "r/0 a=1"), ("GET b.test/", "r/0 a=1")]);
    let documents = gateway(&listeners)
        + &route("name: one", &format!("parentRefs: [{{name: g, sectionName: http}}], rules: [{{{TO_A}}}]"));
    let snapshot = checked(&documents).snapshot;
    assert_eq!(describe(&snapshot, &snapshot.binds[1], "GET b.test/"), "one/0 a=1");
    assert_eq!(describe(&snapshot, &snapshot.binds[1], "GET a.test/"), "404");
    // HTTPRoute.hostnames: none in common, not accepted.
    let documents = gateway(&only("a.test"))
        + &route("name: r", &format!("parentRefs: [{{name: g}}], hostnames: [b.test], rules: [{{{TO_A}}}]"));
    check_warnings(
        &documents,
        &["spec.parentRefs[0]: no host name of this route is one of a listener of Gateway default/g"],
    );
}

#[test]
fn backends() {
    // HTTPRouteRule.backendRefs: an invalid one answers 500 for its share.
    let dangling =
        rules("{backendRefs: [{name: a, port: 80, weight: 3}, {name: gone, port: 80}, {name: b, port: 81}]}");
    check(&dangling, &[("GET h/", "r/0 a=3 500=1 500=1")]);
    check_warnings(
        &dangling,
        &[
            "spec.rules[0].backendRefs[1]: there is no Service default/gone: its share of requests is answered 500",
            "spec.rules[0].backendRefs[2]: Service default/b has no port 81: its share of requests is answered 500",
        ],
    );
    // HTTPRouteRule.backendRefs: without endpoints 503 for its share.
    let empty = rules("{backendRefs: [{name: a, port: 80}, {name: empty, port: 80}]}");
    check(&empty, &[("GET h/", "r/0 a=1 503=1")]);
    check_warnings(&empty, &["port 80 of Service default/empty has no endpoint: requests are answered 503"]);
    // BackendRef.weight: 0 takes nothing; all 0 answers 500.
    check(&rules("{backendRefs: [{name: a, port: 80, weight: 0}, {name: b, port: 80}]}"), &[("GET h/", "r/0 b=1")]);
    let none = rules("{backendRefs: [{name: a, port: 80, weight: 0}]}");
    check(&none, &[("GET h/", "r/0")]);
    check_warnings(&none, &["spec.rules[0].backendRefs: all have weight 0: requests are answered 500"]);
    // HTTPRouteRule.backendRefs: none at all answers 500.
    check_warnings(&rules("{}"), &["spec.rules[0].backendRefs: there is none: requests are answered 500"]);
    // HTTPRoute.rules: the default is one rule that takes everything.
    let bare = route("name: r", "parentRefs: [{name: shop}]");
    check(&bare, &[("GET h/any", "r/0")]);
}

#[test]
fn references_across_namespaces() {
    let far = rules("{backendRefs: [{name: far, namespace: other, port: 80}]}");
    let refusal = "spec.rules[0].backendRefs[0]: Service other/far is in another namespace, which does not allow it \
                   (write a ReferenceGrant in other)";
    // ReferenceGrant: no grant, no reference.
    check_errors(&far, &[refusal]);
    let grant = |version: &str, namespace: &str, from: &str, to: &str| {
        format!(
            "---\n{{apiVersion: gateway.networking.k8s.io/{version}, kind: ReferenceGrant, \
             metadata: {{name: g, namespace: {namespace}}}, spec: {{from: [{from}], to: [{to}]}}}}\n"
        )
    };
    let from = "{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: default}";
    let other_from = "{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: third}";
    // ReferenceGrantSpec.from and to: any entry suffices; ReferenceGrantTo.name: absent means all.
    for version in ["v1", "v1beta1"] {
        for to in ["{group: '', kind: Service}", "{group: '', kind: Service, name: far}"] {
            check(&(far.clone() + &grant(version, "other", from, to)), &[("GET h/", "r/0 far=1")]);
        }
        let to = "{group: '', kind: Secret}, {group: '', kind: Service}";
        check(
            &(far.clone() + &grant(version, "other", &format!("{other_from}, {from}"), to)),
            &[("GET h/", "r/0 far=1")],
        );
    }
    let service = "{group: '', kind: Service}";
    let useless = [
        grant("v1", "default", from, service),
        grant("v1", "other", other_from, service),
        grant("v1", "other", "{group: gateway.networking.k8s.io, kind: GRPCRoute, namespace: default}", service),
        grant("v1", "other", "{group: '', kind: HTTPRoute, namespace: default}", service),
        grant("v1", "other", from, "{group: '', kind: Service, name: near}"),
        grant("v1", "other", from, "{group: '', kind: Secret}"),
        grant("v1", "other", from, "{group: evenkeel.dev, kind: Service}"),
    ];
    for grant in useless {
        check_errors(&(far.clone() + &grant), &[refusal]);
    }
    // AllowedRoutes.namespaces: the Gateway's own if absent; All opens it.
    let elsewhere = route(
        "name: r, namespace: other",
        "parentRefs: [{name: g, namespace: default}], rules: [{backendRefs: [{name: far, port: 80}]}]",
    );
    check_errors(
        &(gateway("{name: http, port: 8081, protocol: HTTP}") + &elsewhere),
        &["spec.parentRefs[0]: no listener of Gateway default/g takes routes of this namespace \
           (set allowedRoutes.namespaces.from of the listener to All)"],
    );
    let open = gateway(
        "{name: http, port: 8081, protocol: HTTP, allowedRoutes: {namespaces: {from: All}, kinds: [{kind: HTTPRoute}]}}",
    );
    let snapshot = checked(&(open + &elsewhere)).snapshot;
    assert_eq!(describe(&snapshot, &snapshot.binds[1], "GET h/"), "other/r/0 far=1");
}

#[test]
fn parents() {
    // ParentReference.name, sectionName and port: what is not there attaches to nothing.
    let rows = [
        ("{name: gone}", "there is no Gateway default/gone"),
        ("{name: shop, namespace: other}", "there is no Gateway other/shop"),
        ("{name: shop, sectionName: gone}", "Gateway default/shop has no listener of that sectionName and port"),
        ("{name: shop, port: 1}", "Gateway default/shop has no listener of that sectionName and port"),
    ];
    for (parent, expected) in rows {
        let documents = route("name: r", &format!("parentRefs: [{parent}], rules: [{{{TO_A}}}]"));
        check_warnings(&documents, &[&format!("spec.parentRefs[0]: {expected}")]);
        check(&documents, &[("GET h/", "404")]);
    }
    check_warnings(
        &route("name: r", &format!("rules: [{{{TO_A}}}]")),
        &["spec.parentRefs: is attached to no Gateway and serves nothing"],
    );
    // ParentReference.sectionName and port: both must suit.
    let two = gateway("{name: x, port: 8081, protocol: HTTP}, {name: y, port: 8082, protocol: HTTP}");
    for (parent, on_x, on_y) in [
        ("{name: g}", "r/0 a=1", "r/0 a=1"),
        ("{name: g, sectionName: x}", "r/0 a=1", "404"),
        ("{name: g, port: 8082}", "404", "r/0 a=1"),
        ("{name: g, sectionName: y, port: 8082}", "404", "r/0 a=1"),
    ] {
        let documents = two.clone() + &route("name: r", &format!("parentRefs: [{parent}], rules: [{{{TO_A}}}]"));
        let snapshot = checked(&documents).snapshot;
        assert_eq!(describe(&snapshot, &snapshot.binds[1], "GET h/"), on_x, "{parent}");
        assert_eq!(describe(&snapshot, &snapshot.binds[2], "GET h/"), on_y, "{parent}");
    }
}

#[test]
fn addresses_and_ports() {
    let bind = |address: &str, name: &str| format!("{address} {name}");
    let check = |spec: &str, expected: &[String]| {
        let documents = format!(
            "---\n{{apiVersion: gateway.networking.k8s.io/v1, kind: Gateway, metadata: {{name: g}},\n \
             spec: {{gatewayClassName: evenkeel, {spec}}}}}\n"
        );
        let binds = checked(&documents).snapshot.binds;
        let shown: Vec<String> = binds.iter().map(|bind| format!("{} {}", bind.address, bind.name)).collect();
        assert_eq!(shown, expected);
    };
    let shop = bind("[::]:8080", "default/shop/http");
    // Gateway.addresses: all, IPv4 and IPv6, if absent.
    check(
        "listeners: [{name: x, port: 81, protocol: HTTP}, {name: y, port: 82, protocol: HTTP}]",
        &[bind("[::]:81", "default/g/x"), bind("[::]:82", "default/g/y"), shop.clone()],
    );
    // Gateway.addresses: every listener stands at every one.
    check(
        "addresses: [{value: 127.0.0.1}, {type: IPAddress, value: '::1'}], listeners: [{name: x, port: 81, protocol: HTTP}]",
        &[bind("127.0.0.1:81", "default/g/x"), shop.clone(), bind("[::1]:81", "default/g/x")],
    );
    // Gateway.listeners: several share a port when their host names differ.
    check("listeners: [{name: x, port: 8080, protocol: HTTP, hostname: x.test}]", std::slice::from_ref(&shop));
    // `::` takes IPv4 too.
    check(
        "addresses: [{value: 0.0.0.0}, {value: '::'}], listeners: [{name: x, port: 81, protocol: HTTP}]",
        &[bind("[::]:81", "default/g/x"), shop],
    );
    // Gateway.listeners: indistinct ones MUST NOT be accepted, whichever Gateways they are of.
    check_errors(
        &gateway("{name: x, port: 8080, protocol: HTTP}"),
        &["spec.listeners[0].port: port 8080 of :: is that of default/shop/http at rules.yaml:3 \
           (give them different ports or host names)"],
    );
    check_errors(
        &gateway(
            "{name: x, port: 81, protocol: HTTP, hostname: a.test}, {name: y, port: 81, protocol: HTTP, hostname: a.test}",
        ),
        &["spec.listeners[1].port: port 81 of :: for \"a.test\" is that of default/g/x at rules.yaml:17 \
           (give them different ports or host names)"],
    );
    check_errors(
        &gateway("{name: x, port: 8080, protocol: HTTP, hostname: a.test}")
            .replace("listeners", "addresses: [{value: 127.0.0.1}], listeners"),
        &[
            "spec.listeners[0].port: port 8080 of 127.0.0.1 is part of ::, where default/shop/http listens, at rules.yaml:3",
        ],
    );
}

#[test]
fn policies() {
    let policy = |metadata: &str, target: &str, spec: &str| {
        format!(
            "---\n{{apiVersion: evenkeel.dev/v1alpha1, kind: ListenerPolicy, metadata: {{{metadata}}}, spec: {{targetRefs: \
             [{{group: gateway.networking.k8s.io, kind: Gateway, {target}}}], {spec}}}}}\n"
        )
    };
    let connections = |documents: &str| checked(documents).snapshot.binds[0].settings.connections_max;
    assert_eq!(connections(""), 10_000);
    let of_gateway = policy("name: a", "name: shop", "maxConnections: 1");
    let of_listener = policy("name: b", "name: shop, sectionName: http", "maxConnections: 2");
    assert_eq!(connections(&of_gateway), 1);
    // The narrowest target wins.
    assert_eq!(connections(&format!("{of_gateway}{of_listener}")), 2);
    // Of two on one target the oldest wins, then the first by name.
    let old = policy("name: z, creationTimestamp: '2020-01-01T00:00:00Z'", "name: shop", "maxConnections: 3");
    assert_eq!(connections(&format!("{of_gateway}{old}")), 3);
    let conflict = "spec.targetRefs[0]: Conflicted: ListenerPolicy default/z has the same target and is older, or first \
                    by name (one policy for each target)";
    check_warnings(&format!("{of_gateway}{old}"), &[conflict]);
    check_warnings(
        &policy("name: a", "name: gone, sectionName: x", ""),
        &["spec.targetRefs[0]: there is no Gateway default/gone with a listener \"x\""],
    );
    // Bounds act before a host is known: listeners that share a socket share the policy.
    let shared = gateway("{name: x, port: 8080, protocol: HTTP, hostname: x.test}");
    check_errors(
        &format!("{of_gateway}{shared}"),
        &["spec.listeners[0].port: shares port 8080 with default/shop/http and needs the same ListenerPolicy \
           (let one policy target the whole Gateway, or each of these listeners)"],
    );
    let address = |spec: &str| {
        let documents = policy("name: a", "name: shop", &format!("clientAddress: {spec}"));
        checked(&documents).snapshot.binds[0].settings.client_address.clone()
    };
    assert_eq!(address("{trustedHops: 2}"), ClientAddress::TrustedHops(2));
    assert_eq!(address("{proxyProtocol: v2}"), ClientAddress::ProxyProtocolV2);
    let networks = vec!["10.0.0.0/8".parse().expect("the row is valid"), "fd00::/8".parse().expect("the row is valid")];
    assert_eq!(address("{trustedCIDRs: [10.0.0.0/8, 'fd00::/8']}"), ClientAddress::TrustedCidrs(networks));
}

#[test]
fn filters_and_timeouts() {
    let timeouts = |written: &str| {
        let rule = only_rule(&rules(&format!("{{timeouts: {{{written}}}, {TO_A}}}")));
        format!("{:?} {:?}", rule.request_timeout, rule.backend_request_timeout)
    };
    // HTTPRouteTimeouts: durations of GEP-2257; 0s disables.
    assert_eq!(timeouts(""), "None None");
    assert_eq!(timeouts("request: 1h30m, backendRequest: 1m500ms"), "Some(5400s) Some(60.5s)");
    assert_eq!(timeouts("request: 0s, backendRequest: 10s"), "None Some(10s)");
    let filters =
        |written: &str| format!("{:?}", only_rule(&rules(&format!("{{filters: [{written}], {TO_A}}}"))).filters);
    // HTTPRouteRule.filters: in the order they are specified.
    assert_eq!(
        filters(
            "{type: ResponseHeaderModifier, responseHeaderModifier: {add: [{name: X-B, value: 'b, c'}]}}, \
             {type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: X-A, value: a}], remove: [x-c]}}"
        ),
        "[ResponseHeaders(HeaderChanges { set: [], add: [(\"X-B\", \"b, c\")], remove: [] }), \
         RequestHeaders(HeaderChanges { set: [(\"X-A\", \"a\")], add: [], remove: [\"x-c\"] })]"
    );
    assert_eq!(
        filters(
            "{type: URLRewrite, urlRewrite: {hostname: h.test, path: {type: ReplacePrefixMatch, replacePrefixMatch: /x}}}"
        ),
        "[Rewrite(Rewrite { hostname: Some(\"h.test\"), path: Some(Prefix(\"/x\")) })]"
    );
    let redirect = |written: &str| {
        let rule = rules(&format!("{{filters: [{{type: RequestRedirect, requestRedirect: {{{written}}}}}]}}"));
        assert_eq!(checked(&rule).warnings, []);
        format!("{:?}", only_rule(&rule).filters)
    };
    // HTTPRequestRedirectFilter.statusCode: 302 if absent.
    assert_eq!(
        redirect(""),
        "[Redirect(Redirect { scheme: None, hostname: None, port: None, path: None, status: 302 })]"
    );
    assert_eq!(
        redirect(
            "scheme: https, hostname: h.test, port: 1, statusCode: 308, path: {type: ReplaceFullPath, replaceFullPath: ''}"
        ),
        "[Redirect(Redirect { scheme: Some(\"https\"), hostname: Some(\"h.test\"), port: Some(1), path: Some(Full(\"/\")), status: 308 })]"
    );
    // HTTPBackendRef.filters: of that target only.
    let rule = only_rule(&rules(
        "{backendRefs: [{name: a, port: 80}, {name: b, port: 80, filters: [{type: RequestHeaderModifier, \
         requestHeaderModifier: {remove: [x]}}]}]}",
    ));
    let filters: Vec<&[Filter]> = rule.backends.choices.iter().map(|choice| choice.filters.as_slice()).collect();
    assert_eq!((filters[0].len(), filters[1].len()), (0, 1));
}
