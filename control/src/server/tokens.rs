//! The REST API's tokens and audit. Whoever comes here has passed `gate`. Cold.

use std::collections::BTreeSet;
use std::sync::Arc;

use aws_lc_rs::rand;
use axum::body::Bytes;
use axum::extract::{Extension, Path, Query, State};
use axum::http::StatusCode;
use axum::routing::{delete, get};
use axum::{Json, Router};
use serde_json::{Value, json};

use crate::access::{Bounds, Identity, Role, Workload};
use crate::server::answer::{Fault, from_json};
use crate::server::gate::Asking;
use crate::store::{SECRET_BYTES, Store, Token, TokenChange, hash, secret};

/// Of one answer.
const AUDIT_MAX: usize = 1_000;
/// Of namespaces or lanes of one token.
const LIST_MAX: usize = 100;
/// Bytes of a name (RFC 1123 2.1).
const NAME_BYTES_MAX: usize = 63;

pub(crate) fn router(store: Store) -> Router {
    Router::new()
        .route("/api/v1/tokens", get(list).post(create))
        .route("/api/v1/tokens/{name}", delete(revoke))
        .route("/api/v1/audit", get(audit))
        .with_state(store)
}

/// What a token shall be, as it is asked for.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Wanted {
    #[serde(default)]
    name: String,
    #[serde(default)]
    role: String,
    #[serde(default)]
    namespaces: BTreeSet<String>,
    gateway: Option<String>,
    service: Option<String>,
    #[serde(default)]
    lanes: BTreeSet<String>,
    /// RFC 3339.
    expires: Option<String>,
}

/// Which part of the audit.
#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Part {
    before: Option<u64>,
    count: Option<usize>,
}

/// A token with its secret, which is nowhere else.
pub(crate) fn mint(identity: Identity, expires_ms: Option<i64>, author: Arc<str>, now_ms: i64) -> (Token, String) {
    let mut random = [0; SECRET_BYTES];
    rand::fill(&mut random).expect("the system has random bytes");
    let secret = secret(&identity.name, random);
    (Token { identity, hash: hash(&secret), created_ms: now_ms, expires_ms, author }, secret)
}

async fn list(State(store): State<Store>) -> Json<Value> {
    let tokens = store.tokens();
    let shown: Vec<Value> = tokens.borrow().iter().map(|token| token.shown()).collect();
    Json(json!({ "tokens": shown }))
}

async fn create(
    State(store): State<Store>,
    Extension(caller): Asking,
    body: Bytes,
) -> Result<(StatusCode, Json<Value>), Fault> {
    let wanted: Wanted = from_json(&body)?;
    let now_ms = jiff::Timestamp::now().as_millisecond();
    let (identity, expires_ms) = checked(wanted, now_ms).map_err(|problems| Fault::fields(&problems))?;
    let (token, secret) = mint(identity, expires_ms, caller.author().name, now_ms);
    let mut shown = token.shown();
    store.change_token(TokenChange::Create(token), caller.author()).await?;
    shown["token"] = secret.into();
    Ok((StatusCode::CREATED, Json(shown)))
}

async fn revoke(
    State(store): State<Store>,
    Extension(caller): Asking,
    Path(name): Path<String>,
) -> Result<Json<Value>, Fault> {
    store.change_token(TokenChange::Revoke((&*name).into()), caller.author()).await?;
    Ok(Json(json!({ "revoked": name })))
}

async fn audit(State(store): State<Store>, Query(part): Query<Part>) -> Result<Json<Value>, Fault> {
    let entries = store.audit(part.before.unwrap_or(u64::MAX), part.count.unwrap_or(50).min(AUDIT_MAX))?;
    let entry = |(number, mut entry): (u64, Value)| {
        entry["number"] = number.into();
        entry
    };
    Ok(Json(json!({ "entries": entries.into_iter().map(entry).collect::<Vec<_>>() })))
}

