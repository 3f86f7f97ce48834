//! Table look-up against a naive reading of Gateway API: go through all entries, keep those that hold, take
//! the smallest by the order as it is written there.

use std::cmp::Reverse;
use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::route::entry::{Condition, Conditions, PathCondition, Rank, RouteEntry, ValueTest};

/// A request as tests write it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Request {
    pub method: String,
    pub host: String,
    pub path: String,
    pub query: String,
    pub headers: Vec<(String, String)>,
}

impl RequestView for Request {
    fn method(&self) -> &[u8] {
        self.method.as_bytes()
    }

    fn host(&self) -> &[u8] {
        self.host.as_bytes()
    }

    fn authority(&self) -> &[u8] {
        self.host.as_bytes()
    }

    fn path(&self) -> &[u8] {
        self.path.as_bytes()
    }

    fn query(&self) -> &[u8] {
        self.query.as_bytes()
    }

    fn header<'h>(&'h self, name_lower: &'h str) -> impl Iterator<Item = &'h [u8]> {
        let named = move |(name, _): &&(String, String)| name.eq_ignore_ascii_case(name_lower);
        self.headers.iter().filter(named).map(|(_, value)| value.as_bytes())
    }
}

type Listeners = Vec<(Option<String>, Vec<RouteEntry>)>;

fn table(listeners: &Listeners) -> Table {
    Table::new(listeners.iter().map(|(host, entries)| (host.as_deref(), entries.as_slice())))
}

/// How well a host name suits: its own, then the most characters of a wildcard, then none. None: not at all.
fn suits(pattern: Option<&str>, host: &str) -> Option<(bool, usize)> {
    match pattern {
        None => Some((false, 0)),
        Some(pattern) => match pattern.strip_prefix('*') {
            None => (pattern == host).then_some((true, pattern.len())),
            Some(suffix) => (host.len() > suffix.len() && host.ends_with(suffix)).then_some((false, pattern.len())),
        },
    }
}

fn path_suits(path: &PathCondition, request: &str) -> Option<(Reverse<u8>, usize)> {
    match path {
        PathCondition::Exact(path) => (**path == *request).then_some((Reverse(0), 0)),
        PathCondition::Prefix(prefix) if prefix.is_empty() => Some((Reverse(1), 0)),
        PathCondition::Prefix(prefix) => {
            let rest = request.strip_prefix(&**prefix)?;
            (rest.is_empty() || rest.starts_with('/')).then_some((Reverse(1), prefix.len()))
        }
        PathCondition::Expression(expression) => expression.is_match(request.as_bytes()).then_some((Reverse(2), 0)),
    }
}

fn value_of_header(request: &Request, name: &str) -> Option<String> {
    let values: Vec<&str> =
        request.headers.iter().filter(|(known, _)| known == name).map(|(_, value)| value.as_str()).collect();
    (!values.is_empty()).then(|| values.join(", "))
}

fn value_of_param(request: &Request, name: &str) -> Option<String> {
    let mut pairs = request.query.split('&').filter_map(|pair| pair.split_once('='));
    pairs.find(|(known, _)| *known == name).map(|(_, value)| value.to_owned())
}

fn conditions_hold(conditions: &Conditions, request: &Request) -> bool {
    let holds = |condition: &Condition, value: Option<String>| {
        value.is_some_and(|value| condition.test.holds(value.as_bytes()))
    };
    conditions.method.is_none_or(|method| method == request.method)
        && conditions.headers.iter().all(|header| holds(header, value_of_header(request, &header.name)))
        && conditions.params.iter().all(|param| holds(param, value_of_param(request, &param.name)))
}

fn naive<'l>(listeners: &'l Listeners, request: &Request) -> Option<(&'l RouteEntry, usize)> {
    let listener =
        listeners.iter().filter_map(|(host, entries)| Some((suits(host.as_deref(), &request.host)?, entries)));
    let (_, entries) = listener.max_by_key(|(rank, _)| *rank)?;
    let holding = entries.iter().filter_map(|entry| {
        let host = suits(entry.host(), &request.host)?;
        let path = path_suits(entry.path(), &request.path)?;
        let conditions = &*entry.conditions;
        conditions_hold(conditions, request).then(|| {
            let order = (
                Reverse(host),
                Reverse(path),
                Reverse(conditions.method.is_some()),
                Reverse(conditions.headers.len()),
                Reverse(conditions.params.len()),
                entry.rank,
            );
            (order, entry, path.1)
        })
    });
    holding.min_by(|left, right| left.0.cmp(&right.0)).map(|(_, entry, bytes)| (entry, bytes))
}

fn some_host() -> impl Strategy<Value = Option<String>> {
    let words = ["a.test", "b.a.test", "*.test", "*.a.test", "*.b.a.test", "c.test"];
    proptest::option::of(proptest::sample::select(words.to_vec()).prop_map(str::to_owned))
}

