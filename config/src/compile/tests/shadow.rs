//! Policies in shadow: whom they are beside, whose place they never take, and what is told of two on one target.

use super::*;
use crate::snapshot::Cluster;
use crate::snapshot::discovery::{self, Discovery, Instance, Instances, Known};
use crate::snapshot::lanes::LaneRole;

/// A policy of ours, each on a line of its own; those of `BASE` are fifteen lines.
fn policy(kind: &str, metadata: &str, spec: &str) -> String {
    format!("---\n{{apiVersion: evenkeel.dev/v1alpha1, kind: {kind}, metadata: {{{metadata}}}, spec: {{{spec}}}}}\n")
}

const SERVICE: &str = "{group: '', kind: Service, name: a}";
const GATEWAY: &str = "{group: gateway.networking.k8s.io, kind: Gateway, name: shop}";
const LISTENER: &str = "{group: gateway.networking.k8s.io, kind: Gateway, name: shop, sectionName: http}";

fn traffic(metadata: &str, spec: &str) -> String {
    policy("TrafficPolicy", metadata, &format!("targetRefs: [{SERVICE}], {spec}"))
}

fn listener(metadata: &str, target: &str, spec: &str) -> String {
    policy("ListenerPolicy", metadata, &format!("targetRefs: [{target}], {spec}"))
}

/// The warnings, and of the first bind and the cluster `a` what acts and, after `~`, what is tried.
fn standing(documents: &[String]) -> (String, Vec<String>) {
    let documents = [documents.concat(), rules(&format!("{{{TO_A}}}"))].concat();
    let checked = checked(&documents);
    let bind = &checked.snapshot.binds[0];
    let cluster = checked.snapshot.clusters.iter().find(|cluster| &*cluster.service == "a").expect("it is used");
    let tried = |name: Option<&str>| name.map_or(String::new(), |name| format!(" ~{name}"));
    let shown = format!(
        "{:?}{} {}{}",
        cluster.settings.first_byte_timeout,
        tried(cluster.shadow.as_ref().map(|shadow| &*shadow.name)),
        bind.settings.connections_max,
        tried(bind.shadow.as_ref().map(|shadow| &*shadow.name)),
    );
    (shown, checked.warnings.iter().map(ToString::to_string).collect())
}

#[test]
fn those_in_shadow_take_nobodys_place() {
    let acts = "timeouts: {firstByte: 7s}";
    let tried = "mode: shadow, timeouts: {firstByte: 1s}";
    let old = "creationTimestamp: '2020-01-01T00:00:00Z'";
    for (documents, expected, conflicts) in [
        (vec![traffic("name: y", acts)], "7s 10000", &[][..]),
        // However old it is, and though nothing acts there.
        (
            vec![traffic("name: y", acts), traffic(&format!("name: x, {old}"), tried)],
            "7s ~TrafficPolicy default/x on Service default/a 10000",
            &[],
        ),
        (vec![traffic("name: x", tried)], "60s ~TrafficPolicy default/x on Service default/a 10000", &[]),
        // Of two in shadow the oldest is tried, and of two that act the oldest acts.
        (
            vec![
                traffic("name: x", tried),
                traffic("name: y", acts),
                traffic(&format!("name: z, {old}"), tried),
                traffic("name: yy", acts),
            ],
            "7s ~TrafficPolicy default/z on Service default/a 10000",
            &["TrafficPolicy default/z", "TrafficPolicy default/y"],
        ),
        (
            vec![
                listener("name: y", GATEWAY, "maxConnections: 7"),
                listener("name: x", LISTENER, "mode: shadow, maxConnections: 1"),
            ],
            "60s 7 ~ListenerPolicy default/x",
            &[],
        ),
        // A narrower one in shadow takes the place of a wider one in shadow.
        (
            vec![
                listener("name: w", GATEWAY, "mode: shadow, maxConnections: 2"),
                listener("name: x", LISTENER, "mode: shadow, maxConnections: 1"),
                listener("name: y", LISTENER, "mode: shadow, maxConnections: 3"),
                listener("name: z", LISTENER, "maxConnections: 7"),
            ],
            "60s 7 ~ListenerPolicy default/x",
            &["ListenerPolicy default/x"],
        ),
    ] {
        let (shown, warnings) = standing(&documents);
        assert_eq!(shown, expected, "{documents:?}");
        assert_eq!(warnings.len(), conflicts.len(), "{warnings:#?}");
        let is_told =
            |name: &&&str| warnings.iter().any(|warning| warning.contains(&format!("Conflicted: {name}, at")));
        assert_eq!(conflicts.iter().filter(is_told).count(), conflicts.len(), "{warnings:#?}");
    }
}

