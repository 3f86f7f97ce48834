//! The head of a request or an answer: one piece of text and a table of spans into it. Parsers fill it,
//! rules read and change it, the encoder copies the spans that are left. Framing is the engine's
//! business: it refuses to be written by rules. Pure, Hot.
//!
//! The text is a copy of the bytes received (a few hundred), so that the connection's buffer is free for
//! the body at once and a request that waits for its answer holds no buffer. What rules add is appended to
//! the same text in the form it will be sent in; so encoding is copying, and neighbours are copied together.

use std::ops::Range;

/// Bytes of the text.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Span {
    /// The first byte.
    pub start: u32,
    /// One past the last.
    pub end: u32,
}

impl Span {
    /// The bytes from `start` to `end`.
    pub fn new(start: usize, end: usize) -> Span {
        Span { start: start as u32, end: end as u32 }
    }

    /// As a range to index with.
    pub fn range(self) -> Range<usize> {
        self.start as usize..self.end as usize
    }

    /// Bytes covered.
    pub fn len(self) -> usize {
        (self.end - self.start) as usize
    }

    /// Whether nothing is covered.
    pub fn is_empty(self) -> bool {
        self.start == self.end
    }
}

/// Fields that the engine itself looks at, told apart once while parsing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(u8)]
pub enum Known {
    /// Any other field.
    #[default]
    Other,
    /// Host (RFC 9110 7.2).
    Host,
    /// Connection (RFC 9110 7.6.1).
    Connection,
    /// Content-Length (RFC 9110 8.6).
    ContentLength,
    /// Transfer-Encoding (RFC 9112 6.1).
    TransferEncoding,
    /// TE (RFC 9110 10.1.4).
    Te,
    /// Trailer (RFC 9110 6.6.2).
    Trailer,
    /// Upgrade (RFC 9110 7.8).
    Upgrade,
    /// Expect (RFC 9110 10.1.1).
    Expect,
    /// Keep-Alive (RFC 2068 19.7.1).
    KeepAlive,
    /// Proxy-Connection, of old clients.
    ProxyConnection,
    /// HTTP2-Settings (RFC 7540 3.2.1, obsolete since RFC 9113 3.1), which belongs to one hop.
    Http2Settings,
    /// Proxy-Authorization and Proxy-Authenticate, which belong to one hop.
    ProxyAuth,
    /// X-Forwarded-For.
    XForwardedFor,
    /// X-Forwarded-Proto, -Host, -Port, X-Real-IP and Forwarded: what an untrusted client may not say.
    ForwardedKin,
    /// X-Request-Id.
    RequestId,
    /// Traceparent (W3C Trace Context).
    Traceparent,
    /// Retry-After (RFC 9110 10.2.3).
    RetryAfter,
    /// Date (RFC 9110 6.6.1).
    Date,
    /// X-Evenkeel-Mirror: the mark of mirrored copies.
    Mirror,
    /// X-Evenkeel-Hop: what proxies of the mesh say to each other. It passes none of them.
    Hop,
    /// A name with `_`, which many servers take for `-`: `remove_known` keeps it from passing the edge.
    Underscored,
}

impl Known {
    fn bit(self) -> u32 {
        1 << self as u32
    }
}

/// One field line.
#[derive(Debug, Clone, Copy)]
pub struct Field {
    /// The name as it came.
    pub name: Span,
    /// The value without surrounding blanks.
    pub value: Span,
    /// The whole line with its CRLF.
    pub line: Span,
    /// What the engine knows it as.
    pub known: Known,
    /// The `name_key` of its name.
    pub key: u8,
    /// Whether it has been removed.
    pub removed: bool,
    /// Whether the line has other blanks around the value than one space before it.
    pub untidy: bool,
}

/// A number below 64 that names have in common whatever their case: those with another key are other names.
#[inline]
pub fn name_key(name: &[u8]) -> u8 {
    let first = name.first().map_or(0, |first| first | 0x20);
    (name.len() as u8).wrapping_mul(5).wrapping_add(first) & 63
}

/// Whether two names of fields are the same whatever their case (RFC 9110 5.1), eight bytes at a time.
#[inline]
pub fn is_same_name(one: &[u8], other: &[u8]) -> bool {
    if one.len() != other.len() {
        return false;
    }
    if let (Some(one_end), Some(other_end)) = (one.last_chunk(), other.last_chunk()) {
        // The last step may meet some bytes for the second time.
        let steps = (one.len() - 1) / 8;
        let (ones, others) = (one.as_chunks().0.iter().take(steps), other.as_chunks().0);
        return is_same_but_case(u64::from_le_bytes(*one_end), u64::from_le_bytes(*other_end))
            && ones
                .zip(others)
                .all(|(one, other)| is_same_but_case(u64::from_le_bytes(*one), u64::from_le_bytes(*other)));
    }
    match (ends(one), ends(other)) {
        (Some(one), Some(other)) => is_same_but_case(one, other),
        _ => one.eq_ignore_ascii_case(other),
    }
}

