//! Rules as most tests need them: one Gateway, one route, its services, perhaps a policy. Pure.

use std::fmt::Write;
use std::net::SocketAddr;

/// Where the gateway's port goes in a text of rules.
pub(super) const PORT: &str = "{{port}}";

/// Rules under construction.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    policy: String,
    rules: String,
    services: String,
}

impl Rules {
    /// Without routes.
    pub fn new() -> Rules {
        Rules::default()
    }

    /// Everything goes to one service.
    pub fn to(backend: SocketAddr) -> Rules {
        Rules::new().service("web", &[backend]).rule("backendRefs: [{name: web, port: 80}]")
    }

    /// The spec of the ListenerPolicy, such as `timeouts: {head: 1s}`.
    pub fn policy(mut self, spec: &str) -> Rules {
        writeln!(self.policy, "  {spec}").expect("a String takes all");
        self
    }

    /// One more rule of the route: its fields, a line each.
    pub fn rule(mut self, fields: &str) -> Rules {
        for (index, line) in fields.lines().enumerate() {
            let lead = if index == 0 { "- " } else { "  " };
            writeln!(self.rules, "  {lead}{line}").expect("a String takes all");
        }
        self
    }

    /// A service with its endpoints.
    pub fn service(mut self, name: &str, endpoints: &[SocketAddr]) -> Rules {
        let endpoints: Vec<String> = endpoints
            .iter()
            .map(|endpoint| format!("{{address: {}, ports: {{http: {}}}}}", endpoint.ip(), endpoint.port()))
            .collect();
        write!(
            self.services,
            "---\napiVersion: evenkeel.dev/v1alpha1\nkind: Service\nmetadata: {{name: {name}}}\nspec:\n  \
             ports: [{{name: http, port: 80}}]\n  endpoints: [{}]\n",
            endpoints.join(", ")
        )
        .expect("a String takes all");
        self
    }

    /// A service at the addresses of a name.
    pub fn named_service(mut self, name: &str, dns: &str, port: u16) -> Rules {
        write!(
            self.services,
            "---\napiVersion: evenkeel.dev/v1alpha1\nkind: Service\nmetadata: {{name: {name}}}\nspec:\n  \
             ports: [{{name: http, port: 80}}]\n  dns: {{name: {dns}, ports: {{http: {port}}}}}\n"
        )
        .expect("a String takes all");
        self
    }

    /// The TrafficPolicy of a service, such as `loadBalancer: {policy: roundRobin}`.
    pub fn traffic(mut self, service: &str, spec: &str) -> Rules {
        write!(
            self.services,
            "---\napiVersion: evenkeel.dev/v1alpha1\nkind: TrafficPolicy\nmetadata: {{name: {service}}}\nspec:\n  \
             targetRefs: [{{group: \"\", kind: Service, name: {service}}}]\n  {spec}\n"
        )
        .expect("a String takes all");
        self
    }

    /// A policy of `evenkeel.dev` on targets, such as `RateLimit` on [`Rules::ROUTE`] with `limits: [...]`.
    pub fn protect(mut self, kind: &str, name: &str, target: &str, spec: &str) -> Rules {
        write!(
            self.services,
            "---\napiVersion: evenkeel.dev/v1alpha1\nkind: {kind}\nmetadata: {{name: {name}}}\nspec:\n  \
             targetRefs: [{target}]\n  {spec}\n"
        )
        .expect("a String takes all");
        self
    }

    /// Documents as they are written.
    pub fn text(mut self, documents: &str) -> Rules {
        self.services += "---\n";
        self.services += documents;
        self
    }

    /// The route, as a policy's target.
    pub const ROUTE: &'static str = "{group: gateway.networking.k8s.io, kind: HTTPRoute, name: all}";
    /// The Service `web`, as a policy's target.
    pub const WEB: &'static str = "{group: \"\", kind: Service, name: web}";

    /// The YAML, with a place for the port.
    pub fn yaml(&self) -> String {
        let mut yaml = format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{name: edge}}\nspec:\n  \
             gatewayClassName: evenkeel\n  addresses: [{{value: 127.0.0.1}}]\n  listeners:\n  \
             - {{name: http, port: {PORT}, protocol: HTTP}}\n"
        );
        if !self.policy.is_empty() {
            yaml += "---\napiVersion: evenkeel.dev/v1alpha1\nkind: ListenerPolicy\nmetadata: {name: edge}\nspec:\n  \
                     targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: edge}]\n";
            yaml += &self.policy;
        }
        if !self.rules.is_empty() {
            yaml += "---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: all}\nspec:\n  \
                     parentRefs: [{name: edge}]\n  rules:\n";
            yaml += &self.rules;
        }
        yaml + &self.services
    }
}
