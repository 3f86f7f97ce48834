//! ListenerPolicy: the downstream side of a Gateway or of one of its listeners. Pure, Cold.

use crate::decode::{At, List, Path};
use crate::model::GATEWAY_GROUP;
use crate::model::policy::{Mode, NOT_TRIED};
use crate::object::{exactly_one, object, words};
use crate::problem::Problems;
use crate::value::{Cidr, Group, Kind, ObjectName, Period, SectionName, Size, Whole};

object! {
    /// Bounds, timeouts and trust towards clients. What is absent has its default.
    Spec {
        /// What it applies to.
        required target_refs: List<TargetRef, 1, 16> = "targetRefs",
        /// `enforce` if absent.
        defaulted mode: Mode = "mode" or Mode::Enforce,
        /// Whose word about the client's address counts; nobody's if absent.
        optional client_address: ClientAddress = "clientAddress",
        /// Connections at the same time; 10000 if absent.
        optional max_connections: Whole<1, 1_000_000> = "maxConnections",
        /// How long a client may take.
        optional timeouts: Timeouts = "timeouts",
        /// A larger request body is answered 413; no bound if absent.
        optional max_request_body: Size<0, { 1 << 50 }> = "maxRequestBody",
        /// Bounds on heads.
        optional headers: Headers = "headers",
        /// How paths are read.
        optional path: PathSettings = "path",
    }
    refused { "effectiveTime" }
    check shadow_tries_what_it_can;
}

object! {
    /// A Gateway, or one of its listeners, in the policy's namespace.
    TargetRef {
        /// Only Gateway API's.
        required group: Group = "group",
        /// Only `Gateway`.
        required kind: Kind = "kind",
        /// The Gateway's name.
        required name: ObjectName = "name",
        /// One of its listeners; a policy on a listener takes the place of one on its Gateway.
        optional section_name: SectionName = "sectionName",
    }
    check target_is_a_gateway;
}

object! {
    /// Exactly one of these.
    ClientAddress {
        /// Peers in these networks are our proxies: their `x-forwarded-for` is continued.
        optional trusted_cidrs: At<List<At<Cidr>, 1, 256>> = "trustedCIDRs",
        /// So many proxies stand before us.
        optional trusted_hops: At<Whole<1, 32>> = "trustedHops",
        /// Connections open with a PROXY protocol header.
        optional proxy_protocol: At<ProxyProtocol> = "proxyProtocol",
    }
    check one_source_of_the_address;
}

words! {
    /// A version of the PROXY protocol.
    ProxyProtocol {
        /// The binary one.
        V2 = "v2",
    }
    refused { "v1" }
}

object! {
    /// How long a client may take.
    Timeouts {
        /// For the head of a request; 10s if absent.
        optional head: Period<1> = "head",
        /// Between requests; 60s if absent.
        optional idle: Period<1> = "idle",
        /// Between two pieces of a body; 30s if absent.
        optional body_progress: Period<1> = "bodyProgress",
    }
}

object! {
    /// Bounds on heads; larger ones are answered 431.
    Headers {
        /// Start line included; 32Ki if absent.
        optional max_bytes: Size<256, { 1 << 20 }> = "maxBytes",
        /// Fields; 100 if absent.
        optional max_count: Whole<1, 10_000> = "maxCount",
    }
}

object! {
    /// How paths are read.
    PathSettings {
        /// What `%2F` and `%5C` mean; `keep` if absent.
        optional encoded_slash: EncodedSlash = "encodedSlash",
    }
}

words! {
    /// What `%2F` and `%5C` mean.
    EncodedSlash {
        /// They stay and separate nothing.
        Keep = "keep",
        /// They become `/`.
        Decode = "decode",
        /// The request is answered 400.
        Reject = "reject",
    }
}

/// In shadow a policy has only what can be told of without doing it.
fn shadow_tries_what_it_can(spec: &Spec, path: &Path<'_>, problems: &mut Problems) {
    if spec.mode != Mode::Shadow {
        return;
    }
    const TRIED: &str = "maxConnections, timeouts, maxRequestBody, headers and path.encodedSlash: reject can be tried";
    if let Some(source) = &spec.client_address {
        problems.error_with_hint(source.place, path.field("clientAddress"), NOT_TRIED, TRIED);
    }
    if let Some(settings) = &spec.path
        && let Some(slash @ (EncodedSlash::Keep | EncodedSlash::Decode)) = settings.encoded_slash
    {
        let path = path.field("path");
        let reason = format!("{} {NOT_TRIED}", slash.word());
        problems.error_with_hint(settings.place, path.field("encodedSlash"), reason, TRIED);
    }
    let timeouts = spec.timeouts.as_ref();
    let is_idle = timeouts.is_none_or(|all| all.head.is_none() && all.idle.is_none() && all.body_progress.is_none())
        && spec.headers.as_ref().is_none_or(|all| all.max_bytes.is_none() && all.max_count.is_none())
        && spec.path.as_ref().is_none_or(|settings| settings.encoded_slash.is_none())
        && spec.max_connections.is_none()
        && spec.max_request_body.is_none()
        && spec.client_address.is_none();
    if is_idle {
        problems.warning(spec.place, path, "is in shadow and has nothing to be tried", Some(TRIED));
    }
}

fn target_is_a_gateway(target: &TargetRef, path: &Path<'_>, problems: &mut Problems) {
    if target.group.as_str() != GATEWAY_GROUP || target.kind.as_str() != "Gateway" {
        let reason = format!(
            "{} of {:?} as a target is not enforced by this build",
            target.kind.as_str(),
            target.group.as_str()
        );
        problems.error(target.place, path.field("kind"), reason);
    }
}

fn one_source_of_the_address(source: &ClientAddress, path: &Path<'_>, problems: &mut Problems) {
    let fields = [
        ("trustedCIDRs", source.trusted_cidrs.is_some()),
        ("trustedHops", source.trusted_hops.is_some()),
        ("proxyProtocol", source.proxy_protocol.is_some()),
    ];
    exactly_one(&fields, source.place, path, problems);
}
