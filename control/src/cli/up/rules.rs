//! The rules of the demonstration, as a person would write them: to be read and edited while it runs. Pure.

use std::fmt::Write;
use std::sync::Arc;

use super::shop::{BASE, Instance, SERVICES};

/// The rules: clients come to `edge`, calls between services to `inside`, both on loopback.
pub fn write(edge: u16, inside: u16, instances: &[Arc<Instance>]) -> String {
    let mut text = format!("{}\n", HEAD.replace("{edge}", &edge.to_string()).replace("{inside}", &inside.to_string()));
    for service in SERVICES {
        text += &document("Service", service);
        text += "  ports: [{name: http, port: 80, appProtocol: http}]\n  endpoints:\n";
        for instance in instances.iter().filter(|known| known.service == service) {
            let Instance { lane, address, .. } = &**instance;
            let labels = if *lane == BASE { String::new() } else { format!(", labels: {{lane: {lane}}}") };
            let (ip, port) = (address.ip(), address.port());
            writeln!(text, "  - {{address: {ip}, ports: {{http: {port}}}{labels}}}").expect("a String takes all");
        }
    }
    for service in &SERVICES[1..] {
        write!(text, "---\n{}", INSIDE.replace("{service}", service)).expect("a String takes all");
    }
    text + PROTECTION
}

fn document(kind: &str, name: &str) -> String {
    format!("---\napiVersion: evenkeel.dev/v1alpha1\nkind: {kind}\nmetadata: {{name: {name}}}\nspec:\n")
}

const HEAD: &str = r#"# The rules of `evenkeel up`. Change them while it runs: they are in force a moment later, or refused with the reason.

# Where requests arrive: those of clients at `edge`, calls between services at `inside`.
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: shop}
spec:
  gatewayClassName: evenkeel
  addresses: [{value: 127.0.0.1}]
  listeners:
  - {name: edge, port: {edge}, protocol: HTTP}
  - {name: inside, port: {inside}, protocol: HTTP}
---
# Who is in which lane. It is decided at the edge, and a service only has to pass on the header x-evenkeel-lane. A lane
# needs instances only of the services that differ: what it lacks is served by the baseline.
apiVersion: evenkeel.dev/v1alpha1
kind: LaneGroup
metadata: {name: shop}
spec:
  entries: [{group: gateway.networking.k8s.io, kind: Gateway, name: shop, sectionName: edge}]
  internal: [{group: gateway.networking.k8s.io, kind: Gateway, name: shop, sectionName: inside}]
  baseline: base
  lanes:
  - name: blue                      # testers: a new web, cart and stock
    selector: {lane: blue}
    match:
    - headers: [{name: x-user, value: alice}]
    - cookies: [{name: beta, value: "1"}]
  - name: green                     # a tenth of all others: a new price
    selector: {lane: green}
    percentage: 10
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
    backendRefs: [{name: web, port: 80}]"#;

const INSIDE: &str = r#"apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: {service}}
spec:
  parentRefs: [{name: shop, sectionName: inside}]
  hostnames: [{service}]
  rules:
  - name: all
    timeouts: {request: 3s}
    backendRefs: [{name: {service}, port: 80}]
"#;

const PROTECTION: &str = r#"---
# An instance that fails five times in a row is left alone for five seconds, and what it failed is tried once at another.
apiVersion: evenkeel.dev/v1alpha1
kind: TrafficPolicy
metadata: {name: all}
spec:
  targetRefs:
  - {group: "", kind: Service, name: web}
  - {group: "", kind: Service, name: cart}
  - {group: "", kind: Service, name: price}
  - {group: "", kind: Service, name: stock}
  timeouts: {connect: 1s, firstByte: 2s}
  outlierDetection: {consecutive5xxErrors: 5, interval: 5s, baseEjectionTime: 5s, maxEjectionPercent: 50}
  retries: {attempts: 2, on: [connectFailure, reset], codes: [500], budget: {ratio: 0.2, minPerSecond: 10}}
---
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
# Stock bears sixteen requests at the same time; some more wait for a moment.
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
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let instances = runtime.block_on(async { super::super::shop::open(([127, 0, 0, 1], 9).into()) });
        let text = write(8080, 8081, &instances.expect("ports"));
        std::fs::write(&file, &text).expect("a file");
        let read = config::load(std::slice::from_ref(&file)).result;
        let _ = std::fs::remove_file(&file);
        let told = |problems: &[config::Problem]| problems.iter().map(ToString::to_string).collect::<Vec<_>>();
        match read {
            Ok(checked) => assert_eq!(told(&checked.warnings), [""; 0], "{text}"),
            Err(problems) => panic!("{:#?}\n{text}", told(&problems)),
        }
    }
}
