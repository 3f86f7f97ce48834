//! YAML text becomes a tree whose nodes know their line and column. What the nodes mean is `decode`'s
//! business. Everything that makes YAML dangerous is a problem here: sizes and depth are bounded; anchors,
//! aliases, tags and repeated keys are refused; JSON is YAML. Pure, Cold.

mod word;

use std::borrow::Cow;
use std::collections::HashSet;

use saphyr_parser::{Event, Marker, Parser, ScalarStyle, ScanError, StrInput};

use crate::problem::{Place, Problems};

pub(crate) use word::Word;

/// Bytes of one file.
pub(crate) const FILE_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Lists and mappings within each other.
const DEPTH_MAX: usize = 64;
/// Scalars, lists and mappings in one document.
const NODES_MAX: usize = 2_000_000;

/// A value and where it is written.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Node<'s> {
    /// Where it starts.
    pub place: Place,
    /// What it is.
    pub value: Value<'s>,
}

/// The three shapes of YAML.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Value<'s> {
    /// Everything that is one word or text.
    Scalar(Scalar<'s>),
    /// In the order written.
    List(Vec<Node<'s>>),
    /// In the order written; keys are unique.
    Map(Vec<(Node<'s>, Node<'s>)>),
}

/// A text or a word. Words get their type only when somebody asks, since most stay texts.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Scalar<'s> {
    /// Without quotes and escapes.
    pub text: Cow<'s, str>,
    /// Quoted and block scalars are always texts.
    pub quoted: bool,
}

/// One document of a file, with the lines before it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Part<'s> {
    /// From its `---` on, or from the start of the file.
    pub text: &'s str,
    /// Lines of the file before it.
    pub lines_before: u32,
}

/// Cuts a file where documents start, so that a mistake in one hides none in another, and that a tree is as
/// large as one document. A line with `---` can be nothing else (YAML 1.2, 9.1.2 and `c-forbidden`).
pub(crate) fn split(text: &str) -> Vec<Part<'_>> {
    let mut parts = Vec::new();
    let (mut start, mut lines_before) = (0, 0);
    let (mut line_start, mut lines) = (0, 0);
    for line_end in memchr::memchr_iter(b'\n', text.as_bytes()).map(|end| end + 1).chain([text.len()]) {
        let line = &text[line_start..line_end];
        // Directives stand before the marker and belong to what follows: such files are left whole.
        if line.starts_with('%') {
            return vec![Part { text, lines_before: 0 }];
        }
        let after_marker = line.strip_prefix("---");
        if after_marker.is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n'])) {
            parts.push(Part { text: &text[start..line_start], lines_before });
            (start, lines_before) = (line_start, lines);
        }
        (line_start, lines) = (line_end, lines + 1);
    }
    parts.push(Part { text: &text[start..], lines_before });
    parts
}

/// The trees of a part, as far as it can be read: one, or several where `...` ends a document.
pub(crate) fn parse<'s>(text: &'s str, origin: u32, problems: &mut Problems) -> Vec<Node<'s>> {
    let mut builder = Builder { origin, text, documents: Vec::new(), open: Vec::new(), nodes: 0 };
    let mut parser = Parser::new_from_str(text);
    builder.run(&mut parser, problems);
    builder.documents
}

/// The text of a file, or a problem at its first wrong byte.
pub(crate) fn decode_utf8<'b>(bytes: &'b [u8], origin: u32, problems: &mut Problems) -> Option<&'b str> {
    if bytes.len() > FILE_BYTES_MAX {
        let reason = format!("is larger than {} MiB", FILE_BYTES_MAX / 1024 / 1024);
        problems.error(Place::of(origin), "", reason);
        return None;
    }
    // A byte order mark says nothing about UTF-8.
    let bytes = bytes.strip_prefix("\u{feff}".as_bytes()).unwrap_or(bytes);
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => {
            problems.error(place_of(bytes, error.valid_up_to(), origin), "", "is not UTF-8 text");
            return None;
        }
    };
    // The parser takes NUL for the end of the file, so that what follows would be dropped silently.
    let forbidden = |byte: &u8| (*byte < b' ' && !matches!(byte, b'\t' | b'\n' | b'\r')) || *byte == 0x7f;
    if let Some(offset) = bytes.iter().position(forbidden) {
        let reason = format!("holds the control character {:#04x}", bytes[offset]);
        problems.error(place_of(bytes, offset, origin), "", reason);
        return None;
    }
    Some(text)
}

fn place_of(bytes: &[u8], offset: usize, origin: u32) -> Place {
    let before = &bytes[..offset];
    let line_start = memchr::memrchr(b'\n', before).map_or(0, |position| position + 1);
    let line = memchr::memchr_iter(b'\n', before).count() + 1;
    Place { origin, line: line as u32, column: (offset - line_start) as u32 + 1 }
}

/// A list or mapping whose end has not come yet.
struct Open<'s> {
    place: Place,
    items: Vec<Node<'s>>,
    is_map: bool,
}

struct Builder<'s> {
    origin: u32,
    text: &'s str,
    documents: Vec<Node<'s>>,
    open: Vec<Open<'s>>,
    nodes: usize,
}

type Events<'s> = Parser<'s, StrInput<'s>>;

