//! One match of one rule before it is indexed: its conditions and its place in the order of precedence.
//! How it is found quickly is `paths`' and `candidates`' business. Pure, Cold.

use std::sync::Arc;

use crate::route::bytes::Bytes;
use crate::route::expression::Expression;
use crate::snapshot::Rule;

/// A match with the rule it belongs to and the host it is for.
#[derive(Debug, Clone)]
pub(crate) struct RouteEntry {
    host: Option<Arc<str>>,
    pub(super) conditions: Arc<Conditions>,
    pub(super) rank: Rank,
    pub(super) rule: Arc<Rule>,
}

impl RouteEntry {
    /// For all hosts.
    pub(crate) fn new(conditions: Conditions, rank: Rank, rule: Arc<Rule>) -> Self {
        RouteEntry { host: None, conditions: Arc::new(conditions), rank, rule }
    }

    /// The same for one host, which may begin with `*.`.
    pub(crate) fn for_host(&self, hostname: &str) -> Self {
        RouteEntry { host: Some(hostname.into()), ..self.clone() }
    }

    /// The same for another form of its rule, such as one listener gives it.
    pub(crate) fn for_rule(&self, rule: Arc<Rule>) -> Self {
        RouteEntry { rule, ..self.clone() }
    }

    /// The rule it leads to.
    pub(crate) fn rule(&self) -> &Arc<Rule> {
        &self.rule
    }

    /// The host it is for; None for all.
    pub(crate) fn host(&self) -> Option<&str> {
        self.host.as_deref()
    }

    /// All its conditions.
    pub(crate) fn conditions(&self) -> &Conditions {
        &self.conditions
    }

    /// Its place among equals.
    pub(crate) fn rank(&self) -> Rank {
        self.rank
    }

    /// `namespace/route/rule`.
    pub(crate) fn rule_name(&self) -> &str {
        &self.rule.name
    }

    /// The condition on the path.
    pub(crate) fn path(&self) -> &PathCondition {
        &self.conditions.path
    }
}

/// What decides between matches that are equal otherwise: the smallest wins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub(crate) struct Rank {
    /// The route's number in order of creation, then of `namespace/name`.
    pub age: u32,
    /// The rule's index in its route.
    pub rule: u16,
    /// The match's index in its rule.
    pub condition: u16,
}

/// Conditions that must all hold.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Conditions {
    /// On the path.
    pub path: PathCondition,
    /// The method; None for all.
    pub method: Option<&'static str>,
    /// On header fields; names in lower case.
    pub headers: Box<[Condition]>,
    /// On parameters of the query.
    pub params: Box<[Condition]>,
}

impl Default for Conditions {
    fn default() -> Self {
        let path = PathCondition::everything();
        Conditions { path, method: None, headers: Box::default(), params: Box::default() }
    }
}

/// A condition on the path.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum PathCondition {
    /// The same bytes.
    Exact(Box<str>),
    /// Element by element, without a trailing slash; empty for all paths.
    Prefix(Box<str>),
    /// All of the path.
    Expression(Expression),
}

impl PathCondition {
    /// The prefix `/`.
    pub(crate) fn everything() -> Self {
        PathCondition::Prefix("".into())
    }

    /// A path as a normalised request has it.
    pub(crate) fn exact(path: &str) -> Self {
        PathCondition::Exact(normalise(path).into())
    }

    /// A prefix; its trailing slash says nothing.
    pub(crate) fn prefix(path: &str) -> Self {
        PathCondition::Prefix(normalise(path.strip_suffix('/').unwrap_or(path)).into())
    }
}

/// Percent-encoding as in normalised requests: unreserved characters decoded, digits in upper case (RFC 3986 6.2.2).
fn normalise(path: &str) -> String {
    let mut parts = path.split('%');
    let mut normal = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let code = part.get(..2).and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match code {
            Some(code) if code.is_ascii_alphanumeric() || b"-._~".contains(&code) => normal.push(char::from(code)),
            Some(code) => normal.push_str(&format!("%{code:02X}")),
            None => normal.push('%'),
        }
        normal.push_str(if code.is_some() { &part[2..] } else { part });
    }
    normal
}

/// A condition on a header field or a parameter.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Condition {
    /// The field's name in lower case, or the parameter's as it is.
    pub name: Arc<str>,
    /// What its value must be.
    pub test: ValueTest,
}

/// What a value must be.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum ValueTest {
    /// The same bytes.
    Exact(Bytes),
    /// All of the value.
    Expression(Expression),
}

impl ValueTest {
    /// The only value that it takes, if it is one.
    pub(crate) fn exact(&self) -> Option<&[u8]> {
        match self {
            ValueTest::Exact(value) => Some(value.as_slice()),
            ValueTest::Expression(_) => None,
        }
    }

    /// Whether a value is what it must be.
    pub(crate) fn holds(&self, value: &[u8]) -> bool {
        match self {
            ValueTest::Exact(expected) => value == expected.as_slice(),
            ValueTest::Expression(expression) => expression.is_match(value),
        }
    }
}