/// Fields, and what is wrong with each.
type Wrong = Vec<(&'static str, String)>;

/// Whom it makes, and until when; or all that is wrong with it.
fn checked(wanted: Wanted, now_ms: i64) -> Result<(Identity, Option<i64>), Wrong> {
    let mut problems = Vec::new();
    let Wanted { name, role, namespaces, gateway, service, lanes, expires } = wanted;
    let named = Role::of(&role);
    if named.is_none() {
        problems.push(("role", format!("{role:?} is none of viewer, operator, admin, proxy")));
    }
    let lists = [("namespaces", &namespaces), ("lanes", &lanes)];
    for (field, list) in lists {
        if list.len() > LIST_MAX {
            problems.push((field, format!("has more than {LIST_MAX} names")));
        }
    }
    let of_lists = lists.into_iter().flat_map(|(field, list)| list.iter().map(move |name| (field, &**name)));
    let workload = [("gateway", &gateway), ("service", &service)];
    let of_workload = workload.into_iter().filter_map(|(field, name)| Some((field, &**name.as_ref()?)));
    for (field, name) in std::iter::once(("name", &*name)).chain(of_lists).chain(of_workload) {
        if !is_label(name) {
            problems.push((field, format!("{name:?} is no name (1 to {NAME_BYTES_MAX} of a-z, 0-9 and '-')")));
        }
    }
    let is_proxy = named == Some(Role::Proxy);
    if is_proxy && namespaces.len() != 1 {
        problems.push((
            "namespaces",
            "a proxy belongs to one namespace: -n NAMESPACE on the command line, or --gateway or --service NAMESPACE/NAME".into(),
        ));
    }
    if !namespaces.is_empty() && matches!(named, Some(Role::Viewer | Role::Admin)) {
        problems.push(("namespaces", format!("{role} is for all namespaces")));
    }
    if gateway.is_some() && service.is_some() {
        problems.push(("service", "is there beside gateway".into()));
    }
    let bound = [("gateway", gateway.is_some()), ("service", service.is_some()), ("lanes", !lanes.is_empty())];
    for (field, _) in bound.into_iter().filter(|(_, is_there)| *is_there && named.is_some() && !is_proxy) {
        problems.push((field, format!("is for role proxy, this is {role}")));
    }
    let expires_ms = expires.as_ref().and_then(|text| match text.parse::<jiff::Timestamp>() {
        Ok(time) if time.as_millisecond() > now_ms => Some(time.as_millisecond()),
        Ok(_) => {
            problems.push(("expires", format!("{text} is over")));
            None
        }
        Err(_) => {
            problems.push(("expires", format!("{text:?} is no time such as 2027-01-31T12:00:00Z")));
            None
        }
    });
    let gateway = gateway.map(|name| Workload::Gateway(name.into()));
    let workload = gateway.or(service.map(|name| Workload::Service(name.into())));
    let names = |list: BTreeSet<String>| list.into_iter().map(Arc::from).collect();
    match named {
        Some(role) if problems.is_empty() => {
            let bounds = Bounds { namespaces: names(namespaces), workload, lanes: names(lanes) };
            Ok((Identity { name: name.into(), role, bounds }, expires_ms))
        }
        _ => Err(problems),
    }
}

fn is_label(name: &str) -> bool {
    let is_inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=NAME_BYTES_MAX).contains(&name.len())
        && name.bytes().all(is_inner)
        && !name.starts_with('-')
        && !name.ends_with('-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_that_is_wrong_with_a_token_is_told() {
        for (text, expected) in [
            (r#"{"name": "ci", "role": "operator"}"#, ""),
            (r#"{"name": "ci", "role": "operator", "namespaces": ["a", "b"], "expires": "1970-01-01T00:00:06Z"}"#, ""),
            (r#"{"name": "p", "role": "proxy", "namespaces": ["a"], "gateway": "g", "lanes": ["blue"]}"#, ""),
            (
                r#"{"name": "C.I", "role": "root", "expires": "soon"}"#,
                r#"role: "root" is none of viewer, operator, admin, proxy; name: "C.I" is no name (1 to 63 of a-z, 0-9 and '-'); expires: "soon" is no time such as 2027-01-31T12:00:00Z"#,
            ),
            (
                r#"{"name": "p", "role": "proxy", "gateway": "g", "service": "s"}"#,
                "namespaces: a proxy belongs to one namespace: -n NAMESPACE on the command line, or --gateway or --service NAMESPACE/NAME; service: is there beside gateway",
            ),
            (
                r#"{"name": "v", "role": "viewer", "namespaces": ["a"], "gateway": "g", "expires": "1970-01-01T00:00:05Z"}"#,
                "namespaces: viewer is for all namespaces; gateway: is for role proxy, this is viewer; \
                 expires: 1970-01-01T00:00:05Z is over",
            ),
        ] {
            let wanted = serde_json::from_str(text).expect("a token");
            let problems = checked(wanted, 5_000).err().unwrap_or_default();
            let shown: Vec<String> = problems.iter().map(|(field, reason)| format!("{field}: {reason}")).collect();
            assert_eq!(shown.join("; "), expected, "{text}");
        }
    }
}