#[test]
fn only_what_is_written_is_tried() {
    let documents = [
        traffic("name: x", "mode: shadow, connections: {max: 3}, retries: {attempts: 1, codes: [503]}"),
        listener("name: x", GATEWAY, "mode: shadow, headers: {maxCount: 5}, path: {encodedSlash: reject}"),
        rules(&format!("{{{TO_A}}}")),
    ];
    let snapshot = checked(&documents.concat()).snapshot;
    let of_service = snapshot.clusters[0].shadow.as_ref().expect("it is there");
    let timeouts = (of_service.connect_timeout, of_service.first_byte_timeout, of_service.idle_timeout);
    assert_eq!((timeouts, of_service.outlier), ((None, None, None), None));
    let bounds = of_service.bounds.map(|bounds| (bounds.connections_max, bounds.pending_max, bounds.requests_max));
    assert_eq!(bounds, Some((Some(3), 1024, None)));
    assert_eq!(
        of_service.retries.as_ref().map(|retries| (retries.attempts, &retries.codes[..])),
        Some((1, &[503][..]))
    );
    let of_bind = snapshot.binds[0].shadow.as_ref().expect("it is there");
    assert_eq!((of_bind.header_count_max, of_bind.head_bytes_max, of_bind.connections_max), (Some(5), None, None));
    assert!(of_bind.rejects_encoded_slash);
    let tried = "timeouts, outlierDetection, connections and retries can be tried";
    check_warnings(
        &traffic("name: x", "mode: shadow"),
        &[&format!("spec: is in shadow and has nothing to be tried ({tried})")],
    );
    check_warnings(
        &listener("name: x", GATEWAY, "mode: shadow, timeouts: {}"),
        &["spec: is in shadow and has nothing to be tried (maxConnections, timeouts, maxRequestBody, headers and \
           path.encodedSlash: reject can be tried)"],
    );
}

/// A role in a word.
fn word(role: &LaneRole) -> String {
    match role {
        LaneRole::Strip => "-".into(),
        LaneRole::Decide(group) => group.name.to_string(),
        LaneRole::Inherit { groups, .. } | LaneRole::Call { groups, .. } => {
            format!("<{}", groups.iter().map(|group| &*group.name).collect::<Vec<_>>().join(" "))
        }
    }
}

#[test]
fn lanes_in_shadow_are_a_world_of_their_own() {
    let group = |metadata: &str, spec: &str| policy("LaneGroup", metadata, spec);
    let old = "creationTimestamp: '2020-01-01T00:00:00Z'";
    let entries = format!("entries: [{GATEWAY}]");
    let lanes = "lanes: [{name: blue, selector: {lane: blue}}]";
    let service = "---\n{apiVersion: evenkeel.dev/v1alpha1, kind: Service, metadata: {name: s}, spec: {ports: \
                   [{name: http, port: 80}], endpoints: [{address: 127.0.0.1, ports: {http: 1}}, \
                   {address: 127.0.0.1, ports: {http: 2}, labels: {lane: blue}}]}}\n";
    let of = |groups: &[String]| {
        let documents = [&groups.concat(), service, &rules("{backendRefs: [{name: s, port: 80}]}")].concat();
        let checked = checked(&documents);
        let cluster = checked.snapshot.clusters.iter().find(|cluster| &*cluster.service == "s").expect("it is used");
        let members = |groups: &[crate::snapshot::Group]| {
            let one = |group: &crate::snapshot::Group| {
                let members: Vec<String> = group.members.iter().map(ToString::to_string).collect();
                format!("{}={}", group.lane.as_deref().unwrap_or("-"), members.join(","))
            };
            groups.iter().map(one).collect::<Vec<_>>().join(" ")
        };
        let bind = &checked.snapshot.binds[0];
        let shown = format!(
            "{} {} | ~{} {}",
            word(&bind.lanes),
            members(&cluster.groups),
            word(&bind.shadow_lanes),
            members(&cluster.shadow_groups)
        );
        (shown.trim_end().to_owned(), checked.warnings.iter().map(ToString::to_string).collect::<Vec<_>>())
    };
    let in_shadow = |metadata: &str, spec: &str| group(metadata, &format!("mode: shadow, {spec}"));
    for (groups, expected, warnings) in [
        // No lane is there, and no endpoint is kept from requests.
        (vec![in_shadow("name: n", &format!("{entries}, {lanes}"))], "- -=0,1 | ~default/n -=0 blue=1", &[][..]),
        // The same lane once more, to see what another share of it would do.
        (
            vec![
                group("name: g", &format!("{entries}, {lanes}")),
                in_shadow(&format!("name: n, {old}"), &format!("{entries}, {lanes}")),
            ],
            "default/g -=0 blue=1 | ~default/n -=0 blue=1",
            &[],
        ),
        (
            vec![in_shadow("name: n", &format!("internal: [{LISTENER}], {lanes}"))],
            "- -=0,1 | ~<default/n -=0 blue=1",
            &[],
        ),
        // Of two in shadow the oldest decides.
        (
            vec![in_shadow("name: m", &entries), in_shadow(&format!("name: n, {old}"), &entries)],
            "- -=0,1 | ~default/n -=0",
            &[
                "Conflicted: listener default/shop/http is an entry of LaneGroup default/n, at rules.yaml:18 (one group decides at an entry)",
            ],
        ),
        // An endpoint of a lane that is only tried serves nobody.
        (
            vec![group("name: g", &entries), in_shadow("name: n", &format!("internal: [{LISTENER}], {lanes}"))],
            "default/g -=0 | ~<default/n -=0 blue=1",
            &[
                "no LaneGroup of namespace default has a lane or a baseline \"blue\": the endpoint gets no request (one in \
               shadow has, and gives it no request)",
            ],
        ),
    ] {
        let (shown, told) = of(&groups);
        assert_eq!(shown, expected, "{groups:?}");
        assert_eq!(told.len(), warnings.len(), "{told:#?}");
        assert!(told.iter().zip(warnings).all(|(told, expected)| told.ends_with(expected)), "{told:#?}");
    }
    // What is wrong among those in shadow is as wrong as elsewhere.
    check_errors(
        &[in_shadow("name: m", &format!("{entries}, {lanes}")), in_shadow("name: n", lanes)].concat(),
        &[
            "spec: has neither entries nor internal: no request comes into its lanes",
            "spec.lanes[0].name: \"blue\" is a lane of this namespace already, at rules.yaml:16",
            "spec.lanes[0].selector: is that of lane \"blue\" of default/m, at rules.yaml:16: no instance would be its own",
        ],
    );
    check_errors(
        &[gateway("{name: x, port: 8080, protocol: HTTP, hostname: x.test}"), in_shadow("name: n", &entries)].concat(),
        &["spec.listeners[0].port: shares port 8080 with default/shop/http and needs the same part in lanes (let the \
           LaneGroup name both of them, or the whole Gateway)"],
    );
}

