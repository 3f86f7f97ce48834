//! Which limits, breakers and faults a request meets, and what they are told to do.

use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::snapshot::policy::{
    Action, Concurrency, ConcurrencyLimit, Effect, Key, OnMissing, Override, Policy, RateLimit, Reply, Scope, Window,
};
use crate::snapshot::{HashKey, Rule};

const GATEWAY: &str = "{group: gateway.networking.k8s.io, kind: Gateway, name: shop}";
const LISTENER: &str = "{group: gateway.networking.k8s.io, kind: Gateway, name: shop, sectionName: http}";
const ROUTE: &str = "{group: gateway.networking.k8s.io, kind: HTTPRoute, name: r}";
const RULE: &str = "{group: gateway.networking.k8s.io, kind: HTTPRoute, name: r, sectionName: pay}";
const SERVICE: &str = "{group: '', kind: Service, name: a}";

/// One policy of a kind with the least that it needs.
fn policy(kind: &str, name: &str, targets: &[&str], more: &str) -> String {
    let spec = match kind {
        "RateLimit" => "limits: [{requests: 1, per: 1s}]",
        "ConcurrencyLimit" => "limit: {fixed: 1}",
        "CircuitBreaker" => "errors: {count: 1}",
        _ => "delay: {fixed: 1s, percentage: 1}",
    };
    let targets = targets.join(", ");
    format!(
        "---\n{{apiVersion: evenkeel.dev/v1alpha1, kind: {kind}, metadata: {{name: {name}}}, \
         spec: {{targetRefs: [{targets}], {spec}{more}}}}}\n"
    )
}

fn paid() -> String {
    rules(&format!("{{name: pay, matches: [{{path: {{value: /pay}}}}], {TO_A}}}, {{{TO_B}}}"))
}

fn rule_at(snapshot: &Snapshot, bind: usize, line: &str) -> Arc<Rule> {
    snapshot.binds[bind].table.find(&request(line)).expect("a rule takes everything").rule.clone()
}

/// Name and state of each, `x` for `RateLimit default/x`, and `~` before those in shadow.
fn names(policies: &[Arc<Policy>]) -> String {
    let name = |policy: &Arc<Policy>| {
        let name = policy.name.rsplit('/').next().unwrap_or_default();
        let shadow = if policy.mode == crate::snapshot::policy::Mode::Shadow { "~" } else { "" };
        format!("{shadow}{name}")
    };
    policies.iter().map(name).collect::<Vec<_>>().join(" ")
}

/// What requests to /pay, to other paths, and at the Service `a` meet.
fn check_met(policies: &[String], expected: [&str; 3]) {
    let checked = checked(&format!("{}{}", policies.concat(), paid()));
    assert_eq!(checked.warnings, [], "{policies:#?}");
    let snapshot = checked.snapshot;
    let met = ["GET h/pay", "GET h/other"].map(|line| names(&rule_at(&snapshot, 0, line).policies));
    let service = snapshot.clusters.iter().find(|cluster| &*cluster.service == "a").expect("it is used");
    assert_eq!([&met[0][..], &met[1], &names(&service.policies)], expected, "{policies:#?}");
}

#[test]
fn limits_add_up_and_of_the_others_the_narrowest_acts() {
    let everywhere = [GATEWAY, LISTENER, ROUTE, RULE, SERVICE];
    let each = |kind: &str| -> Vec<String> {
        let names = ["g", "l", "r", "p", "s"];
        names.iter().zip(everywhere).map(|(name, target)| policy(kind, name, &[target], "")).collect()
    };
    check_met(&each("RateLimit"), ["g l r p", "g l r", "s"]);
    check_met(&each("ConcurrencyLimit"), ["p", "r", "s"]);
    check_met(&each("FaultInjection"), ["p", "r", "s"]);
    check_met(&each("ConcurrencyLimit")[..2], ["l", "l", ""]);
    check_met(&each("FaultInjection")[..1], ["g", "g", ""]);
    let breakers = each("CircuitBreaker");
    check_met(&breakers[2..], ["p", "r", "s"]);
    // A limit of several targets is met once on the way to a target.
    check_met(&[policy("RateLimit", "x", &everywhere, "")], ["x", "x", "x"]);
    // Those in shadow take nobody's place, and nobody takes theirs but a narrower one in shadow.
    check_met(
        &[
            policy("ConcurrencyLimit", "g", &[GATEWAY], ""),
            policy("ConcurrencyLimit", "r", &[ROUTE], ", mode: shadow"),
            policy("ConcurrencyLimit", "p", &[RULE], ", mode: shadow"),
            policy("ConcurrencyLimit", "s", &[SERVICE], ""),
            policy("ConcurrencyLimit", "trial", &[SERVICE], ", mode: shadow"),
        ],
        ["g ~p", "g ~r", "s ~trial"],
    );
    // On one target by kind: limits first, faults last.
    check_met(
        &["FaultInjection", "ConcurrencyLimit", "CircuitBreaker", "RateLimit"]
            .map(|kind| policy(kind, &kind.to_lowercase(), &[ROUTE, SERVICE], "")),
        ["ratelimit circuitbreaker concurrencylimit faultinjection"; 3],
    );
}

