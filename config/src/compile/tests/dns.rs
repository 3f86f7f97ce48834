//! Services whose instances are the addresses of a name.

use std::net::IpAddr;
use std::sync::Arc;

use super::*;
use crate::consistent::Consistent;
use crate::snapshot::discovery::{Instances, Known, resolve};
use crate::snapshot::dns::{NAMES_MAX, names};

/// A Service `name` at the addresses of `dns`.
fn service(name: &str, dns: &str) -> String {
    format!(
        "---\n{{apiVersion: evenkeel.dev/v1alpha1, kind: Service, metadata: {{name: {name}}},\n spec: {{ports: \
         [{{name: http, port: 80}}, {{name: admin, port: 81}}], dns: {{name: {dns}, ports: {{http: 8080, admin: 9090}}}}}}}}\n"
    )
}

/// The Services `x` and `y` share a name, `z` has another; `a` has written endpoints.
fn three() -> Snapshot {
    let backends = "backendRefs: [{name: x, port: 80}, {name: x, port: 81}, {name: y, port: 80}, {name: z, port: 80}, \
                    {name: a, port: 80}]";
    let documents = [service("x", "shared.test"), service("y", "shared.test"), service("z", "z.test.")].concat();
    let maglev = "---\n{apiVersion: evenkeel.dev/v1alpha1, kind: TrafficPolicy, metadata: {name: y}, spec: {targetRefs: \
                  [{group: '', kind: Service, name: y}],\n loadBalancer: {policy: maglev, hashOn: [{header: a}]}}}\n";
    let checked = checked(&[&documents, maglev, &rules(&format!("{{{backends}}}"))].concat());
    // What comes later is nothing to warn of.
    assert_eq!(checked.warnings, []);
    checked.snapshot
}

/// Names and their addresses.
struct Names<'n>(Vec<(&'n str, Vec<IpAddr>)>);

impl Known for Names<'_> {
    fn addresses(&self, name: &str) -> Option<&[IpAddr]> {
        self.0.iter().find(|(known, _)| *known == name).map(|(_, addresses)| &addresses[..])
    }

    fn instances(&self, _: &str) -> Option<&Instances> {
        None
    }
}

/// Each cluster with its endpoints, when the names have these addresses; `same` are those that did not change in memory.
fn check(before: &Snapshot, known: &[(&str, &[&str])], expected: &[&str]) -> Snapshot {
    let known: Vec<(&str, Vec<IpAddr>)> = known
        .iter()
        .map(|(name, addresses)| {
            (*name, addresses.iter().map(|address| address.parse().expect("rows are addresses")).collect())
        })
        .collect();
    let snapshot = three();
    let resolved = resolve(&snapshot, before, &Names(known));
    let shown: Vec<String> = resolved
        .clusters
        .iter()
        .map(|cluster| {
            let endpoints = cluster.endpoints.iter().map(|endpoint| format!(" {}", endpoint.address));
            let same = before.clusters.iter().any(|before| Arc::ptr_eq(before, cluster));
            assert_eq!(cluster.groups.len(), 1);
            assert_eq!(cluster.groups[0].members, (0..cluster.endpoints.len() as u32).collect::<Vec<_>>());
            let name = cluster.name.trim_start_matches("default/");
            format!("{name}{}{}", endpoints.collect::<String>(), if same { " same" } else { "" })
        })
        .collect();
    assert_eq!(shown, expected);
    resolved
}

#[test]
fn addresses_become_endpoints_and_what_stays_is_the_same() {
    assert_eq!(names(&three()).iter().map(|name| &**name).collect::<Vec<_>>(), ["shared.test", "z.test."]);
    let none = check(&Snapshot::default(), &[], &["x:80", "x:81", "y:80", "z:80", "a:80 127.0.0.1:7001"]);
    let one = check(
        &none,
        &[("shared.test", &["10.0.0.1", "fd00::1"])],
        &[
            "x:80 10.0.0.1:8080 [fd00::1]:8080",
            "x:81 10.0.0.1:9090 [fd00::1]:9090",
            "y:80 10.0.0.1:8080 [fd00::1]:8080",
            "z:80 same",
            "a:80 127.0.0.1:7001",
        ],
    );
    let table = one.clusters[2].groups[0].consistent.as_ref().expect("maglev has a table");
    assert!(table.at(1).all(|index| index < 2) && matches!(**table, Consistent::Maglev(_)));
    check(
        &one,
        &[("shared.test", &["10.0.0.1", "fd00::1"]), ("z.test.", &["10.0.0.9"]), ("unused.test", &["10.0.0.8"])],
        &[
            "x:80 10.0.0.1:8080 [fd00::1]:8080 same",
            "x:81 10.0.0.1:9090 [fd00::1]:9090 same",
            "y:80 10.0.0.1:8080 [fd00::1]:8080 same",
            "z:80 10.0.0.9:8080",
            "a:80 127.0.0.1:7001",
        ],
    );
}

#[test]
fn addresses_are_of_the_baseline() {
    let group = "---\n{apiVersion: evenkeel.dev/v1alpha1, kind: LaneGroup, metadata: {name: g}, spec: {entries: \
                 [{group: gateway.networking.k8s.io, kind: Gateway, name: shop}],\n baseline: base, tag: {header: x-lane}, \
                 lanes: [{name: blue, selector: {lane: blue}}]}}\n";
    let snapshot =
        checked(&[group, &service("x", "x.test"), &rules("{backendRefs: [{name: x, port: 80}]}")].concat()).snapshot;
    let address = "10.0.0.1".parse().expect("an address");
    let resolved = resolve(&snapshot, &Snapshot::default(), &Names(vec![("x.test", vec![address])]));
    let groups = &resolved.clusters[0].groups;
    assert_eq!((groups.len(), &groups[0].lane, &groups[0].members[..]), (1, &None, &[0][..]));
}

#[test]
fn names_are_bounded() {
    let services = |count: usize| -> String {
        let route = |index: usize| {
            route(
                &format!("name: r{index}"),
                &format!(
                    "parentRefs: [{{name: shop}}], hostnames: [h{index}.test], rules: [{{backendRefs: [{{name: s{index}, port: 80}}]}}]"
                ),
            )
        };
        let hosts = |index: usize| service(&format!("s{index}"), &format!("s{index}.test"));
        (0..count).map(|index| hosts(index) + &route(index)).collect()
    };
    let problems = try_read(&services(NAMES_MAX + 2)).expect_err("there are too many");
    let told: Vec<_> = problems.iter().filter(|problem| problem.contains("spec.dns.name")).collect();
    assert_eq!(told.len(), 1);
    assert!(told[0].ends_with("spec.dns.name: is one name more than the 10000 that are looked up"), "{told:?}");
}
