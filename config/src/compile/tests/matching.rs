//! Which rule of a route a request meets, and in which order rules are asked.

use super::*;

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
    // Listeners drop names with `_`.
    check_warnings(
        &rules(&format!("{{matches: [{{headers: [{{name: x-a, value: '1'}}, {{name: X_A, value: '1'}}]}}], {TO_A}}}")),
        &[&format!("spec.rules[0].matches[0].headers[1].name: {UNDERSCORED}")],
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
