//! Which entry a path meets: the Exact one, then PathPrefixes from the longest to the shortest, then
//! RegularExpressions. Expressions come last because Gateway API leaves their place open, and so that no
//! request pays for them that a plain path answers. Pure, Hot.

use crate::route::bytes::ByteMap;
use crate::route::candidates::{Candidate, Candidates};
use crate::route::entry::{PathCondition, RouteEntry};
use crate::route::expression::Expression;
use crate::route::{Found, RequestView};

/// The entries of one host by path.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Paths {
    exact: ByteMap<Candidates>,
    /// A tree of path elements; the first is its root, the prefix `/`.
    prefixes: Vec<Prefix>,
    /// In order of precedence.
    expressions: Vec<(Expression, Candidate)>,
}

/// A node of the tree of prefixes.
#[derive(Debug, Clone, PartialEq, Default)]
struct Prefix {
    /// The node one element shorter; the root's is itself.
    parent: u32,
    /// Bytes up to the end of this node's element; 0 for the root.
    bytes: u32,
    /// By the next element.
    children: ByteMap<u32>,
    candidates: Candidates,
}

impl Default for Paths {
    fn default() -> Self {
        Paths { exact: ByteMap::default(), prefixes: vec![Prefix::default()], expressions: Vec::new() }
    }
}

impl Paths {
    /// Takes an entry in; `finish` must follow the last.
    pub(crate) fn add(&mut self, entry: &RouteEntry, number: usize) {
        let candidate = Candidate::new(entry, number);
        match entry.path() {
            PathCondition::Exact(path) => self.exact.entry(path.as_bytes(), Candidates::default).add(candidate),
            PathCondition::Prefix(prefix) => self.prefix(prefix).add(candidate),
            PathCondition::Expression(expression) => self.expressions.push((expression.clone(), candidate)),
        }
    }

    /// Puts everything into order of precedence.
    pub(crate) fn finish(&mut self) {
        self.exact.values_mut().for_each(Candidates::finish);
        self.prefixes.iter_mut().for_each(|prefix| prefix.candidates.finish());
        self.expressions.sort_by_key(|(_, candidate)| candidate.precedence());
    }

    /// The first entry whose conditions all hold.
    pub(crate) fn find<'t>(&'t self, request: &impl RequestView) -> Option<Found<'t>> {
        let path = request.path();
        if let Some(candidate) = self.exact.get(path).and_then(|candidates| candidates.find(request)) {
            return Some(candidate.found(0));
        }
        let mut prefix = &self.prefixes[self.longest(path)];
        loop {
            if let Some(candidate) = prefix.candidates.find(request) {
                return Some(candidate.found(prefix.bytes as usize));
            }
            if prefix.bytes == 0 {
                break;
            }
            prefix = &self.prefixes[prefix.parent as usize];
        }
        let holds =
            |(expression, candidate): &&(Expression, Candidate)| expression.is_match(path) && candidate.holds(request);
        self.expressions.iter().find(holds).map(|(_, candidate)| candidate.found(0))
    }

    /// The deepest node that the elements of a path lead to.
    fn longest(&self, path: &[u8]) -> usize {
        let mut node = 0;
        let mut rest = path.strip_prefix(b"/");
        while let Some(elements) = rest {
            if self.prefixes[node].children.is_empty() {
                break;
            }
            let end = memchr::memchr(b'/', elements).unwrap_or(elements.len());
            match self.prefixes[node].children.get(&elements[..end]) {
                Some(child) => node = *child as usize,
                None => break,
            }
            rest = elements.get(end + 1..);
        }
        node
    }

    fn prefix(&mut self, prefix: &str) -> &mut Candidates {
        let mut node = 0;
        let mut bytes = 0;
        for element in prefix.split('/').filter(|element| !element.is_empty()) {
            bytes += 1 + element.len() as u32;
            let next = self.prefixes.len() as u32;
            let child = *self.prefixes[node].children.entry(element.as_bytes(), || next);
            if child == next {
                self.prefixes.push(Prefix { parent: node as u32, bytes, ..Prefix::default() });
            }
            node = child as usize;
        }
        &mut self.prefixes[node].candidates
    }
}
