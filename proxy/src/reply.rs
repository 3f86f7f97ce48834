//! Answers of our own: errors and redirects. Cold.

use std::task::Poll;

use crate::buffer::Output;
use crate::connection::Client;
use crate::error::{Reply, reason_phrase};
use crate::h1::{Framing, Method, RequestMeta};
use crate::log::http_date;
use crate::record::Record;
use crate::request::After;
use crate::worker::ConnectionGuard;

/// Sends an error.
pub(crate) async fn send_error(
    guard: &ConnectionGuard,
    client: &mut Client,
    meta: Option<&RequestMeta>,
    reply: &Reply,
    record: &mut Record,
) -> After {
    let text = Text { status: reply.status, location: None, body: reply.body };
    send(guard, client, meta, text, record).await
}

/// Sends a redirect.
pub(crate) async fn send_redirect(
    guard: &ConnectionGuard,
    client: &mut Client,
    meta: &RequestMeta,
    status: u16,
    location: &str,
    record: &mut Record,
) -> After {
    send(guard, client, Some(meta), Text { status, location: Some(location), body: "" }, record).await
}

struct Text<'a> {
    status: u16,
    location: Option<&'a str>,
    body: &'a str,
}

/// Writes an answer. `meta` is None where no request was understood: then nothing after it can be, either. A request
/// with a body ends the connection too, since the body has not been read.
async fn send(
    guard: &ConnectionGuard,
    client: &mut Client,
    meta: Option<&RequestMeta>,
    text: Text<'_>,
    record: &mut Record,
) -> After {
    let keep_alive = meta.is_some_and(|meta| meta.keep_alive && meta.framing == Framing::None) && !guard.is_ending();
    let mut out = Output::lend();
    write(&mut out.bytes, &text, keep_alive, meta.is_some_and(|meta| meta.method == Method::Head));
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

fn write(out: &mut Vec<u8>, text: &Text<'_>, keep_alive: bool, is_head: bool) {
    let Text { status, location, body } = text;
    out.extend_from_slice(
        format!("HTTP/1.1 {status} {}\r\nDate: {}\r\n", reason_phrase(*status), http_date()).as_bytes(),
    );
    if let Some(location) = location {
        out.extend_from_slice(format!("Location: {location}\r\n").as_bytes());
    }
    if !body.is_empty() {
        out.extend_from_slice(b"Content-Type: text/plain\r\n");
    }
    out.extend_from_slice(format!("Content-Length: {}\r\n", body.len()).as_bytes());
    // Said in both versions' words: HTTP/1.0 keeps a connection only where it is told so.
    out.extend_from_slice(if keep_alive { b"Connection: keep-alive\r\n\r\n" } else { b"Connection: close\r\n\r\n" });
    if !is_head {
        out.extend_from_slice(body.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: Text<'_>, keep_alive: bool, is_head: bool, expected: &str) {
        let mut out = Vec::new();
        write(&mut out, &text, keep_alive, is_head);
        let out = String::from_utf8(out).expect("answers are ASCII").replace("\r\n", "|");
        let (before, after) = out.split_once("Date: ").expect("a date");
        let (_, after) = after.split_once("GMT").expect("a date in GMT");
        assert_eq!(format!("{before}{after}"), expected);
    }

    #[test]
    fn answers_say_their_length_and_what_becomes_of_the_connection() {
        check(
            Text { status: 404, location: None, body: "no\n" },
            true,
            false,
            "HTTP/1.1 404 Not Found||Content-Type: text/plain|Content-Length: 3|Connection: keep-alive||no\n",
        );
        check(
            Text { status: 503, location: None, body: "no\n" },
            false,
            true,
            "HTTP/1.1 503 Service Unavailable||Content-Type: text/plain|Content-Length: 3|Connection: close||",
        );
        check(
            Text { status: 302, location: Some("http://a/"), body: "" },
            true,
            false,
            "HTTP/1.1 302 Found||Location: http://a/|Content-Length: 0|Connection: keep-alive||",
        );
    }
}
