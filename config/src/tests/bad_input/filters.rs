//! Mistakes in the filters of HTTPRoutes.

use super::*;

#[test]
fn filters() {
    check_rule(
        "filters: [{type: CORS, cors: {}}, {type: ExtensionRef}, {type: ExternalAuth}]",
        &[
            "f:2: spec.rules[0].filters[0].type: CORS is not enforced by this build",
            "f:2: spec.rules[0].filters[0].cors: is not enforced by this build",
            "f:2: spec.rules[0].filters[1].type: ExtensionRef is not enforced by this build",
            "f:2: spec.rules[0].filters[2].type: ExternalAuth is not enforced by this build",
        ],
    );
    check_rule(
        "filters: [{type: RequestMirror, requestMirror: {}}, {type: RequestMirror, requestMirror: {backendRef: {name: a, weight: 1}, \
         percent: 101, fraction: {denominator: 0}}}]",
        &[
            "f:2: spec.rules[0].filters[0].requestMirror.backendRef: is missing",
            "f:2: spec.rules[0].filters[1].requestMirror.backendRef.port: is missing",
            "f:2: spec.rules[0].filters[1].requestMirror.backendRef.weight: is not a known field",
            "f:2: spec.rules[0].filters[1].requestMirror.percent: 101 is not a number from 0 to 100",
            "f:2: spec.rules[0].filters[1].requestMirror.fraction.numerator: is missing",
            "f:2: spec.rules[0].filters[1].requestMirror.fraction.denominator: 0 is not a number from 1 to 2147483647",
        ],
    );
    check_rule(
        "filters: [{type: RequestMirror, requestMirror: {backendRef: {kind: Pod, name: a, port: 1}, percent: 1, \
         fraction: {numerator: 101}}}, {type: RequestRedirect, requestRedirect: {}}, {type: RequestMirror}]",
        &[
            "f:2: spec.rules[0].filters[0].type: RequestRedirect answers every request, so that nothing would be mirrored",
            "f:2: spec.rules[0].filters[0].requestMirror.backendRef.kind: Pod of \"\" as a backend is not enforced by this build \
             (leave out group and kind)",
            "f:2: spec.rules[0].filters[0].requestMirror.fraction: excludes percent: the share is written once",
            "f:2: spec.rules[0].filters[0].requestMirror.fraction.numerator: is more than denominator",
            "f:2: spec.rules[0].filters[2].requestMirror: is missing, as type demands it",
            "f:2: spec.rules[0].filters[2].type: RequestRedirect answers every request, so that nothing would be mirrored",
        ],
    );
    check_rule(
        "filters: [{type: URLRewrite, requestRedirect: {}}]",
        &[
            "f:2: spec.rules[0].filters[0].requestRedirect: does not belong to this type",
            "f:2: spec.rules[0].filters[0].urlRewrite: is missing, as type demands it",
        ],
    );
    check_rule(
        "filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: X-A, value: 1}, {name: a, value: \"b\\r\\nc\"}, \
         {name: 'a:', value: b}], add: [{name: Content-Length, value: '1'}, {name: x-b, value: ' b'}], remove: [Host, Connection]}}]",
        &[
            "f:2: spec.rules[0].filters[0].requestHeaderModifier.set[0].value: must be a text, not a number (write \"1\" in quotes)",
            "f:2: spec.rules[0].filters[0].requestHeaderModifier.set[1].value: \"b\\r\\nc\" is not a header value (visible ASCII, \
             blanks only inside)",
            "f:2: spec.rules[0].filters[0].requestHeaderModifier.set[2].name: \"a:\" is not a header name",
            "f:2: spec.rules[0].filters[0].requestHeaderModifier.add[1].value: \" b\" is not a header value (visible ASCII, blanks \
             only inside)",
        ],
    );
    // HTTPHeaderFilter: one action for each name.
    check_rule(
        "filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: X-A, value: a}], \
         add: [{name: x-a, value: a}, {name: Content-Length, value: '1'}], remove: [host, Connection, X-a]}}]",
        &[
            "f:2: spec.rules[0].filters[0].requestHeaderModifier.add[0].name: x-a is changed twice by this filter (one action for \
             each name; join several values with commas)",
            "f:2: spec.rules[0].filters[0].requestHeaderModifier.add[1].name: Content-Length belongs to the connection, not to rules",
            "f:2: spec.rules[0].filters[0].requestHeaderModifier.remove[0]: Host is not changed by header filters (use a URLRewrite \
             filter with hostname)",
            "f:2: spec.rules[0].filters[0].requestHeaderModifier.remove[1]: Connection belongs to the connection, not to rules",
            "f:2: spec.rules[0].filters[0].requestHeaderModifier.remove[2]: X-a is changed twice by this filter (one action for each \
             name; join several values with commas)",
        ],
    );
    // HTTPRouteRule.filters: none twice, and not both of these.
    check_rule(
        "filters: [{type: URLRewrite, urlRewrite: {}}, {type: RequestRedirect, requestRedirect: {}}, {type: URLRewrite, urlRewrite: {}}]",
        &[
            "f:2: spec.rules[0].filters[1].type: RequestRedirect and URLRewrite exclude each other",
            "f:2: spec.rules[0].filters[2].type: is there twice; only RequestMirror may stand more than once",
        ],
    );
    check_rule(
        "filters: [{type: RequestRedirect, requestRedirect: {}}], backendRefs: [{name: a, port: 80}]",
        &[
            "f:2: spec.rules[0].filters: a RequestRedirect answers every request, so that backendRefs would never be used",
        ],
    );
    // HTTPPathModifier.replacePrefixMatch: only with exactly one PathPrefix match.
    let replace =
        "filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /x}}}]";
    for matches in ["{path: {type: Exact, value: /a}}", "{path: {value: /a}}, {path: {value: /b}}"] {
        check_rule(
            &format!("matches: [{matches}], {replace}"),
            &[
                "f:2: spec.rules[0].filters[0]: replacePrefixMatch needs a rule with exactly one match, of type PathPrefix",
            ],
        );
        check_rule(
            &format!("matches: [{matches}], backendRefs: [{{name: a, port: 80, {replace}}}]"),
            &[
                "f:2: spec.rules[0].backendRefs[0].filters[0]: replacePrefixMatch needs a rule with exactly one match, of type PathPrefix",
            ],
        );
    }
    check_rule(
        "filters: [{type: URLRewrite, urlRewrite: {hostname: '*.a', path: {type: ReplaceFullPath, replacePrefixMatch: x}}}]",
        &[
            "f:2: spec.rules[0].filters[0].urlRewrite.hostname: \"*.a\" is not a host name (lower case, no address, no wildcard)",
            "f:2: spec.rules[0].filters[0].urlRewrite.path.replacePrefixMatch: \"x\" does not start with '/'",
        ],
    );
    check_rule(
        "filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplaceFullPath, replacePrefixMatch: /x}}}]",
        &[
            "f:2: spec.rules[0].filters[0].urlRewrite.path.replaceFullPath: is missing, as type demands it",
            "f:2: spec.rules[0].filters[0].urlRewrite.path.replacePrefixMatch: does not belong to this type",
        ],
    );
    check_rule(
        "filters: [{type: RequestRedirect, requestRedirect: {statusCode: 304, scheme: ftp, port: 0}}]",
        &[
            "f:2: spec.rules[0].filters[0].requestRedirect.statusCode: 304 is not one of 301, 302, 303, 307, 308",
            "f:2: spec.rules[0].filters[0].requestRedirect.scheme: \"ftp\" is not one of http, https",
            "f:2: spec.rules[0].filters[0].requestRedirect.port: 0 is not a port (1 to 65535)",
        ],
    );
}
