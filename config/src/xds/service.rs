//! A Service as it travels: its document without instances, and those by themselves, since they come and go without
//! anything being compiled for them. Pure, Cold.

use std::collections::BTreeMap;
use std::net::IpAddr;

use prost::bytes::Bytes;
use serde_json::Value;

use crate::snapshot::discovery::{Instance, Instances};
use crate::wire::evenkeel::v1;

/// The document of a Service without its instances, and those; None: its instances are not written in it, or it is none.
/// The document has been checked: what is wrong with an instance leaves it out.
pub fn apart(document: &Value) -> Option<(Value, v1::Endpoints)> {
    if document["kind"] != "Service" || !document["spec"]["dns"].is_null() {
        return None;
    }
    let mut rest = document.clone();
    let written = rest["spec"].as_object_mut()?.remove("endpoints").unwrap_or_default();
    let endpoints = written.as_array().into_iter().flatten().filter_map(endpoint).collect();
    Some((rest, v1::Endpoints { endpoints }))
}

/// One instance, if requests may go to it.
fn endpoint(written: &Value) -> Option<v1::Endpoint> {
    let address: IpAddr = written["address"].as_str()?.parse().ok()?;
    let address = match address.to_canonical() {
        IpAddr::V4(address) => Bytes::copy_from_slice(&address.octets()),
        IpAddr::V6(address) => Bytes::copy_from_slice(&address.octets()),
    };
    let weight = if written["weight"].is_null() { 1 } else { number(&written["weight"])? };
    let entries = |name: &str| written[name].as_object().into_iter().flatten();
    let ports: Option<_> = entries("ports").map(|(name, port)| Some((name.clone(), number(port)?))).collect();
    let labels: Option<_> = entries("labels").map(|(key, value)| Some((key.clone(), word(value)?))).collect();
    let zone = word(&written["zone"]).unwrap_or_default();
    (weight > 0).then_some(v1::Endpoint {
        address,
        ports: ports?,
        weight,
        zone,
        labels: labels?,
        ..v1::Endpoint::default()
    })
}

/// A scalar as it is written: people may leave out the quotes.
fn word(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(is) => Some(is.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

fn number(value: &Value) -> Option<u32> {
    word(value)?.parse().ok()
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
        zone: (!endpoint.zone.is_empty()).then(|| endpoint.zone.as_str().into()),
        labels: words(&endpoint.labels),
        incarnation: endpoint.incarnation,
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
            {"address": "10.0.0.1", "ports": {"http": 7001}, "zone": "a", "labels": {"lane": "blue", "version": 2}, "weight": 3},
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
            r#"10.0.0.1 {"http": 7001} 3 Some("a") {"lane": "blue", "version": "2"}"#,
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
