//! Who asks, whether they may, and how much of control they may take: the same for both ports. What it decides with is
//! `access`, `limits` and the store's tokens. Cold.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::http::HeaderMap;
use axum::http::header::{AUTHORIZATION, HOST, ORIGIN};

use crate::access::{Action, Author, Denied, Identity, may};
use crate::server::limits::{Pace, Paces, Place, Places, source};
use crate::store::{Attempt, Store, Token};

/// Attempts that are written down, so often; the others are counted.
const NOTED: Pace = Pace { per_second: 5, burst: 50 };
/// Secrets that are nobody's, from one source. Who has none is not held up by whoever tries them.
const WRONG: Pace = Pace { per_second: 10, burst: 50 };
/// Streams of proxies that share a token: ten thousand may come back at once.
const STREAMS: Pace = Pace { per_second: 2_000, burst: 10_000 };
/// ... and be there at the same time.
const STREAMS_MAX: usize = 50_000;
/// Requests at the same time, in all and of one client.
const REQUESTS_MAX: usize = 1_024;
const REQUESTS_EACH_MAX: usize = 128;
/// Watches.
const WATCHES_MAX: usize = 1_024;
const WATCHES_EACH_MAX: usize = 64;
/// Bytes of bodies in memory.
const BODIES_BYTES_MAX: usize = 256 << 20;
const BODIES_BYTES_EACH_MAX: usize = 128 << 20;
/// An expiry that is further away is looked at again then: clocks are set, and stand still while a machine sleeps.
const NAP_MAX: Duration = Duration::from_secs(60);

/// What a page of a browser is told, and whoever looks like one.
pub(crate) const BROWSER: &str =
    "pages of other sites may not ask: call it localhost or by its address, or send a token";

/// Whom limits are counted for: a token, or an address.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Client {
    Token(Arc<str>),
    Source(IpAddr),
}

/// Somebody who is known, and where they are.
#[derive(Clone)]
pub(crate) struct Caller {
    pub(crate) identity: Identity,
    pub(crate) from: IpAddr,
    /// None: a local one, who needs none.
    token: Option<Arc<Token>>,
    guard: Arc<Guard>,
}

/// Why somebody is sent away before it matters what they want.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Stranger {
    /// They have no token.
    Unknown,
    /// Theirs is nobody's.
    Wrong,
    /// It was somebody's until then, in words.
    Over(String),
    /// They tried too often.
    TooOften(Duration),
    /// A page of a browser on this machine asks, and nobody knows whose.
    Browser,
}

impl Stranger {
    /// Why, for whoever is sent away.
    pub(crate) fn reason(&self) -> &str {
        match self {
            Stranger::Unknown => "who is it? send `authorization: Bearer TOKEN`",
            Stranger::Wrong => "this token is none, or no longer",
            Stranger::Over(reason) => reason,
            Stranger::Browser => BROWSER,
            Stranger::TooOften(_) => "too many wrong tokens",
        }
    }
}

/// What both ports share.
pub(crate) struct Guard {
    store: Store,
    /// Whoever reaches us is one of us.
    is_open: bool,
    wrong: Paces<IpAddr>,
    noted: [Notes; 2],
    pub(crate) requests: Paces<Client>,
    pub(crate) streams: Paces<Client>,
    pub(crate) stream_places: Arc<Places<Client>>,
    pub(crate) request_places: Arc<Places<Client>>,
    pub(crate) watch_places: Arc<Places<Client>>,
    pub(crate) body_bytes: Arc<Places<Client>>,
}

/// Attempts of one sort.
struct Notes {
    due: Mutex<Instant>,
    passed_over: AtomicU64,
}

impl Guard {
    pub(crate) fn new(store: Store, is_open: bool, requests: Pace) -> Arc<Guard> {
        let notes = || Notes { due: Mutex::new(Instant::now()), passed_over: AtomicU64::new(0) };
        Arc::new(Guard {
            store,
            is_open,
            wrong: Paces::new(WRONG),
            noted: [notes(), notes()],
            requests: Paces::new(requests),
            streams: Paces::new(STREAMS),
            stream_places: Places::new(STREAMS_MAX, STREAMS_MAX),
            request_places: Places::new(REQUESTS_MAX, REQUESTS_EACH_MAX),
            watch_places: Places::new(WATCHES_MAX, WATCHES_EACH_MAX),
            body_bytes: Places::new(BODIES_BYTES_MAX, BODIES_BYTES_EACH_MAX),
        })
    }

    /// Who that is.
    pub(crate) fn identify(
        self: &Arc<Self>,
        headers: &HeaderMap,
        from: SocketAddr,
        action: &str,
    ) -> Result<Caller, Stranger> {
        let from = from.ip().to_canonical();
        let presented = headers.get(AUTHORIZATION).map(|value| value.to_str().unwrap_or_default());
        let known = |identity: Identity, token| Caller { identity, from, token, guard: self.clone() };
        let Some(presented) = presented else {
            if !self.is_open {
                return Err(Stranger::Unknown);
            }
            if is_of_a_page(headers) {
                return Err(Stranger::Browser);
            }
            return Ok(known(Identity::local(), None));
        };
        let secret = presented.split_once(' ').filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
        let now_ms = jiff::Timestamp::now().as_millisecond();
        let tokens = self.store.tokens();
        let token = secret.and_then(|(_, secret)| tokens.borrow().find(secret.trim()).cloned());
        if let Some(token) = token.as_ref().filter(|token| !token.is_over(now_ms)) {
            return Ok(known(token.identity.clone(), Some(token.clone())));
        }
        self.wrong.admit(source(from), Instant::now()).map_err(Stranger::TooOften)?;
        let stranger = token.map_or(Stranger::Wrong, |token| Stranger::Over(over(&token)));
        let author = Author { name: "".into(), role: None, from: Some(from) };
        self.note(0, author, action, stranger.reason());
        Err(stranger)
    }

