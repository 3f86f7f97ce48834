//! Mistakes in LaneGroups.

use super::*;

const GATEWAY: &str = "group: gateway.networking.k8s.io, kind: Gateway, name: a";

/// The problems of a LaneGroup, each after `f:2: spec.`.
fn check_group(spec: &str, expected: &[&str]) {
    let expected: Vec<String> = expected.iter().map(|problem| format!("f:2: spec.{problem}")).collect();
    let expected: Vec<&str> = expected.iter().map(String::as_str).collect();
    check_spec("LaneGroup", spec, &expected);
}

/// The problems of one lane besides its name and selector, each after `f:2: spec.lanes[0].`.
fn check_lane(lane: &str, expected: &[&str]) {
    let expected: Vec<String> = expected.iter().map(|problem| format!("lanes[0].{problem}")).collect();
    let expected: Vec<&str> = expected.iter().map(String::as_str).collect();
    let entries = format!("entries: [{{{GATEWAY}}}]");
    check_group(&format!("{entries}, lanes: [{{name: a, selector: {{lane: a}}, {lane}}}]"), &expected);
}

#[test]
fn groups() {
    check_group(
        &format!(
            "entries: [{{group: '', kind: Service, name: a}}, {{{GATEWAY}}}, {{{GATEWAY}}}], \
             internal: [{{group: gateway.networking.k8s.io, kind: HTTPRoute, name: a}}], mode: shade, effectiveTime: {{}}, \
             baseline: Base, isolation: loose, tag: {{header: Host, baggage: 'a b'}}, \
             propagation: {{order: [header, trace, callerLabel], trustTraceContext: yes, \
             traceHeaders: [traceparent, zipkin]}}"
        ),
        &[
            "mode: \"shade\" is not one of enforce, shadow (did you mean shadow?)",
            "effectiveTime: is not enforced by this build",
            "baseline: \"Base\" is not a lane name (lower case letters, digits and '-')",
            "isolation: \"loose\" is not one of permissive, strict",
            "tag.baggage: \"a b\" is not a token (letters, digits and some of the signs, such as '-' and '.')",
            "propagation.order[1]: \"trace\" is not one of header, baggage, traceMap, callerLabel",
            "propagation.trustTraceContext: must be true or false, not a text",
            "propagation.traceHeaders[1]: \"zipkin\" is not one of traceparent, b3, x-b3, sw8",
        ],
    );
    check_group(
        &format!(
            "entries: [{{group: '', kind: Service, name: a}}, {{{GATEWAY}}}, {{{GATEWAY}}}], \
             internal: [{{group: gateway.networking.k8s.io, kind: HTTPRoute, name: a}}], tag: {{header: Host, baggage: a}}, \
             propagation: {{order: [header], traceHeaders: [b3]}}"
        ),
        &[
            "entries[0].kind: Service in entries is not enforced by this build (only Gateways are)",
            "entries[2]: is the same as item 1 of the list",
            "internal[0].kind: HTTPRoute in internal is not enforced by this build (only Gateways are)",
            "tag.header: Host has a meaning of its own",
            "tag.baggage: means nothing without baggage in propagation.order",
            "propagation.traceHeaders: must have traceparent: it is always written",
        ],
    );
    check_group(
        "entries: [], tag: {header: x_lane}",
        &["tag.header: has '_' in its name: listeners drop such fields, and the lane would be lost at the next hop \
             (write '-')"],
    );
    let orders = [
        "[baggage]",
        "[baggage, header]",
        "[header, header]",
        "[header, traceMap, baggage]",
        "[header, callerLabel, traceMap]",
        "[traceMap, callerLabel]",
    ];
    for order in orders {
        check_group(
            &format!("propagation: {{order: {order}}}"),
            &[
                "propagation.order: must be [header, baggage, traceMap, callerLabel], of which all but header may be left out",
            ],
        );
    }
}

