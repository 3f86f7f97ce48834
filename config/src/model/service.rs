//! Service: ports, and the instances behind them. Balancing between them is the data plane's business. Pure, Cold.

use std::collections::HashMap;

use crate::decode::{At, Dictionary, List, Path};
use crate::object::{object, words};
use crate::problem::Problems;
use crate::value::{Address, DnsName, LabelKey, LabelValue, Port, SectionName, Whole};

object! {
    /// A group of equal instances.
    Spec {
        /// What callers see; names and numbers are unique.
        required ports: List<ServicePort, 1, 64> = "ports",
        /// The instances; requests are answered 503 without any.
        optional endpoints: List<ServiceEndpoint, 0, 10_000> = "endpoints",
        /// In place of `endpoints`: a name whose addresses are the instances.
        optional dns: Dns = "dns",
    }
    refused { "registry" }
    check ports_and_endpoints_are_distinct;
}

impl Spec {
    /// The instances that are written.
    pub(crate) fn endpoints(&self) -> &[ServiceEndpoint] {
        self.endpoints.as_deref().unwrap_or_default()
    }
}

object! {
    /// A port that callers name.
    ServicePort {
        /// How endpoints name it.
        required name: At<SectionName> = "name",
        /// How callers name it.
        required port: At<Port> = "port",
        /// `http` if absent.
        defaulted protocol: AppProtocol = "appProtocol" or AppProtocol::Http,
    }
    refused { "protocol", "targetPort", "nodePort" }
}

words! {
    /// What instances speak.
    AppProtocol {
        /// HTTP/1.1 in plain text.
        Http = "http",
    }
    refused { "http2", "grpc", "tcp", "tls", "https", "kubernetes.io/h2c", "kubernetes.io/ws", "kubernetes.io/wss" }
}

object! {
    /// One instance.
    ServiceEndpoint {
        /// Where it runs.
        required address: At<Address> = "address",
        /// For each of the Service's ports, by name, the port it listens on.
        required ports: Dictionary<SectionName, Port, 64> = "ports",
        /// Where it stands.
        optional zone: LabelValue = "zone",
        /// What tells instances apart; `lane` among them.
        defaulted labels: Dictionary<LabelKey, LabelValue, 64> = "labels" or Dictionary::default(),
        /// Its share among the instances, 1 if absent; 0 takes it out.
        defaulted weight: Whole<0, 1_000_000> = "weight" or Whole(1),
    }
}

object! {
    /// A name whose addresses are the instances.
    Dns {
        /// Looked up again and again, as its time to live says; with a `.` at the end as it stands, else also within the
        /// search domains of the machine.
        required name: DnsName = "name",
        /// For each of the Service's ports, by name, the port that instances listen on.
        required ports: Dictionary<SectionName, Port, 64> = "ports",
    }
}

fn ports_and_endpoints_are_distinct(spec: &Spec, path: &Path<'_>, problems: &mut Problems) {
    let ports = path.field("ports");
    for (index, port) in spec.ports.iter().enumerate() {
        if spec.ports[..index].iter().any(|before| *before.name == *port.name) {
            let reason = format!("{:?} is the name of another port", port.name.as_str());
            problems.error(port.name.place, ports.item(index).field("name"), reason);
        }
        if spec.ports[..index].iter().any(|before| *before.port == *port.port) {
            let reason = format!("{} is the number of another port", port.port.number());
            problems.error(port.port.place, ports.item(index).field("port"), reason);
        }
    }
    let endpoints = path.field("endpoints");
    let mut seen = HashMap::new();
    for (index, endpoint) in spec.endpoints().iter().enumerate() {
        let item = endpoints.item(index);
        if endpoint.address.0.is_unspecified() || endpoint.address.0.is_multicast() {
            let reason = format!("{} is the address of no instance", endpoint.address.0);
            problems.error(endpoint.address.place, item.field("address"), reason);
        }
        let item_ports = item.field("ports");
        for (name, port) in endpoint.ports.iter() {
            let path = item_ports.field(name.as_str());
            if !spec.ports.iter().any(|known| known.name.value == *name) {
                problems.error(port.place, path, format!("{:?} is not a port of this Service", name.as_str()));
            } else if let Some(before) = seen.insert((name, endpoint.address.0, port.number()), index) {
                let reason = format!("is the same as that of endpoints[{before}]");
                problems.error(port.place, path, reason);
            }
        }
    }
    if let Some(dns) = &spec.dns {
        dns_suits(dns, spec, &path.field("dns"), problems);
    }
}

fn dns_suits(dns: &Dns, spec: &Spec, path: &Path<'_>, problems: &mut Problems) {
    if spec.endpoints.is_some() {
        let hint = "leave out one of them";
        problems.error_with_hint(dns.place, path, "excludes endpoints: instances are written or looked up", hint);
    }
    let ports = path.field("ports");
    for (name, port) in dns.ports.iter() {
        if !spec.ports.iter().any(|known| known.name.value == *name) {
            let reason = format!("{:?} is not a port of this Service", name.as_str());
            problems.error(port.place, ports.field(name.as_str()), reason);
        }
    }
    for missing in spec.ports.iter().filter(|port| !dns.ports.contains_key(&port.name.value)) {
        problems.error(dns.place, ports.field(missing.name.as_str()), "is missing");
    }
}
