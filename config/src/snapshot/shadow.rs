//! What policies in shadow would have to say of connections, requests and attempts, beside those that act. What a policy
//! does not write is not tried. Who counts is the proxy's business. Pure.

use std::sync::Arc;
use std::time::Duration;

use crate::snapshot::{Bounds, Outlier, Retries};

/// TrafficPolicy in shadow, on one Service.
#[derive(Debug, Clone, PartialEq)]
pub struct TrafficShadow {
    /// `TrafficPolicy default/next on Service default/web`: what log, metrics and `explain` call it.
    pub name: Arc<str>,
    /// From the connect to the established connection.
    pub connect_timeout: Option<Duration>,
    /// From the end of the request to the first byte of the answer.
    pub first_byte_timeout: Option<Duration>,
    /// An unused pooled connection would be closed after this.
    pub idle_timeout: Option<Duration>,
    /// Who would be left alone.
    pub outlier: Option<Outlier>,
    /// How much there would be at the same time.
    pub bounds: Option<Bounds>,
    /// What would be tried again.
    pub retries: Option<Retries>,
}

/// ListenerPolicy in shadow, on all of its targets together.
#[derive(Debug, Clone, PartialEq)]
pub struct ListenerShadow {
    /// `ListenerPolicy default/next`: what log, metrics and `explain` call it.
    pub name: Arc<str>,
    /// Connections open at the same time, over all workers.
    pub connections_max: Option<u32>,
    /// From the first byte of a request (or the accept) to the end of its head.
    pub head_timeout: Option<Duration>,
    /// A keep-alive connection without a request.
    pub idle_timeout: Option<Duration>,
    /// The longest pause between two pieces of a body, in either direction.
    pub body_progress_timeout: Option<Duration>,
    /// The largest request body.
    pub request_body_bytes_max: Option<u64>,
    /// The largest head, start line included.
    pub head_bytes_max: Option<u32>,
    /// The most header fields in a head.
    pub header_count_max: Option<u16>,
    /// `%2F` and `%5C` in a path would be answered 400.
    pub rejects_encoded_slash: bool,
}
