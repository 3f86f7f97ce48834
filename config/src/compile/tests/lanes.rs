//! What listeners do about lanes, and which endpoints are in which.

use super::*;
use crate::snapshot::lanes::LaneRole;

/// A LaneGroup with these fields.
fn group(metadata: &str, spec: &str) -> String {
    format!("---\n{{apiVersion: evenkeel.dev/v1alpha1, kind: LaneGroup, metadata: {{{metadata}}}, spec: {{{spec}}}}}\n")
}

fn of_gateway(name: &str, section: &str) -> String {
    let section = if section.is_empty() { String::new() } else { format!(", sectionName: {section}") };
    format!("{{group: gateway.networking.k8s.io, kind: Gateway, name: {name}{section}}}")
}

/// A Service with endpoints of these labels, the first at port 7001, and a route to it.
fn labelled(labels: &[&str]) -> String {
    let endpoint = |(index, labels): (usize, &&str)| {
        format!("{{address: 127.0.0.1, ports: {{http: {}}}, labels: {{{labels}}}}}", 7001 + index)
    };
    let endpoints: Vec<String> = labels.iter().enumerate().map(endpoint).collect();
    format!(
        "---\n{{apiVersion: evenkeel.dev/v1alpha1, kind: Service, metadata: {{name: s}}, \
         spec: {{ports: [{{name: http, port: 80}}], endpoints: [{}]}}}}\n{}",
        endpoints.join(", "),
        rules("{backendRefs: [{name: s, port: 80}]}")
    )
}

/// Each group as `lane=members`, the baseline as `-`.
fn groups(snapshot: &Snapshot) -> String {
    let cluster = snapshot.clusters.iter().find(|cluster| &*cluster.service == "s").expect("it is used");
    let one = |group: &crate::snapshot::Group| {
        let members: Vec<String> = group.members.iter().map(ToString::to_string).collect();
        format!("{}={}", group.lane.as_deref().unwrap_or("-"), members.join(","))
    };
    cluster.groups.iter().map(one).collect::<Vec<_>>().join(" ")
}

#[test]
fn endpoints_are_grouped_by_lane() {
    let entries = format!("entries: [{}]", of_gateway("shop", ""));
    let lanes = "lanes: [{name: blue, selector: {lane: blue}}, {name: green, selector: {version: v2}}, \
                 {name: red, selector: {lane: red}}, {name: both, selector: {lane: blue, version: v2}}]";
    let of = |labels: &[&str], spec: &str| {
        let documents = [labelled(labels), group("name: g", &format!("{entries}, {spec}"))].concat();
        groups(&checked(&documents).snapshot)
    };
    // No LaneGroup in this namespace: labels say nothing.
    assert_eq!(groups(&checked(&labelled(&["", "lane: blue"])).snapshot), "-=0,1");
    let foreign = group("name: g, namespace: other", lanes);
    assert_eq!(groups(&checked(&[labelled(&["", "lane: blue"]), foreign].concat()).snapshot), "-=0,1");
    assert_eq!(of(&["", "lane: blue", "lane: base", "lane: green"], lanes), "-=0,2 blue=1");
    assert_eq!(of(&["lane: blue, version: v2", "version: v2", "zone: a"], lanes), "-=2 blue=0 green=0,1 both=0");
    assert_eq!(of(&["lane: red"], lanes), "-= red=0");
    assert_eq!(of(&["lane: prod", "lane: base"], &format!("{lanes}, baseline: prod")), "-=0");
    // Lanes of several groups, in the order of the groups' names.
    let documents = [
        labelled(&["lane: z", "lane: blue", "lane: prod", ""]),
        group(
            "name: h, creationTimestamp: '2020-01-01T00:00:00Z'",
            "baseline: prod, lanes: [{name: z, selector: {lane: z}}]",
        ),
        group("name: g", &format!("{entries}, {lanes}")),
    ];
    let snapshot = checked(&documents.concat()).snapshot;
    assert_eq!(groups(&snapshot), "-=2,3 blue=1 z=0");
    let names: Vec<&str> = snapshot.lane_groups.iter().map(|group| &*group.name).collect();
    assert_eq!(names, ["default/g", "default/h"]);
    // Who is in no group is told.
    check_warnings(
        &[
            labelled(&["lane: gren"]),
            group("name: g", &format!("{entries}, lanes: [{{name: green, selector: {{lane: green}}}}]")),
        ]
        .concat(),
        &[
            "spec.endpoints[0].labels.lane: no LaneGroup of namespace default has a lane or a baseline \"gren\": the endpoint \
           gets no request",
        ],
    );
    // Each group has a table of its own.
    let policy = "---\n{apiVersion: evenkeel.dev/v1alpha1, kind: TrafficPolicy, metadata: {name: s}, spec: {targetRefs: \
                  [{group: '', kind: Service, name: s}], loadBalancer: {policy: maglev, hashOn: [{clientAddress: true}]}}}\n";
    let documents = [&labelled(&["", "lane: blue", ""]), policy, &group("name: g", &format!("{entries}, {lanes}"))];
    let snapshot = checked(&documents.concat()).snapshot;
    let cluster = snapshot.clusters.iter().find(|cluster| &*cluster.service == "s").expect("it is used");
    let owners = |group: usize| {
        let table = cluster.groups[group].consistent.as_ref().expect("the balance is by hash");
        table.at(1).collect::<std::collections::BTreeSet<_>>().len()
    };
    assert_eq!([owners(0), owners(1)], [2, 1]);
}

