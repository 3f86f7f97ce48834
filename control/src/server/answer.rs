//! Answers of the REST API that are no success: what is wrong, all of it, as JSON. Cold.

use std::time::Duration;

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use config::Problem;
use config::document::Key;
use serde_json::{Value, json};

use crate::access::Denied;
use crate::store::{DiskError, Frozen, Refusal, TokenRefusal};

/// Documents that one answer names with their files.
const FILES_TOLD_MAX: usize = 10;

/// Why a request was not carried out. Nothing has changed.
#[derive(Debug)]
pub(crate) struct Fault {
    status: StatusCode,
    error: String,
    problems: Vec<Value>,
    /// When it may be tried again. None: at any time.
    retry_after: Option<Duration>,
}

impl Fault {
    pub(crate) fn new(status: StatusCode, error: impl Into<String>) -> Fault {
        let retry_after = (status == StatusCode::TOO_MANY_REQUESTS).then_some(Duration::from_secs(1));
        Fault { status, error: error.into(), problems: Vec::new(), retry_after }
    }

    /// What it would be, for who only asks.
    pub(crate) fn told(&self) -> Value {
        json!({ "status": self.status.as_u16(), "error": self.error })
    }

    /// When it may be tried again.
    pub(crate) fn retry_after(self, wait: Duration) -> Fault {
        Fault { retry_after: Some(wait), ..self }
    }

    /// All that is wrong, each with its field.
    pub(crate) fn fields(problems: &[(&str, String)]) -> Fault {
        let told = problems.iter().map(|(field, reason)| {
            json!({ "where": "body", "field": field, "reason": reason, "text": format!("{field}: {reason}") })
        });
        let error = format!("refused: {} problem{}", problems.len(), if problems.len() == 1 { "" } else { "s" });
        Fault { problems: told.collect(), ..Fault::new(StatusCode::UNPROCESSABLE_ENTITY, error) }
    }

    /// A body that cannot be understood.
    pub(crate) fn wrong(problems: &[Problem]) -> Fault {
        let told = problems.iter().map(problem).collect();
        let error = format!("refused: {} problem{}", problems.len(), if problems.len() == 1 { "" } else { "s" });
        Fault { problems: told, ..Fault::new(StatusCode::UNPROCESSABLE_ENTITY, error) }
    }

    /// There is no such revision so far.
    pub(crate) fn not_so_far(revision: u64, last: u64) -> Fault {
        Fault::new(StatusCode::NOT_FOUND, format!("there is no revision {revision} so far; the last one is {last}"))
    }

    /// There is no such document.
    pub(crate) fn absent(name: impl std::fmt::Display) -> Fault {
        Fault::new(StatusCode::NOT_FOUND, format!("there is no {name}"))
    }
}

/// A body of JSON, whatever its content type says.
pub(crate) fn from_json<T: serde::de::DeserializeOwned>(body: &[u8]) -> Result<T, Fault> {
    serde_json::from_slice(body).map_err(|error| {
        let (line, reason) = (error.line(), error.to_string());
        // Where it is is said once.
        let reason = reason.split(" at line ").next().unwrap_or_default();
        let problem = json!({ "where": "body", "line": line, "field": "", "reason": reason, "hint": null,
            "text": format!("body:{line}: {reason}") });
        let fault = Fault::new(StatusCode::UNPROCESSABLE_ENTITY, format!("refused: body:{line}: {reason}"));
        Fault { problems: vec![problem], ..fault }
    })
}

/// One problem; `where` is a document or a place in a body.
pub(crate) fn problem(problem: &Problem) -> Value {
    json!({
        "where": &*problem.file,
        "line": problem.line,
        "field": problem.field,
        "reason": problem.reason,
        "hint": problem.hint,
        "text": problem.to_string(),
    })
}

