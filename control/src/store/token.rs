//! Tokens: who they make of whoever presents one. Only a hash of the secret is kept. Time is an argument. Pure, Cold.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA256, digest};
use serde_json::{Value, json};

use crate::access::{Bounds, Identity, Role, Workload};

/// More are refused.
const TOKENS_MAX: usize = 10_000;
/// What a secret begins with, so that those who look for lost secrets find it.
const PREFIX: &str = "evenkeel";
/// Of the part that nobody can guess.
pub const SECRET_BYTES: usize = 32;

/// A token, without its secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// Who has it, and may do what.
    pub identity: Identity,
    /// SHA-256 of the secret. It has 256 random bits, so that nothing slower is needed.
    pub hash: [u8; 32],
    /// Milliseconds since 1970.
    pub created_ms: i64,
    /// From then on it is none. Milliseconds since 1970.
    pub expires_ms: Option<i64>,
    /// Who made it.
    pub author: Arc<str>,
}

/// All tokens, by name.
#[derive(Debug, Clone, Default)]
pub struct Tokens(BTreeMap<Arc<str>, Arc<Token>>);

/// What is to become of one.
#[derive(Debug, Clone)]
pub enum TokenChange {
    /// There is none of this name so far.
    Create(Token),
    /// In the place of what has its name.
    Replace(Token),
    /// It is no more.
    Revoke(Arc<str>),
}

/// Why a token was not changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenRefusal {
    /// There is one of that name.
    Taken(Arc<str>),
    /// There is none of that name.
    Absent(Arc<str>),
    /// There are as many as there may be.
    TooMany,
    /// It could not be written.
    Unavailable(String),
}

/// What is given to whoever shall have the token: its name, and what nobody can guess.
pub fn secret(name: &str, random: [u8; SECRET_BYTES]) -> String {
    let hex: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{PREFIX}.{name}.{hex}")
}

/// What is kept of a secret.
pub fn hash(secret: &str) -> [u8; 32] {
    digest(&SHA256, secret.as_bytes()).as_ref().try_into().expect("SHA-256 has 32 bytes")
}

impl Tokens {
    /// What was written.
    pub fn of(tokens: impl IntoIterator<Item = Token>) -> Tokens {
        Tokens(tokens.into_iter().map(|token| (token.identity.name.clone(), Arc::new(token))).collect())
    }

    /// Whose secret this is, if only for the past. None: nobody's.
    pub fn find(&self, secret: &str) -> Option<&Arc<Token>> {
        let name = secret.strip_prefix(PREFIX)?.strip_prefix('.')?.rsplit_once('.')?.0;
        let token = self.0.get(name)?;
        let is_right = verify_slices_are_equal(&hash(secret), &token.hash).is_ok();
        is_right.then_some(token)
    }

    /// Whether this token was not revoked, or replaced by another of its name.
    pub fn has(&self, token: &Token) -> bool {
        self.0.get(&token.identity.name).is_some_and(|known| known.hash == token.hash)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Token>> {
        self.0.values()
    }

    /// Makes a change, and tells what the name stands for now.
    pub fn change(&mut self, change: &TokenChange) -> Result<(Arc<str>, Option<Arc<Token>>), TokenRefusal> {
        let token = match change {
            TokenChange::Revoke(name) => {
                let is_known = self.0.remove(name).is_some();
                return if is_known { Ok((name.clone(), None)) } else { Err(TokenRefusal::Absent(name.clone())) };
            }
            TokenChange::Create(token) if self.0.contains_key(&token.identity.name) => {
                return Err(TokenRefusal::Taken(token.identity.name.clone()));
            }
            TokenChange::Create(_) if self.0.len() >= TOKENS_MAX => return Err(TokenRefusal::TooMany),
            TokenChange::Create(token) | TokenChange::Replace(token) => Arc::new(token.clone()),
        };
        self.0.insert(token.identity.name.clone(), token.clone());
        Ok((token.identity.name.clone(), Some(token)))
    }
}

impl Token {
    /// Whether its time has passed.
    pub fn is_over(&self, now_ms: i64) -> bool {
        self.expires_ms.is_some_and(|expires_ms| expires_ms <= now_ms)
    }

    /// As it is shown: without what it is recognised by.
    pub fn shown(&self) -> Value {
        let Identity { name, role, bounds } = &self.identity;
        let time = |ms: i64| jiff::Timestamp::from_millisecond(ms).map(|time| time.to_string()).unwrap_or_default();
        let (gateway, service) = match &bounds.workload {
            None => (None, None),
            Some(Workload::Gateway(name)) => (Some(&**name), None),
            Some(Workload::Service(name)) => (None, Some(&**name)),
        };
        let list = |names: &BTreeSet<Arc<str>>| names.iter().map(|name| name.to_string()).collect::<Vec<_>>();
        let mut shown = json!({
            "name": &**name,
            "role": role.word(),
            "namespaces": list(&bounds.namespaces),
            "gateway": gateway,
            "service": service,
            "lanes": list(&bounds.lanes),
            "created": time(self.created_ms),
            "expires": self.expires_ms.map(time),
            "author": &*self.author,
        });
        if let Value::Object(entries) = &mut shown {
            entries.retain(|_, value| !value.is_null() && value.as_array().is_none_or(|list| !list.is_empty()));
        }
        shown
    }

