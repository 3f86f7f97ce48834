//! Whom a sidecar stands beside, and the names by which it calls Services: those that Kubernetes gives them, written and
//! read here. What becomes of it is `compile`'s business. Pure, Cold.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use crate::value::{is_label, label, label_key, label_value, object_name};

/// One instance of a Service, as its proxy knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sidecar {
    /// The Service's namespace.
    pub namespace: Box<str>,
    /// The Service's name.
    pub service: Box<str>,
    /// The instance's labels; `lane` among them.
    pub labels: BTreeMap<Box<str>, Box<str>>,
    /// Where the instance listens.
    pub app: SocketAddr,
    /// Where requests to it come in.
    pub inbound: SocketAddr,
    /// Where it sends its calls.
    pub outbound: SocketAddr,
}

impl Sidecar {
    /// The error says what cannot be.
    pub fn check(self) -> Result<Sidecar, String> {
        label(&self.namespace)?;
        object_name(&self.service)?;
        for (key, value) in &self.labels {
            label_key(key)?;
            label_value(value)?;
        }
        let all = [("app", self.app), ("inbound", self.inbound), ("outbound", self.outbound)];
        for (place, (name, address)) in all.iter().enumerate() {
            let meets = |(_, other): &&(&str, SocketAddr)| {
                let is_wide = address.ip().is_unspecified() || other.ip().is_unspecified();
                address.port() == other.port() && (is_wide || address.ip() == other.ip())
            };
            if let Some((other, _)) = all[..place].iter().find(meets) {
                return Err(format!("{name} and {other} are the same address, {address}"));
            }
        }
        Ok(self)
    }
}

/// Services that are known to callers, by namespace and name.
pub type Called = BTreeSet<(Box<str>, Box<str>)>;

/// The names of a Service for callers in the namespace `from`, without port. A name with a dot would be another's.
pub(crate) fn hosts(namespace: &str, service: &str, from: &str) -> Vec<String> {
    if service.contains('.') {
        return Vec::new();
    }
    let short = (namespace == from).then(|| service.to_owned());
    let long = ["", ".svc", ".svc.cluster.local"].map(|end| format!("{service}.{namespace}{end}"));
    short.into_iter().chain(long).collect()
}

/// Namespace and name of the Service that a host may be the name of, without port, for callers in the namespace `from`.
pub fn service_of<'h>(host: &'h str, from: &'h str) -> Option<(&'h str, &'h str)> {
    let long = host.strip_suffix(".svc.cluster.local").or(host.strip_suffix(".svc"));
    let (service, namespace) = match long.unwrap_or(host).split_once('.') {
        Some(parts) => parts,
        None if long.is_some() => return None,
        None => (host, from),
    };
    (is_label(service) && is_label(namespace)).then_some((namespace, service))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_the_name_of_a_service() {
        for (host, expected) in [
            ("web", Some(("shop", "web"))),
            ("web.shop", Some(("shop", "web"))),
            ("web.pay", Some(("pay", "web"))),
            ("web.pay.svc", Some(("pay", "web"))),
            ("web.pay.svc.cluster.local", Some(("pay", "web"))),
            // Perhaps a name of the internet: who asks learns whether it is one of ours.
            ("example.com", Some(("com", "example"))),
            ("web.svc", None),
            ("web.svc.cluster.local", None),
            ("www.example.com", None),
            ("web.pay.svc.cluster", None),
            ("127.0.0.1", None),
            ("[::1]", None),
            ("Web", None),
            ("-web", None),
            ("", None),
            (".svc", None),
        ] {
            assert_eq!(service_of(host, "shop"), expected, "{host}");
        }
    }

    #[test]
    fn what_cannot_be_is_told() {
        for (service, label, [app, inbound, outbound], expected) in [
            ("web", ("lane", "blue"), ["127.0.0.1:1", "0.0.0.0:2", "127.0.0.1:3"], None),
            ("web", ("lane", "blue"), ["10.0.0.1:1", "10.0.0.2:1", "127.0.0.1:1"], None),
            ("Web", ("lane", "blue"), ["127.0.0.1:1", "0.0.0.0:2", "127.0.0.1:3"], Some("\"Web\" is not")),
            ("web", ("la ne", "blue"), ["127.0.0.1:1", "0.0.0.0:2", "127.0.0.1:3"], Some("\"la ne\" is not")),
            ("web", ("lane", "-"), ["127.0.0.1:1", "0.0.0.0:2", "127.0.0.1:3"], Some("\"-\" is not")),
            (
                "web",
                ("lane", "blue"),
                ["127.0.0.1:1", "0.0.0.0:1", "127.0.0.1:3"],
                Some("inbound and app are the same"),
            ),
            (
                "web",
                ("lane", "blue"),
                ["127.0.0.1:1", "0.0.0.0:2", "[::1]:2"],
                Some("outbound and inbound are the same"),
            ),
        ] {
            let address = |text: &str| text.parse().expect("rows have addresses");
            let sidecar = Sidecar {
                namespace: "shop".into(),
                service: service.into(),
                labels: [(label.0.into(), label.1.into())].into(),
                app: address(app),
                inbound: address(inbound),
                outbound: address(outbound),
            };
            match (sidecar.check(), expected) {
                (Ok(_), None) => {}
                (Err(problem), Some(words)) => assert!(problem.contains(words), "{problem}"),
                (other, expected) => panic!("{other:?}, not {expected:?}"),
            }
        }
    }

    #[test]
    fn what_is_written_is_read() {
        for (namespace, count) in [("shop", 4), ("pay", 3)] {
            let hosts = hosts(namespace, "web", "shop");
            assert_eq!(hosts.len(), count, "{hosts:?}");
            assert!(hosts.iter().all(|host| service_of(host, "shop") == Some((namespace, "web"))), "{hosts:?}");
        }
        assert!(hosts("shop", "a.b", "shop").is_empty());
    }
}
