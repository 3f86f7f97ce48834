//! Mistakes in HTTPRoutes, apart from their filters.

use super::*;

#[test]
fn routes() {
    check_spec(
        "HTTPRoute",
        "parentRefs: [{kind: Service, name: a}, {kind: Service, group: '', name: a, sectionName: b}], useDefaultGateways: All, hostnames: ['*', a..b], rules: []",
        &[
            "f:2: spec.parentRefs[0].kind: Service of \"gateway.networking.k8s.io\" as a parent is not enforced by this build \
             (Gateways are of group gateway.networking.k8s.io, Services are of group \"\")",
            "f:2: spec.parentRefs[1].sectionName: a Service has no sections (name one of its ports with port)",
            "f:2: spec.useDefaultGateways: is not enforced by this build",
            "f:2: spec.hostnames[0]: \"*\" is not a host name (lower case, no address; *. may stand first)",
            "f:2: spec.hostnames[1]: \"a..b\" is not a host name (lower case, no address; *. may stand first)",
            "f:2: spec.rules: has 0 items and must have 1 to 16",
        ],
    );
    for parents in [
        "{name: a}, {name: a}",
        "{name: a}, {name: a, port: 1}",
        "{name: a, sectionName: b}, {name: a, sectionName: b}",
    ] {
        check_spec(
            "HTTPRoute",
            &format!("parentRefs: [{parents}]"),
            &[
                "f:2: spec.parentRefs[1]: refers to the same Gateway as another parentRef (name a different sectionName in each, or \
             write it once)",
            ],
        );
    }
    check_rule(
        "retry: {}, sessionPersistence: {}, matches: [{method: CONNECT}, {method: Get}]",
        &[
            "f:2: spec.rules[0].retry: is not enforced by this build",
            "f:2: spec.rules[0].sessionPersistence: is not enforced by this build",
            "f:2: spec.rules[0].matches[0].method: CONNECT is not enforced by this build",
            "f:2: spec.rules[0].matches[1].method: \"Get\" is not one of GET, HEAD, POST, PUT, DELETE, OPTIONS, TRACE, PATCH (did you \
         mean GET?)",
        ],
    );
    // HTTPPathMatch: what no normalised path has.
    let paths = [
        ("a", "does not start with '/'"),
        ("/a//b", "contains \"//\", which no request's path has"),
        ("/a/./b", "contains \"/./\", which no request's path has"),
        ("/a/../b", "contains \"/../\", which no request's path has"),
        ("/a%2fb", "contains \"%2f\", which no request's path has"),
        ("/a%2Fb", "contains \"%2F\", which no request's path has"),
        ("/a%00", "contains \"%00\", which no request's path has"),
        ("/a#b", "contains \"#\", which no request's path has"),
        ("/a/..", "ends with a dot segment, which no request's path has"),
        ("/a/.", "ends with a dot segment, which no request's path has"),
        ("/a?b", "has a character that must be percent-encoded in a path"),
        ("/a%4", "has a character that must be percent-encoded in a path"),
        ("/ü", "has a character that must be percent-encoded in a path"),
    ];
    for (path, reason) in paths {
        for kind in ["Exact", "PathPrefix"] {
            let message = format!("f:2: spec.rules[0].matches[0].path.value: {path:?} {reason}");
            check_rule(&format!("matches: [{{path: {{type: {kind}, value: '{path}'}}}}]"), &[&message]);
        }
    }
    check_rule(
        &format!("matches: [{{path: {{value: /{}}}}}]", "a".repeat(1024)),
        &["f:2: spec.rules[0].matches[0].path.value: is longer than 1024 bytes"],
    );
    check_rule(
        "matches: [{headers: [{name: 'a b', value: x}, {name: a, value: ''}, {name: ':path', value: /}]}]",
        &[
            "f:2: spec.rules[0].matches[0].headers[0].name: \"a b\" is not a header name",
            "f:2: spec.rules[0].matches[0].headers[1].value: must have 1 to 4096 bytes and no control characters",
            "f:2: spec.rules[0].matches[0].headers[2].name: \":path\" is not a header name",
        ],
    );
    check_rule("name: a}, {name: a", &["f:2: spec.rules[1].name: \"a\" is the name of another rule"]);
    check_rule(
        "timeouts: {request: 1s, backendRequest: 2s}}, {timeouts: {request: 1, backendRequest: 1d}}, {timeouts: {request: 1.5s}",
        &[
            "f:2: spec.rules[0].timeouts.backendRequest: is longer than request",
            "f:2: spec.rules[1].timeouts.request: must be a duration, not the number 1 (write 1s for seconds)",
            "f:2: spec.rules[1].timeouts.backendRequest: \"1d\" is not a duration (such as 5s, 1h30m or 100ms)",
            "f:2: spec.rules[2].timeouts.request: \"1.5s\" is not a duration (such as 5s, 1h30m or 100ms)",
        ],
    );
    check_rule(
        "backendRefs: [{name: a}, {name: a, port: 80, weight: -1}, {name: a, port: 80, kind: Bucket, group: s3}]",
        &[
            "f:2: spec.rules[0].backendRefs[0].port: is missing",
            "f:2: spec.rules[0].backendRefs[1].weight: -1 is not a number from 0 to 1000000",
            "f:2: spec.rules[0].backendRefs[2].kind: Bucket of \"s3\" as a backend is not enforced by this build (leave out group and \
         kind)",
        ],
    );
}

#[test]
fn expressions() {
    let rows = [
        ("(a", "is not a regular expression: unclosed group"),
        ("a)(b", "is not a regular expression: unopened group"),
        ("(?=a)", "is not a regular expression: look-around, including look-ahead and look-behind, is not supported"),
        ("(.{1000}){1000}", "is too large a regular expression once compiled"),
        ("((a{500}){500}){500}", "is too large a regular expression once compiled"),
    ];
    for (pattern, reason) in rows {
        let documents = [
            "{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {name: x}, spec: {rules: [{matches: [",
            &format!("{{path: {{type: RegularExpression, value: '{pattern}'}}}},\n"),
            &format!("{{headers: [{{type: RegularExpression, name: a, value: '{pattern}'}}]}},\n"),
            &format!("{{queryParams: [{{type: RegularExpression, name: a, value: '{pattern}'}}]}}]}}]}}}}"),
        ];
        let problems = read(&[Source { name: "f".into(), bytes: documents.concat().into_bytes() }]).expect_err(pattern);
        let shown: Vec<String> = problems
            .iter()
            .filter(|problem| problem.severity == crate::Severity::Error)
            .map(ToString::to_string)
            .collect();
        assert_eq!(
            shown,
            [
                format!("f:1: spec.rules[0].matches[0].path.value: {reason}"),
                format!("f:2: spec.rules[0].matches[1].headers[0].value: {reason}"),
                format!("f:3: spec.rules[0].matches[2].queryParams[0].value: {reason}"),
            ]
        );
    }
}