    /// As it is kept.
    pub(super) fn text(&self) -> String {
        let mut kept = self.shown();
        kept["hash"] = self.hash.iter().map(|byte| Value::from(*byte)).collect();
        kept["created"] = self.created_ms.into();
        kept["expires"] = self.expires_ms.into();
        kept.to_string()
    }

    /// What was kept; None: it was not kept by us.
    pub(super) fn parse(text: &str) -> Option<Token> {
        let kept: Value = serde_json::from_str(text).ok()?;
        let word = |field: &str| kept[field].as_str().map(Arc::<str>::from);
        let list = |field: &str| -> BTreeSet<Arc<str>> {
            kept[field].as_array().into_iter().flatten().filter_map(Value::as_str).map(Arc::from).collect()
        };
        let workload = word("gateway").map(Workload::Gateway).or_else(|| word("service").map(Workload::Service));
        let bounds = Bounds { namespaces: list("namespaces"), workload, lanes: list("lanes") };
        let byte = |value: &Value| value.as_u64().and_then(|byte| u8::try_from(byte).ok());
        let hash: Vec<u8> = kept["hash"].as_array()?.iter().filter_map(byte).collect();
        Some(Token {
            identity: Identity { name: word("name")?, role: Role::of(kept["role"].as_str()?)?, bounds },
            hash: hash.try_into().ok()?,
            created_ms: kept["created"].as_i64()?,
            expires_ms: kept["expires"].as_i64(),
            author: word("author")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(name: &str, random: u8, expires_ms: Option<i64>) -> (Token, String) {
        let secret = secret(name, [random; SECRET_BYTES]);
        let bounds = Bounds {
            namespaces: ["shop".into()].into(),
            workload: Some(Workload::Gateway("edge".into())),
            lanes: ["blue".into()].into(),
        };
        let identity = Identity { name: name.into(), role: Role::Proxy, bounds };
        (Token { identity, hash: hash(&secret), created_ms: 5, expires_ms, author: "admin".into() }, secret)
    }

    #[test]
    fn a_secret_is_known_until_its_token_is_over() {
        let (ci, ci_secret) = token("ci", 1, None);
        let (brief, brief_secret) = token("brief", 2, Some(1_000));
        let mut tokens = Tokens::of([ci.clone(), brief]);
        let found = |tokens: &Tokens, secret: &str, now_ms| {
            tokens.find(secret).map_or("nobody".to_owned(), |token| match token.is_over(now_ms) {
                true => format!("{}, over", token.identity.name),
                false => token.identity.name.to_string(),
            })
        };
        let forged = secret("ci", [2; SECRET_BYTES]);
        let other = ci_secret.replace(".ci.", ".brief.");
        for (secret, now_ms, expected) in [
            (&*ci_secret, 0, "ci"),
            (&brief_secret, 999, "brief"),
            (&brief_secret, 1_000, "brief, over"),
            (&forged, 0, "nobody"),
            (&other, 0, "nobody"),
            (&ci_secret[1..], 0, "nobody"),
            (&ci_secret[..ci_secret.len() - 1], 0, "nobody"),
            ("evenkeel.ci.", 0, "nobody"),
            ("evenkeel.ci", 0, "nobody"),
            ("", 0, "nobody"),
        ] {
            assert_eq!(found(&tokens, secret, now_ms), expected, "{secret} at {now_ms}");
        }
        let again = token("ci", 3, None).0;
        assert_eq!(tokens.change(&TokenChange::Create(again.clone())), Err(TokenRefusal::Taken("ci".into())));
        assert!(tokens.change(&TokenChange::Replace(again)).is_ok());
        assert_eq!((found(&tokens, &ci_secret, 0), tokens.has(&ci)), ("nobody".to_owned(), false));
        assert!(tokens.change(&TokenChange::Revoke("ci".into())).is_ok());
        assert_eq!(tokens.change(&TokenChange::Revoke("ci".into())), Err(TokenRefusal::Absent("ci".into())));
    }

    #[test]
    fn a_token_is_kept_as_it_was_and_shown_without_its_hash() {
        let (token, secret) = token("ci", 1, Some(90_000));
        assert_eq!(Token::parse(&token.text()).as_ref(), Some(&token));
        let shown = token.shown().to_string();
        assert!(!shown.contains("hash") && !shown.contains(&secret), "{shown}");
        assert_eq!(shown.matches("1970-01-01T00:01:30Z").count(), 1, "{shown}");
    }
}
