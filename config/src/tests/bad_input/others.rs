//! Mistakes in Services, ListenerPolicies and ReferenceGrants.

use super::*;

#[test]
fn services_policies_and_grants() {
    check_spec(
        "Service",
        "registry: {}, ports: [{name: h, port: 80, appProtocol: grpc, targetPort: 1}]",
        &[
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
    check_spec(
        "Service",
        "ports: [{name: h, port: 80}], endpoints: [{address: '::', ports: {h: 1}}, {address: 224.0.0.1, ports: {h: 1}}]",
        &[
            "f:2: spec.endpoints[0].address: :: is the address of no instance",
            "f:2: spec.endpoints[1].address: 224.0.0.1 is the address of no instance",
        ],
    );
    for name in ["A.b", "a..b", ".", "-a", "10.0.0.1", "10.0.0.1.", "a b", "*.a", "", &"a".repeat(64)] {
        let problem = format!(
            "f:2: spec.dns.name: {name:?} is not a DNS name (lower case letters, digits, '-', '_' and '.'; no address)"
        );
        check_spec(
            "Service",
            &format!("ports: [{{name: h, port: 80}}], dns: {{name: '{name}', ports: {{h: 1}}}}"),
            &[&problem],
        );
    }
    check_spec(
        "Service",
        "ports: [{name: h, port: 80}, {name: g, port: 81}], dns: {ports: {h: 0, f: 1}, ttl: 5s}",
        &[
            "f:2: spec.dns.name: is missing",
            "f:2: spec.dns.ports.h: 0 is not a port (1 to 65535)",
            "f:2: spec.dns.ttl: is not a known field",
        ],
    );
    check_spec(
        "Service",
        "ports: [{name: h, port: 80}, {name: g, port: 81}], endpoints: [], dns: {name: a.b, ports: {f: 1, h: 2}}",
        &[
            "f:2: spec.dns: excludes endpoints: instances are written or looked up (leave out one of them)",
            "f:2: spec.dns.ports.g: is missing",
            "f:2: spec.dns.ports.f: \"f\" is not a port of this Service",
        ],
    );
    let target = "targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: a}]";
    check_spec(
        "ListenerPolicy",
        &format!(
            "{target}, mode: shade, effectiveTime: {{}}, clientAddress: {{trustedHops: 0, proxyProtocol: v1, trustedCIDRs: [10.0.0.1/8, x]}}, \
             maxConnections: 0, timeouts: {{head: 0s}}, maxRequestBody: 1.5Gi, headers: {{maxBytes: 1Gi, maxCount: 65536}}, \
             path: {{encodedSlash: merge}}"
        ),
        &[
            "f:2: spec.mode: \"shade\" is not one of enforce, shadow (did you mean shadow?)",
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
    let target = "targetRefs: [{group: '', kind: Service, name: a}]";
    check_spec(
        "TrafficPolicy",
        &format!(
            "{target}, mode: off, effectiveTime: {{}}, timeouts: {{connect: 0s, firstByte: 5}}, \
             loadBalancer: {{policy: random, hashOn: [{{header: 'a b'}}, {{}}]}}"
        ),
        &[
            "f:2: spec.mode: \"off\" is not one of enforce, shadow",
            "f:2: spec.effectiveTime: is not enforced by this build",
            "f:2: spec.timeouts.connect: must be at least 1ms",
            "f:2: spec.timeouts.firstByte: must be a duration, not the number 5 (write 5s for seconds)",
            "f:2: spec.loadBalancer.policy: \"random\" is not one of peakEwma, roundRobin, leastRequest, ringHash, maglev",
            "f:2: spec.loadBalancer.hashOn[0].header: \"a b\" is not a header name",
            "f:2: spec.loadBalancer.hashOn[1]: must have exactly one of header, cookie, query, clientAddress",
        ],
    );
    for (balancer, problem) in [
        (
            "policy: maglev",
            "spec.loadBalancer.hashOn: maglev needs it (such as hashOn: [{header: x-user}, {clientAddress: true}])",
        ),
        (
            "policy: roundRobin, hashOn: [{header: a}]",
            "spec.loadBalancer.hashOn: means nothing with roundRobin (only with ringHash and maglev)",
        ),
        (
            "policy: maglev, hashOn: [{header: a, query: b}]",
            "spec.loadBalancer.hashOn[0]: must have exactly one of header, cookie, query, clientAddress",
        ),
        (
            "policy: maglev, hashOn: [{clientAddress: false}]",
            "spec.loadBalancer.hashOn[0].clientAddress: must be true, or left out",
        ),
    ] {
        let problem = format!("f:2: {problem}");
        check_spec("TrafficPolicy", &format!("{target}, loadBalancer: {{{balancer}}}"), &[&problem]);
    }
    for (fields, problems) in [
        (
            "outlierDetection: {consecutive5xxErrors: 0, interval: 0s, baseEjectionTime: 0s, maxEjectionPercent: 101}",
            &[
                "outlierDetection.consecutive5xxErrors: 0 is not a number from 1 to 10000",
                "outlierDetection.interval: must be at least 1ms",
                "outlierDetection.baseEjectionTime: must be at least 1ms",
                "outlierDetection.maxEjectionPercent: 101 is not a number from 0 to 100",
            ][..],
        ),
        (
            "slowStart: {window: 0s, minWeightPercent: 0, aggression: 0, overloadGuardPercent: 101}",
            &[
                "slowStart.window: must be at least 1ms",
                "slowStart.minWeightPercent: 0 is not a number from 1 to 100",
                "slowStart.aggression: 0 is not a number from 0.1 to 10",
                "slowStart.overloadGuardPercent: 101 is not a number from 1 to 100",
            ],
        ),
        ("slowStart: {}", &["slowStart.window: is missing"]),
        (
            "connections: {max: 0, maxRequests: many}",
            &[
                "connections.max: 0 is not a number from 1 to 1000000",
                "connections.maxRequests: must be a number, not a text",
            ],
        ),
        ("connections: {maxPending: 5}", &["connections.maxPending: means nothing without max: nobody ever waits"]),
        (
            "healthCheck: {path: 'a b', timeout: 0s, interval: 1ms}",
            &[
                "healthCheck.path: \"a b\" is not a path with or without query (from '/' on, visible ASCII, no '#')",
                "healthCheck.timeout: must be at least 1ms",
                "healthCheck.interval: must be at least 10ms",
            ],
        ),
        (
            "retries: {attempts: 11, on: [always], codes: [200], budget: {ratio: 1.5}}",
            &[
                "retries.attempts: 11 is not a number from 0 to 10",
                "retries.on[0]: \"always\" is not one of connectFailure, reset, refusedStream, timeout",
                "retries.codes[0]: 200 is not a number from 400 to 599",
                "retries.budget.ratio: 1.5 is not a number from 0 to 1",
            ],
        ),
        (
            "locality: {mode: nearest, minLocalShare: high}",
            &[
                "locality.mode: \"nearest\" must be sameZoneFirst",
                "locality.minLocalShare: must be a number, not a text",
            ],
        ),
        (
            "loadBalancer: {policy: maglev, hashOn: [{header: a}]}, locality: {mode: sameZoneFirst}",
            &["locality: means nothing with maglev (alike requests go to one instance, wherever it stands)"],
        ),
    ] {
        let problems: Vec<String> = problems.iter().map(|problem| format!("f:2: spec.{problem}")).collect();
        let problems: Vec<&str> = problems.iter().map(String::as_str).collect();
        check_spec("TrafficPolicy", &format!("{target}, {fields}"), &problems);
    }
    check_spec(
        "TrafficPolicy",
        "targetRefs: [{group: evenkeel.dev, kind: Service, name: a}]",
        &["f:2: spec.targetRefs[0].kind: Service of \"evenkeel.dev\" as a target is not enforced by this build \
           (Services are of group \"\")"],
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

#[test]
fn what_shows_only_where_it_acts_is_refused_in_shadow() {
    let reason = "cannot be tried in shadow: what comes of it shows only where it acts";
    let tried = "timeouts, outlierDetection, connections and retries can be tried";
    let target = "targetRefs: [{group: '', kind: Service, name: a}], mode: shadow";
    for (field, written) in [
        ("loadBalancer", "{policy: roundRobin}"),
        ("locality", "{mode: sameZoneFirst}"),
        ("slowStart", "{window: 1s}"),
        ("healthCheck", "{path: /healthz}"),
    ] {
        let problem = format!("f:2: spec.{field}: {reason} ({tried})");
        check_spec("TrafficPolicy", &format!("{target}, {field}: {written}"), &[&problem]);
    }
    // What is wrong in what can be tried is told as ever.
    check_spec(
        "TrafficPolicy",
        &format!("{target}, timeouts: {{connect: 0s}}, retries: {{attempts: 11}}"),
        &[
            "f:2: spec.timeouts.connect: must be at least 1ms",
            "f:2: spec.retries.attempts: 11 is not a number from 0 to 10",
        ],
    );
    let tried = "maxConnections, timeouts, maxRequestBody, headers and path.encodedSlash: reject can be tried";
    let target = "targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: a}], mode: shadow";
    let problems = [
        format!("f:2: spec.clientAddress: {reason} ({tried})"),
        format!("f:2: spec.path.encodedSlash: keep {reason} ({tried})"),
    ];
    let problems: Vec<&str> = problems.iter().map(String::as_str).collect();
    let spec = format!("{target}, clientAddress: {{trustedHops: 1}}, path: {{encodedSlash: keep}}");
    check_spec("ListenerPolicy", &spec, &problems);
    check_spec(
        "ListenerPolicy",
        &format!("{target}, path: {{encodedSlash: decode}}"),
        &[&format!("f:2: spec.path.encodedSlash: decode {reason} ({tried})")],
    );
}
