//! What people get wrong, and what they are told, word for word.

mod filters;
mod lanes;
mod others;
mod protection;
mod routes;

use crate::{Source, read};

fn check_bytes(bytes: &[u8], expected: &[&str]) {
    let problems = read(&[Source { name: "f".into(), bytes: bytes.to_vec() }]).expect_err("the row is wrong");
    let shown: Vec<String> = problems.iter().map(ToString::to_string).collect();
    assert_eq!(shown, expected, "{:.1000}", String::from_utf8_lossy(bytes));
}

fn check(text: &str, expected: &[&str]) {
    check_bytes(text.as_bytes(), expected);
}

/// A kind with a spec in flow style on line 2.
fn check_spec(kind: &str, spec: &str, expected: &[&str]) {
    let version = match kind {
        "Gateway" | "HTTPRoute" | "ReferenceGrant" => "gateway.networking.k8s.io/v1",
        _ => "evenkeel.dev/v1alpha1",
    };
    check(&format!("{{apiVersion: {version}, kind: {kind}, metadata: {{name: x}},\n spec: {{{spec}}}}}"), expected);
}

fn check_rule(rule: &str, expected: &[&str]) {
    check_spec("HTTPRoute", &format!("rules: [{{{rule}}}]"), expected);
}

#[test]
fn files() {
    for empty in ["", " \n", "# nothing\n", "---\n---\n...\n", "null", "\u{feff}"] {
        check(empty, &["f: holds no document (remove the file or write a rule)"]);
    }
    check_bytes(b"a: b\nc: \xff\n", &["f:2: is not UTF-8 text"]);
    check_bytes(b"\xff\xfea\0", &["f:1: is not UTF-8 text"]);
    check("a: b\nc: d\0e", &["f:2: holds the control character 0x00"]);
    check(
        "a:\n  b: 1\n\tc: 2\n",
        &["f:3: is not YAML: while scanning a plain scalar, found a tab (indent with spaces, not with tabs)"],
    );
    check("a: [1", &["f:2: is not YAML: while parsing a flow sequence, expected ',' or ']'"]);
    check("a: &x 1\nb: *x\n", &["f:1: anchors and aliases are not accepted (write the value out where it is meant)"]);
    check("a: !!str 1\n", &["f:1: the tag tag:yaml.org,2002:!str is not accepted"]);
    check(&"[".repeat(100), &["f:1: is nested deeper than 64 levels"]);
    check(&"[".repeat(100_000), &["f:1: is not YAML: recursion limit exceeded"]);
    check(&"- ".repeat(100_000), &["f:1: is nested deeper than 64 levels"]);
    check(&"{a: ".repeat(100), &["f:1: is nested deeper than 64 levels"]);
}

#[test]
fn a_flood_of_problems_is_cut_and_says_so() {
    let source = Source { name: "f".into(), bytes: "---\n{}\n".repeat(700).into_bytes() };
    let problems = read(&[source]).expect_err("nothing is right");
    assert_eq!(problems.len(), 1_001);
    assert_eq!(problems[1_000].to_string(), "f: 400 more problems are not shown");
}

#[test]
fn documents() {
    check("- a\n", &["f:1: must be a mapping with apiVersion, kind, metadata and spec, not a list"]);
    check("word\n", &["f:1: must be a mapping with apiVersion, kind, metadata and spec, not a text"]);
    check("{}", &["f:1: apiVersion: is missing", "f:1: kind: is missing"]);
    check(
        "apiVersion: 1\nkind: [x]\n",
        &[
            "f:1: apiVersion: must be a text, not a number (write \"1\" in quotes)",
            "f:2: kind: must be a text, not a list",
        ],
    );
    check("apiVersion: v1\nkind: Secret\n", &["f:2: kind: Secret is not enforced by this build"]);
    check(
        "apiVersion: x/v1\nkind: HttpRoute\n",
        &["f:2: kind: HttpRoute is not enforced by this build (did you mean HTTPRoute?)"],
    );
    check(
        "apiVersion: v1\nkind: Service\n",
        &["f:1: apiVersion: Service in \"v1\" is not enforced by this build (write evenkeel.dev/v1alpha1)"],
    );
    check(
        "apiVersion: evenkeel.dev/v1alpha1\nkind: Service\nspec:\n",
        &["f:1: metadata: is missing", "f:3: spec: must be a mapping, not nothing"],
    );
    check(
        "apiVersion: evenkeel.dev/v1alpha1\nkind: Service\nmetadata: {name: A_b, namespace: a.b}\nspces: {}\n",
        &[
            "f:1: spec: is missing",
            "f:3: metadata.name: \"A_b\" is not a name (lower case letters, digits, '-' and '.')",
            "f:3: metadata.namespace: \"a.b\" is not a namespace (lower case letters, digits and '-')",
            "f:4: spces: is not a known field",
        ],
    );
    check(
        "a: 1\nb: 2\na: 3\n? [c]\n: 4\n",
        &[
            "f:1: apiVersion: is missing",
            "f:1: kind: is missing",
            "f:3: the key \"a\" is there twice",
            "f:4: a key must be one word",
        ],
    );
    let service =
        "apiVersion: evenkeel.dev/v1alpha1\nkind: Service\nmetadata: {name: x}\nspec: {ports: [{name: h, port: 80}]}\n";
    check(&format!("{service}---\n{service}"), &["f:8: metadata.name: Service default/x is there already, at f:1"]);
}

