//! Which of the entries of one path a request meets, by method, header fields and parameters. Few are tried
//! one after the other; many are looked up by the value that most of them ask for. Pure, Hot.

use std::borrow::Cow;
use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::Arc;

use foldhash::fast::RandomState;

use crate::route::entry::{Condition, Rank, RouteEntry, ValueTest};
use crate::route::{Found, RequestView, query};
use crate::snapshot::Rule;

/// From here on an index costs less than trying.
const INDEXED_FROM: usize = 12;
/// Names that an index looks at; what asks for others is tried one after the other.
const KEYS_MAX: usize = 4;

/// Entries of one path in order of precedence.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Candidates {
    list: Vec<Candidate>,
    index: Option<Box<Index>>,
}

/// An entry whose host and path suit.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Candidate {
    /// What is done if the conditions hold.
    pub rule: Arc<Rule>,
    /// Its number in the table.
    pub number: usize,
    rank: Rank,
    // Most entries have a path only: one word then says that all holds.
    conditions: Option<Box<Tests>>,
}

#[derive(Debug, Clone, PartialEq)]
struct Tests {
    method: Option<&'static str>,
    headers: Box<[Condition]>,
    params: Box<[Condition]>,
}

impl Candidate {
    /// What is left to test of an entry once host and path suit.
    pub(crate) fn new(entry: &RouteEntry, number: usize) -> Self {
        let written = &entry.conditions;
        let is_free = written.method.is_none() && written.headers.is_empty() && written.params.is_empty();
        let tests = Tests { method: written.method, headers: written.headers.clone(), params: written.params.clone() };
        let conditions = (!is_free).then(|| Box::new(tests));
        Candidate { rule: entry.rule.clone(), number, rank: entry.rank, conditions }
    }

    /// What a request is told that meets it.
    pub(crate) fn found(&self, prefix_bytes: usize) -> Found<'_> {
        Found { rule: &self.rule, number: self.number, prefix_bytes }
    }

    /// The order of Gateway API (HTTPRouteRule.matches): the smallest comes first.
    pub(crate) fn precedence(&self) -> impl Ord + use<> {
        let counts = self.conditions.as_ref().map_or((false, 0, 0), |conditions| {
            (conditions.method.is_some(), conditions.headers.len(), conditions.params.len())
        });
        (Reverse(counts), self.rank)
    }

    /// Whether method, header fields and parameters suit.
    pub(crate) fn holds(&self, request: &impl RequestView) -> bool {
        let Some(conditions) = &self.conditions else {
            return true;
        };
        conditions.method.is_none_or(|method| method.as_bytes() == request.method())
            && conditions
                .headers
                .iter()
                .all(|header| field(request, &header.name).is_some_and(|value| header.test.holds(&value)))
            && conditions.params.iter().all(|param| {
                query::first(request.query(), param.name.as_bytes()).is_some_and(|value| param.test.holds(&value))
            })
    }
}

impl Candidates {
    /// Takes one in; `finish` must follow the last.
    pub(crate) fn add(&mut self, candidate: Candidate) {
        self.list.push(candidate);
    }

    /// Puts them into order of precedence and indexes them if they are many.
    pub(crate) fn finish(&mut self) {
        self.list.sort_by_key(Candidate::precedence);
        self.list.shrink_to_fit();
        self.index = (self.list.len() >= INDEXED_FROM).then(|| Box::new(Index::new(&self.list)));
    }

    /// The first whose conditions all hold.
    pub(crate) fn find(&self, request: &impl RequestView) -> Option<&Candidate> {
        match &self.index {
            None => self.list.iter().find(|candidate| candidate.holds(request)),
            Some(index) => index.find(&self.list, request),
        }
    }
}

/// The values of all fields of that name as one (RFC 9110 5.3; for Cookie RFC 9113 8.2.3). Copied only if
/// there are several.
fn field<'r>(request: &'r impl RequestView, name_lower: &'r str) -> Option<Cow<'r, [u8]>> {
    let mut values = request.header(name_lower);
    let first = values.next()?;
    let Some(second) = values.next() else {
        return Some(Cow::Borrowed(first));
    };
    let separator: &[u8] = if name_lower == "cookie" { b"; " } else { b", " };
    let mut joined = first.to_vec();
    for value in std::iter::once(second).chain(values) {
        joined.extend_from_slice(separator);
        joined.extend_from_slice(value);
    }
    Some(Cow::Owned(joined))
}

