//! What the fleet runs on: Gateways with a route each, to Services of their own and to one that all of them use. Pure.

use std::fmt::Write;

/// How large everything is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// Gateways, among which proxies are shared out.
    pub gateways: usize,
    /// Services, those that nobody uses among them.
    pub services: usize,
    /// Instances of each Service.
    pub endpoints: usize,
}

/// Services that only one Gateway uses.
pub const OWN: usize = 9;
/// The Service that every Gateway uses.
pub const HOT: &str = "hot";

/// The Service of a Gateway by its number.
pub fn own(gateway: usize, number: usize) -> String {
    format!("own-{gateway}-{number}")
}

/// Everything, as one transaction.
pub fn documents(size: Size) -> String {
    let mut text = String::new();
    for gateway in 0..size.gateways {
        text += &rules(gateway);
        for number in 0..OWN {
            text += &service(&own(gateway, number), size.endpoints, 0);
        }
    }
    text += &service(HOT, size.endpoints, 0);
    for number in size.gateways * OWN + 1..size.services {
        text += &service(&format!("unused-{number}"), size.endpoints, 0);
    }
    text
}

/// A Gateway and its route.
fn rules(gateway: usize) -> String {
    let mut text = format!(
        "---\n{{apiVersion: gateway.networking.k8s.io/v1, kind: Gateway, metadata: {{name: g{gateway}}}, spec: \
         {{gatewayClassName: evenkeel, listeners: [{{name: http, port: 80, protocol: HTTP}}]}}}}\n---\n\
         {{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {{name: r{gateway}}}, spec: {{parentRefs: \
         [{{name: g{gateway}}}], rules: ["
    );
    let names = (0..OWN).map(|number| own(gateway, number)).chain([HOT.to_owned()]);
    for name in names {
        write!(text, "{{matches: [{{path: {{value: /{name}}}}}], backendRefs: [{{name: {name}, port: 80}}]}}, ")
            .expect("a String takes all");
    }
    text + "]}}\n"
}

/// A Service with so many instances, of which the first moves from round to round.
pub fn service(name: &str, endpoints: usize, round: u64) -> String {
    let mut text = format!(
        "---\n{{apiVersion: evenkeel.dev/v1alpha1, kind: Service, metadata: {{name: {name}}}, spec: {{ports: [{{name: http, \
         port: 80}}], endpoints: ["
    );
    for number in 0..endpoints {
        let port = if number == 0 { 10_000 + round % 50_000 } else { 8_080 };
        write!(text, "{{address: 10.{}.{}.1, ports: {{http: {port}}}, zone: a}}, ", number / 250, number % 250)
            .expect("a String takes all");
    }
    text + "]}}\n"
}