/// What the first bind does about lanes, and the warnings.
fn role(documents: &str) -> (String, Vec<String>) {
    let checked = checked(documents);
    let shown = match &checked.snapshot.binds[0].lanes {
        LaneRole::Strip => "strip".to_owned(),
        LaneRole::Decide(group) => format!("decide {}", group.name),
        LaneRole::Inherit { groups, .. } | LaneRole::Call { groups, .. } => {
            let names: Vec<&str> = groups.iter().map(|group| &*group.name).collect();
            format!("inherit {}", names.join(" "))
        }
    };
    (shown, checked.warnings.iter().map(ToString::to_string).collect())
}

#[test]
fn listeners_have_one_part() {
    let whole = of_gateway("shop", "");
    let http = of_gateway("shop", "http");
    let entry = |name: &str, target: &str| group(&format!("name: {name}"), &format!("entries: [{target}]"));
    let internal = |name: &str, target: &str| group(&format!("name: {name}"), &format!("internal: [{target}]"));
    let check_role = |documents: &[String], expected: &str, warnings: &[&str]| {
        let (shown, told) = role(&documents.concat());
        assert_eq!(
            (shown.as_str(), told.iter().map(String::as_str).collect::<Vec<_>>()),
            (expected, warnings.to_vec())
        );
    };
    check_role(&[], "strip", &[]);
    check_role(&[entry("g", &whole)], "decide default/g", &[]);
    check_role(&[entry("g", &http)], "decide default/g", &[]);
    check_role(&[entry("g", &format!("{whole}, {http}"))], "decide default/g", &[]);
    check_role(&[internal("h", &http), internal("g", &whole)], "inherit default/g default/h", &[]);
    check_role(
        &[entry("g", &of_gateway("shop", "gone"))],
        "strip",
        &["rules.yaml:16: spec.entries[0]: there is no Gateway default/shop with a listener \"gone\""],
    );
    let at = "at rules.yaml:16 (one group decides at an entry)";
    check_role(
        &[entry("g", &http), entry("h", &whole)],
        "decide default/g",
        &[&format!(
            "rules.yaml:18: spec.entries[0]: Conflicted: listener default/shop/http is an entry of LaneGroup default/g, {at}"
        )],
    );
    check_role(
        &[internal("g", &http), entry("h", &whole)],
        "inherit default/g",
        &[&format!(
            "rules.yaml:18: spec.entries[0]: Conflicted: listener default/shop/http is internal to LaneGroup default/g, {at}"
        )],
    );
    check_role(
        &[group("name: g", &format!("internal: [{whole}], entries: [{http}]"))],
        "decide default/g",
        &[&format!(
            "rules.yaml:16: spec.internal[0]: Conflicted: listener default/shop/http is an entry of LaneGroup default/g, {at}"
        )],
    );
    // One socket has one part.
    check_errors(
        &[gateway("{name: x, port: 8080, protocol: HTTP, hostname: x.test}"), entry("g", &whole)].concat(),
        &["spec.listeners[0].port: shares port 8080 with default/shop/http and needs the same part in lanes (let the \
           LaneGroup name both of them, or the whole Gateway)"],
    );
    // Other listeners, and faults, may name what is not there.
    let fault = "---\n{apiVersion: evenkeel.dev/v1alpha1, kind: FaultInjection, metadata: {name: f}, spec: {targetRefs: \
                 [{group: '', kind: Service, name: a}], match: [{lanes: [blue]}], abort: {status: 503, percentage: 1}}}\n";
    check_warnings(fault, &["spec.match[0].lanes[0]: no LaneGroup of namespace default has a lane \"blue\""]);
}

