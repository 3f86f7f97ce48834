//! Every way in which others are known to differ from us, with the clause that settles it. Pure.

use super::Peer;
use super::ours::Ours;

/// One known difference.
pub(super) struct Row {
    /// Who differs.
    pub peers: &'static [Peer],
    /// What we say: `accepted`, `unfinished` or the reason of a refusal.
    pub ours: &'static str,
    /// How what they say begins.
    pub said: &'static str,
    /// Which requests it is about, where the two words leave too much open.
    pub when: fn(&[u8]) -> bool,
    /// What decides it.
    pub clause: &'static str,
    /// What they do, in a few words.
    pub why: &'static str,
}

use Peer::{H11, Haproxy, Llhttp, Nginx};

/// They accept what we refuse.
const fn lenient(peers: &'static [Peer], ours: &'static str, clause: &'static str, why: &'static str) -> Row {
    Row { peers, ours, said: "accept", when: |_| true, clause, why }
}

const ROWS: &[Row] = &[
    // Line ends and field lines.
    lenient(&[Llhttp, H11, Haproxy, Nginx], "bare_lf", "RFC 9112 2.2: MAY take LF alone", "ends lines at LF"),
    lenient(&[Llhttp, H11, Nginx], "bare_cr", "RFC 9112 2.2: MUST be invalid or replaced", "skips some CR"),
    lenient(&[H11, Haproxy], "fold", "RFC 9112 5.2: MUST be rejected or replaced", "unfolds"),
    lenient(&[Nginx], "blank_in_name", "RFC 9112 5.1: MUST be rejected", "drops trailers unread"),
    lenient(&[Nginx], "fold", "RFC 9112 5.2: MUST be rejected or replaced", "drops trailers unread"),
    lenient(&[Nginx], "name", "RFC 9110 5.1: a name is a token", "drops fields with bad names"),
    lenient(&[Nginx], "no_colon", "RFC 9112 5: a field line has a colon", "takes the line for a name"),
    lenient(&[H11, Nginx], "value", "RFC 9110 5.5: no control bytes", "keeps control bytes"),
    // Request lines and targets.
    lenient(&[Llhttp, Haproxy, Nginx], "request_line", "RFC 9112 3: single spaces", "takes several spaces for one"),
    lenient(
        &[Nginx],
        "version",
        "RFC 9112 3, C.1: name-based hosts have no 0.9",
        "takes a line without version for HTTP/0.9",
    ),
    lenient(
        &[H11, Haproxy, Nginx],
        "version_unsupported",
        "RFC 9110 6.2: another major can be refused, 1.2 SHOULD be read",
        "reads on as HTTP/1.1",
    ),
    lenient(&[Llhttp, H11], "target", "RFC 9112 3.2: four forms, no fragment", "leaves targets to others"),
    lenient(
        &[Llhttp, H11, Haproxy, Nginx],
        "scheme",
        "RFC 9110 7.4: https MUST be secured",
        "leaves schemes to others",
    ),
    lenient(&[Nginx], "target", "RFC 9110 7.4: a scheme's requirements must be met", "takes any scheme"),
    lenient(&[Llhttp, H11], "escape", "RFC 3986 2.1", "leaves targets to others"),
    lenient(&[Llhttp, H11], "encoded_nul", "RFC 3986 7.3: NUL may be rejected", "leaves targets to others"),
    // Hosts.
    lenient(&[Llhttp], "host_missing", "RFC 9112 3.2: MUST be 400", "leaves Host to Node, which refuses it"),
    lenient(&[Llhttp], "host_twice", "RFC 9112 3.2: MUST be 400", "leaves Host to others"),
    lenient(&[Haproxy], "host_twice", "RFC 9112 3.2: MUST be 400", "drops a second Host that is equal"),
    lenient(&[Llhttp, H11, Nginx], "host", "RFC 9112 3.2: an invalid value MUST be 400", "leaves hosts to others"),
    // Framing.
    lenient(&[H11, Haproxy], "length_and_encoding", "RFC 9112 6.1: MAY be rejected", "lets chunked win"),
    lenient(&[H11, Haproxy], "length_twice", "RFC 9110 8.6: MAY be rejected", "takes equal lengths for one"),
    lenient(&[H11, Haproxy], "length", "RFC 9110 8.6: MAY be rejected", "takes a list of equal lengths for one"),
    lenient(
        &[Llhttp],
        "encoding",
        "RFC 9112 6.1, 6.3: chunked is last and once; RFC 7230 A.2: no identity",
        "looks for a final chunked",
    ),
    lenient(
        &[H11, Haproxy, Nginx],
        "chunk_extension",
        "RFC 9112 7.1: no blanks at the end",
        "skips blanks behind a size",
    ),
    lenient(&[Llhttp], "chunk_extension", "RFC 9112 7.1.1: `=` has a value", "takes an empty value"),
    lenient(&[Llhttp, H11, Nginx], "trailer_forbidden", "RFC 9110 6.5.1", "leaves trailers to others or drops them"),
    lenient(&[Haproxy, Nginx], "chunk_end", "RFC 9112 7.1: CRLF ends a chunk", "takes LF alone there"),
    lenient(&[Llhttp, H11], "encoding_in_http10", "RFC 9112 6.1: MUST be treated as faulty", "reads chunks"),
    // Connection and expectations.
    lenient(&[Llhttp, H11, Nginx], "connection", "RFC 9110 7.6.1: a list of tokens", "looks for close only"),
    lenient(&[Llhttp, H11, Nginx], "expectation", "RFC 9110 10.1.1: MAY be 417", "leaves expectations to others"),
    // They refuse what we accept, or change it.
    Row {
        peers: &[Llhttp],
        ours: "accepted",
        said: "refuse: HPE_INVALID_METHOD",
        when: |_| true,
        clause: "RFC 9110 9.1: methods are an open set",
        why: "knows some methods",
    },
    Row {
        peers: &[Llhttp],
        ours: "accepted",
        said: "sent: refuse: HPE_INVALID_METHOD",
        when: |_| true,
        clause: "RFC 9110 9.1: methods are an open set",
        why: "knows some methods",
    },
    Row {
        peers: &[H11],
        ours: "accepted",
        said: "refuse: no request line received",
        when: |request| request.starts_with(b"\r\n"),
        clause: "RFC 9112 2.2: SHOULD ignore an empty line before",
        why: "has none",
    },
    Row {
        peers: &[H11],
        ours: "accepted",
        said: "refuse: illegal chunk header",
        when: |_| true,
        clause: "RFC 9112 7.1.1, RFC 9110 5.6.3: BWS MUST be parsed",
        why: "wants no blanks in chunk extensions",
    },
    Row {
        peers: &[Llhttp],
        ours: "accepted",
        said: "refuse: HPE_INVALID_CHUNK_SIZE",
        when: |_| true,
        clause: "RFC 9112 7.1.1, RFC 9110 5.6.3: BWS MUST be parsed",
        why: "wants no blanks in chunk extensions",
    },
    Row {
        peers: &[Llhttp],
        ours: "accepted",
        said: "refuse: HPE_STRICT Invalid character in chunk ext",
        when: |_| true,
        clause: "RFC 9112 7.1.1, RFC 9110 5.6.3: BWS MUST be parsed",
        why: "wants no blanks in chunk extensions",
    },
    Row {
        peers: &[H11],
        ours: "accepted",
        said: "read another fields",
        when: has_capitals_in_chunked,
        clause: "RFC 9112 7: codings are case-insensitive",
        why: "tells Transfer-Encoding in lower case",
    },
    Row {
        peers: &[Haproxy],
        ours: "accepted",
        said: "refuse: 400",
        when: |request| target(request).is_some_and(|target| !target.starts_with(b"/")),
        clause: "RFC 9112 3.2.2: a proxy MUST ignore Host then",
        why: "wants the target's host to be Host's",
    },
    Row {
        peers: &[Nginx],
        ours: "accepted",
        said: "refuse: 400",
        when: |request| target(request).is_some_and(|target| target == b"*"),
        clause: "RFC 9112 3.2.4",
        why: "has no asterisk-form",
    },
    Row {
        peers: &[Nginx],
        ours: "accepted",
        said: "refuse: 400",
        when: |request| target(request).is_some_and(climbs),
        clause: "RFC 3986 5.2.4: dots above the root vanish",
        why: "refuses dots above the root",
    },
    Row {
        peers: &[Haproxy],
        ours: "accepted",
        said: "refuse: 413",
        when: |request| request.windows(10).any(|word| word == b"HTTP/1.0\r\n"),
        clause: "RFC 9110 9.3.1: content in GET means nothing, some refuse it",
        why: "refuses it in HTTP/1.0",
    },
    Row {
        peers: &[Nginx],
        ours: "accepted",
        said: "refuse: 400",
        when: |request| target(request).is_some_and(|target| target.starts_with(b"http")),
        clause: "RFC 3986 3.2.2: a reg-name may have `_` and `~`",
        why: "wants letters, digits, `-` and `.` in a target's host",
    },
    Row {
        peers: &[Nginx],
        ours: "accepted",
        said: "read another target",
        when: |request| target(request).is_some_and(|target| target.starts_with(b"http") && target.ends_with(b"?")),
        clause: "RFC 3986 6.2.3: an empty query is not none",
        why: "drops `?` behind a target without path",
    },
    Row {
        peers: &[Nginx],
        ours: "accepted",
        said: "refuse: 400",
        when: has_odd_method,
        clause: "RFC 9110 9.1: a method is any token",
        why: "wants methods of capital letters, `-` and `_`",
    },
    Row {
        peers: &[Nginx],
        ours: "accepted",
        said: "refuse: 400",
        when: has_two_expectations,
        clause: "RFC 9110 10.1.1 and 5.3: a list may be split",
        why: "wants one Expect",
    },
    Row {
        peers: &[Nginx],
        ours: "accepted",
        said: "refuse: 400",
        when: has_empty_label,
        clause: "RFC 3986 3.2.2: a reg-name need not be a DNS name",
        why: "refuses empty labels in hosts",
    },
    Row {
        peers: &[Nginx, Llhttp],
        ours: "accepted",
        said: "refuse: ",
        when: has_tab_around_value,
        clause: "RFC 9112 5.1, RFC 9110 5.6.3: blanks are spaces and tabs",
        why: "takes a tab for part of the value",
    },
    Row {
        peers: &[Nginx],
        ours: "accepted",
        said: "read another fields",
        when: has_odd_name,
        clause: "RFC 9110 5.1: a name is any token",
        why: "drops names with other than letters, digits and `-`",
    },
];