#[test]
fn gateways() {
    check_spec("Gateway", "", &["f:2: spec.gatewayClassName: is missing", "f:2: spec.listeners: is missing"]);
    check_spec(
        "Gateway",
        "gatewayClassName: nginx, listeners: []",
        &[
            "f:2: spec.gatewayClassName: \"nginx\" must be evenkeel",
            "f:2: spec.listeners: has 0 items and must have 1 to 64",
        ],
    );
    check_spec(
        "Gateway",
        "gatewayClassName: evenkeel, infrastructure: {}, adresses: [], addresses: [{type: Hostname, value: a.b}, {value: 1.2.3}], \
         listeners: [{name: a, port: 70000, protocol: HTTPS}, {name: b, port: '80', protocol: http}, {name: c, port: 1.5}]",
        &[
            "f:2: spec.infrastructure: is not enforced by this build",
            "f:2: spec.adresses: is not a known field (did you mean addresses?)",
            "f:2: spec.addresses[0].type: Hostname is not enforced by this build",
            "f:2: spec.addresses[0].value: \"a.b\" is not an IP address",
            "f:2: spec.addresses[1].value: \"1.2.3\" is not an IP address",
            "f:2: spec.listeners[0].port: 70000 is not a port (1 to 65535)",
            "f:2: spec.listeners[0].protocol: HTTPS is not enforced by this build",
            "f:2: spec.listeners[1].port: must be a number, not a text",
            "f:2: spec.listeners[1].protocol: \"http\" must be HTTP (did you mean HTTP?)",
            "f:2: spec.listeners[2].protocol: is missing",
            "f:2: spec.listeners[2].port: 1.5 is not a port (1 to 65535)",
        ],
    );
    check_spec(
        "Gateway",
        "gatewayClassName: evenkeel, listeners: [{name: a, port: 1, protocol: HTTP, tls: {}, hostname: A.test}, \
         {name: b, port: 2, protocol: HTTP, hostname: 10.0.0.1, allowedRoutes: {namespaces: {from: Selector, selector: {}}}}, \
         {name: c, port: 3, protocol: HTTP, allowedRoutes: {kinds: [{kind: GRPCRoute}]}}]",
        &[
            "f:2: spec.listeners[0].tls: is not enforced by this build",
            "f:2: spec.listeners[0].hostname: \"A.test\" is not a host name (lower case, no address; *. may stand first)",
            "f:2: spec.listeners[1].hostname: \"10.0.0.1\" is not a host name (lower case, no address; *. may stand first)",
            "f:2: spec.listeners[1].allowedRoutes.namespaces.from: Selector is not enforced by this build",
            "f:2: spec.listeners[1].allowedRoutes.namespaces.selector: is not enforced by this build",
            "f:2: spec.listeners[2].allowedRoutes.kinds[0].kind: GRPCRoute of \"gateway.networking.k8s.io\" is not enforced by \
             this build (only HTTPRoute is)",
        ],
    );
    check_spec(
        "Gateway",
        "gatewayClassName: evenkeel, addresses: [{value: 1.2.3.4}, {value: '::ffff:1.2.3.4'}], \
         listeners: [{name: a, port: 1, protocol: HTTP}, {name: a, port: 2, protocol: HTTP}]",
        &[
            "f:2: spec.addresses[1].value: 1.2.3.4 is there twice",
            "f:2: spec.listeners[1].name: \"a\" is the name of another listener",
        ],
    );
}