impl<'s> Builder<'s> {
    fn run(&mut self, parser: &mut Events<'s>, problems: &mut Problems) {
        while let Some(event) = parser.next_event() {
            let (event, span) = match event {
                Ok(event) => event,
                Err(error) => return self.report(&error, problems),
            };
            let place = self.place(&span.start);
            let (anchor, tag) = match &event {
                Event::Scalar(_, _, anchor, tag) => (*anchor, tag),
                Event::SequenceStart(anchor, tag) | Event::MappingStart(anchor, tag) => (*anchor, tag),
                Event::Alias(_) => (1, &None),
                _ => (0, &None),
            };
            if anchor != 0 {
                let hint = "write the value out where it is meant";
                return problems.error_with_hint(place, "", "anchors and aliases are not accepted", hint);
            }
            if let Some(tag) = tag {
                return problems.error(place, "", format!("the tag {tag} is not accepted"));
            }
            let is_node = matches!(event, Event::Scalar(..) | Event::SequenceStart(..) | Event::MappingStart(..));
            self.nodes += usize::from(is_node);
            if self.nodes > NODES_MAX {
                return problems.error(place, "", format!("the document has more than {NODES_MAX} values"));
            }
            if self.open.len() > DEPTH_MAX {
                return problems.error(place, "", format!("is nested deeper than {DEPTH_MAX} levels"));
            }
            match event {
                Event::Scalar(text, style, ..) => {
                    let quoted = style != ScalarStyle::Plain;
                    self.finish(Node { place, value: Value::Scalar(Scalar { text, quoted }) });
                }
                Event::SequenceStart(..) => self.open.push(Open { place, items: Vec::new(), is_map: false }),
                Event::MappingStart(..) => self.open.push(Open { place, items: Vec::new(), is_map: true }),
                Event::SequenceEnd | Event::MappingEnd => {
                    if let Some(open) = self.open.pop() {
                        let value = if open.is_map { pair(open.items, problems) } else { Value::List(open.items) };
                        self.finish(Node { place: open.place, value });
                    }
                }
                Event::Nothing
                | Event::StreamStart
                | Event::StreamEnd
                | Event::DocumentStart(_)
                | Event::DocumentEnd
                | Event::Alias(_) => {}
            }
        }
    }

    fn finish(&mut self, node: Node<'s>) {
        match self.open.last_mut() {
            Some(open) => open.items.push(node),
            None => self.documents.push(node),
        }
    }

    fn report(&self, error: &ScanError, problems: &mut Problems) {
        let place = self.place(error.marker());
        let reason = format!("is not YAML: {}", error.info());
        // The parser may notice a tab only after the text before it, and then names that text's place.
        let is_indented_with_tab = |line: &str| line.trim_start_matches(' ').starts_with('\t');
        let lines = self.text.lines().skip(error.marker().line().saturating_sub(1));
        let tab = lines.take(2).position(is_indented_with_tab);
        match tab {
            Some(lines_after) => {
                let place = Place { line: place.line + lines_after as u32, column: 1, ..place };
                problems.error_with_hint(place, "", reason, "indent with spaces, not with tabs");
            }
            None => problems.error(place, "", reason),
        }
    }

    fn place(&self, marker: &Marker) -> Place {
        Place { origin: self.origin, line: marker.line() as u32, column: marker.col() as u32 + 1 }
    }
}

/// Keys and values, which the parser hands over in turns.
fn pair<'s>(items: Vec<Node<'s>>, problems: &mut Problems) -> Value<'s> {
    let mut entries: Vec<(Node<'s>, Node<'s>)> = Vec::with_capacity(items.len() / 2);
    let mut items = items.into_iter();
    while let (Some(key), Some(value)) = (items.next(), items.next()) {
        match &key.value {
            Value::Scalar(_) => entries.push((key, value)),
            _ => problems.error(key.place, "", "a key must be one word"),
        }
    }
    // Small mappings are compared pairwise, large ones by a set: neither cost may grow with the square.
    let mut seen = HashSet::new();
    let mut repeated = Vec::new();
    for (index, (key, _)) in entries.iter().enumerate() {
        let is_repeated = match entries.len() {
            0..16 => entries[..index].iter().any(|(before, _)| before.text() == key.text()),
            _ => !seen.insert(key.text()),
        };
        if is_repeated {
            repeated.push((key.place, key.text().unwrap_or_default().to_owned()));
        }
    }
    for (place, key) in repeated {
        problems.error(place, "", format!("the key {key:?} is there twice"));
    }
    Value::Map(entries)
}

impl Node<'_> {
    /// The text of a scalar.
    pub(crate) fn text(&self) -> Option<&str> {
        match &self.value {
            Value::Scalar(scalar) => Some(&scalar.text),
            _ => None,
        }
    }

    /// The type of a scalar.
    pub(crate) fn word(&self) -> Option<Word> {
        match &self.value {
            Value::Scalar(scalar) => Some(scalar.word()),
            _ => None,
        }
    }

    /// Whether it stands for nothing at all, as an absent field does.
    pub(crate) fn is_null(&self) -> bool {
        self.word() == Some(Word::Null)
    }

    /// What it is, for messages.
    pub(crate) fn describe(&self) -> &'static str {
        match &self.value {
            Value::List(_) => "a list",
            Value::Map(_) => "a mapping",
            Value::Scalar(scalar) => match scalar.word() {
                Word::Null => "nothing",
                Word::Bool(_) => "a boolean",
                Word::Integer(_) | Word::Float => "a number",
                Word::Text => "a text",
            },
        }
    }
}