/// First and last four bytes.
#[inline]
fn ends(name: &[u8]) -> Option<u64> {
    let (first, last) = (name.first_chunk()?, name.last_chunk()?);
    Some(u64::from(u32::from_le_bytes(*first)) << 32 | u64::from(u32::from_le_bytes(*last)))
}

/// Whether eight bytes differ in nothing but the case of ASCII letters.
#[inline]
fn is_same_but_case(one: u64, other: u64) -> bool {
    const EACH: u64 = u64::from_le_bytes([1; 8]);
    const CASE: u64 = 0x20 * EACH;
    const TOP: u64 = 0x80 * EACH;
    let differs = one ^ other;
    if differs == 0 {
        return true;
    }
    if differs & !CASE != 0 {
        return false;
    }
    // No sum carries into the next byte, since the top bits are away. A letter is at least `a` and not beyond `z`.
    let lower = (one | CASE) & !TOP;
    let is_letter = (lower + (0x80 - 0x61) * EACH) & !(lower + (0x80 - 0x7b) * EACH) & !one & TOP;
    (differs << 2) & !is_letter == 0
}

/// HTTP/1.0 or 1.1; other versions are never parsed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Version {
    /// HTTP/1.0.
    Http10,
    /// HTTP/1.1.
    #[default]
    Http11,
}

/// A parsed head. One object serves many messages: `clear` keeps the memory.
#[derive(Debug, Clone, Default)]
pub struct Head {
    text: Vec<u8>,
    fields: Vec<Field>,
    /// A bit for each `Known` that some field had, so that asking for one that never came costs nothing.
    kinds: u32,
    /// A bit for each `name_key` that some field had, for the same reason.
    keys: u64,
    /// The version in the start line.
    pub version: Version,
    /// Requests: the method. Answers: empty.
    pub method: Span,
    /// Requests: the path, normalised. Answers: empty.
    pub path: Span,
    /// Requests: the query without `?`. `has_query` tells `/a?` from `/a`.
    pub query: Span,
    /// Requests: whether the target had a `?`.
    pub has_query: bool,
    /// Requests: the host in lower case, without port, without trailing dot.
    pub host: Span,
    /// Requests: host and port as they will be sent in `Host`.
    pub authority: Span,
    /// Answers: the status code, 100 to 599. Requests: 0.
    pub status: u16,
    /// Answers: the reason phrase.
    pub reason: Span,
}

impl Head {
    /// Makes it empty and keeps its memory, unless one message made it unusually large.
    pub fn clear(&mut self) {
        const TEXT_KEPT_BYTES: usize = 8 * 1024;
        const FIELDS_KEPT: usize = 128;
        self.text.clear();
        self.fields.clear();
        self.kinds = 0;
        self.keys = 0;
        if self.text.capacity() > TEXT_KEPT_BYTES {
            self.text = Vec::new();
        }
        if self.fields.capacity() > FIELDS_KEPT {
            self.fields = Vec::new();
        }
        self.version = Version::Http11;
        self.has_query = false;
        self.status = 0;
        for span in
            [&mut self.method, &mut self.path, &mut self.query, &mut self.host, &mut self.authority, &mut self.reason]
        {
            *span = Span::default();
        }
    }

    /// Takes the next bytes of a head as received; spans are offsets into all of them together.
    pub fn receive(&mut self, received: &[u8]) {
        // Room for what rules will add, so that a small head never grows twice.
        self.text.reserve(received.len() + 512);
        self.text.extend_from_slice(received);
    }

    /// All bytes that spans point into.
    pub fn text(&self) -> &[u8] {
        &self.text
    }

    /// The bytes of a span.
    pub fn bytes(&self, span: Span) -> &[u8] {
        &self.text[span.range()]
    }

    /// Changes bytes in place, such as a host to lower case.
    pub fn bytes_mut(&mut self, span: Span) -> &mut [u8] {
        &mut self.text[span.range()]
    }

    /// Appends bytes that a span shall point to, and returns that span.
    pub fn append(&mut self, bytes: &[u8]) -> Span {
        let start = self.text.len();
        self.text.extend_from_slice(bytes);
        Span::new(start, self.text.len())
    }

    /// Appends by a writer, for what is built piece by piece.
    pub fn append_with(&mut self, write: impl FnOnce(&mut Vec<u8>)) -> Span {
        let start = self.text.len();
        write(&mut self.text);
        Span::new(start, self.text.len())
    }

    /// All fields, removed ones among them.
    pub fn fields(&self) -> &[Field] {
        &self.fields
    }