#[test]
fn state_belongs_to_a_limit_as_a_whole_and_to_each_target_of_the_others() {
    let documents = [
        policy("RateLimit", "rate", &[ROUTE, SERVICE], ""),
        policy("ConcurrencyLimit", "many", &[LISTENER, RULE, SERVICE], ""),
        paid(),
    ];
    let snapshot = checked(&documents.concat()).snapshot;
    let keys = |policies: &[Arc<Policy>]| -> Vec<String> {
        policies.iter().map(|policy| format!("{} | {}", policy.name, policy.state_key)).collect()
    };
    let rate = "RateLimit default/rate | RateLimit default/rate";
    let many = "ConcurrencyLimit default/many | ConcurrencyLimit default/many on";
    assert_eq!(keys(&rule_at(&snapshot, 0, "GET h/pay").policies), [rate, &format!("{many} HTTPRoute default/r/pay")]);
    // The order is that of the levels: the listener's before the route's.
    assert_eq!(keys(&rule_at(&snapshot, 0, "GET h/").policies), [&format!("{many} Gateway default/shop/http"), rate]);
    let service = snapshot.clusters.iter().find(|cluster| &*cluster.service == "a").expect("it is used");
    assert_eq!(keys(&service.policies), [rate, &format!("{many} Service default/a")]);
}

#[test]
fn listeners_give_a_rule_their_own_policies_and_equal_forms_are_one() {
    // `shop/http` takes all hosts at 8080, `g/x` one of them at the same address, `g/y` and `g/z` others elsewhere.
    let listeners = gateway(
        "{name: x, port: 8080, protocol: HTTP, hostname: x.test}, {name: y, port: 8081, protocol: HTTP}, \
         {name: z, port: 8082, protocol: HTTP}",
    );
    let parents = "parentRefs: [{name: shop}, {name: g}]";
    let of_x = "{group: gateway.networking.k8s.io, kind: Gateway, name: g, sectionName: x}";
    let documents = [
        listeners,
        policy("ConcurrencyLimit", "all", &[GATEWAY], ""),
        policy("ConcurrencyLimit", "only-x", &[of_x], ""),
        route("name: r", &format!("{parents}, rules: [{{{TO_A}}}]")),
        route("name: plain", &format!("{parents}, hostnames: [plain.test], rules: [{{{TO_A}}}]")),
    ];
    let snapshot = checked(&documents.concat()).snapshot;
    let met = |bind: usize, line: &str| names(&rule_at(&snapshot, bind, line).policies);
    assert_eq!(met(0, "GET h/"), "all");
    assert_eq!(met(0, "GET x.test/"), "only-x");
    assert_eq!([met(1, "GET h/"), met(2, "GET x.test/")], ["", ""]);
    let (y, z) = (rule_at(&snapshot, 1, "GET h/"), rule_at(&snapshot, 2, "GET h/"));
    assert!(Arc::ptr_eq(&y, &z), "rules without policies are the same everywhere");
    let (first, second) = (rule_at(&snapshot, 0, "GET h/"), rule_at(&snapshot, 0, "GET plain.test/"));
    assert!(Arc::ptr_eq(&first.policies, &second.policies), "equal lists are one");
}

#[test]
fn targets_that_are_not_there_or_taken() {
    let gone = [
        "{group: '', kind: Service, name: gone}",
        "{group: gateway.networking.k8s.io, kind: Gateway, name: shop, sectionName: gone}",
        "{group: gateway.networking.k8s.io, kind: HTTPRoute, name: r, sectionName: '0'}",
        "{group: gateway.networking.k8s.io, kind: HTTPRoute, name: gone}",
    ];
    check_warnings(
        &[policy("RateLimit", "x", &gone, ""), paid()].concat(),
        &[
            "spec.targetRefs[0]: there is no Service default/gone",
            "spec.targetRefs[1]: there is no Gateway default/shop with a listener \"gone\"",
            "spec.targetRefs[2]: there is no HTTPRoute default/r with a rule \"0\"",
            "spec.targetRefs[3]: there is no HTTPRoute default/gone",
        ],
    );
    let second = [policy("CircuitBreaker", "b", &[ROUTE], ""), policy("CircuitBreaker", "a", &[SERVICE, ROUTE], "")];
    check_warnings(
        &[second.concat(), paid()].concat(),
        &[
            "rules.yaml:16: spec.targetRefs[0]: Conflicted: CircuitBreaker default/a, at rules.yaml:18, has the same target \
           and is older, or first by name (one policy for each target)",
        ],
    );
}

