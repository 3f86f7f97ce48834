//! Which of the entries of one path a request meets, by method, header fields and parameters. Few are tried
//! one after the other; many are looked up by the value that most of them ask for. Pure, Hot.

use std::borrow::Cow;
use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use smallvec::SmallVec;

use crate::route::bytes::ByteMap;
use crate::route::entry::{Condition, Rank, RouteEntry};
use crate::route::{Found, RequestView, query};
use crate::snapshot::Rule;

/// From here on an index costs less than trying.
const INDEXED_FROM: usize = 12;
/// Names that an index looks at; what asks for others is tried one after the other.
const KEYS_MAX: usize = 4;

/// Entries of one path in order of precedence.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Candidates {
    list: SmallVec<[Candidate; 1]>,
    index: Option<Box<Index>>,
}

/// An entry whose host and path suit.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Candidate {
    /// What is done if the tests hold.
    pub rule: Arc<Rule>,
    /// Its number in the table.
    pub number: usize,
    rank: Rank,
    /// All must hold; side by side, since each step to another piece of memory may miss the cache.
    tests: Box<[Test]>,
}

#[derive(Debug, Clone, PartialEq)]
enum Test {
    Method(&'static str),
    Header(Condition),
    Param(Condition),
}

impl Candidate {
    /// What is left to test of an entry once host and path suit.
    pub(crate) fn new(entry: &RouteEntry, number: usize) -> Self {
        let written = &entry.conditions;
        let headers = written.headers.iter().cloned().map(Test::Header);
        let params = written.params.iter().cloned().map(Test::Param);
        let tests = written.method.map(Test::Method).into_iter().chain(headers).chain(params);
        Candidate { rule: entry.rule.clone(), number, rank: entry.rank, tests: tests.collect() }
    }

    /// What a request is told that meets it.
    pub(crate) fn found(&self, prefix_bytes: usize) -> Found<'_> {
        Found { rule: &self.rule, number: self.number, prefix_bytes }
    }

    /// The order of Gateway API (HTTPRouteRule.matches): the smallest comes first.
    pub(crate) fn precedence(&self) -> impl Ord + use<> {
        let count = |is_one: fn(&Test) -> bool| self.tests.iter().filter(|test| is_one(test)).count();
        let methods = count(|test| matches!(test, Test::Method(_)));
        let headers = count(|test| matches!(test, Test::Header(_)));
        let params = count(|test| matches!(test, Test::Param(_)));
        (Reverse((methods, headers, params)), self.rank)
    }

    /// Whether method, header fields and parameters suit.
    pub(crate) fn holds(&self, request: &impl RequestView) -> bool {
        self.tests.iter().all(|test| match test {
            Test::Method(method) => method.as_bytes() == request.method(),
            Test::Header(header) => field(request, &header.name).is_some_and(|value| header.test.holds(&value)),
            Test::Param(param) => {
                query::first(request.query(), param.name.as_bytes()).is_some_and(|value| param.test.holds(&value))
            }
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
    Header(Arc<str>),
    Param(Arc<str>),
}

/// Positions in a list of candidates, by the value asked for under a few keys.
#[derive(Debug, Clone, PartialEq)]
struct Index {
    keys: Vec<(Key, Positions)>,
    /// Those that ask for none of the keys.
    rest: Box<[u32]>,
}

/// Positions of the candidates that ask for a value, in order of precedence.
type Positions = ByteMap<SmallVec<[u32; 4]>>;

impl Index {
    fn new(list: &[Candidate]) -> Index {
        let mut rest: Vec<u32> = (0..list.len() as u32).collect();
        let mut keys = Vec::new();
        while keys.len() < KEYS_MAX {
            let Some(key) = Self::most_asked(list, &rest) else {
                break;
            };
            let mut positions = Positions::default();
            rest.retain(|position| {
                let mut asked = list[*position as usize].tests.iter().filter_map(asked);
                match asked.find(|(known, _)| *known == key) {
                    Some((_, value)) => {
                        positions.entry(value, SmallVec::new).push(*position);
                        false
                    }
                    None => true,
                }
            });
            keys.push((key, positions));
        }
        Index { keys, rest: rest.into() }
    }

    /// The key under which the most different values are asked for, if that saves trying.
    fn most_asked(list: &[Candidate], rest: &[u32]) -> Option<Key> {
        let mut values: HashMap<Key, HashSet<&[u8]>> = HashMap::new();
        for test in rest.iter().flat_map(|position| &list[*position as usize].tests) {
            if let Some((key, value)) = asked(test) {
                values.entry(key).or_default().insert(value);
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
            *list = value.and_then(|value| positions.get(&value)).map_or(&[], SmallVec::as_slice);
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

/// What a test asks for, if it is one value.
fn asked(test: &Test) -> Option<(Key, &[u8])> {
    match test {
        Test::Method(method) => Some((Key::Method, method.as_bytes())),
        Test::Header(header) => Some((Key::Header(header.name.clone()), header.test.exact()?)),
        Test::Param(param) => Some((Key::Param(param.name.clone()), param.test.exact()?)),
    }
}
