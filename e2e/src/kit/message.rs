//! A message of HTTP/1.1 as a scripted peer sees it: lenient and simple, so that it shares no opinion with the codec
//! under test. Pure.

/// A request or an answer, read to its end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message {
    /// The request or status line.
    pub start: String,
    /// Names in the case they came in.
    pub fields: Vec<(String, String)>,
    /// Without chunk framing.
    pub body: Vec<u8>,
    /// Fields after a chunked body.
    pub trailers: Vec<(String, String)>,
}

/// Where a body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    None,
    Length(usize),
    Chunked,
    UntilClose,
}

impl Message {
    /// Reads a head with its empty line.
    pub(super) fn head(head: &[u8]) -> Message {
        let text = String::from_utf8_lossy(head);
        let mut lines = text.split("\r\n");
        let start = lines.next().unwrap_or_default().to_owned();
        Message { start, fields: lines.filter_map(field).collect(), ..Message::default() }
    }

    /// The status of an answer; 0 for a request.
    pub fn status(&self) -> u16 {
        match self.start.strip_prefix("HTTP/1.") {
            Some(rest) => rest.get(2..5).and_then(|digits| digits.parse().ok()).unwrap_or(0),
            None => 0,
        }
    }

    /// The value of the first field of that name.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(candidate, _)| candidate.eq_ignore_ascii_case(name)).map(|(_, value)| &value[..])
    }

    /// How many fields have that name.
    pub fn count(&self, name: &str) -> usize {
        self.fields.iter().filter(|(candidate, _)| candidate.eq_ignore_ascii_case(name)).count()
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// `is_to_head`: an answer to HEAD has no body whatever it says.
    pub(super) fn framing(&self, is_to_head: bool) -> Framing {
        let status = self.status();
        let is_answer = self.start.starts_with("HTTP/");
        if is_to_head || matches!(status, 100..=199 | 204 | 304) {
            return Framing::None;
        }
        if self.get("transfer-encoding").is_some_and(|value| value.eq_ignore_ascii_case("chunked")) {
            return Framing::Chunked;
        }
        match self.get("content-length").and_then(|value| value.parse().ok()) {
            Some(length) => Framing::Length(length),
            None if is_answer => Framing::UntilClose,
            None => Framing::None,
        }
    }
}

/// `name: value`.
pub(super) fn field(line: &str) -> Option<(String, String)> {
    let (name, value) = line.split_once(':')?;
    Some((name.to_owned(), value.trim().to_owned()))
}
