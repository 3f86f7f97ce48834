//! Where routes attach: listeners, their addresses and host names, other namespaces.

use super::*;

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
        grant("v1", "other", from, "{group: '', kind: Service, name: near}"),
        grant("v1", "other", from, "{group: '', kind: Secret}"),
    ];
    for grant in useless {
        check_errors(&(far.clone() + &grant), &[refusal]);
    }
    check_errors(
        &(far.clone() + &grant("v1", "other", from, "{group: evenkeel.dev, kind: Service}")),
        &[refusal, "spec.to[0].group: \"evenkeel.dev\" has no Service, so this grants nothing (write \"\")"],
    );
    let from = "{group: '', kind: HTTPRoute, namespace: default}";
    check_errors(
        &(far.clone() + &grant("v1", "other", from, service)),
        &[
            refusal,
            "spec.from[0].group: \"\" has no HTTPRoute, so this grants nothing (write \"gateway.networking.k8s.io\")",
        ],
    );
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
    // Those that a control server sends belong to one Gateway: others are there for others.
    let of_two = route("name: r", &format!("parentRefs: [{{name: shop}}, {{name: gone}}], rules: [{{{TO_A}}}]"));
    check_warnings(&of_two, &["spec.parentRefs[1]: there is no Gateway default/gone"]);
    let sent = Source { name: "control".into(), bytes: format!("{BASE}{of_two}").into_bytes() };
    let read = crate::Reader::new(crate::Origin::Control).read(&[sent]).expect("it is right");
    assert_eq!(read.warnings, []);
    // Of its own Gateway it is told what is missing.
    let policy = "---\n{apiVersion: evenkeel.dev/v1alpha1, kind: ListenerPolicy, metadata: {name: p}, spec: {maxConnections: 9, \
                  targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: shop, sectionName: none}, {group: \
                  gateway.networking.k8s.io, kind: Gateway, name: gone}]}}\n";
    let sent = Source { name: "control".into(), bytes: format!("{BASE}{policy}").into_bytes() };
    let read = crate::Reader::new(crate::Origin::Control).read(&[sent]).expect("it is right");
    let reasons: Vec<&str> = read.warnings.iter().map(|warning| &*warning.reason).collect();
    assert_eq!(reasons, ["there is no Gateway default/shop with a listener \"none\""]);
    check_warnings(
        &route("name: r", &format!("rules: [{{{TO_A}}}]")),
        &["spec.parentRefs: is attached to no Gateway and to no Service, and serves nothing"],
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
