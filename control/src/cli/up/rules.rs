//! The rules of the demonstration, as a person would write them: to be read and edited while it runs. Pure.

use std::fmt::Write;

use super::shop::SERVICES;

/// How many of 100 others are in lane green, and how many after the key that opens it.
const CLOSED: u32 = 10;
const OPEN: u32 = 20;

/// The rules: clients come to `edge`, on loopback.
pub fn write(edge: u16) -> String {
    let mut text = HEAD.replace("{edge}", &edge.to_string()).replace("{closed}", &CLOSED.to_string());
    for service in SERVICES {
        write!(text, "{}", SERVICE.replace("{service}", service)).expect("a String takes all");
    }
    for service in &SERVICES[1..] {
        write!(text, "{}", CALLS.replace("{service}", service)).expect("a String takes all");
    }
    text + PROTECTION
}

/// The same rules with lane green open, or closed again, and how many of 100 are in it then. None: they have no such line.
pub fn swing(text: &str) -> Option<(String, u32)> {
    const FIELD: &str = "percentage:";
    let lane = text.find("name: green")?;
    let field = lane + text[lane..].find(FIELD)? + FIELD.len();
    // Another lane's is not meant.
    if text[lane + 1..field].contains("name: ") {
        return None;
    }
    let line = text[field..].lines().next()?;
    let value = line.split('#').next()?.trim();
    let from = field + line.find(value)?;
    let next = if value.parse::<u32>().ok()? == OPEN { CLOSED } else { OPEN };
    Some((format!("{}{next}{}", &text[..from], &text[from + value.len()..]), next))
}

const HEAD: &str = r#"# The rules of `evenkeel up`. Change them while it runs: control takes them at once, and they are in force a moment later,
# or it refuses them with the reason.

# Where clients arrive.
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: shop}
spec:
  gatewayClassName: evenkeel
  addresses: [{value: 127.0.0.1}]
  listeners:
  - {name: edge, port: {edge}, protocol: HTTP}
---
# Who is in which lane. It is decided at the edge; inside, the sidecars remember it by the trace of each request, so that
# services pass on nothing but `traceparent`. A lane needs instances only of the services that differ: what it lacks is served
# by the baseline.
apiVersion: evenkeel.dev/v1alpha1
kind: LaneGroup
metadata: {name: shop}
spec:
  entries: [{group: gateway.networking.k8s.io, kind: Gateway, name: shop, sectionName: edge}]
  baseline: base
  lanes:
  - name: blue                      # testers: a new web, cart and stock
    selector: {lane: blue}
    match:
    - headers: [{name: x-user, value: alice}]
    - cookies: [{name: beta, value: "1"}]
  - name: green                     # some of all others: a new price (the key `l` changes how many)
    selector: {lane: green}
    percentage: {closed}
    stickyBy: {cookie: lane-key, onMissing: issue, salt: shop}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: shop}
spec:
  parentRefs: [{name: shop, sectionName: edge}]
  rules:
  - name: all
    timeouts: {request: 5s}
    backendRefs: [{name: web, port: 80}]
"#;

/// Nobody writes endpoints: instances speak for themselves.
const SERVICE: &str = r#"---
apiVersion: evenkeel.dev/v1alpha1
kind: Service
metadata: {name: {service}}
spec:
  ports: [{name: http, port: 80, appProtocol: http}]
---
# An instance that fails five times in a row is left alone for five seconds, and what it failed is tried once at another.
apiVersion: evenkeel.dev/v1alpha1
kind: TrafficPolicy
metadata: {name: {service}}
spec:
  targetRefs: [{group: "", kind: Service, name: {service}}]
  timeouts: {connect: 1s, firstByte: 2s}
  outlierDetection: {consecutive5xxErrors: 5, interval: 5s, baseEjectionTime: 5s, maxEjectionPercent: 50}
  retries: {attempts: 2, on: [connectFailure, reset], codes: [500, 503], budget: {ratio: 0.2, minPerSecond: 10}}
"#;

const CALLS: &str = r#"---
# For those who call {service}.
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: {service}}
spec:
  parentRefs: [{group: "", kind: Service, name: {service}}]
  rules:
  - name: all
    timeouts: {request: 3s}
    backendRefs: [{name: {service}, port: 80}]
"#;

const PROTECTION: &str = r#"---
# No user may ask too much; the robot of this demonstration asks twice of what it may.
apiVersion: evenkeel.dev/v1alpha1
kind: RateLimit
metadata: {name: per-user}
spec:
  targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: shop, sectionName: edge}]
  limits: [{requests: 100, per: 1s}]
  by: [{header: x-user}]
  overrides: [{value: robot, requests: 5, per: 1s}]
  effect: {type: reject, status: 429, body: "slow down\n"}
---
# If price fails or is slow it is spared for three seconds, and callers get a price that is good enough.
apiVersion: evenkeel.dev/v1alpha1
kind: CircuitBreaker
metadata: {name: price}
spec:
  targetRefs: [{group: "", kind: Service, name: price}]
  slowCalls: {over: 40ms, ratio: 0.5}
  errors: {ratio: 0.3}
  window: 2s
  minimumCalls: 20
  openFor: 3s
  halfOpenProbes: 5
  fallback: {status: 200, body: price(fallback), headers: {content-type: text/plain}}
---
# Each instance of stock bears sixteen requests at the same time; some more wait for a moment.
apiVersion: evenkeel.dev/v1alpha1
kind: ConcurrencyLimit
metadata: {name: stock}
spec:
  targetRefs: [{group: "", kind: Service, name: stock}]
  limit: {fixed: 16}
  queue: {max: 64, timeout: 1s}
"#;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rules_are_right_and_warn_of_nothing() {
        let file = std::env::temp_dir().join(format!("evenkeel-up-test-{}.yaml", std::process::id()));
        let text = write(8080);
        std::fs::write(&file, &text).expect("a file");
        let read = config::Reader::new(config::Origin::Control).load(std::slice::from_ref(&file)).result;
        let _ = std::fs::remove_file(&file);
        let told = |problems: &[config::Problem]| problems.iter().map(ToString::to_string).collect::<Vec<_>>();
        match read {
            Ok(checked) => assert_eq!(told(&checked.warnings), [""; 0], "{text}"),
            Err(problems) => panic!("{:#?}\n{text}", told(&problems)),
        }
    }

    #[test]
    fn lane_green_swings_and_all_else_stays() {
        let text = write(8080).replace("percentage: 10", "percentage: 10   # of mine");
        let (open, percentage) = swing(&text).expect("it has the line");
        assert_eq!((percentage, &open), (20, &text.replace("percentage: 10 ", "percentage: 20 ")));
        assert_eq!(swing(&open), Some((text, 10)));
        for (edited, expected) in [
            ("- name: green\n  percentage: 7\n", Some(("- name: green\n  percentage: 20\n".to_owned(), 20))),
            ("- name: green\n  percentage: x\n", None),
            ("- name: green\n- name: red\n  percentage: 10\n", None),
            ("- name: red\n  percentage: 10\n", None),
            ("", None),
        ] {
            assert_eq!(swing(edited), expected, "{edited}");
        }
    }
}