/// What an index looks at.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Key {
    Method,
    Header(Box<str>),
    Param(Box<str>),
}

/// Positions in a list of candidates, by the value asked for under a few keys.
#[derive(Debug, Clone, PartialEq)]
struct Index {
    keys: Vec<(Key, Positions)>,
    /// Those that ask for none of the keys.
    rest: Box<[u32]>,
}

/// Positions of the candidates that ask for a value, in order of precedence.
type Positions = HashMap<Box<[u8]>, Vec<u32>, RandomState>;

impl Index {
    fn new(list: &[Candidate]) -> Index {
        let mut rest: Vec<u32> = (0..list.len() as u32).collect();
        let mut keys = Vec::new();
        while keys.len() < KEYS_MAX {
            let Some(key) = Self::most_asked(list, &rest) else {
                break;
            };
            let mut positions = Positions::default();
            rest.retain(|position| match asked(&list[*position as usize], &key) {
                Some(value) => {
                    positions.entry(value.into()).or_default().push(*position);
                    false
                }
                None => true,
            });
            keys.push((key, positions));
        }
        Index { keys, rest: rest.into() }
    }

    /// The key under which the most different values are asked for, if that saves trying.
    fn most_asked(list: &[Candidate], rest: &[u32]) -> Option<Key> {
        let mut values: HashMap<Key, std::collections::HashSet<&[u8]>> = HashMap::new();
        for candidate in rest.iter().map(|position| &list[*position as usize]) {
            let Some(conditions) = &candidate.conditions else {
                continue;
            };
            let headers = conditions.headers.iter().map(|header| Key::Header(header.name.clone()));
            let params = conditions.params.iter().map(|param| Key::Param(param.name.clone()));
            for key in headers.chain(params).chain([Key::Method]) {
                if let Some(value) = asked(candidate, &key) {
                    values.entry(key).or_default().insert(value);
                }
            }
        }
        let best = values.into_iter().map(|(key, values)| (values.len(), Reverse(key))).max()?;
        (best.0 > 1).then_some(best.1.0)
    }

    /// Goes through those under the request's own values and the rest, merged in order of precedence.
    fn find<'c>(&self, list: &'c [Candidate], request: &impl RequestView) -> Option<&'c Candidate> {
        let mut lists: [&[u32]; KEYS_MAX + 1] = [&[]; KEYS_MAX + 1];
        for ((key, positions), list) in self.keys.iter().zip(&mut lists) {
            let value = match key {
                Key::Method => Some(Cow::Borrowed(request.method())),
                Key::Header(name) => field(request, name),
                Key::Param(name) => query::first(request.query(), name.as_bytes()),
            };
            *list = value.and_then(|value| positions.get(&*value)).map_or(&[], Vec::as_slice);
        }
        lists[KEYS_MAX] = &self.rest;
        loop {
            let next = lists.iter_mut().filter(|list| !list.is_empty()).min_by_key(|list| list[0])?;
            let candidate = &list[next[0] as usize];
            if candidate.holds(request) {
                return Some(candidate);
            }
            *next = &next[1..];
        }
    }
}

/// The value that a candidate asks for under a key, if it asks for exactly one.
fn asked<'c>(candidate: &'c Candidate, key: &Key) -> Option<&'c [u8]> {
    let conditions = candidate.conditions.as_ref()?;
    let exact = |conditions: &'c [Condition], name: &str| {
        let condition = conditions.iter().find(|condition| *condition.name == *name)?;
        match &condition.test {
            ValueTest::Exact(value) => Some(&**value),
            ValueTest::Expression(_) => None,
        }
    };
    match key {
        Key::Method => conditions.method.map(str::as_bytes),
        Key::Header(name) => exact(&conditions.headers, name),
        Key::Param(name) => exact(&conditions.params, name),
    }
}
