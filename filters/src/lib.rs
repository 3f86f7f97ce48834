//! What may be done to a request and its answer on their way: the parsed [`Head`] both are seen through,
//! and the rules that read and change it. Rules are synchronous, never stop in mid-body and know neither
//! sockets nor clocks.
#![forbid(unsafe_code)]

pub mod alike;
pub mod head;
pub mod headers;
pub mod lane;
pub mod path;
pub mod redirect;
pub mod rules;

pub use head::Head;

use config::snapshot::Filter;

/// What a rule wants done with a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It goes on.
    Continue,
    /// It is answered here with a redirect: status and Location.
    Redirect(u16, String),
}

/// Where and how a request came in, as far as rules need to know it.
#[derive(Debug, Clone, Copy)]
pub struct Entry {
    /// `http` or `https`.
    pub scheme: &'static str,
    /// The listener's port.
    pub port: u16,
    /// Bytes of the path that the rule's PathPrefix took (`config::route::Found`).
    pub prefix_bytes: usize,
}

/// Runs a rule's filters over a request, in the order they are written.
pub fn on_request(filters: &[Filter], head: &mut Head, entry: Entry) -> Verdict {
    for filter in filters {
        match filter {
            Filter::RequestHeaders(changes) => headers::apply(changes, head),
            Filter::ResponseHeaders(_) => {}
            Filter::Redirect(redirect) => {
                return Verdict::Redirect(redirect.status, redirect::location(redirect, head, entry));
            }
            Filter::Rewrite(rewrite) => path::rewrite(rewrite, head, entry.prefix_bytes),
        }
    }
    Verdict::Continue
}

/// Runs a rule's filters over an answer, in the order they are written.
pub fn on_response(filters: &[Filter], head: &mut Head) {
    for filter in filters {
        if let Filter::ResponseHeaders(changes) = filter {
            headers::apply(changes, head);
        }
    }
}
