//! Answers of the REST API that are no success: what is wrong, all of it, as JSON. Cold.

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use config::Problem;
use serde_json::{Value, json};

use crate::store::{DiskError, Refusal};

/// Why a request was not carried out. Nothing has changed.
#[derive(Debug)]
pub(crate) struct Fault {
    status: StatusCode,
    error: String,
    problems: Vec<Value>,
}

impl Fault {
    pub(crate) fn new(status: StatusCode, error: impl Into<String>) -> Fault {
        Fault { status, error: error.into(), problems: Vec::new() }
    }

    /// A body that cannot be understood.
    pub(crate) fn wrong(problems: &[Problem]) -> Fault {
        let told = problems.iter().map(problem).collect();
        let error = format!("refused: {} problem{}", problems.len(), if problems.len() == 1 { "" } else { "s" });
        Fault { status: StatusCode::UNPROCESSABLE_ENTITY, error, problems: told }
    }

    /// There is no such document.
    pub(crate) fn absent(name: impl std::fmt::Display) -> Fault {
        Fault::new(StatusCode::NOT_FOUND, format!("there is no {name}"))
    }
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
            Refusal::Twice(key) => Fault::new(StatusCode::UNPROCESSABLE_ENTITY, format!("{key} is there twice")),
            Refusal::Busy => Fault::new(StatusCode::TOO_MANY_REQUESTS, "too many changes wait; try again"),
            Refusal::Unavailable(reason) => Fault::new(StatusCode::SERVICE_UNAVAILABLE, reason),
        }
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
        let retry = (self.status == StatusCode::TOO_MANY_REQUESTS).then_some([("retry-after", "1")]);
        (self.status, retry.map(axum::response::AppendHeaders), axum::Json(body)).into_response()
    }
}
