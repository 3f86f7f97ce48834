//! One instance of a Service, as it is stored and told. Pure, Cold.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use config::wire::evenkeel::v1;
use config::xds;
use prost::bytes::Bytes;
use serde_json::{Value, json};

/// What an instance is called.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name {
    /// Of its Service.
    pub namespace: Arc<str>,
    /// Its Service.
    pub service: Arc<str>,
    /// Itself, unique among those that its Service has at the same time.
    pub name: Arc<str>,
}

/// An instance that is told to callers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instance {
    /// Which process it is: another one of the same name has another number.
    pub incarnation: u64,
    /// Where it runs.
    pub address: IpAddr,
    /// Where its proxy listens, by the names of its Service's ports; an empty name is the first of those.
    pub ports: BTreeMap<Box<str>, u16>,
    /// Its share among the instances, at least 1.
    pub weight: u32,
    /// Where it stands.
    pub zone: Option<Box<str>>,
    /// What tells it from others; `lane` among them.
    pub labels: BTreeMap<Box<str>, Box<str>>,
    /// Callers are to forget it.
    pub is_draining: bool,
    /// Since when it wants to go, in milliseconds since 1970; 0: nobody knows, or it does not.
    pub going_ms: i64,
    /// When it became ready, in milliseconds since 1970.
    pub ready_ms: i64,
}

/// What has become of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shift {
    /// Which.
    pub name: Name,
    /// As it was told.
    pub before: Option<Arc<Instance>>,
    /// As it is told.
    pub after: Option<Arc<Instance>>,
}

impl Name {
    /// `namespace/service/name`; None: it is none.
    pub fn parse(text: &str) -> Option<Name> {
        let mut parts = text.splitn(3, '/').filter(|part| !part.is_empty()).map(Arc::from);
        Some(Name { namespace: parts.next()?, service: parts.next()?, name: parts.next()? })
    }

    /// The resource in which callers find it.
    pub fn resource(&self) -> String {
        xds::endpoints_of(&self.namespace, &self.service)
    }

    /// What its proxy is called.
    pub fn proxy(&self) -> String {
        format!("{}/{}@{}", self.namespace, self.service, self.name)
    }
}

impl fmt::Display for Name {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}/{}", self.namespace, self.service, self.name)
    }
}

impl Instance {
    /// As callers are told of it. `first_port` is the name of the first port of its Service.
    pub fn endpoint(&self, first_port: &str) -> v1::Endpoint {
        let octets = match self.address.to_canonical() {
            IpAddr::V4(address) => Bytes::copy_from_slice(&address.octets()),
            IpAddr::V6(address) => Bytes::copy_from_slice(&address.octets()),
        };
        let named = |name: &str| if name.is_empty() { first_port.to_owned() } else { name.to_owned() };
        v1::Endpoint {
            address: octets,
            ports: self.ports.iter().map(|(name, port)| (named(name), u32::from(*port))).collect(),
            weight: self.weight,
            zone: self.zone.as_deref().unwrap_or_default().to_owned(),
            labels: self.labels.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect(),
            draining: self.is_draining,
            incarnation: self.incarnation,
        }
    }

    /// As it is stored.
    pub fn text(&self) -> String {
        json!({
            "incarnation": self.incarnation,
            "address": self.address,
            "ports": self.ports,
            "weight": self.weight,
            "zone": self.zone,
            "labels": self.labels,
            "draining": self.is_draining,
            "going": self.going_ms,
            "ready": self.ready_ms,
        })
        .to_string()
    }

    /// What `text` wrote.
    pub fn parse(text: &str) -> Option<Instance> {
        let stored: Value = serde_json::from_str(text).ok()?;
        let entries = |name: &str| stored[name].as_object().into_iter().flatten();
        let port = |(name, port): (&String, &Value)| Some((name.as_str().into(), port.as_u64()?.try_into().ok()?));
        let label = |(key, value): (&String, &Value)| Some((key.as_str().into(), value.as_str()?.into()));
        Some(Instance {
            incarnation: stored["incarnation"].as_u64()?,
            address: stored["address"].as_str()?.parse().ok()?,
            ports: entries("ports").map(port).collect::<Option<_>>()?,
            weight: stored["weight"].as_u64()?.try_into().ok()?,
            zone: stored["zone"].as_str().map(Box::from),
            labels: entries("labels").map(label).collect::<Option<_>>()?,
            is_draining: stored["draining"].as_bool()?,
            // It was not always kept.
            going_ms: stored["going"].as_i64().unwrap_or(0),
            ready_ms: stored["ready"].as_i64()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instance_is_read_as_it_was_written() {
        for zone in [None, Some("a".into())] {
            let instance = Instance {
                incarnation: u64::MAX,
                address: "10.0.0.1".parse().expect("an address"),
                ports: [("".into(), 15_006), ("admin".into(), 15_007)].into(),
                weight: 3,
                zone,
                labels: [("lane".into(), "blue".into())].into(),
                is_draining: true,
                going_ms: 13,
                ready_ms: 12,
            };
            assert_eq!(Instance::parse(&instance.text()), Some(instance.clone()));
            let told = instance.endpoint("http");
            assert_eq!(told.ports, [("http".into(), 15_006), ("admin".into(), 15_007)].into());
            assert_eq!((&told.address[..], told.draining), (&[10, 0, 0, 1][..], true));
        }
        assert_eq!(Instance::parse("{}"), None);
        for (text, is_name) in [("shop/web/a", true), ("shop/web", false), ("shop//a", false), ("", false)] {
            assert_eq!(Name::parse(text).map(|name| name.to_string()), is_name.then(|| text.to_owned()));
        }
    }
}
