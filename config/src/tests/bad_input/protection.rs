//! Mistakes in RateLimits, ConcurrencyLimits, CircuitBreakers and FaultInjections.

use super::*;

const SERVICE: &str = "targetRefs: [{group: '', kind: Service, name: a}]";

/// A kind on a Service, each row with what is told of it.
fn check_rows(kind: &str, rows: &[(&str, &[&str])]) {
    for (spec, expected) in rows {
        let expected: Vec<String> = expected.iter().map(|problem| format!("f:2: spec.{problem}")).collect();
        let expected: Vec<&str> = expected.iter().map(String::as_str).collect();
        check_spec(kind, &format!("{SERVICE}, {spec}"), &expected);
    }
}

#[test]
fn targets() {
    let gateway_api = "group: gateway.networking.k8s.io";
    check_spec(
        "RateLimit",
        &format!(
            "targetRefs: [{{group: apps, kind: Deployment, name: a}}, {{{gateway_api}, kind: Service, name: a}}, \
             {{group: '', kind: Service, name: a, sectionName: http}}, {{{gateway_api}, kind: HTTPRoute, name: a}}, \
             {{{gateway_api}, kind: HTTPRoute, name: a}}], effectiveTime: {{}}, mode: off, limits: [{{requests: 1, per: 1s}}]"
        ),
        &[
            "f:2: spec.targetRefs[0].kind: Deployment of \"apps\" as a target is not enforced by this build (Gateways \
             and HTTPRoutes are of group gateway.networking.k8s.io, Services are of group \"\")",
            "f:2: spec.targetRefs[1].kind: Service of \"gateway.networking.k8s.io\" as a target is not enforced by this \
             build (Gateways and HTTPRoutes are of group gateway.networking.k8s.io, Services are of group \"\")",
            "f:2: spec.targetRefs[2].sectionName: a Service has no sections (only of Gateways (a listener) and HTTPRoutes \
             (a rule))",
            "f:2: spec.effectiveTime: is not enforced by this build",
            "f:2: spec.mode: \"off\" is not one of enforce, shadow",
        ],
    );
    check_spec(
        "CircuitBreaker",
        &format!(
            "targetRefs: [{{{gateway_api}, kind: Gateway, name: a}}, {{{gateway_api}, kind: HTTPRoute, name: a}}, \
             {{{gateway_api}, kind: HTTPRoute, name: a}}], per: endpoint, errors: {{count: 1}}"
        ),
        &[
            "f:2: spec.targetRefs[0].kind: Gateway as the target of a CircuitBreaker is not enforced by this build (target \
             the Service)",
            "f:2: spec.targetRefs[1].kind: an HTTPRoute has no endpoints of its own, as per: endpoint demands (target the \
             Service)",
            "f:2: spec.targetRefs[2]: is the same as item 1 of the list",
            "f:2: spec.targetRefs[2].kind: an HTTPRoute has no endpoints of its own, as per: endpoint demands (target the \
             Service)",
        ],
    );
}

#[test]
fn rate_limits() {
    let limit = "limits: [{requests: 1, per: 1s}]";
    check_rows(
        "RateLimit",
        &[
            (
                "limits: [{requests: 0, per: 0s, burst: 0}, {per: 1}]",
                &[
                    "limits[0].requests: 0 is not a number from 1 to 1000000000",
                    "limits[0].per: must be at least 1ms",
                    "limits[0].burst: 0 is not a number from 1 to 1000000000",
                    "limits[1].requests: is missing",
                    "limits[1].per: must be a duration, not the number 1 (write 1s for seconds)",
                ],
            ),
            (
                "limits: [{requests: 1000001, per: 1ms}], by: [{route: true}], \
                 overrides: [{value: a, requests: 1000001, per: 1ms}, {value: b, requests: 1000000, per: 1ms}]",
                &[
                    "limits[0].requests: are more than one in a nanosecond",
                    "overrides[0].requests: are more than one in a nanosecond",
                ],
            ),
            ("limits: []", &["limits: has 0 items and must have 1 to 8"]),
            (
                &format!("{limit}, by: [{{}}, {{header: a, cookie: b}}, {{route: false}}, {{cookie: 'a b'}}]"),
                &[
                    "by[0]: must have exactly one of route, service, caller, lane, header, cookie, query, clientAddress",
                    "by[1]: must have exactly one of route, service, caller, lane, header, cookie, query, clientAddress",
                    "by[2].route: must be true, or left out",
                    "by[3].cookie: \"a b\" is not a token (letters, digits and some of the signs, such as '-' and '.')",
                ],
            ),
            (&format!("{limit}, by: [{{header: X-A}}, {{header: x-a}}]"), &["by[1]: is the same as by[0]"]),
            (
                &format!("{limit}, onMissing: shared, maxValues: 5"),
                &["onMissing: means nothing without by", "maxValues: means nothing without by"],
            ),
            (
                &format!("{limit}, overrides: [{{value: a, requests: 1, per: 1s}}]"),
                &["overrides: need exactly one item in by, which has 0"],
            ),
            (
                &format!(
                    "{limit}, by: [{{header: x}}], overrides: [{{value: a, requests: 1, per: 1s}}, \
                     {{value: a, requests: 2, per: 1s}}]"
                ),
                &["overrides[1].value: \"a\" has an override already, at f:2"],
            ),
            (
                &format!("{limit}, by: [{{clientAddress: true}}], overrides: [{{value: a, requests: 1, per: 1s}}]"),
                &["overrides[0].value: \"a\" is not an IP address"],
            ),
            (
                &format!("{limit}, effect: {{type: reject, maxWait: 1s, period: 1s, coldFactor: 2, status: 100}}"),
                &["effect.status: 100 is not a number from 200 to 599"],
            ),
            (
                &format!("{limit}, effect: {{type: reject, maxWait: 1s, period: 1s, coldFactor: 2}}"),
                &[
                    "effect.maxWait: means nothing with reject (only with queue)",
                    "effect.period: means nothing with reject (only with warmUp)",
                    "effect.coldFactor: means nothing with reject (only with warmUp)",
                ],
            ),
            (&format!("{limit}, effect: {{type: queue}}"), &["effect.maxWait: is missing, as queue demands it"]),
            (
                &format!("{limit}, effect: {{type: warmUp, coldFactor: 0.5}}"),
                &["effect.coldFactor: 0.5 is not a number from 1 to 1000"],
            ),
            (&format!("{limit}, effect: {{type: warmUp}}"), &["effect.period: is missing, as warmUp demands it"]),
            (
                &format!(
                    "{limit}, effect: {{type: reject, status: 204, body: x, headers: {{Content-Length: '1', X-A: a, x-a: b}}}}"
                ),
                &[
                    "effect.status: an answer 204 has no body",
                    "effect.headers.Content-Length: belongs to the connection, not to rules",
                    "effect.headers.x-a: is there twice, in another case",
                ],
            ),
            (
                &format!("{limit}, scope: {{type: global, withoutControl: local}}"),
                &[
                    "scope.type: global is not enforced by this build",
                    "scope.withoutControl: is not enforced by this build",
                ],
            ),
        ],
    );
}

