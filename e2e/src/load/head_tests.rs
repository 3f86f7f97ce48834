//! Rows of heads and what each end says to them. Pure.

use super::*;

const GET: &str = "GET / HTTP/1.1\r\nhost: h\r\n";
const MARKS: &str = "x-lane: blue\r\nX-Forwarded-For: 127.0.0.1\r\n";

fn verdict(side: Side, text: &str) -> String {
    match Judge::new(side).judge(text.as_bytes()) {
        Ok(Some(head)) => format!(
            "{:?}{}{}",
            head.framing,
            if head.close { " close" } else { "" },
            if head.echo { " echo" } else { "" }
        ),
        Ok(None) => "more".into(),
        Err(fault) => fault.split(" in \"").next().unwrap_or_default().to_owned(),
    }
}

#[test]
fn the_backend_judges_what_the_proxy_made_of_a_request() {
    let check = |text: String, expected: &str| assert_eq!(verdict(Side::Backend, &text), expected, "{text:?}");
    check(format!("{GET}{MARKS}\r\n"), "Length(0)");
    check(format!("{GET}{MARKS}"), "more");
    check("GET / HT".into(), "more");
    check(format!("{GET}{MARKS}Connection: Close\r\n\r\n"), "Length(0) close");
    check(format!("GET / HTTP/1.0\r\n{MARKS}\r\n"), "Length(0) close");
    check(format!("POST / HTTP/1.1\r\n{MARKS}content-length: 16384\r\n\r\nbody"), "Length(16384) echo");
    check(format!("POST / HTTP/1.1\r\n{MARKS}Transfer-Encoding: chunked\r\n\r\n"), "Chunked echo");
    check(format!("PUT / HTTP/1.1\r\n{MARKS}\r\n"), "neither GET nor POST");
    check(format!("{GET}x-forwarded-for: ::1\r\n\r\n"), "x-lane is missing");
    check(format!("{GET}x-lane: blue\r\n\r\n"), "x-forwarded-for is missing");
    check(format!("{GET}{MARKS}X-Lane: green\r\n\r\n"), "x-lane is not blue");
    check(format!("{GET}{MARKS}X-Internal: drop-me\r\n\r\n"), "x-internal came through");
    check(format!("{GET}{MARKS}Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n"), TRANSFER);
    check(format!("{GET}{MARKS}Content-Length: 1\r\nContent-Length: 1\r\n\r\n"), "two framings");
    check(format!("{GET}{MARKS}Content-Length: x\r\n\r\n"), "a length that is no number");
    check(format!("{GET}{MARKS}\n"), "a line that ends without CR");
}

const TRANSFER: &str = "a transfer encoding that is not chunked alone";

#[test]
fn the_client_judges_what_the_proxy_made_of_an_answer() {
    let check = |text: &str, expected: &str| assert_eq!(verdict(Side::Client, text), expected, "{text:?}");
    check("HTTP/1.1 200 OK\r\nContent-Length: 1024\r\nx-proxy: lab\r\n\r\n", "Length(1024)");
    check("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 3\r\nX-Proxy:lab\r\n\r\n", "Length(3) close");
    check("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\nx-proxy: lab\r\n\r\n", "Chunked");
    check("HTTP/1.1 200 OK\r\nx-proxy: lab\r\n\r\n", "an answer without a length");
    check("HTTP/1.1 200 OK\r\nContent-Length: 1024\r\n\r\n", "x-proxy is missing");
    check("HTTP/1.1 200 OK\r\nx-proxy: other\r\n\r\n", "x-proxy is not lab");
    check("HTTP/1.1 503 Service Unavailable\r\n\r\n", "status is not 200");
}

#[test]
fn a_known_head_is_recognised_and_a_changed_one_judged_anew() {
    let mut judge = Judge::new(Side::Client);
    let good = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nx-proxy: lab\r\n\r\nabc";
    let first = judge.judge(good).unwrap();
    assert_eq!(judge.judge(good).unwrap(), first);
    assert_eq!(first.unwrap().length, good.len() - 3);
    assert_eq!(judge.judge(&good[..20]).unwrap(), None);
    assert!(judge.judge(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nx-proxy: no!\r\n\r\nabc").is_err());
}