fn some_path() -> impl Strategy<Value = PathCondition> {
    let words = ["/", "/a", "/a/", "/a/b", "/a/b/c", "/ab"];
    let expressions = ["/a.*", "/[ab]+/b", "/"];
    prop_oneof![
        proptest::sample::select(words.to_vec()).prop_map(PathCondition::exact),
        proptest::sample::select(words.to_vec()).prop_map(PathCondition::prefix),
        proptest::sample::select(expressions.to_vec())
            .prop_map(|text| PathCondition::Expression(Expressions::default().compile(text).expect("rows are valid"))),
    ]
}

fn some_tests() -> impl Strategy<Value = Box<[Condition]>> {
    let test = prop_oneof![
        4 => proptest::sample::select(vec!["1", "2", "3", "1, 2"]).prop_map(|text| ValueTest::Exact(text.as_bytes().into())),
        1 => Just(ValueTest::Expression(Expressions::default().compile("[12]").expect("the row is valid"))),
    ];
    proptest::collection::btree_map(proptest::sample::select(vec!["x", "y", "z"]), test, 0..3)
        .prop_map(|tests| tests.into_iter().map(|(name, test)| Condition { name: name.into(), test }).collect())
}

fn some_entry() -> impl Strategy<Value = (Option<String>, Conditions)> {
    let method = proptest::option::weighted(0.3, proptest::sample::select(vec!["GET", "POST"]));
    (some_host(), some_path(), method, some_tests(), some_tests())
        .prop_map(|(host, path, method, headers, params)| (host, Conditions { path, method, headers, params }))
}

fn some_listeners() -> impl Strategy<Value = Listeners> {
    let entries = proptest::collection::vec((some_entry(), 0_u32..4), 0..80);
    proptest::collection::btree_map(some_host(), entries, 1..4).prop_map(|listeners| {
        let mut number = 0;
        let mut entry = |((host, conditions), age): ((Option<String>, Conditions), u32)| {
            number += 1;
            let name = format!("{number}").into();
            let rule = Rule {
                name,
                mirrors: Box::default(),
                filters: Arc::default(),
                request_timeout: None,
                backend_request_timeout: None,
                backends: Arc::default(),
                policies: Arc::default(),
            };
            let entry = RouteEntry::new(conditions, Rank { age, rule: number, condition: 0 }, Arc::new(rule));
            host.map_or(entry.clone(), |host| entry.for_host(&host))
        };
        listeners.into_iter().map(|(host, entries)| (host, entries.into_iter().map(&mut entry).collect())).collect()
    })
}

fn some_request() -> impl Strategy<Value = Request> {
    let hosts = ["a.test", "b.a.test", "x.b.a.test", "c.test", "test", ".test", "d.c.test", "other", ""];
    let paths = ["/", "/a", "/a/", "/a/b", "/a/b/", "/a/b/c/d", "/ab", "/abc", "/a//b", "*"];
    let values = || proptest::sample::select(vec!["1", "2", "3", "4"]).prop_map(str::to_owned);
    let names = || proptest::sample::select(vec!["x", "y", "z"]).prop_map(str::to_owned);
    let pairs = || proptest::collection::vec((names(), values()), 0..4);
    (
        proptest::sample::select(vec!["GET", "POST", "PUT"]),
        proptest::sample::select(hosts.to_vec()),
        proptest::sample::select(paths.to_vec()),
        pairs(),
        pairs(),
    )
        .prop_map(|(method, host, path, query, headers)| Request {
            method: method.to_owned(),
            host: host.to_owned(),
            path: path.to_owned(),
            query: query.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join("&"),
            headers,
        })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn the_table_finds_what_a_naive_reading_finds(
        listeners in some_listeners(),
        requests in proptest::collection::vec(some_request(), 40),
    ) {
        let table = table(&listeners);
        for request in &requests {
            let found = table.find(request).map(|found| (&*found.rule.name, found.prefix_bytes));
            let expected = naive(&listeners, request).map(|(entry, bytes)| (&*entry.rule.name, bytes));
            prop_assert_eq!(found, expected, "{:?}", request);
        }
    }

    #[test]
    fn a_copy_of_a_table_is_equal_and_a_different_one_is_not(listeners in some_listeners()) {
        let original = table(&listeners);
        prop_assert_eq!(&original.clone(), &original);
        prop_assert_eq!(&table(&listeners), &original);
        let mut more = listeners.clone();
        let rule = listeners.iter().flat_map(|(_, entries)| entries).next().map(|entry| entry.rule.clone());
        if let Some(rule) = rule {
            let rank = Rank { age: 9, rule: 9, condition: 9 };
            more[0].1.push(RouteEntry::new(Conditions::default(), rank, rule));
            prop_assert_ne!(&table(&more), &original);
        }
    }
}