fn target(request: &[u8]) -> Option<&[u8]> {
    request.trim_ascii_start().split(|&byte| byte == b' ').nth(1)
}

/// Whether a path goes above its root on its way.
fn climbs(target: &[u8]) -> bool {
    let path = target.split(|&byte| byte == b'?').next().unwrap_or_default();
    let path = String::from_utf8_lossy(path).to_ascii_lowercase().replace("%2e", ".").replace("%2f", "/");
    let mut depth = 0i32;
    path.split(['/', '\\']).any(|segment| {
        depth += match segment {
            "" | "." => 0,
            ".." => -1,
            _ => 1,
        };
        depth < 0
    })
}

fn has_odd_method(request: &[u8]) -> bool {
    let method = request.trim_ascii_start().split(|&byte| byte == b' ').next().unwrap_or_default();
    method.iter().any(|byte| !byte.is_ascii_uppercase() && !b"-_".contains(byte))
}

fn has_capitals_in_chunked(request: &[u8]) -> bool {
    request.windows(7).any(|word| word.eq_ignore_ascii_case(b"chunked") && word != b"chunked")
}

fn has_two_expectations(request: &[u8]) -> bool {
    let lines = request.split(|&byte| byte == b'\n');
    lines.filter(|line| line.get(..7).is_some_and(|name| name.eq_ignore_ascii_case(b"expect:"))).count() > 1
}

