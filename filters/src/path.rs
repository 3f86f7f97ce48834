//! URLRewrite and what it shares with redirects: a new path for a request. Pure, Hot.

use config::snapshot::{PathChange, Rewrite};

use crate::Head;

/// Rewrites path and host of a request; the query stays.
pub fn rewrite(rewrite: &Rewrite, head: &mut Head, prefix_bytes: usize) {
    if let Some(hostname) = &rewrite.hostname {
        head.authority = head.append(hostname.as_bytes());
        head.host = head.authority;
    }
    // `OPTIONS *` asks about the server and has no path to change.
    if let Some(change) = &rewrite.path
        && head.bytes(head.path) != b"*"
    {
        let path = changed(change, head.bytes(head.path), prefix_bytes);
        head.path = head.append(&path);
    }
}

/// The new path. `prefix_bytes` of `path` are what the rule's PathPrefix matched, without a trailing slash.
/// The slash between the new prefix and the rest is there exactly once (Gateway API, ReplacePrefixMatch).
pub fn changed(change: &PathChange, path: &[u8], prefix_bytes: usize) -> Vec<u8> {
    match change {
        PathChange::Full(full) => full.as_bytes().to_vec(),
        PathChange::Prefix(prefix) => {
            let rest = path.get(prefix_bytes..).unwrap_or_default();
            let mut new = prefix.as_bytes().to_vec();
            if new.ends_with(b"/") && rest.starts_with(b"/") {
                new.pop();
            } else if !new.ends_with(b"/") && !rest.is_empty() && !rest.starts_with(b"/") {
                new.push(b'/');
            }
            new.extend_from_slice(rest);
            if new.is_empty() {
                new.push(b'/');
            }
            new
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The table in the documentation of ReplacePrefixMatch, and its neighbours.
    #[test]
    fn the_matched_prefix_is_replaced() {
        let check = |path: &str, prefix: &str, new: &str, expected: &str| {
            let prefix_bytes = prefix.trim_end_matches('/').len();
            let result = changed(&PathChange::Prefix(new.into()), path.as_bytes(), prefix_bytes);
            assert_eq!(String::from_utf8_lossy(&result), expected, "{path} {prefix} -> {new}");
        };
        check("/foo/bar", "/foo", "/xyz", "/xyz/bar");
        check("/foo/bar", "/foo", "/xyz/", "/xyz/bar");
        check("/foo/bar", "/foo/", "/xyz", "/xyz/bar");
        check("/foo/bar", "/foo/", "/xyz/", "/xyz/bar");
        check("/foo", "/foo", "/xyz", "/xyz");
        check("/foo/", "/foo", "/xyz", "/xyz/");
        check("/foo/bar", "/foo", "", "/bar");
        check("/foo/", "/foo", "", "/");
        check("/foo", "/foo", "", "/");
        check("/foo/", "/foo", "/", "/");
        check("/foo", "/foo", "/", "/");
        check("/foo/bar", "/", "/xyz", "/xyz/foo/bar");
    }

    #[test]
    fn an_asterisk_stays() {
        let mut head = Head::default();
        head.path = head.append(b"*");
        let path = Some(PathChange::Prefix("/v2".into()));
        rewrite(&Rewrite { hostname: None, path }, &mut head, 0);
        assert_eq!(head.bytes(head.path), b"*");
    }

    #[test]
    fn the_full_path_is_replaced() {
        assert_eq!(changed(&PathChange::Full("/new".into()), b"/old/path", 4), b"/new");
    }
}