    /// Records a field whose bytes are in the text already.
    pub fn push_field(&mut self, field: Field) {
        self.kinds |= field.known.bit();
        self.keys |= 1 << field.key;
        self.fields.push(field);
    }

    /// The fields that will be sent.
    pub fn live(&self) -> impl Iterator<Item = &Field> {
        self.fields.iter().filter(|field| !field.removed)
    }

    /// The value of the first live field that the engine knows as `known`.
    pub fn known(&self, known: Known) -> Option<&[u8]> {
        self.known_span(known).map(|value| self.bytes(value))
    }

    /// Where that value is.
    pub fn known_span(&self, known: Known) -> Option<Span> {
        if self.kinds & known.bit() == 0 {
            return None;
        }
        self.live().find(|field| field.known == known).map(|field| field.value)
    }

    /// The value of the first live field of that name, whatever its case.
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        self.get_all(name).next()
    }

    /// The value of a cookie (RFC 6265 4.2.1).
    pub fn cookie(&self, name: &str) -> Option<&[u8]> {
        self.get_all("cookie").find_map(|value| cookie(value, name.as_bytes()))
    }

    /// The values of all live fields of that name, whatever its case.
    pub fn get_all<'h>(&'h self, name: &str) -> impl Iterator<Item = &'h [u8]> {
        let key = name_key(name.as_bytes());
        let fields = if self.keys & 1 << key == 0 { &[] } else { &self.fields[..] };
        let is_it = move |field: &&Field| {
            !field.removed && field.key == key && is_same_name(self.bytes(field.name), name.as_bytes())
        };
        fields.iter().filter(is_it).map(|field| self.bytes(field.value))
    }

    /// Removes all fields of that name and tells whether there was one.
    pub fn remove(&mut self, name: &str) -> bool {
        let key = name_key(name.as_bytes());
        let mut found = false;
        if self.keys & 1 << key == 0 {
            return found;
        }
        let text = &self.text;
        for field in &mut self.fields {
            if field.key == key && !field.removed && is_same_name(&text[field.name.range()], name.as_bytes()) {
                field.removed = true;
                found = true;
            }
        }
        found
    }

    /// Removes all fields that the engine knows as `known`.
    pub fn remove_known(&mut self, known: Known) {
        if self.kinds & known.bit() == 0 {
            return;
        }
        for field in &mut self.fields {
            field.removed |= field.known == known;
        }
    }

    /// Removes the field at an index of `fields`.
    pub fn remove_at(&mut self, index: usize) {
        self.fields[index].removed = true;
    }

    /// Writes the line of an untidy field anew, so that those who trim less than they should read the same value.
    pub fn tidy(&mut self, index: usize) {
        let field = &mut self.fields[index];
        let start = self.text.len();
        self.text.extend_from_within(field.name.range());
        let name = Span::new(start, self.text.len());
        self.text.extend_from_slice(b": ");
        let value_start = self.text.len();
        self.text.extend_from_within(field.value.range());
        let value = Span::new(value_start, self.text.len());
        self.text.extend_from_slice(b"\r\n");
        *field = Field { name, value, line: Span::new(start, self.text.len()), untidy: false, ..*field };
    }

    /// Appends a field, whatever is there. The value's bytes must be free of CR, LF and NUL: rules are checked
    /// when they are read.
    pub fn add(&mut self, name: &str, value: &[u8]) {
        self.text.reserve(name.len() + value.len() + 4);
        self.add_with(name, Known::Other, |text| text.extend_from_slice(value));
    }

    /// Replaces all fields of that name by one.
    pub fn set(&mut self, name: &str, value: &[u8]) {
        self.remove(name);
        self.add(name, value);
    }

    /// Appends a field whose value is written by `write`.
    pub fn add_with(&mut self, name: &str, known: Known, write: impl FnOnce(&mut Vec<u8>)) {
        let start = self.text.len();
        self.text.extend_from_slice(name.as_bytes());
        let name_end = self.text.len();
        self.text.extend_from_slice(b": ");
        let value_start = self.text.len();
        write(&mut self.text);
        let value_end = self.text.len();
        self.text.extend_from_slice(b"\r\n");
        self.push_field(Field {
            name: Span::new(start, name_end),
            value: Span::new(value_start, value_end),
            line: Span::new(start, self.text.len()),
            known,
            key: name_key(name.as_bytes()),
            removed: false,
            untidy: false,
        });
    }

    /// Appends the live field lines that `keep` wants to `out`, neighbours in one copy.
    pub fn copy_fields(&self, out: &mut Vec<u8>, mut keep: impl FnMut(&Field) -> bool) {
        let mut run = Span::default();
        for field in &self.fields {
            if field.removed || !keep(field) {
                continue;
            }
            if field.line.start == run.end && !run.is_empty() {
                run.end = field.line.end;
                continue;
            }
            out.extend_from_slice(self.bytes(run));
            run = field.line;
        }
        out.extend_from_slice(self.bytes(run));
    }
}

