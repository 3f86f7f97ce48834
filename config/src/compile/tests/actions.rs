//! What rules and policies do: backends with their shares, filters, timeouts, bounds.

use std::sync::Arc;

use super::*;

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
    let idle = rules("{backendRefs: [{name: a, port: 80}, {name: gone, port: 80, weight: 0}]}");
    check_warnings(&idle, &["spec.rules[0].backendRefs[1]: there is no Service default/gone"]);
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
    let conflict = "spec.targetRefs[0]: Conflicted: ListenerPolicy default/z, at rules.yaml:18, has the same target and is older, \
                    or first by name (one policy for each target)";
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

#[test]
fn mirrors() {
    let with =
        |mirror: &str| rules(&format!("{{filters: [{{type: RequestMirror, requestMirror: {{{mirror}}}}}], {TO_A}}}"));
    for (mirror, expected) in [
        ("backendRef: {name: b, port: 80}", Some((1, 1))),
        ("backendRef: {name: b, port: 80}, percent: 7", Some((7, 100))),
        ("backendRef: {name: b, port: 80}, percent: 0", None),
        ("backendRef: {name: b, port: 80}, fraction: {numerator: 3}", Some((3, 100))),
        ("backendRef: {name: b, port: 80}, fraction: {numerator: 1, denominator: 1000}", Some((1, 1000))),
    ] {
        let rule = only_rule(&with(mirror));
        let compiled = rule.mirrors.iter().map(|mirror| (&*mirror.cluster, mirror.numerator, mirror.denominator));
        let expected = expected.map(|(numerator, denominator)| ("default/b:80", numerator, denominator));
        assert_eq!(compiled.collect::<Vec<_>>(), expected.into_iter().collect::<Vec<_>>(), "{mirror}");
        assert!(rule.filters.is_empty());
    }
    // HTTPRequestMirrorFilter.backendRef: one that is not there is left out, one that is not granted is refused.
    for (mirror, warning) in [
        ("{name: none, port: 80}", "there is no Service default/none: nothing is mirrored"),
        ("{name: b, port: 81}", "Service default/b has no port 81: nothing is mirrored"),
    ] {
        let documents = with(&format!("backendRef: {mirror}"));
        let field = "spec.rules[0].filters[0].requestMirror.backendRef";
        check_warnings(&documents, &[&format!("{field}: {warning}")]);
        assert!(only_rule(&documents).mirrors.is_empty());
    }
    let far = with("backendRef: {name: far, namespace: other, port: 80}");
    check_errors(
        &far,
        &[
            "spec.rules[0].filters[0].requestMirror.backendRef: Service other/far is in another namespace, which does not allow \
           it (write a ReferenceGrant in other)",
        ],
    );
    let grant = "---\n{apiVersion: gateway.networking.k8s.io/v1, kind: ReferenceGrant, metadata: {name: g, namespace: other}, spec: \
                 {from: [{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: default}],\n to: [{group: '', kind: \
                 Service}]}}\n";
    assert_eq!(&*only_rule(&[&far, grant].concat()).mirrors[0].cluster, "other/far:80");
    // HTTPBackendRef.filters: of that target only; and several in one place.
    let several = "[{type: RequestMirror, requestMirror: {backendRef: {name: b, port: 80}}}, {type: RequestMirror, \
                   requestMirror: {backendRef: {name: a, port: 80}}}]";
    let rule = only_rule(&rules(&format!("{{backendRefs: [{{name: a, port: 80, filters: {several}}}]}}")));
    let clusters: Vec<&str> = rule.backends.choices[0].mirrors.iter().map(|mirror| &*mirror.cluster).collect();
    assert_eq!((rule.mirrors.len(), clusters), (0, vec!["default/b:80", "default/a:80"]));
}

#[test]
fn rules_that_do_the_same_share_what_they_do() {
    let filter = "filters: [{type: RequestHeaderModifier, requestHeaderModifier: {remove: [x]}}]";
    let snapshot = checked(&rules(&format!(
        "{{matches: [{{path: {{value: /a}}}}], {filter}, {TO_A}}}, {{matches: [{{path: {{value: /b}}}}], {filter}, {TO_A}}}, \
         {{matches: [{{path: {{value: /c}}}}], backendRefs: [{{name: b, port: 80}}]}}"
    )))
    .snapshot;
    let rules: Vec<&Rule> = snapshot.binds[0].table.rules().map(Arc::as_ref).collect();
    assert!(Arc::ptr_eq(&rules[0].filters, &rules[1].filters) && Arc::ptr_eq(&rules[0].backends, &rules[1].backends));
    assert!(!Arc::ptr_eq(&rules[0].filters, &rules[2].filters) && !Arc::ptr_eq(&rules[0].backends, &rules[2].backends));
}
