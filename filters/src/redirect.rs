//! RequestRedirect: where the client is sent instead. Pure, Cold.

use config::snapshot::Redirect;

use crate::{Entry, Head, path};

/// The Location of a redirect. Whatever the rule does not name stays as the client asked for it; a port is
/// written only where the scheme does not imply it (Gateway API, HTTPRequestRedirectFilter.port).
pub fn location(redirect: &Redirect, head: &Head, entry: Entry) -> String {
    let scheme = redirect.scheme.as_deref().unwrap_or(entry.scheme);
    let implied = |scheme: &str| if scheme == "https" { 443 } else { 80 };
    let port = match (redirect.port, &redirect.scheme) {
        (Some(port), _) => port,
        (None, Some(scheme)) => implied(scheme),
        (None, None) => entry.port,
    };
    let host = match &redirect.hostname {
        Some(hostname) => hostname.to_string(),
        None => text(head.bytes(head.host)),
    };
    let target = match &redirect.path {
        // `OPTIONS *` has no path: RFC 9112 3.2.4 writes it as an URI without one.
        _ if head.bytes(head.path) == b"*" => String::new(),
        Some(change) => text(&path::changed(change, head.bytes(head.path), entry.prefix_bytes)),
        None => text(head.bytes(head.path)),
    };
    let mut location = format!("{scheme}://{host}");
    if port != implied(scheme) {
        location.push_str(&format!(":{port}"));
    }
    location.push_str(&target);
    if head.has_query {
        location.push('?');
        location.push_str(&text(head.bytes(head.query)));
    }
    location
}

/// Targets are ASCII once parsed.
fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use config::snapshot::PathChange;

    use super::*;

    #[test]
    fn parts_not_named_stay() {
        let base = Redirect { scheme: None, hostname: None, port: None, path: None, status: 302 };
        let check = |redirect: Redirect, expected: &str| {
            let mut head = Head::default();
            head.host = head.append(b"a.example");
            head.path = head.append(b"/foo/bar");
            head.query = head.append(b"q=1");
            head.has_query = true;
            let entry = Entry { scheme: "http", port: 8080, prefix_bytes: 4 };
            assert_eq!(location(&redirect, &head, entry), expected);
        };
        let mut asterisk = Head::default();
        asterisk.host = asterisk.append(b"a.example");
        asterisk.path = asterisk.append(b"*");
        let entry = Entry { scheme: "http", port: 80, prefix_bytes: 0 };
        let moved = Redirect { path: Some(PathChange::Prefix("/new".into())), ..base.clone() };
        assert_eq!(location(&moved, &asterisk, entry), "http://a.example");
        check(base.clone(), "http://a.example:8080/foo/bar?q=1");
        check(Redirect { scheme: Some("https".into()), ..base.clone() }, "https://a.example/foo/bar?q=1");
        check(Redirect { scheme: Some("http".into()), ..base.clone() }, "http://a.example/foo/bar?q=1");
        check(
            Redirect { scheme: Some("https".into()), port: Some(8443), ..base.clone() },
            "https://a.example:8443/foo/bar?q=1",
        );
        check(Redirect { port: Some(80), ..base.clone() }, "http://a.example/foo/bar?q=1");
        check(Redirect { hostname: Some("b.example".into()), ..base.clone() }, "http://b.example:8080/foo/bar?q=1");
        check(
            Redirect { path: Some(PathChange::Prefix("/new".into())), ..base.clone() },
            "http://a.example:8080/new/bar?q=1",
        );
        check(Redirect { path: Some(PathChange::Full("/x".into())), ..base }, "http://a.example:8080/x?q=1");
    }
}
