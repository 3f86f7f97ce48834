//! What people get wrong, and what they are told, word for word.

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

#[test]
fn routes() {
    check_spec(
        "HTTPRoute",
        "parentRefs: [{kind: Service, group: '', name: a}], useDefaultGateways: All, hostnames: ['*', a..b], rules: []",
        &[
            "f:2: spec.parentRefs[0].kind: Service of \"\" as a parent is not enforced by this build",
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
            "f:2: spec.rules[1].timeouts.request: must be a text, not a number (write \"1\" in quotes)",
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

#[test]
fn filters() {
    check_rule(
        "filters: [{type: RequestMirror, requestMirror: {}}, {type: CORS, cors: {}}, {type: ExtensionRef}, {type: ExternalAuth}]",
        &[
            "f:2: spec.rules[0].filters[0].type: RequestMirror is not enforced by this build",
            "f:2: spec.rules[0].filters[0].requestMirror: is not enforced by this build",
            "f:2: spec.rules[0].filters[1].type: CORS is not enforced by this build",
            "f:2: spec.rules[0].filters[1].cors: is not enforced by this build",
            "f:2: spec.rules[0].filters[2].type: ExtensionRef is not enforced by this build",
            "f:2: spec.rules[0].filters[3].type: ExternalAuth is not enforced by this build",
        ],
    );
    check_rule(
        "filters: [{type: URLRewrite, requestRedirect: {}}]",
        &[
            "f:2: spec.rules[0].filters[0].requestRedirect: does not belong to this type",
            "f:2: spec.rules[0].filters[0].urlRewrite: is missing, as type demands it",
        ],
    );
    check_rule(
        "filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: X-A, value: 1}, {name: a, value: \"b\\r\\nc\"}, \
         {name: 'a:', value: b}], add: [{name: Content-Length, value: '1'}, {name: x-b, value: ' b'}], remove: [Host, Connection]}}]",
        &[
            "f:2: spec.rules[0].filters[0].requestHeaderModifier.set[0].value: must be a text, not a number (write \"1\" in quotes)",
            "f:2: spec.rules[0].filters[0].requestHeaderModifier.set[1].value: \"b\\r\\nc\" is not a header value (visible ASCII, \
             blanks only inside)",
            "f:2: spec.rules[0].filters[0].requestHeaderModifier.set[2].name: \"a:\" is not a header name",
            "f:2: spec.rules[0].filters[0].requestHeaderModifier.add[1].value: \" b\" is not a header value (visible ASCII, blanks \
             only inside)",
        ],
    );
    // HTTPHeaderFilter: one action for each name.
    check_rule(
        "filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: X-A, value: a}], \
         add: [{name: x-a, value: a}, {name: Content-Length, value: '1'}], remove: [host, Connection, X-a]}}]",
        &[
            "f:2: spec.rules[0].filters[0].requestHeaderModifier.add[0].name: x-a is changed twice by this filter (one action for \
             each name; join several values with commas)",
            "f:2: spec.rules[0].filters[0].requestHeaderModifier.add[1].name: Content-Length belongs to the connection, not to rules",
            "f:2: spec.rules[0].filters[0].requestHeaderModifier.remove[0]: Host is not changed by header filters (use a URLRewrite \
             filter with hostname)",
            "f:2: spec.rules[0].filters[0].requestHeaderModifier.remove[1]: Connection belongs to the connection, not to rules",
            "f:2: spec.rules[0].filters[0].requestHeaderModifier.remove[2]: X-a is changed twice by this filter (one action for each \
             name; join several values with commas)",
        ],
    );
    // HTTPRouteRule.filters: none twice, and not both of these.
    check_rule(
        "filters: [{type: URLRewrite, urlRewrite: {}}, {type: RequestRedirect, requestRedirect: {}}, {type: URLRewrite, urlRewrite: {}}]",
        &[
            "f:2: spec.rules[0].filters[1].type: RequestRedirect and URLRewrite exclude each other",
            "f:2: spec.rules[0].filters[2].type: is there twice; each type of filter may stand once",
        ],
    );
    check_rule(
        "filters: [{type: RequestRedirect, requestRedirect: {}}], backendRefs: [{name: a, port: 80}]",
        &[
            "f:2: spec.rules[0].filters: a RequestRedirect answers every request, so that backendRefs would never be used",
        ],
    );
    // HTTPPathModifier.replacePrefixMatch: only with exactly one PathPrefix match.
    let replace =
        "filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /x}}}]";
    for matches in ["{path: {type: Exact, value: /a}}", "{path: {value: /a}}, {path: {value: /b}}"] {
        check_rule(
            &format!("matches: [{matches}], {replace}"),
            &[
                "f:2: spec.rules[0].filters[0]: replacePrefixMatch needs a rule with exactly one match, of type PathPrefix",
            ],
        );
        check_rule(
            &format!("matches: [{matches}], backendRefs: [{{name: a, port: 80, {replace}}}]"),
            &[
                "f:2: spec.rules[0].backendRefs[0].filters[0]: replacePrefixMatch needs a rule with exactly one match, of type PathPrefix",
            ],
        );
    }
    check_rule(
        "filters: [{type: URLRewrite, urlRewrite: {hostname: '*.a', path: {type: ReplaceFullPath, replacePrefixMatch: x}}}]",
        &[
            "f:2: spec.rules[0].filters[0].urlRewrite.hostname: \"*.a\" is not a host name (lower case, no address, no wildcard)",
            "f:2: spec.rules[0].filters[0].urlRewrite.path.replacePrefixMatch: \"x\" does not start with '/'",
        ],
    );
    check_rule(
        "filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplaceFullPath, replacePrefixMatch: /x}}}]",
        &[
            "f:2: spec.rules[0].filters[0].urlRewrite.path.replaceFullPath: is missing, as type demands it",
            "f:2: spec.rules[0].filters[0].urlRewrite.path.replacePrefixMatch: does not belong to this type",
        ],
    );
    check_rule(
        "filters: [{type: RequestRedirect, requestRedirect: {statusCode: 304, scheme: ftp, port: 0}}]",
        &[
            "f:2: spec.rules[0].filters[0].requestRedirect.statusCode: 304 is not one of 301, 302, 303, 307, 308",
            "f:2: spec.rules[0].filters[0].requestRedirect.scheme: \"ftp\" is not one of http, https",
            "f:2: spec.rules[0].filters[0].requestRedirect.port: 0 is not a port (1 to 65535)",
        ],
    );
}

#[test]
fn services_policies_and_grants() {
    check_spec(
        "Service",
        "dns: {name: a.b}, registry: {}, ports: [{name: h, port: 80, appProtocol: grpc, targetPort: 1}]",
        &[
            "f:2: spec.dns: is not enforced by this build",
            "f:2: spec.registry: is not enforced by this build",
            "f:2: spec.ports[0].appProtocol: grpc is not enforced by this build",
            "f:2: spec.ports[0].targetPort: is not enforced by this build",
        ],
    );
    check_spec(
        "Service",
        "ports: [{name: h, port: 80}, {name: h, port: 80}], endpoints: [{address: ::1, ports: {h: 1, g: 2}}, {address: ::1, ports: {h: 1}}, \
         {address: localhost, ports: {'': x}, weight: 2000000, labels: {'a b': 'c d'}}]",
        &[
            "f:2: spec.endpoints[2].address: \"localhost\" is not an IP address",
            "f:2: spec.endpoints[2].ports[\"\"]: \"\" is not a name (lower case letters, digits, '-' and '.')",
            "f:2: spec.endpoints[2].ports[\"\"]: must be a number, not a text",
            "f:2: spec.endpoints[2].weight: 2000000 is not a number from 0 to 1000000",
            "f:2: spec.endpoints[2].labels[\"a b\"]: \"a b\" is not a label's key",
            "f:2: spec.endpoints[2].labels[\"a b\"]: \"c d\" is not a label's value",
        ],
    );
    check_spec(
        "Service",
        "ports: [{name: h, port: 80}, {name: h, port: 80}], endpoints: [{address: ::1, ports: {h: 1, g: 2}}, {address: ::1, ports: {h: 1}}]",
        &[
            "f:2: spec.ports[1].name: \"h\" is the name of another port",
            "f:2: spec.ports[1].port: 80 is the number of another port",
            "f:2: spec.endpoints[0].ports.g: \"g\" is not a port of this Service",
            "f:2: spec.endpoints[1].ports.h: is the same as that of endpoints[0]",
        ],
    );
    let target = "targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: a}]";
    check_spec(
        "ListenerPolicy",
        &format!(
            "{target}, mode: shadow, effectiveTime: {{}}, clientAddress: {{trustedHops: 0, proxyProtocol: v1, trustedCIDRs: [10.0.0.1/8, x]}}, \
             maxConnections: 0, timeouts: {{head: 0s}}, maxRequestBody: 1.5Gi, headers: {{maxBytes: 1Gi, maxCount: 65536}}, \
             path: {{encodedSlash: merge}}"
        ),
        &[
            "f:2: spec.mode: shadow is not enforced by this build",
            "f:2: spec.effectiveTime: is not enforced by this build",
            "f:2: spec.clientAddress.trustedHops: 0 is not a number from 1 to 32",
            "f:2: spec.clientAddress.proxyProtocol: v1 is not enforced by this build",
            "f:2: spec.clientAddress.trustedCIDRs[0]: \"10.0.0.1/8\" has bits beyond its prefix: 10.0.0.0/8 is meant",
            "f:2: spec.clientAddress.trustedCIDRs[1]: \"x\" is not a network (such as 10.0.0.0/8)",
            "f:2: spec.maxConnections: 0 is not a number from 1 to 1000000",
            "f:2: spec.timeouts.head: must be at least 1ms",
            "f:2: spec.maxRequestBody: \"1.5Gi\" is not a size (such as 1000, 32Ki or 10Mi)",
            "f:2: spec.headers.maxBytes: 1073741824 bytes is not within 256 to 1048576",
            "f:2: spec.headers.maxCount: 65536 is not a number from 1 to 10000",
            "f:2: spec.path.encodedSlash: \"merge\" is not one of keep, decode, reject",
        ],
    );
    for two in ["", "trustedHops: 1, proxyProtocol: v2"] {
        check_spec(
            "ListenerPolicy",
            &format!("{target}, clientAddress: {{{two}}}"),
            &["f:2: spec.clientAddress: must have exactly one of trustedCIDRs, trustedHops, proxyProtocol"],
        );
    }
    check_spec(
        "ListenerPolicy",
        "targetRefs: [{group: '', kind: Service, name: a}]",
        &["f:2: spec.targetRefs[0].kind: Service of \"\" as a target is not enforced by this build"],
    );
    check_spec(
        "ReferenceGrant",
        "from: [], to: [{kind: 1x}]",
        &[
            "f:2: spec.from: has 0 items and must have 1 to 16",
            "f:2: spec.to[0].group: is missing",
            "f:2: spec.to[0].kind: \"1x\" is not a kind",
        ],
    );
}
