//! The normal form of a path, so that route, rule and upstream see the same bytes: unreserved characters
//! decoded, backslashes turned, double slashes folded, dot segments resolved, in that order and once
//! (RFC 3986 6.2.2, RFC 9110 4.2.3; backslashes and double slashes are ours). Queries stay as they are. Pure, Hot.
//!
//! Folding comes before the dots, as in most servers that fold: `/a//../b` is `/b`.

use config::snapshot::EncodedSlash;

use super::Refusal;
use super::bytes::{PLAIN, UNRESERVED, hex, is, run_end};

/// Whether normalising would change nothing, seen without writing anything. Paths with escapes are never
/// waved through.
#[inline]
pub(super) fn is_normal(path: &[u8]) -> bool {
    let mut at = 0;
    while path.get(at) == Some(&b'/') {
        if matches!(path.get(at + 1), Some(b'/' | b'.')) {
            return false;
        }
        at = run_end(PLAIN, path, at + 1);
    }
    at == path.len()
}

/// Appends the normal form of `text[path]`, which starts with `/`, to `text`.
pub(super) fn normalise(text: &mut Vec<u8>, path: std::ops::Range<usize>, slash: EncodedSlash) -> Result<(), Refusal> {
    let root = text.len();
    text.push(b'/');
    let mut segment = text.len();
    let mut at = path.start + 1;
    while at < path.end {
        let mut byte = text[at];
        at += 1;
        if byte == b'%' {
            // Escapes must not reach over the path's end, behind which other bytes of the head stand.
            let digits = text[at..path.end].first_chunk::<2>();
            let Some((high, low)) = digits.and_then(|[high, low]| Some((hex(*high)?, hex(*low)?))) else {
                return Err(Refusal::Escape);
            };
            at += 2;
            let decoded = high << 4 | low;
            match (decoded, slash) {
                (0, _) => return Err(Refusal::EncodedNul),
                (b'/' | b'\\', EncodedSlash::Reject) => return Err(Refusal::EncodedSlash),
                (b'/' | b'\\', EncodedSlash::Decode) => byte = decoded,
                _ if is(UNRESERVED, decoded) => byte = decoded,
                _ => {
                    // RFC 3986 6.2.2.1: digits in upper case.
                    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
                    text.extend_from_slice(&[b'%', DIGITS[usize::from(high)], DIGITS[usize::from(low)]]);
                    continue;
                }
            }
        }
        if byte != b'/' && byte != b'\\' {
            text.push(byte);
            continue;
        }
        if !resolve_dots(text, root, segment) && text.len() > segment {
            text.push(b'/');
        }
        segment = text.len();
    }
    resolve_dots(text, root, segment);
    Ok(())
}

/// Removes a last segment of `.` or `..`, with the one before it for `..` but never the root (RFC 3986 5.2.4).
fn resolve_dots(text: &mut Vec<u8>, root: usize, segment: usize) -> bool {
    match &text[segment..] {
        b"." => text.truncate(segment),
        b".." => {
            let above = text[root..segment - 1].iter().rposition(|&byte| byte == b'/');
            text.truncate(root + above.map_or(1, |slash| slash + 1));
        }
        _ => return false,
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn normal(path: &str, slash: EncodedSlash) -> Result<String, Refusal> {
        // Bytes around it that must not be taken for the path's.
        let mut text = format!("GET {path}41 HTTP").into_bytes();
        let range = 4..4 + path.len();
        let start = text.len();
        normalise(&mut text, range, slash)?;
        Ok(String::from_utf8_lossy(&text[start..]).into_owned())
    }

    fn check(path: &str, expected: &str) {
        assert_eq!(normal(path, EncodedSlash::Keep).as_deref(), Ok(expected), "{path}");
    }

    #[test]
    fn normal_forms() {
        check("/", "/");
        check("/a/b/", "/a/b/");
        check("/a/./b", "/a/b");
        check("/a/../b", "/b");
        check("/a/b/..", "/a/");
        check("/a/b/.", "/a/b/");
        check("/..", "/");
        check("/../../a", "/a");
        check("/a/../../../b/c", "/b/c");
        check("/.a/..b/...", "/.a/..b/...");
        check("/%2e%2E/a", "/a");
        check("/a/%2e./b", "/b");
        check("/a/.%2e", "/");
        check("//a///b", "/a/b");
        check("/a//../b", "/b");
        check("/a\\b\\..\\c", "/a/c");
        check("/\\a", "/a");
        check("/%41%7e%5F%2D", "/A~_-");
        check("/a%2fb%5cc", "/a%2Fb%5Cc");
        check("/a%2f..%2fb", "/a%2F..%2Fb");
        check("/%e2%82%ac%20", "/%E2%82%AC%20");
        check("/%252e%252e/a", "/%252e%252e/a");
        check("/%25%32%65", "/%252e");
        check("/a;x=1/..;/b", "/a;x=1/..;/b");
        check("/a%0d%0ab", "/a%0D%0Ab");
    }

    #[test]
    fn slashes_in_escapes_are_kept_decoded_or_rejected() {
        for (path, kept, decoded) in
            [("/a%2Fb", "/a%2Fb", "/a/b"), ("/a%5c..%2fb", "/a%5C..%2Fb", "/b"), ("/%2F%2f", "/%2F%2F", "/")]
        {
            assert_eq!(normal(path, EncodedSlash::Keep).as_deref(), Ok(kept));
            assert_eq!(normal(path, EncodedSlash::Decode).as_deref(), Ok(decoded));
            assert_eq!(normal(path, EncodedSlash::Reject), Err(Refusal::EncodedSlash));
        }
        assert_eq!(normal("/a%252Fb", EncodedSlash::Reject).as_deref(), Ok("/a%252Fb"));
    }

    #[test]
    fn bad_escapes_are_refused() {
        for path in ["/%", "/a%4", "/%zz", "/%+1", "/%4g", "/% 1"] {
            assert_eq!(normal(path, EncodedSlash::Keep), Err(Refusal::Escape), "{path}");
        }
        assert_eq!(normal("/a%00b", EncodedSlash::Keep), Err(Refusal::EncodedNul));
    }

    proptest! {
        #[test]
        fn the_normal_form_is_normal_and_stays_below_the_root(tail in "([a/.\\\\%2eEfF5cC;~ ]|%2e|%2F|%41|/\\.\\./){0,24}") {
            let path = format!("/{tail}").replace(' ', "");
            for slash in [EncodedSlash::Keep, EncodedSlash::Decode] {
                let Ok(once) = normal(&path, slash) else { continue };
                prop_assert_eq!(normal(&once, slash), Ok(once.clone()));
                prop_assert!(once.starts_with('/'));
                prop_assert!(!once.contains("//") && !once.contains('\\'));
                prop_assert!(!once.split('/').any(|segment| segment == "." || segment == ".."));
                if is_normal(path.as_bytes()) {
                    prop_assert_eq!(&once, &path);
                }
            }
        }
    }
}