#[test]
fn conditions_that_never_hold_are_told() {
    let documents = [
        group(
            "name: g",
            &format!(
                "entries: [{}], tag: {{header: X-Lane}}, lanes: [\n\
                 {{name: a, selector: {{lane: a}}, match: [{{headers: [{{name: x-a, value: b}}, {{name: x-lane, value: a}}]}}]}},\n\
                 {{name: b, selector: {{lane: b}}, match: [{{headers: [{{name: X-Evenkeel-Lane, value: b}}]}}]}},\n\
                 {{name: c, selector: {{lane: c}}, percentage: 1, stickyBy: {{header: x_user}}}},\n\
                 {{name: d, selector: {{lane: d}}, percentage: 1, stickyBy: {{header: x-lane}}, \
                 match: [{{headers: [{{name: x_d, value: d}}]}}]}}]",
                of_gateway("shop", "")
            ),
        ),
        group("name: h", &format!("internal: [{}]", of_gateway("g", ""))),
        gateway("{name: x, port: 8081, protocol: HTTP}"),
    ];
    let tag =
        |group: &str| format!("is the tag of LaneGroup default/{group}, which clients' requests have lost by then");
    check_warnings(
        &documents.concat(),
        &[
            &format!("spec.lanes[0].match[0].headers[1].name: {}", tag("g")),
            &format!("spec.lanes[1].match[0].headers[0].name: {}", tag("h")),
            &format!("spec.lanes[2].stickyBy.header: {UNDERSCORED}"),
            &format!("spec.lanes[3].stickyBy.header: {}", tag("g")),
            &format!("spec.lanes[3].match[0].headers[0].name: {UNDERSCORED}"),
        ],
    );
}

#[test]
fn defaults_are_filled_in() {
    let documents = group(
        "name: g",
        &format!(
            "entries: [{}], lanes: [{{name: a, selector: {{lane: a}}, percentage: 5.25, stickyBy: {{cookie: sid}}}}, \
             {{name: b, selector: {{lane: b}}, percentage: 5, stickyBy: {{header: X-User, salt: s}}, capacityGuard: false}}]",
            of_gateway("shop", "")
        ),
    );
    let snapshot = checked(&documents).snapshot;
    let group = &snapshot.lane_groups[0];
    assert_eq!(
        (&*group.baseline, &*group.header, group.baggage.as_deref()),
        ("base", "x-evenkeel-lane", Some("evenkeel.lane"))
    );
    let shown = |lane: usize| {
        let share = group.lanes[lane].share.as_ref().expect("it has a percentage");
        format!("{} {:?} {:?} {}", share.basis_points, share.sticky_by, share.on_missing, share.capacity_guard)
    };
    assert_eq!(shown(0), "525 Cookie(\"sid\") Issue true");
    assert_eq!(shown(1), "500 Header(\"x-user\") Skip false");
    for (lane, salt, name) in [(0, "default/g", "a"), (1, "s", "b")] {
        let seed = [salt, name].map(|text| crate::consistent::hash(text.as_bytes()));
        assert_eq!(group.lanes[lane].share.as_ref().map(|share| share.seed), Some(seed), "{name}");
    }
}
