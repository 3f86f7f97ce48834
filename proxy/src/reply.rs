//! Answers of our own: errors and redirects. Cold.

use std::task::Poll;

use config::snapshot::Filter;
use filters::rules::Refusal;

use crate::buffer::{LentHead, Output};
use crate::connection::Client;
use crate::error::{Reply, reason_phrase};
use crate::h1::{Framing, Method, RequestMeta};
use crate::hop;
use crate::record::Record;
use crate::request::After;
use crate::worker::ConnectionGuard;

/// Sends an error in answer to a request. `hop` is what proxies of the mesh are told beside it.
pub(crate) async fn send_error(
    guard: &ConnectionGuard,
    client: &mut Client,
    meta: &RequestMeta,
    reply: &Reply,
    hop: Option<&'static [u8]>,
    record: &mut Record,
) -> After {
    send(guard, client, Asked::of(meta), Text { hop, ..Text::of(reply.status, reply.body) }, record).await
}

/// Sends an error in answer to what was no request: nothing after it can be one, either.
pub(crate) async fn send_refusal(
    guard: &ConnectionGuard,
    client: &mut Client,
    is_head: bool,
    reply: &Reply,
    record: &mut Record,
) -> After {
    let asked = Asked { is_head, keep_alive: false };
    send(guard, client, asked, Text::of(reply.status, reply.body), record).await
}

/// Sends a status without a body.
pub(crate) async fn send_status(
    guard: &ConnectionGuard,
    client: &mut Client,
    meta: &RequestMeta,
    status: u16,
    record: &mut Record,
) -> After {
    send(guard, client, Asked::of(meta), Text::of(status, ""), record).await
}

/// A redirect, and the filters that see it as an answer.
pub(crate) struct Redirect<'a> {
    pub(crate) status: u16,
    pub(crate) location: String,
    pub(crate) filters: [&'a [Filter]; 2],
}

/// Sends a redirect.
pub(crate) async fn send_redirect(
    guard: &ConnectionGuard,
    client: &mut Client,
    meta: &RequestMeta,
    redirect: Redirect<'_>,
    record: &mut Record,
) -> After {
    let Redirect { status, location, filters } = redirect;
    let text = Text { location: Some(&location), filters, ..Text::of(status, "") };
    send(guard, client, Asked::of(meta), text, record).await
}

/// Sends what a rule answers in place of a service.
pub(crate) async fn send_answer(
    guard: &ConnectionGuard,
    client: &mut Client,
    meta: &RequestMeta,
    refusal: &Refusal<'_>,
    record: &mut Record,
) -> After {
    let reply = refusal.reply;
    let text = Text {
        headers: &reply.headers,
        retry_after: refusal.retry_after_seconds,
        ..Text::of(reply.status, &reply.body)
    };
    send(guard, client, Asked::of(meta), text, record).await
}

struct Text<'a> {
    status: u16,
    location: Option<&'a str>,
    body: &'a str,
    headers: &'a [(Box<str>, Box<str>)],
    retry_after: Option<u32>,
    /// What proxies of the mesh are told beside it.
    hop: Option<&'static [u8]>,
    filters: [&'a [Filter]; 2],
}

impl Text<'_> {
    fn of(status: u16, body: &str) -> Text<'_> {
        Text { status, location: None, body, headers: &[], retry_after: None, hop: None, filters: [&[]; 2] }
    }
}

/// What an answer must know of its request.
struct Asked {
    is_head: bool,
    keep_alive: bool,
}

impl Asked {
    /// A request with a body ends the connection, since the body has not been read.
    fn of(meta: &RequestMeta) -> Asked {
        Asked { is_head: meta.method == Method::Head, keep_alive: meta.keep_alive && meta.framing == Framing::None }
    }
}

/// Writes an answer.
async fn send(
    guard: &ConnectionGuard,
    client: &mut Client,
    asked: Asked,
    mut text: Text<'_>,
    record: &mut Record,
) -> After {
    let keep_alive = asked.keep_alive && !guard.is_ending();
    if guard.is_leaving() {
        text.hop.get_or_insert(hop::LEAVING);
    }
    let mut out = Output::lend();
    let mut date = Vec::new();
    guard.worker.write_date(&mut date);
    write(&mut out.bytes, &text, &date, keep_alive, asked.is_head);
    record.status = text.status;
    record.response_body_bytes = text.body.len() as u64;
    let driver = &guard.worker.driver;
    driver.set_deadline(driver.now() + WRITE_TIMEOUT);
    let written = std::future::poll_fn(|_| match out.poll_write(&client.wire.socket) {
        Poll::Pending if driver.deadline_passed() => Poll::Ready(Err(std::io::ErrorKind::TimedOut.into())),
        other => other,
    })
    .await;
    match written {
        Ok(()) if keep_alive => After::KeepAlive,
        Ok(()) => After::Linger,
        Err(_) => After::Close,
    }
}

/// For an answer that fits into any socket's buffer: who does not take it is gone.
const WRITE_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(5);

fn write(out: &mut Vec<u8>, text: &Text<'_>, date: &[u8], keep_alive: bool, is_head: bool) {
    let Text { status, location, body, headers, retry_after, hop, filters } = text;
    let mut head = LentHead::lend();
    head.add("Date", date);
    if let Some(location) = location {
        head.add("Location", location.as_bytes());
    }
    for (name, value) in headers.iter() {
        head.add(name, value.as_bytes());
    }
    if let Some(seconds) = retry_after
        && head.get("retry-after").is_none()
    {
        head.add("Retry-After", seconds.to_string().as_bytes());
    }
    if !body.is_empty() && !matches!(status, 204 | 304) && head.get("content-type").is_none() {
        head.add("Content-Type", b"text/plain");
    }
    filters.iter().for_each(|filters| filters::on_response(filters, &mut head));
    if let Some(hop) = hop {
        head.add(hop::NAME, hop);
    }
    out.extend_from_slice(format!("HTTP/1.1 {status} {}\r\n", reason_phrase(*status)).as_bytes());
    head.copy_fields(out, |_| true);
    // RFC 9110 8.6: these have no content, and 204 says no length.
    let has_content = !matches!(status, 204 | 304);
    if has_content {
        out.extend_from_slice(format!("Content-Length: {}\r\n", body.len()).as_bytes());
    }
    // Said in both versions' words: HTTP/1.0 keeps a connection only where it is told so.
    out.extend_from_slice(if keep_alive { b"Connection: keep-alive\r\n\r\n" } else { b"Connection: close\r\n\r\n" });
    if !is_head && has_content {
        out.extend_from_slice(body.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: Text<'_>, keep_alive: bool, is_head: bool, expected: &str) {
        let mut out = Vec::new();
        write(&mut out, &text, b"now", keep_alive, is_head);
        assert_eq!(String::from_utf8(out).expect("answers are ASCII").replace("\r\n", "|"), expected);
    }

    #[test]
    fn answers_say_their_length_and_what_becomes_of_the_connection() {
        check(
            Text::of(404, "no\n"),
            true,
            false,
            "HTTP/1.1 404 Not Found|Date: now|Content-Type: text/plain|Content-Length: 3|Connection: keep-alive||no\n",
        );
        check(
            Text::of(503, "no\n"),
            false,
            true,
            "HTTP/1.1 503 Service Unavailable|Date: now|Content-Type: text/plain|Content-Length: 3|Connection: close||",
        );
        check(
            Text { location: Some("http://a/"), ..Text::of(302, "") },
            true,
            false,
            "HTTP/1.1 302 Found|Date: now|Location: http://a/|Content-Length: 0|Connection: keep-alive||",
        );
    }
}