    /// Writes down what was refused, or counts it where there is too much of that.
    fn note(&self, sort: usize, author: Author, action: &str, reason: &str) {
        let notes = &self.noted[sort];
        let mut due = notes.due.lock().unwrap_or_else(PoisonError::into_inner);
        match NOTED.admit(*due, Instant::now()) {
            Ok(next) => {
                *due = next;
                let count = 1 + notes.passed_over.swap(0, Relaxed);
                let action = action.chars().take(512).collect();
                self.store.note(Attempt { author, action, reason: reason.into(), count });
            }
            Err(_) => drop(notes.passed_over.fetch_add(1, Relaxed)),
        }
    }
}

/// Whoever has the secret may know what became of its token.
fn over(token: &Token) -> String {
    let ended = token.expires_ms.and_then(|expires_ms| jiff::Timestamp::from_millisecond(expires_ms).ok());
    let since = ended.map_or_else(String::new, |ended| format!(" since {ended}"));
    format!("token {} is over{since}: make another with evenkeel token create", token.identity.name)
}

/// A page of another site can send requests of some kinds to any address of this machine (Fetch, 3.2), and has a name that
/// may mean this machine (DNS rebinding). Its browser tells of the one, and its Host of the other: names that others can
/// register have a dot.
fn is_of_a_page(headers: &HeaderMap) -> bool {
    let host = headers.get(HOST).map(|host| host.to_str().unwrap_or("."));
    let is_ours = |host: &str| {
        let name = host.rsplit_once(':').filter(|_| !host.ends_with(']')).map_or(host, |(name, _)| name);
        let address = name.trim_start_matches('[').trim_end_matches(']');
        !name.contains('.') || address.parse::<IpAddr>().is_ok()
    };
    headers.contains_key(ORIGIN) || host.is_some_and(|host| !is_ours(host))
}

impl Caller {
    /// Whether they may do that. A refusal is in the audit; `what` says there what they tried.
    pub(crate) fn may(&self, action: &Action<'_>, what: &str) -> Result<(), Denied> {
        may(&self.identity, action).inspect_err(|Denied(reason)| self.guard.note(1, self.author(), what, reason))
    }

    /// Who is behind what they do.
    pub(crate) fn author(&self) -> Author {
        let Identity { name, role, .. } = &self.identity;
        Author { name: name.clone(), role: Some(*role), from: Some(self.from) }
    }

    /// Whom their limits are counted for.
    pub(crate) fn client(&self) -> Client {
        match &self.token {
            Some(token) => Client::Token(token.identity.name.clone()),
            None => Client::Source(source(self.from)),
        }
    }

    /// Comes when they are no longer who they were: their token is revoked, or over.
    pub(crate) fn ended(&self) -> impl Future<Output = ()> + Send + use<> {
        let watched = self.token.clone().map(|token| (token, self.guard.store.tokens()));
        async move {
            let Some((token, mut tokens)) = watched else { return std::future::pending().await };
            loop {
                let now_ms = jiff::Timestamp::now().as_millisecond();
                if !tokens.borrow_and_update().has(&token) || token.is_over(now_ms) {
                    return;
                }
                let left_ms = token.expires_ms.map_or(u64::MAX, |expires_ms| (expires_ms - now_ms).unsigned_abs());
                let nap = Duration::from_millis(left_ms).min(NAP_MAX);
                tokio::select! {
                    changed = tokens.changed() => if changed.is_err() { return },
                    () = tokio::time::sleep(nap) => {}
                }
            }
        }
    }

    /// Opens a proxy's stream, if there are not too many.
    pub(crate) fn enter_stream(&self) -> Result<Place<Client>, &'static str> {
        let guard = &self.guard;
        guard.streams.admit(self.client(), Instant::now()).map_err(|_| "too many streams begin; try again")?;
        guard.stream_places.take(&self.client(), 1).ok_or("too many streams are open")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_in_a_browser_is_told_from_a_neighbour() {
        for (host, origin, expected) in [
            ("127.0.0.1:15012", None, false),
            ("localhost:15012", None, false),
            ("[::1]:15012", None, false),
            ("[::1]", None, false),
            ("control", None, false),
            ("rebound.example:15012", None, true),
            ("rebound.example", None, true),
            ("127.0.0.1.example", None, true),
            ("127.0.0.1:15012", Some("https://page.example"), true),
            ("127.0.0.1:15012", Some("null"), true),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(HOST, host.parse().expect("a value"));
            if let Some(origin) = origin {
                headers.insert(ORIGIN, origin.parse().expect("a value"));
            }
            assert_eq!(is_of_a_page(&headers), expected, "{host} {origin:?}");
        }
    }
}