#[test]
fn instances_that_control_tells_are_in_lanes_of_a_group_in_shadow() {
    struct Told(Instances);
    impl Known for Told {
        fn addresses(&self, _: &str) -> Option<&[std::net::IpAddr]> {
            None
        }
        fn instances(&self, _: &str) -> Option<&Instances> {
            Some(&self.0)
        }
    }
    let instance = |last: u8, lane: Option<&str>| Instance {
        address: [127, 0, 0, last].into(),
        ports: [("http".into(), 80)].into(),
        weight: 1,
        zone: None,
        labels: lane.map(|lane| ("lane".into(), lane.into())).into_iter().collect(),
        incarnation: 0,
    };
    let lanes = "lanes: [{name: blue, selector: {lane: blue}}]";
    let of = |mode: &str| {
        let group = policy("LaneGroup", "name: n", &format!("{mode}, entries: [{GATEWAY}], {lanes}"));
        let mut snapshot = checked(&[group, rules_to_a()].concat()).snapshot;
        let discovery = Discovery::Control(discovery::Told {
            resource: "Endpoints/default/a".into(),
            port: "http".into(),
            instances: None,
        });
        snapshot.clusters[0] = std::sync::Arc::new(Cluster { discovery, ..(*snapshot.clusters[0]).clone() });
        snapshot
    };
    let known = Told([instance(1, None), instance(2, Some("blue")), instance(3, Some("blue"))].into());
    let shown = |groups: &[crate::snapshot::Group]| {
        groups.iter().map(|group| (group.lane.as_deref().map(str::to_owned), group.members.clone())).collect::<Vec<_>>()
    };
    let all = vec![(None, vec![0, 1, 2])];
    let by_lane = vec![(None, vec![0]), (Some("blue".to_owned()), vec![1, 2])];
    for (mode, groups, shadow_groups) in
        [("mode: shadow", all, by_lane.clone()), ("mode: enforce", by_lane.clone(), Vec::new())]
    {
        let in_force = of(mode);
        let first = discovery::resolve(&in_force, &Snapshot::default(), &known);
        let cluster = &first.clusters[0];
        assert_eq!((shown(&cluster.groups), shown(&cluster.shadow_groups)), (groups, shadow_groups), "{mode}");
        let again = discovery::resolve(&in_force, &first, &known);
        assert!(std::sync::Arc::ptr_eq(&again.clusters[0], cluster), "what is the same stays where it is");
        // Another policy in shadow is another cluster.
        let tried =
            checked(&[traffic("name: x", "mode: shadow, timeouts: {idle: 1s}"), rules_to_a()].concat()).snapshot;
        let mut changed = in_force.clone();
        let shadow = tried.clusters[0].shadow.clone();
        changed.clusters[0] = std::sync::Arc::new(Cluster { shadow, ..(*in_force.clusters[0]).clone() });
        assert!(discovery::resolve(&changed, &first, &known).clusters[0].shadow.is_some());
    }
}

fn rules_to_a() -> String {
    rules(&format!("{{{TO_A}}}"))
}
