//! A Service as it travels: its document without instances, and those by themselves, since they come and go without
//! anything being compiled for them. Pure, Cold.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use prost::bytes::Bytes;
use serde_json::Value;

use crate::model::{self, Documents};
use crate::problem::{Origins, Problems};
use crate::snapshot::discovery::{Instance, Instances};
use crate::tree;
use crate::wire::evenkeel::v1;

/// The document of a Service without its instances, and those; None: its instances are not written in it, or it is none.
pub fn apart(document: &Value) -> Option<(Value, v1::Endpoints)> {
    if document["kind"] != "Service" || !document["spec"]["dns"].is_null() {
        return None;
    }
    let endpoints = written(&document.to_string())?;
    let mut rest = document.clone();
    rest["spec"].as_object_mut()?.remove("endpoints");
    Some((rest, endpoints))
}

/// The instances that are written in the document of a Service, read as all documents are.
fn written(text: &str) -> Option<v1::Endpoints> {
    let mut problems = Problems::new(Origins::default());
    let origin = problems.origins.open(&Arc::from(""), 0);
    let mut documents = Documents::default();
    for node in tree::parse(text, origin, &mut problems).iter() {
        model::read(node, &mut documents, &mut problems);
    }
    let service = documents.services.first().filter(|_| !problems.has_errors())?;
    let endpoints = service.spec.endpoints().iter().filter(|endpoint| endpoint.weight.0 > 0).map(|endpoint| {
        let address = match endpoint.address.0 {
            IpAddr::V4(address) => Bytes::copy_from_slice(&address.octets()),
            IpAddr::V6(address) => Bytes::copy_from_slice(&address.octets()),
        };
        let ports = endpoint.ports.iter().map(|(name, port)| (name.as_str().to_owned(), port.number().into()));
        let labels = endpoint.labels.iter().map(|(key, value)| (key.as_str().to_owned(), value.as_str().to_owned()));
        v1::Endpoint {
            address,
            ports: ports.collect(),
            weight: endpoint.weight.0.try_into().unwrap_or(u32::MAX),
            zone: endpoint.zone.as_ref().map(|zone| zone.as_str().to_owned()).unwrap_or_default(),
            labels: labels.collect(),
            draining: false,
        }
    });
    Some(v1::Endpoints { endpoints: endpoints.collect() })
}

/// The instances that requests may go to. The error is what is wrong with one.
pub fn instances(told: &v1::Endpoints) -> Result<Instances, String> {
    told.endpoints.iter().filter(|endpoint| !endpoint.draining).map(instance).collect()
}

fn instance(endpoint: &v1::Endpoint) -> Result<Instance, String> {
    let address = match (<[u8; 4]>::try_from(&*endpoint.address), <[u8; 16]>::try_from(&*endpoint.address)) {
        (Ok(v4), _) => IpAddr::from(v4),
        (_, Ok(v6)) => IpAddr::from(v6),
        _ => return Err(format!("{:?} is no address", endpoint.address)),
    };
    let port = |(name, port): (&String, &u32)| match u16::try_from(*port) {
        Ok(port) if port > 0 => Ok((name.as_str().into(), port)),
        _ => Err(format!("{address}: {port} is no port")),
    };
    let words = |map: &BTreeMap<String, String>| {
        map.iter().map(|(key, value)| (key.as_str().into(), value.as_str().into())).collect()
    };
    Ok(Instance {
        address,
        ports: endpoint.ports.iter().map(port).collect::<Result<_, String>>()?,
        weight: endpoint.weight.max(1),
        zone: Some(endpoint.zone.as_str().into()).filter(|zone: &Box<str>| !zone.is_empty()),
        labels: words(&endpoint.labels),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn service(spec: Value) -> Value {
        json!({"apiVersion": "evenkeel.dev/v1alpha1", "kind": "Service", "metadata": {"name": "web"}, "spec": spec})
    }

    #[test]
    fn a_service_and_its_instances_travel_apart() {
        let ports = json!([{"name": "http", "port": 80}, {"name": "admin", "port": 81}]);
        let written = json!({"ports": ports, "endpoints": [
            {"address": "10.0.0.1", "ports": {"http": 7001}, "zone": "a", "labels": {"lane": "blue"}, "weight": 3},
            {"address": "10.0.0.2", "ports": {"http": 7001}, "weight": 0},
            {"address": "fd00::1", "ports": {"http": 7002, "admin": 9}},
        ]});
        let (rest, endpoints) = apart(&service(written)).expect("its instances are written");
        assert_eq!(rest, service(json!({"ports": ports})));
        let shown: Vec<String> = instances(&endpoints)
            .expect("they are right")
            .iter()
            .map(|one| format!("{} {:?} {} {:?} {:?}", one.address, one.ports, one.weight, one.zone, one.labels))
            .collect();
        let expected = [
            r#"10.0.0.1 {"http": 7001} 3 Some("a") {"lane": "blue"}"#,
            r#"fd00::1 {"admin": 9, "http": 7002} 1 None {}"#,
        ];
        assert_eq!(shown, expected);

        let (_, none) = apart(&service(json!({"ports": ports}))).expect("none is written");
        assert_eq!(none, v1::Endpoints::default());
        let dns = json!({"ports": [{"name": "http", "port": 80}], "dns": {"name": "web.test", "ports": {"http": 80}}});
        assert_eq!(apart(&service(dns)), None);
        assert_eq!(apart(&json!({"kind": "Gateway", "spec": {}})), None);
    }

    #[test]
    fn instances_that_cannot_be_are_refused() {
        let endpoint = |address: &[u8], port: u32, draining: bool| v1::Endpoint {
            address: Bytes::copy_from_slice(address),
            ports: [("http".to_owned(), port)].into(),
            draining,
            ..v1::Endpoint::default()
        };
        for (one, expected) in [
            (endpoint(&[10, 0, 0, 1], 80, false), Ok(1)),
            (endpoint(&[10, 0, 0, 1], 80, true), Ok(0)),
            (endpoint(&[10, 0, 0], 80, false), Err(r#"b"\n\0\0" is no address"#)),
            (endpoint(&[10, 0, 0, 1], 0, false), Err("10.0.0.1: 0 is no port")),
            (endpoint(&[10, 0, 0, 1], 70_000, false), Err("10.0.0.1: 70000 is no port")),
        ] {
            let found = instances(&v1::Endpoints { endpoints: vec![one] });
            assert_eq!(found.map(|all| all.len()), expected.map_err(String::from));
        }
    }
}
