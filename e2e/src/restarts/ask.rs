//! One request and its answer, with as much patience as it needs; and waiting for what control tells. Cold.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use crate::{Because, Failure, Outcome};

/// Between two questions.
const PAUSE: Duration = Duration::from_millis(5);
const ANSWER_BYTES_MAX: u64 = 64 << 20;

/// Status and body. `start`: method and path; `fields`: lines of the head.
pub(super) fn ask(
    address: SocketAddr,
    start: &str,
    fields: &str,
    body: &str,
    patience: Duration,
) -> Outcome<(u16, String)> {
    let mut stream = TcpStream::connect_timeout(&address, patience).because(|| format!("{start} at {address}"))?;
    stream.set_read_timeout(Some(patience))?;
    let length = body.len();
    let head =
        format!("{start} HTTP/1.1\r\nHost: e2e\r\nConnection: close\r\n{fields}Content-Length: {length}\r\n\r\n");
    stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body.as_bytes())).because(|| start.to_owned())?;
    let mut answer = Vec::new();
    stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer).because(|| format!("{start} at {address}"))?;
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(|| Failure(format!("{start}: no answer")))?;
    let status = head.split(' ').nth(1).and_then(|word| word.parse().ok()).unwrap_or_default();
    Ok((status, body.to_owned()))
}

/// Asks until there is an answer.
pub(super) fn wait_for<T>(what: &str, patience: Duration, mut look: impl FnMut() -> Outcome<Option<T>>) -> Outcome<T> {
    let begun = Instant::now();
    loop {
        if let Some(found) = look()? {
            return Ok(found);
        }
        if begun.elapsed() > patience {
            return Err(Failure(format!("not within {patience:?}: {what}")));
        }
        std::thread::sleep(PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kit::Backend;

    #[test]
    fn an_answer_is_read_to_its_end() {
        let backend = Backend::start(|served| {
            served.request();
            served.peer.send("HTTP/1.1 503 No\r\nContent-Length: 4\r\n\r\n");
            served.peer.send("{no}");
        });
        let answer = ask(backend.address(), "GET /drain", "x: y\r\n", "abc", Duration::from_secs(5)).unwrap();
        assert_eq!(answer, (503, "{no}".into()));
        let request = backend.only_request();
        assert_eq!((request.get("x"), request.text()), (Some("y"), "abc".into()));
    }

    #[test]
    fn waiting_ends() {
        let mut left = 3;
        let found = wait_for("three", Duration::from_secs(5), || {
            left -= 1;
            Ok((left == 0).then_some("there"))
        });
        assert_eq!(found.unwrap(), "there");
        let failure = wait_for("never", Duration::ZERO, || Ok(None::<()>)).unwrap_err();
        assert_eq!(failure.0, "not within 0ns: never");
    }
}