#[test]
fn concurrency_limits() {
    let one = "limit: must have exactly one of fixed, adaptive";
    check_rows(
        "ConcurrencyLimit",
        &[
            ("limit: {}", &[one]),
            ("limit: {fixed: 1, adaptive: {min: 1, max: 2}}", &[one]),
            ("limit: {adaptive: {min: 3, max: 2}}", &["limit.adaptive.min: 3 is above max"]),
            (
                "limit: {fixed: 0}, queue: {max: 0}, reply: {status: 99}",
                &[
                    "limit.fixed: 0 is not a number from 1 to 1000000",
                    "queue.timeout: is missing",
                    "queue.max: 0 is not a number from 1 to 1000000",
                    "reply.status: 99 is not a number from 200 to 599",
                ],
            ),
        ],
    );
}

#[test]
fn circuit_breakers() {
    check_spec(
        "CircuitBreaker",
        SERVICE,
        &["f:2: spec: must have slowCalls or errors, else it never opens (such as errors: {ratio: 0.5})"],
    );
    check_rows(
        "CircuitBreaker",
        &[
            ("errors: {}", &["errors: must have ratio or count"]),
            (
                "slowCalls: {over: 0s, ratio: 0}, errors: {ratio: 1.5, count: 0}, per: instance, window: 1ms",
                &[
                    "slowCalls.over: must be at least 1ms",
                    "slowCalls.ratio: 0 is not a share (above 0, 1 at most)",
                    "errors.ratio: 1.5 is not a share (above 0, 1 at most)",
                    "errors.count: 0 is not a number from 1 to 1000000",
                    "per: \"instance\" is not one of service, endpoint",
                    "window: must be at least 100ms",
                ],
            ),
            ("errors: {ratio: 50%}", &["errors.ratio: must be a number, not a text"]),
            ("errors: {ratio: .nan}", &["errors.ratio: .nan is not a share (above 0, 1 at most)"]),
        ],
    );
}

#[test]
fn fault_injections() {
    check_spec(
        "FaultInjection",
        SERVICE,
        &["f:2: spec: must have delay, abort or both (such as delay: {fixed: 100ms, percentage: 5})"],
    );
    check_rows(
        "FaultInjection",
        &[
            (
                "delay: {fixed: 1s, percentage: 101}, abort: {status: 503, percentage: 1.005}",
                &[
                    "delay.percentage: 101 is not a percentage (0 to 100, two decimals at most)",
                    "abort.percentage: 1.005 is not a percentage (0 to 100, two decimals at most)",
                ],
            ),
            (
                "abort: {percentage: -1}, match: [{}, {headers: [{type: RegularExpression, name: a, value: b}]}]",
                &[
                    "abort.status: is missing",
                    "abort.percentage: -1 is not a percentage (0 to 100, two decimals at most)",
                    "match[0]: has no condition (leave out match to mean all requests)",
                    "match[1].headers[0].type: RegularExpression is not enforced by this build",
                ],
            ),
        ],
    );
}