impl From<Refusal> for Fault {
    fn from(refusal: Refusal) -> Fault {
        match refusal {
            Refusal::Wrong(problems) => Fault::wrong(&problems),
            Refusal::Conflict { key, found } => {
                let found =
                    found.map_or_else(|| "it is not there".to_owned(), |found| format!("it is at revision {found}"));
                Fault::new(StatusCode::CONFLICT, format!("{key} is not as expected: {found}"))
            }
            Refusal::Frozen(frozen) => Fault::new(StatusCode::LOCKED, frozen_text(&frozen)),
            Refusal::OnTrial { revision, author } => {
                let reason = format!(
                    "revision {revision} of {author} is on trial: promote it (evenkeel canary promote, or POST \
                     /api/v1/canary/promote) or end it (evenkeel canary end, or POST /api/v1/canary/end), then try again"
                );
                Fault::new(StatusCode::CONFLICT, reason)
            }
            Refusal::NotOnTrial(revision) => {
                Fault::new(StatusCode::NOT_FOUND, format!("revision {revision} is not on trial any more"))
            }
            Refusal::OfFiles(documents) => Fault::new(StatusCode::CONFLICT, of_files_text(&documents)),
            Refusal::Twice(key) => Fault::new(StatusCode::UNPROCESSABLE_ENTITY, format!("{key} is there twice")),
            Refusal::Busy => Fault::new(StatusCode::TOO_MANY_REQUESTS, "too many changes wait; try again"),
            Refusal::Unavailable(reason) => Fault::new(StatusCode::SERVICE_UNAVAILABLE, reason),
        }
    }
}

impl From<Denied> for Fault {
    fn from(Denied(reason): Denied) -> Fault {
        Fault::new(StatusCode::FORBIDDEN, reason)
    }
}

impl From<TokenRefusal> for Fault {
    fn from(refusal: TokenRefusal) -> Fault {
        match refusal {
            TokenRefusal::Taken(name) => Fault::new(StatusCode::CONFLICT, format!("there is a token {name} already")),
            TokenRefusal::Absent(name) => Fault::absent(format!("token {name}")),
            TokenRefusal::TooMany => Fault::new(StatusCode::UNPROCESSABLE_ENTITY, "there are too many tokens"),
            TokenRefusal::Unavailable(reason) => Fault::new(StatusCode::SERVICE_UNAVAILABLE, reason),
        }
    }
}

/// What is frozen, the first of it; by what, until when, and who may change it all the same.
fn frozen_text(frozen: &[Frozen]) -> String {
    let Some(first) = frozen.first() else { return "frozen".into() };
    let until = jiff::Timestamp::from_millisecond(first.until_ms).map(|time| time.to_string()).unwrap_or_default();
    let more = match frozen.len() - 1 {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let (key, by, roles) = (&first.key, &first.by, first.roles.join(", "));
    format!(
        "{key}{more} must not be changed before {until}: ChangeFreeze {by}; with breakGlass=true and a message these \
         roles may: {roles}"
    )
}

/// What is changed in files only, the first of it.
fn of_files_text(documents: &[(Key, String)]) -> String {
    let shown = documents.iter().take(FILES_TOLD_MAX).map(|(key, place)| format!("{key} is from {place}"));
    let shown = shown.collect::<Vec<_>>().join(", ");
    match documents.len().saturating_sub(FILES_TOLD_MAX) {
        0 if documents.len() == 1 => format!("{shown}: change it there"),
        0 => format!("{shown}: change them there"),
        more => format!("{shown} and {more} more: change them there"),
    }
}

impl From<DiskError> for Fault {
    fn from(error: DiskError) -> Fault {
        Fault::new(StatusCode::SERVICE_UNAVAILABLE, error.to_string())
    }
}

impl IntoResponse for Fault {
    fn into_response(self) -> Response {
        let body = json!({ "error": self.error, "problems": self.problems });
        // In whole seconds (RFC 9110 10.2.3), and never too early.
        let seconds = |wait: Duration| wait.as_millis().div_ceil(1_000).max(1).to_string();
        let retry = self.retry_after.map(|wait| [("retry-after", seconds(wait))]);
        (self.status, retry.map(axum::response::AppendHeaders), axum::Json(body)).into_response()
    }
}