#[test]
fn what_hardly_was_meant() {
    check_warnings(
        &[policy("RateLimit", "x", &[ROUTE], ", by: [{service: true}]"), paid()].concat(),
        &["spec.by[0].service: is not known yet where a limit on HTTPRoute acts: onMissing decides there (target the \
           Services)"],
    );
    let balance = "---\n{apiVersion: evenkeel.dev/v1alpha1, kind: TrafficPolicy, metadata: {name: x}, spec: {targetRefs: \
                   [{group: '', kind: Service, name: a}], loadBalancer: {policy: maglev, hashOn: [{header: x_user}]}}}\n";
    for (document, field) in [
        (policy("RateLimit", "x", &[ROUTE], ", by: [{header: x_user}]"), "by[0].header"),
        (
            policy("FaultInjection", "x", &[ROUTE], ", match: [{headers: [{name: x_a, value: b}]}]"),
            "match[0].headers[0].name",
        ),
        (balance.to_owned(), "loadBalancer.hashOn[0].header"),
    ] {
        check_warnings(&[document, paid()].concat(), &[&format!("spec.{field}: {UNDERSCORED}")]);
    }
    let windows = |limits: &str| {
        let rate = policy("RateLimit", "x", &[SERVICE], "").replace("[{requests: 1, per: 1s}]", limits);
        checked(&[rate, paid()].concat()).warnings.iter().map(|warning| warning.field.clone()).collect::<Vec<_>>()
    };
    assert_eq!(windows("[{requests: 100, per: 1s, burst: 20}, {requests: 3000, per: 1m}]"), [""; 0]);
    assert_eq!(windows("[{requests: 10, per: 1s}, {requests: 600, per: 1m}]"), ["spec.limits[1]"]);
    assert_eq!(windows("[{requests: 600, per: 1m}, {requests: 10, per: 1s}]"), ["spec.limits[0]"]);
    assert_eq!(windows("[{requests: 10, per: 1s}, {requests: 10, per: 1s}]"), ["spec.limits[1]"]);
    assert_eq!(windows("[{requests: 10, per: 1s}, {requests: 9, per: 1s, burst: 11}]"), [""; 0]);
}

#[test]
fn defaults_are_filled_in() {
    let of_service = |documents: &str| {
        let snapshot = checked(&[documents, &paid()].concat()).snapshot;
        let service = snapshot.clusters.iter().find(|cluster| &*cluster.service == "a").expect("it is used");
        service.policies[0].action.clone()
    };
    let window = |requests, seconds, burst| Window { requests, per: Duration::from_secs(seconds), burst };
    let reply = |status| Reply { status, body: "".into(), headers: Vec::new() };
    let plain = RateLimit {
        windows: vec![window(1, 1, 1)],
        by: Vec::new(),
        on_missing: OnMissing::Shared,
        overrides: Vec::new(),
        effect: Effect::Reject(reply(429)),
        scope: Scope::Local,
        values_max: 1_000_000,
    };
    assert_eq!(of_service(&policy("RateLimit", "x", &[SERVICE], "")), Action::RateLimit(plain.clone()));
    let more = ", by: [{clientAddress: true}], onMissing: deny, overrides: [{value: '::ffff:10.0.0.1', requests: 5, per: 2s}], \
                effect: {type: warmUp, period: 9s, status: 503, headers: {Retry-After: '1'}}, scope: {type: sharedByReplicas}, \
                maxValues: 7";
    let fancy = RateLimit {
        by: vec![Key::Of(HashKey::ClientAddress)],
        on_missing: OnMissing::Deny,
        overrides: vec![Override { value: "10.0.0.1".into(), windows: vec![window(5, 2, 5)] }],
        effect: Effect::WarmUp {
            period: Duration::from_secs(9),
            cold_factor: 3.0,
            reply: Reply { headers: vec![("Retry-After".into(), "1".into())], ..reply(503) },
        },
        scope: Scope::SharedByReplicas,
        values_max: 7,
        ..plain
    };
    assert_eq!(of_service(&policy("RateLimit", "x", &[SERVICE], more)), Action::RateLimit(fancy));
    let limit = ConcurrencyLimit {
        limit: Concurrency::Fixed(1),
        queue_max: 0,
        queue_timeout: Duration::ZERO,
        reply: reply(503),
    };
    assert_eq!(of_service(&policy("ConcurrencyLimit", "x", &[SERVICE], "")), Action::ConcurrencyLimit(limit));
    let Action::CircuitBreaker(breaker) = of_service(&policy("CircuitBreaker", "x", &[SERVICE], "")) else {
        panic!("it is a breaker");
    };
    let spans = [breaker.window, breaker.open_for].map(|span| span.as_secs());
    assert_eq!((spans, breaker.calls_min, breaker.probes, breaker.fallback), ([10, 5], 20, 5, reply(503)));
    let Action::FaultInjection(fault) = of_service(&policy("FaultInjection", "x", &[SERVICE], "")) else {
        panic!("it is a fault");
    };
    assert_eq!(fault.delay.map(|delay| delay.share), Some(0.01));
}