#[test]
fn lanes() {
    check_group(
        "lanes: [{name: Blue, selector: {}}, {name: a, selector: {'a b': 1}, weight: 5}]",
        &[
            "lanes[0].name: \"Blue\" is not a lane name (lower case letters, digits and '-')",
            "lanes[1].selector[\"a b\"]: \"a b\" is not a label's key",
            "lanes[1].selector[\"a b\"]: must be a text, not a number (write \"1\" in quotes)",
            "lanes[1].weight: is not a known field",
        ],
    );
    check_group(
        "lanes: [{name: a, selector: {}}]",
        &["lanes[0].selector: must have at least one label (such as selector: {lane: blue})"],
    );
    check_lane(
        "match: [{}, {path: {type: Exact, value: a}, methods: [CONNECT], sources: [10.0.0.1]}]",
        &[
            "match[0]: has no condition and would take every request",
            "match[1].path.value: \"a\" does not start with '/'",
            "match[1].methods[0]: CONNECT is not enforced by this build",
            "match[1].sources[0]: \"10.0.0.1\" is not a network (such as 10.0.0.0/8)",
        ],
    );
    let regex = |list: &str| format!("{list}: [{{type: RegularExpression, name: a, value: '('}}]");
    let told = "is not a regular expression: unclosed group";
    check_group(
        &format!(
            "entries: [{{{GATEWAY}}}], lanes: [{{name: a, selector: {{lane: a}}, match: [\
             {{{}, {}, {}, path: {{type: RegularExpression, value: '('}}}}, {{headers: [{{name: a, value: b}}]}}, \
             {{headers: [{{type: RegularExpression, name: a, value: '(a{{1000}}){{1000}}'}}]}}]}}]",
            regex("headers"),
            regex("cookies"),
            regex("query")
        ),
        &[
            "entries[0]: there is no Gateway default/a",
            &format!("lanes[0].match[0].headers[0].value: {told}"),
            &format!("lanes[0].match[0].cookies[0].value: {told}"),
            &format!("lanes[0].match[0].query[0].value: {told}"),
            &format!("lanes[0].match[0].path.value: {told}"),
            "lanes[0].match[2].headers[0].value: is too large a regular expression once compiled",
        ],
    );
    check_lane("percentage: 5", &["stickyBy: percentage needs it (such as stickyBy: {cookie: lane-key})"]);
    check_lane(
        "stickyBy: {cookie: a}, capacityGuard: true",
        &["stickyBy: means nothing without percentage", "capacityGuard: means nothing without percentage"],
    );
    check_lane(
        "percentage: 100.5, stickyBy: {}",
        &[
            "percentage: 100.5 is not a percentage (0 to 100, two decimals at most)",
            "stickyBy: must have exactly one of cookie, header, query, clientAddress",
        ],
    );
    check_lane(
        "percentage: 5, stickyBy: {header: a, onMissing: issue}",
        &["stickyBy.onMissing: issue is for cookies only"],
    );
    check_lane(
        "percentage: 5, stickyBy: {clientAddress: false}",
        &["stickyBy.clientAddress: must be true, or left out"],
    );
    let half = |name: &str, cookie: &str| {
        format!("{{name: {name}, selector: {{lane: {name}}}, percentage: 50.01, stickyBy: {{cookie: {cookie}}}}}")
    };
    check_group(
        &format!("lanes: [{}, {}]", half("a", "x"), half("b", "y")),
        &[
            "lanes: have 100.02 per cent together and must have at most 100",
            "lanes[1].stickyBy.cookie: this group issues the cookie \"x\" already, at f:2 (name the same cookie, or set \
             onMissing: skip)",
        ],
    );
}

#[test]
fn lanes_of_a_namespace_are_told_apart() {
    let group = |name: &str, spec: &str| {
        format!(
            "---\n{{apiVersion: evenkeel.dev/v1alpha1, kind: LaneGroup, metadata: {{name: {name}}}, spec: {{{spec}}}}}\n"
        )
    };
    check(
        &[
            group("g", "lanes: [{name: a, selector: {lane: a}}, {name: a, selector: {lane: b}}, {name: base, selector: {lane: c}}]"),
            group("h", "baseline: prod, lanes: [{name: a, selector: {lane: d}}, {name: e, selector: {lane: a}}]"),
            group("i", "lanes: [{name: prod, selector: {v: '2', lane: a}}]"),
        ]
        .concat(),
        &[
            "f:2: spec: has neither entries nor internal: no request comes into its lanes",
            "f:2: spec.lanes[1].name: \"a\" is a lane of this namespace already, at f:2",
            "f:2: spec.lanes[2].name: \"base\" is the name of the baseline",
            "f:4: spec: has neither entries nor internal: no request comes into its lanes",
            "f:4: spec.lanes[0].name: \"a\" is a lane of this namespace already, at f:2",
            "f:4: spec.lanes[1].selector: is that of lane \"a\" of default/g, at f:2: no instance would be its own",
            "f:6: spec: has neither entries nor internal: no request comes into its lanes",
            "f:6: spec.lanes[0].name: \"prod\" is the name of the baseline",
            "f:6: spec.lanes[0].selector: all instances of this lane are also those of lane \"a\" of default/g, at f:2",
            "f:6: spec.lanes[0].selector: all instances of this lane are also those of lane \"e\" of default/h, at f:4",
        ],
    );
}