fn has_empty_label(request: &[u8]) -> bool {
    let mut lines = request.split(|&byte| byte == b'\n');
    lines.any(|line| line.to_ascii_lowercase().starts_with(b"host:") && line.windows(2).any(|two| two == b".."))
        || target(request).is_some_and(|target| target.contains(&b':') && target.windows(2).any(|two| two == b".."))
}

fn has_tab_around_value(request: &[u8]) -> bool {
    let mut lines =
        request.split(|&byte| byte == b'\n').map(<[u8]>::trim_ascii_end).zip(request.split(|&byte| byte == b'\n'));
    lines.any(|(trimmed, line)| {
        let value = trimmed.splitn(2, |&byte| byte == b':').nth(1).unwrap_or_default();
        let before = value.iter().take_while(|byte| b" \t".contains(byte));
        before.chain(&line[trimmed.len()..]).any(|&byte| byte == b'\t')
    })
}

fn has_odd_name(request: &[u8]) -> bool {
    let names = request.split(|&byte| byte == b'\n').skip(1).filter_map(|line| line.split(|&byte| byte == b':').next());
    names.flatten().any(|byte| !byte.is_ascii_alphanumeric() && !b"-\r".contains(byte))
}

/// The row that explains a difference.
pub(super) fn row_for(peer: Peer, ours: &Ours, said: &str, input: &[u8]) -> Option<&'static Row> {
    ROWS.iter().find(|row| {
        row.peers.contains(&peer) && row.ours == ours.word() && said.starts_with(row.said) && (row.when)(input)
    })
}