/// The value of a cookie in one field.
fn cookie<'f>(field: &'f [u8], name: &[u8]) -> Option<&'f [u8]> {
    let mut rest = field;
    loop {
        let end = memchr::memchr(b';', rest).unwrap_or(rest.len());
        let value = rest[..end].trim_ascii_start().strip_prefix(name).and_then(|after| {
            // A longer name goes on here.
            after.trim_ascii_start().strip_prefix(b"=")
        });
        if let Some(value) = value {
            return Some(value.trim_ascii());
        }
        rest = rest.get(end + 1..)?;
    }
}

impl config::route::RequestView for Head {
    fn method(&self) -> &[u8] {
        self.bytes(self.method)
    }

    fn host(&self) -> &[u8] {
        self.bytes(self.host)
    }

    fn authority(&self) -> &[u8] {
        self.bytes(self.authority)
    }

    fn path(&self) -> &[u8] {
        self.bytes(self.path)
    }

    fn query(&self) -> &[u8] {
        self.bytes(self.query)
    }

    fn header<'h>(&'h self, name_lower: &'h str) -> impl Iterator<Item = &'h [u8]> {
        self.get_all(name_lower)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A head with the given field lines, each `name: value`.
    fn head(lines: &[&str]) -> Head {
        let mut head = Head::default();
        for line in lines {
            let (name, value) = line.split_once(": ").expect("rows are name: value");
            head.add(name, value.as_bytes());
        }
        head
    }

    fn check(head: &Head, expected: &str) {
        let mut out = Vec::new();
        head.copy_fields(&mut out, |_| true);
        assert_eq!(String::from_utf8_lossy(&out).replace("\r\n", "|"), expected);
    }

    #[test]
    fn fields_are_set_added_and_removed_whatever_their_case() {
        let mut subject = head(&["A: 1", "b: 2", "a: 3", "C: 4"]);
        check(&subject, "A: 1|b: 2|a: 3|C: 4|");
        subject.set("a", b"9");
        check(&subject, "b: 2|C: 4|a: 9|");
        subject.add("B", b"5");
        assert_eq!(subject.get_all("b").collect::<Vec<_>>(), [b"2", b"5"]);
        assert!(subject.remove("B"));
        assert!(!subject.remove("B"));
        check(&subject, "C: 4|a: 9|");
        assert_eq!(subject.get("c"), Some(&b"4"[..]));
        assert_eq!(subject.get("d"), None);
    }

    #[test]
    fn names_are_the_same_but_for_the_case_of_letters() {
        // Each byte against each, at each place of a name that is shorter than, as long as, or longer than one step.
        for length in [1, 3, 4, 6, 7, 8, 9, 13, 16, 17] {
            for place in 0..length {
                let (mut one, mut other) = (vec![b'x'; length], vec![b'X'; length]);
                for (a, b) in (0..=255).flat_map(|a| (0..=255).map(move |b| (a, b))) {
                    (one[place], other[place]) = (a, b);
                    let expected = one.eq_ignore_ascii_case(&other);
                    assert_eq!(is_same_name(&one, &other), expected, "{a:#x} and {b:#x} at {place} of {length}");
                }
            }
        }
        assert!(!is_same_name(b"a", b"ab") && is_same_name(b"", b""));
    }

    #[test]
    fn cookies_are_found_among_others() {
        for (field, name, expected) in [
            ("a=1", "a", Some("1")),
            ("a=1; b=2", "b", Some("2")),
            ("ab=1; a=2", "a", Some("2")),
            ("a=1; a=2", "a", Some("1")),
            ("  a = 1 ;b=2", "a", Some("1")),
            ("a=", "a", Some("")),
            ("a=b=c", "a", Some("b=c")),
            ("a", "a", None),
            ("a; b", "b", None),
            ("b=a=1", "a", None),
            ("", "a", None),
            (";;a=1;", "a", Some("1")),
            ("A=1", "a", None),
        ] {
            assert_eq!(
                head(&[&format!("Cookie: {field}")]).cookie(name),
                expected.map(str::as_bytes),
                "{name} in {field}"
            );
        }
        assert_eq!(head(&["cookie: a=1", "Cookie: b=2"]).cookie("b"), Some(&b"2"[..]));
    }

    #[test]
    fn a_large_message_does_not_keep_its_memory() {
        let mut subject = Head::default();
        subject.receive(&[b'x'; 60_000]);
        subject.clear();
        assert!(subject.text.capacity() < 10_000);
    }
}
