//! Rules with many routes of every kind for evenkeel, and one request for each route: does routing stay cheap as the
//! table grows? Pure.

use std::fmt::Write;

use crate::load::{Request, get};

/// Rules in one HTTPRoute: the Gateway API allows 16.
const RULES_MAX: usize = 10;
/// Header routes that share a path.
const HEADERS_PER_PATH: usize = 8;
/// The host of all routes that do not differ by host.
pub(crate) const ROUTE_HOST: &str = "svc-a.mesh.local";

/// How a route is told from the others.
#[derive(Clone, Copy, PartialEq, Eq)]
enum By {
    Exact,
    Prefix,
    Header,
    Host,
}

/// The rules file for `count` routes, a quarter each by exact path, prefix, header and host, and a request per route.
pub(crate) fn many_routes(count: usize) -> (String, Vec<Request>) {
    let mut yaml = String::from(HEAD);
    let mut requests = Vec::with_capacity(count);
    let kinds = [By::Exact, By::Prefix, By::Header, By::Host];
    for (kind, by) in kinds.into_iter().enumerate() {
        let numbers: Vec<usize> = (0..count).filter(|number| number % kinds.len() == kind).collect();
        // A route by host is an HTTPRoute of its own; the others share one as far as the Gateway API allows.
        for numbers in numbers.chunks(if by == By::Host { 1 } else { RULES_MAX }) {
            let host = if by == By::Host { format!("h{}.mesh.local", numbers[0]) } else { ROUTE_HOST.into() };
            let matches: Vec<String> = numbers.iter().map(|number| matched(by, *number)).collect();
            write_route(&mut yaml, &format!("r{}", numbers[0]), &host, &matches);
            requests.extend(numbers.iter().map(|number| request(by, &host, *number)));
        }
    }
    yaml.push_str(SERVICE);
    (yaml, requests)
}

/// The work that every peer does, among a hundred routes, with lanes, limits, a breaker, ejection and retries.
pub(crate) fn governed() -> String {
    many_routes(99).0 + include_str!("../../peers/governed.yaml")
}

/// Ten mixed routes that take every request of `many_routes`. Both tables must see the same stream: 10,000 distinct
/// requests alone cost a proxy that looks at none of them about 15 % more than ten do.
pub(crate) fn ten_routes() -> String {
    let mut yaml = String::from(HEAD);
    let prefix = |path: &str| format!("{{path: {{type: PathPrefix, value: {path}}}}}");
    let own = [
        matched(By::Exact, 0),
        matched(By::Exact, 4),
        prefix("/exact"),
        matched(By::Prefix, 1),
        prefix("/prefix"),
        matched(By::Header, 2),
        prefix("/header"),
    ];
    write_route(&mut yaml, "paths", ROUTE_HOST, &own);
    for (name, host) in [("h3", "h3.mesh.local"), ("h7", "h7.mesh.local"), ("hosts", "\"*.mesh.local\"")] {
        write_route(&mut yaml, name, host, &[matched(By::Host, 0)]);
    }
    yaml.push_str(SERVICE);
    yaml
}

fn write_route(yaml: &mut String, name: &str, host: &str, matches: &[String]) {
    write!(
        yaml,
        "---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: {name}}}\nspec:\n  \
         parentRefs: [{{name: bench}}]\n  hostnames: [{host}]\n  rules:\n"
    )
    .expect("a String takes all");
    for matched in matches {
        writeln!(yaml, "  - matches: [{matched}]\n{ACTIONS}").expect("a String takes all");
    }
}

fn matched(by: By, number: usize) -> String {
    match by {
        By::Exact => format!("{{path: {{type: Exact, value: /exact/{number}}}}}"),
        By::Prefix => format!("{{path: {{type: PathPrefix, value: /prefix/{number}}}}}"),
        By::Header => format!(
            "{{path: {{type: PathPrefix, value: {}}}, headers: [{{type: Exact, name: x-tenant, value: t-{number}}}]}}",
            header_path(number)
        ),
        By::Host => "{path: {type: PathPrefix, value: /}}".into(),
    }
}

fn request(by: By, host: &str, number: usize) -> Request {
    match by {
        By::Exact => get(host, &format!("/exact/{number}"), "t-17"),
        By::Prefix => get(host, &format!("/prefix/{number}/items/42?q=abc"), "t-17"),
        By::Header => get(host, &format!("{}/items/42?q=abc", header_path(number)), &format!("t-{number}")),
        By::Host => get(host, "/api/v1/items/42?q=abc", "t-17"),
    }
}

fn header_path(number: usize) -> String {
    // Every fourth number is a route by header.
    format!("/header/{}", number / (4 * HEADERS_PER_PATH))
}

const HEAD: &str = "apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: bench}
spec:
  gatewayClassName: evenkeel
  addresses: [{value: 127.0.0.1}]
  listeners:
  - {name: http, port: {{port}}, protocol: HTTP}
";

const ACTIONS: &str = "    filters:
    - type: RequestHeaderModifier
      requestHeaderModifier: {set: [{name: x-lane, value: blue}], remove: [x-internal]}
    - type: ResponseHeaderModifier
      responseHeaderModifier: {set: [{name: x-proxy, value: lab}]}
    backendRefs: [{name: backend, port: 80}]";

const SERVICE: &str = "---
apiVersion: evenkeel.dev/v1alpha1
kind: Service
metadata: {name: backend, namespace: default}
spec:
  ports: [{name: http, port: 80, appProtocol: http}]
  endpoints:
  - {address: 127.0.0.1, ports: {http: {{backend}}}}
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_route_has_a_rule_and_a_request() {
        for count in [10, 100, 10_000] {
            let (yaml, requests) = many_routes(count);
            assert_eq!(requests.len(), count);
            assert_eq!(yaml.matches("- matches:").count(), count);
            // All by path and header share one host; each by host has its own.
            let hosts = yaml.matches("hostnames: [h").count();
            assert_eq!(hosts, count / 4, "{count}");
        }
    }

    #[test]
    fn the_small_table_has_ten_routes() {
        assert_eq!(ten_routes().matches("- matches:").count(), 10);
    }

    #[test]
    fn header_routes_share_a_path_and_differ_by_tenant() {
        let (yaml, _) = many_routes(100);
        let row = "value: /header/0}, headers: [{type: Exact, name: x-tenant, value: t-";
        assert_eq!(yaml.matches(row).count(), HEADERS_PER_PATH);
    }
}
