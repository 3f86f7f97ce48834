//! Which ListenerPolicy acts on which listener: one on the listener before one on its Gateway, and of
//! several on one target the oldest. Those in shadow take nobody's place, and stand by themselves. Pure, Cold.

use std::collections::HashMap;
use std::sync::Arc;

use crate::compile::listeners::Listener;
use crate::model::Documents;
use crate::model::listener_policy::{ClientAddress as Written, EncodedSlash as WrittenSlash, ProxyProtocol, Spec};
use crate::model::policy::Mode;
use crate::problem::{Place, Problems, no_gateway};
use crate::snapshot::shadow::ListenerShadow;
use crate::snapshot::{ClientAddress, EncodedSlash, ListenerSettings};

/// A Gateway, or one of its listeners: namespace, name, section.
type Target<'d> = (&'d str, &'d str, Option<&'d str>);

/// Gives each listener the settings of its policy.
pub(crate) fn attach(documents: &Documents, listeners: &mut [Listener<'_>], problems: &mut Problems) {
    let mut policies: Vec<_> = documents.listener_policies.iter().map(Arc::as_ref).collect();
    policies.sort_by_cached_key(|policy| policy.metadata.seniority());
    let mut winners: HashMap<(Target<'_>, bool), (Claim, Says)> = HashMap::new();
    for policy in policies {
        let namespace = policy.metadata.namespace();
        let is_shadow = policy.spec.mode == Mode::Shadow;
        let says = match is_shadow {
            true => Says::Tried(Arc::new(shadow(&policy.spec, &format!("ListenerPolicy {}", policy.metadata)))),
            false => Says::Acts(Arc::new(settings(&policy.spec))),
        };
        for (index, target) in policy.spec.target_refs.iter().enumerate() {
            let section = target.section_name.as_ref().map(|section| section.as_str());
            let key = (namespace, target.name.as_str(), section);
            let field = format!("spec.targetRefs[{index}]");
            let is_there = |listener: &Listener<'_>| {
                let gateway = &listener.gateway.metadata;
                (gateway.namespace(), gateway.name()) == (key.0, key.1)
                    && section.is_none_or(|section| section == listener.written.name.as_str())
            };
            if !listeners.iter().any(is_there) {
                problems.warning(target.place, field, no_gateway(namespace, key.1, section), None);
                continue;
            }
            if let Some((winner, _)) = winners.get(&(key, is_shadow)) {
                conflict("ListenerPolicy", winner, target.place, field, problems);
                continue;
            }
            let claim = Claim { name: policy.metadata.to_string(), place: target.place };
            winners.insert((key, is_shadow), (claim, says.clone()));
        }
    }
    for listener in listeners {
        let gateway = &listener.gateway.metadata;
        let section = listener.written.name.as_str();
        for is_shadow in [false, true] {
            let of_listener = winners.get(&((gateway.namespace(), gateway.name(), Some(section)), is_shadow));
            let of_gateway = winners.get(&((gateway.namespace(), gateway.name(), None), is_shadow));
            match of_listener.or(of_gateway) {
                Some((_, Says::Acts(settings))) => listener.settings = settings.clone(),
                Some((_, Says::Tried(shadow))) => listener.shadow = Some(shadow.clone()),
                None => {}
            }
        }
    }
}

/// What a policy says, and whether it acts.
#[derive(Clone)]
enum Says {
    Acts(Arc<ListenerSettings>),
    Tried(Arc<ListenerShadow>),
}

/// Who has a target, and where that is written.
pub(crate) struct Claim {
    /// `namespace/name`.
    pub name: String,
    /// The reference to the target.
    pub place: Place,
}

/// Tells that a policy does not act on a target, since another one does (GEP-713).
pub(crate) fn conflict(kind: &str, winner: &Claim, place: Place, field: String, problems: &mut Problems) {
    let (name, at) = (&winner.name, problems.name(winner.place));
    let reason = format!("Conflicted: {kind} {name}, at {at}, has the same target and is older, or first by name");
    problems.warning(place, field, reason, Some("one policy for each target"));
}

fn settings(spec: &Spec) -> ListenerSettings {
    let defaults = ListenerSettings::default();
    let timeouts = spec.timeouts.as_ref();
    let headers = spec.headers.as_ref();
    ListenerSettings {
        client_address: spec.client_address.as_ref().map_or(defaults.client_address, client_address),
        connections_max: spec.max_connections.map_or(defaults.connections_max, |count| saturate(count.0)),
        head_timeout: timeouts.and_then(|all| all.head).map_or(defaults.head_timeout, |span| span.0),
        idle_timeout: timeouts.and_then(|all| all.idle).map_or(defaults.idle_timeout, |span| span.0),
        body_progress_timeout: timeouts
            .and_then(|all| all.body_progress)
            .map_or(defaults.body_progress_timeout, |span| span.0),
        request_body_bytes_max: spec.max_request_body.map(|size| size.0),
        head_bytes_max: headers.and_then(|all| all.max_bytes).map_or(defaults.head_bytes_max, |size| saturate(size.0)),
        header_count_max: headers
            .and_then(|all| all.max_count)
            .map_or(defaults.header_count_max, |count| count.0.try_into().unwrap_or(u16::MAX)),
        encoded_slash: match spec.path.as_ref().and_then(|path| path.encoded_slash) {
            None | Some(WrittenSlash::Keep) => EncodedSlash::Keep,
            Some(WrittenSlash::Decode) => EncodedSlash::Decode,
            Some(WrittenSlash::Reject) => EncodedSlash::Reject,
        },
    }
}

/// Only what is written is tried: a default that nobody meant to change says nothing.
fn shadow(spec: &Spec, name: &str) -> ListenerShadow {
    let timeouts = spec.timeouts.as_ref();
    let headers = spec.headers.as_ref();
    ListenerShadow {
        name: name.into(),
        connections_max: spec.max_connections.map(|count| saturate(count.0)),
        head_timeout: timeouts.and_then(|all| all.head).map(|span| span.0),
        idle_timeout: timeouts.and_then(|all| all.idle).map(|span| span.0),
        body_progress_timeout: timeouts.and_then(|all| all.body_progress).map(|span| span.0),
        request_body_bytes_max: spec.max_request_body.map(|size| size.0),
        head_bytes_max: headers.and_then(|all| all.max_bytes).map(|size| saturate(size.0)),
        header_count_max: headers.and_then(|all| all.max_count).map(|count| count.0.try_into().unwrap_or(u16::MAX)),
        rejects_encoded_slash: spec.path.as_ref().is_some_and(|path| path.encoded_slash == Some(WrittenSlash::Reject)),
    }
}

/// The types' own bounds are far below, so that nothing is lost.
pub(crate) fn saturate(number: u64) -> u32 {
    number.try_into().unwrap_or(u32::MAX)
}

fn client_address(written: &Written) -> ClientAddress {
    if let Some(networks) = &written.trusted_cidrs {
        return ClientAddress::TrustedCidrs(networks.iter().map(|network| network.0).collect());
    }
    if let Some(hops) = &written.trusted_hops {
        return ClientAddress::TrustedHops(hops.0.try_into().unwrap_or(u8::MAX));
    }
    match written.proxy_protocol.as_ref().map(|version| version.value) {
        Some(ProxyProtocol::V2) => ClientAddress::ProxyProtocolV2,
        None => ClientAddress::Peer,
    }
}
