//! Both ends in one process and one thread: a catalog that changes, proxies that come, go, refuse and forget, and lines
//! between them that are slow and break. Time is a number, chance a seed: a failure is the same each time.

mod simulation;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use prost::bytes::Bytes;

use super::catalog::{Catalog, Transaction};
use super::client::{Action, Client};
use super::server::{Breach, Limits, Stream};
use super::{TYPE, Version};
use crate::wire::envoy::config::core::v3::Node;
use crate::wire::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource};
use crate::wire::google::rpc::Status;
use simulation::{Faults, Simulation};

/// A transaction as rows: `name=body`, `-name` for what goes, `name/*=a,b` for members.
fn transaction(revision: u64, rows: &[&str]) -> Transaction {
    let mut transaction = Transaction { revision, ..Transaction::default() };
    for row in rows {
        let (name, value) = match (row.strip_prefix('-'), row.split_once('=')) {
            (Some(name), _) => (name, None),
            (None, pair) => pair.map(|(name, value)| (name, Some(value))).expect("a row is -name or name=value"),
        };
        if super::is_collection(name) {
            let members = value.map(|list| list.split(',').filter(|name| !name.is_empty()).map(Arc::from).collect());
            transaction.collections.insert(name.into(), members);
        } else {
            let body = value.map(|body| Bytes::copy_from_slice(body.as_bytes()));
            transaction.resources.insert(name.into(), body);
        }
    }
    transaction
}

/// One proxy and its stream, joined without any delay.
struct Pair {
    catalog: Catalog,
    stream: Stream,
    limits: Limits,
    client: Client,
    /// Bodies that the proxy refuses.
    refuses: Vec<&'static str>,
    /// What it was sent, one line for each message.
    sent: Vec<String>,
}

impl Pair {
    fn new(rows: &[&str], wanted: &[&str]) -> Pair {
        let mut catalog = Catalog::default();
        catalog.commit(transaction(1, rows));
        let mut client = Client::new(Node { id: "p".into(), ..Node::default() }, BTreeMap::new(), 0);
        client.want(wanted.iter().copied());
        let (limits, stream) = (Limits::default(), Stream::default());
        Pair { catalog, stream, limits, client, refuses: Vec::new(), sent: Vec::new() }
    }

    fn connect(&mut self) {
        self.stream = Stream::new(self.limits);
        let actions = self.client.on_connected();
        self.act(actions);
    }

    fn commit(&mut self, revision: u64, rows: &[&str]) {
        let changed = self.catalog.commit(transaction(revision, rows));
        self.stream.on_change(&self.catalog, &changed);
        self.act(Vec::new());
    }

    /// Carries out actions until nothing is left to do.
    fn act(&mut self, actions: Vec<Action>) {
        let mut actions = VecDeque::from(actions);
        loop {
            for response in self.stream.responses(&self.catalog) {
                let set = response.resources.iter().map(|resource| resource.name.clone());
                let gone = response.removed_resources.iter().map(|name| format!("-{name}"));
                let names: Vec<String> = set.chain(gone).collect();
                self.sent.push(format!("{}: {}", response.system_version_info, names.join(" ")));
                actions.extend(self.client.on_response(response));
            }
            match actions.pop_front() {
                None => return,
                Some(Action::Send(request)) => self.stream.on_request(&self.catalog, *request).expect("it is right"),
                Some(Action::Apply(change)) => {
                    let bodies = change.resources.values().flatten().map(|held| &held.body[..]);
                    let is_refused =
                        bodies.into_iter().any(|body| self.refuses.iter().any(|bad| bad.as_bytes() == body));
                    let result = if is_refused { Err(vec!["is wrong".into()]) } else { Ok(()) };
                    actions.extend(self.client.on_applied(&change, result));
                }
                Some(Action::Disconnect(reason)) => panic!("{reason}"),
            }
        }
    }

    fn check(&mut self, context: &str, sent: &[&str], held: &str) {
        assert_eq!(std::mem::take(&mut self.sent), sent, "{context}");
        let bodies = self.client.held().iter().filter(|(name, _)| !super::is_collection(name));
        let bodies: Vec<String> =
            bodies.map(|(name, held)| format!("{name}={}", String::from_utf8_lossy(&held.body))).collect();
        assert_eq!(bodies.join(" "), held, "{context}");
    }
}

#[test]
fn a_proxy_gets_what_it_wants_and_nothing_twice() {
    let rows = ["Route/a=1", "Route/b=1", "Route/c=1", "Endpoints/s=1", "Gateway/g/*=Route/a,Route/b"];
    let mut pair = Pair::new(&rows, &["Gateway/g/*", "Endpoints/s", "Endpoints/none"]);
    pair.connect();
    let first = ["1: Endpoints/s Gateway/g/* Route/a Route/b -Endpoints/none"];
    pair.check("at first", &first, "Endpoints/s=1 Route/a=1 Route/b=1");
    assert!(pair.client.is_known("Endpoints/none") && !pair.client.is_known("Endpoints/other"));
    pair.connect();
    pair.check("again", &["1: "], "Endpoints/s=1 Route/a=1 Route/b=1");
    for (revision, rows, sent, held) in [
        (2, &["Route/a=2", "Route/c=2"][..], &["2: Route/a"][..], "Endpoints/s=1 Route/a=2 Route/b=1"),
        (3, &["Route/c=3"], &[], "Endpoints/s=1 Route/a=2 Route/b=1"),
        (4, &["Route/a=2"], &[], "Endpoints/s=1 Route/a=2 Route/b=1"),
        (5, &["Gateway/g/*=Route/a,Route/c"], &["5: Route/c -Route/b"], "Endpoints/s=1 Route/a=2 Route/c=3"),
        (6, &["Endpoints/none=1"], &["6: Endpoints/none"], "Endpoints/none=1 Endpoints/s=1 Route/a=2 Route/c=3"),
        (7, &["-Endpoints/s", "-Route/a"], &["7: -Endpoints/s -Route/a"], "Endpoints/none=1 Route/c=3"),
        (8, &["-Gateway/g/*"], &["8: -Gateway/g/* -Route/c"], "Endpoints/none=1"),
    ] {
        pair.commit(revision, rows);
        pair.check(&format!("{rows:?}"), sent, held);
        assert_eq!(pair.stream.in_force(&pair.catalog), revision);
    }
    assert_eq!(pair.client.revision(), 8);
    // What is no longer wanted goes, and comes again.
    let actions = pair.client.forget(["Endpoints/none"]);
    pair.act(actions);
    pair.check("forgotten", &["8: -Endpoints/none"], "");
    let actions = pair.client.want(["Endpoints/none"]);
    pair.act(actions);
    pair.check("wanted again", &["8: Endpoints/none"], "Endpoints/none=1");
}

#[test]
fn large_responses_go_on_in_another_message() {
    let body = "x".repeat(150);
    let rows: Vec<String> = (0..3).map(|number| format!("Route/{number}={body}")).collect();
    let rows: Vec<&str> = rows.iter().map(|row| &row[..]).collect();
    let mut pair = Pair::new(&rows, &["Route/0", "Route/1", "Route/2"]);
    pair.limits.message_bytes_max = 300;
    pair.connect();
    assert_eq!(pair.sent, [": Route/0", ": Route/1", "1: Route/2"]);
    assert_eq!((pair.client.held().len(), pair.stream.in_force(&pair.catalog)), (3, 1));
}

#[test]
fn what_is_wrong_does_not_keep_the_rest() {
    let mut pair = Pair::new(&["Route/a=1", "Route/b=1", "Route/c=1"], &["Route/a", "Route/b", "Route/c"]);
    pair.refuses = vec!["bad"];
    pair.connect();
    pair.check("at first", &["1: Route/a Route/b Route/c"], "Route/a=1 Route/b=1 Route/c=1");
    pair.commit(2, &["Route/a=bad", "Route/b=2"]);
    pair.check("refused whole", &["2: Route/a Route/b"], "Route/a=1 Route/b=1 Route/c=1");
    assert_eq!(
        pair.stream.refused().iter().flat_map(|refused| refused.names()).collect::<Vec<_>>(),
        ["Route/a", "Route/b"]
    );
    assert_eq!((pair.stream.in_force(&pair.catalog), pair.client.revision()), (1, 1));
    pair.commit(3, &["Route/c=3"]);
    // It is ahead, but still lacks revision 2.
    pair.check("others go on", &["1: Route/c"], "Route/a=1 Route/b=1 Route/c=3");
    pair.commit(4, &["Route/a=4"]);
    pair.check("mended, with what belongs to it", &["4: Route/a Route/b"], "Route/a=4 Route/b=2 Route/c=3");
    assert_eq!((pair.stream.in_force(&pair.catalog), pair.stream.refused().len()), (4, 0));

    // Four transactions while nobody listens: what came together stays together, and one of them is wrong.
    for (revision, rows) in
        [(5, &["Route/a=5", "Route/b=5"][..]), (6, &["Route/c=bad"]), (7, &["Route/a=7"]), (8, &["Route/d=8"])]
    {
        pair.catalog.commit(transaction(revision, rows));
    }
    pair.client.want(["Route/d"]);
    pair.connect();
    // As far as it said when it came, it may lack anything after revision 2.
    let sent =
        ["8: Route/a Route/b Route/c Route/d", "2: Route/a Route/b", "8: Route/c Route/d", "2: Route/c", "2: Route/d"];
    pair.check("one is left out", &sent, "Route/a=7 Route/b=5 Route/c=3 Route/d=8");
    assert_eq!(pair.stream.refused().iter().flat_map(|refused| refused.names()).collect::<Vec<_>>(), ["Route/c"]);
    // Nothing is on its way any more; the one that was refused is not in force.
    assert_eq!((pair.stream.in_force(&pair.catalog), pair.stream.settled(&pair.catalog)), (2, 8));
}

#[test]
fn what_is_on_its_way_is_not_in_force() {
    let mut pair = Pair::new(&["Route/a=1"], &["Route/a"]);
    pair.catalog.commit(transaction(2, &["Route/b=2"]));
    let claim = |pair: &Pair| {
        let late: Vec<String> = pair.stream.late(&pair.catalog).map(ToString::to_string).collect();
        (pair.stream.in_force(&pair.catalog), pair.stream.settled(&pair.catalog), late.join(" "))
    };
    // Whoever has introduced itself and has nothing lacks every revision, not only the last one.
    let request = DeltaDiscoveryRequest {
        node: Some(Node::default()),
        type_url: TYPE.into(),
        resource_names_subscribe: vec!["Route/a".into()],
        ..DeltaDiscoveryRequest::default()
    };
    pair.stream.on_request(&pair.catalog, request).expect("it is right");
    let sent = pair.stream.responses(&pair.catalog);
    assert_eq!((claim(&pair), pair.stream.unanswered().count()), ((0, 0, "Route/a".into()), 1));
    let nonce = sent[0].nonce.clone();
    let answer = DeltaDiscoveryRequest { type_url: TYPE.into(), response_nonce: nonce, ..Default::default() };
    pair.stream.on_request(&pair.catalog, answer).expect("it is right");
    assert_eq!((claim(&pair), pair.stream.unanswered().count()), ((2, 2, String::new()), 0));
}

#[test]
fn endpoints_do_not_wait_for_rules() {
    let mut pair = Pair::new(&["Route/a=1", "Endpoints/s=1"], &["Route/a", "Endpoints/s"]);
    pair.connect();
    let mut commit = |revision, rows: &[&str]| {
        let changed = pair.catalog.commit(transaction(revision, rows));
        pair.stream.on_change(&pair.catalog, &changed);
        let responses = pair.stream.responses(&pair.catalog);
        responses.into_iter().map(|response| (response.system_version_info, response.nonce)).collect::<Vec<_>>()
    };
    let row = |revision: &str, nonce: &str| vec![(revision.to_owned(), nonce.to_owned())];
    assert_eq!(commit(2, &["Route/a=2"]), row("2", "2"));
    assert_eq!(commit(3, &["Route/a=3"]), [], "one at a time");
    assert_eq!(commit(4, &["Endpoints/s=4"]), row("1", "3"), "revision 2 is still under way");
    assert_eq!(commit(5, &["Endpoints/s=5"]), []);
    assert_eq!(commit(6, &["Endpoints/s=6", "Route/a=6"]), [], "together or not at all");
}

#[test]
fn a_transaction_on_trial_is_seen_by_those_who_try_it() {
    let rows = ["Route/a=1", "Route/b=1", "Endpoints/s=1", "Gateway/g/*=Route/a,Route/b"];
    for (tries, is_promoted) in [(true, true), (true, false), (false, true), (false, false)] {
        let context = format!("tries: {tries}, promoted: {is_promoted}");
        let mut pair = Pair::new(&rows, &["Gateway/g/*", "Endpoints/s"]);
        pair.connect();
        pair.sent.clear();
        let mut act = |change: &dyn Fn(&mut Catalog) -> super::catalog::Changed| {
            let changed = change(&mut pair.catalog);
            pair.stream.on_change(&pair.catalog, &changed);
            pair.act(Vec::new());
            let in_force = (pair.stream.in_force(&pair.catalog), pair.stream.settled(&pair.catalog));
            (std::mem::take(&mut pair.sent).join(", "), in_force)
        };
        let who = |id: &str| [id.into()].into();
        let id = if tries { "p" } else { "another" };
        let trial = ["Route/a=2", "-Route/b", "Route/c=2", "Gateway/g/*=Route/a,Route/c"];
        let began = act(&|catalog| catalog.begin_trial(transaction(2, &trial), who(id)));
        let news = "2: Gateway/g/* Route/a Route/c -Route/b";
        // Nothing from revision 2 on is in force where it is not, whatever else is.
        let expected = if tries { (news, (2, 2)) } else { ("", (1, 2)) };
        let same = |sent: &str| {
            let words =
                |text: &str| text.split_whitespace().map(String::from).collect::<std::collections::BTreeSet<_>>();
            // A collection that is there is not sent again.
            words(sent) == words(&expected.0.replace("Gateway/g/* ", ""))
        };
        assert!(same(&began.0) && began.1 == expected.1, "{context}: {began:?}");
        let urgent = act(&|catalog| catalog.commit(transaction(3, &["Endpoints/s=3"])));
        let expected = if tries { ("3: Endpoints/s", (3, 3)) } else { ("1: Endpoints/s", (1, 3)) };
        assert_eq!((&*urgent.0, urgent.1), expected, "{context}");
        let ended = match is_promoted {
            true => act(&|catalog| catalog.promote()),
            false => act(&|catalog| catalog.take_back(4)),
        };
        let expected = match (tries, is_promoted) {
            (true, true) | (false, false) => "",
            (true, false) => "4: Route/a Route/b -Route/c",
            (false, true) => "3: Route/a Route/c -Route/b",
        };
        let revision = if is_promoted { 3 } else { 4 };
        assert_eq!((&*ended.0, ended.1), (expected, (revision, revision)), "{context}");
    }
}

/// A proxy that says this in answer to something.
fn answer(nonce: &str, problem: Option<&str>) -> DeltaDiscoveryRequest {
    let error_detail = problem.map(|message| Status { code: 3, message: message.into() });
    DeltaDiscoveryRequest { type_url: TYPE.into(), response_nonce: nonce.into(), error_detail, ..Default::default() }
}

#[test]
fn answers_to_what_was_not_sent_mean_nothing() {
    let mut pair = Pair::new(&["Route/a=1"], &["Route/a"]);
    let first = pair.client.on_connected().remove(0);
    let Action::Send(first) = first else { panic!("{first:?}") };
    let mut say = |request: DeltaDiscoveryRequest| {
        pair.stream.on_request(&pair.catalog, request).expect("it is within the bounds");
        let sent = pair.stream.responses(&pair.catalog);
        let nonces: Vec<String> = sent.into_iter().map(|response| response.nonce).collect();
        let in_force = pair.stream.in_force(&pair.catalog);
        (nonces.join(" "), in_force, pair.stream.unanswered().count(), pair.stream.refusals())
    };
    assert_eq!(say(*first), ("1".into(), 0, 1, 0));
    for nonce in ["2", "0", "01", "-1", "1 ", "x", "18446744073709551616"] {
        for problem in [None, Some("wrong")] {
            assert_eq!(say(answer(nonce, problem)), (String::new(), 0, 1, 0), "{nonce} {problem:?}");
        }
    }
    assert_eq!(say(answer("1", None)), (String::new(), 1, 0, 0));
    // It has taken that, whatever it says of it later.
    for problem in [None, Some("wrong")] {
        assert_eq!(say(answer("1", problem)), (String::new(), 1, 0, 0), "again {problem:?}");
    }
}

#[test]
fn who_does_not_answer_is_sent_two_changes_and_then_the_newest() {
    let mut pair = Pair::new(&["Route/a=1", "Endpoints/s=1"], &["Route/a", "Endpoints/s"]);
    pair.connect();
    let bodies = |responses: Vec<DeltaDiscoveryResponse>| {
        let all = responses.into_iter().flat_map(|response| response.resources);
        let body = |resource: Resource| {
            let value = resource.resource.expect("it has a body").value;
            format!("{}={}", resource.name, String::from_utf8_lossy(&value))
        };
        all.map(body).collect::<Vec<_>>().join(" ")
    };
    let mut sent = Vec::new();
    for revision in 2..1_000 {
        for row in [format!("Route/a={revision}"), format!("Endpoints/s={revision}")] {
            let changed = pair.catalog.commit(transaction(revision, &[&row]));
            pair.stream.on_change(&pair.catalog, &changed);
            sent.extend(Some(bodies(pair.stream.responses(&pair.catalog))).filter(|sent| !sent.is_empty()));
        }
    }
    assert_eq!(sent, ["Route/a=2", "Endpoints/s=2"]);
    assert_eq!((pair.stream.in_force(&pair.catalog), pair.stream.unanswered().count()), (1, 2));
    let nonces: Vec<String> = pair.stream.unanswered().map(String::from).collect();
    let mut newest = Vec::new();
    for nonce in nonces {
        pair.stream.on_request(&pair.catalog, answer(&nonce, None)).expect("it is right");
        newest.push(bodies(pair.stream.responses(&pair.catalog)));
    }
    newest.sort();
    assert_eq!(newest, ["Endpoints/s=999", "Route/a=999"]);
}

#[test]
fn kinds_that_a_proxy_does_not_know_are_no_news_to_it() {
    let mut pair = Pair::new(&["New/a=1", "Route/a=1", "Gateway/g/*=New/a,Route/a"], &["Gateway/g/*"]);
    pair.client = Client::new(
        Node { id: "old".into(), client_features: vec!["Route".into()], ..Node::default() },
        BTreeMap::new(),
        0,
    );
    pair.client.want(["Gateway/g/*"]);
    pair.connect();
    pair.check("at first", &["1: Gateway/g/* Route/a"], "Route/a=1");
    pair.commit(2, &["New/a=2"]);
    pair.check("a change of it", &[], "Route/a=1");
    assert_eq!(pair.stream.in_force(&pair.catalog), 2);
}

#[test]
fn who_comes_with_what_is_newer_than_everything_is_known() {
    let mut catalog = Catalog::default();
    catalog.commit(transaction(3, &["Route/a=1"]));
    for (versions, expected) in [
        (&[][..], None),
        (&[Version { revision: 3, hash: 1 }.to_string()][..], None),
        (&[Version { revision: 2, hash: 1 }.to_string(), Version { revision: 7, hash: 1 }.to_string()], Some(7)),
        // Of another age altogether.
        (&["odd".to_owned()], None),
    ] {
        let mut stream = Stream::new(Limits::default());
        let held = versions.iter().enumerate().map(|(place, version)| (format!("Route/{place}"), version.clone()));
        let first = DeltaDiscoveryRequest {
            node: Some(Node { id: "p".into(), ..Node::default() }),
            type_url: TYPE.into(),
            initial_resource_versions: held.collect(),
            ..DeltaDiscoveryRequest::default()
        };
        stream.on_request(&catalog, first).expect("it may say so");
        assert_eq!(stream.ahead(), expected, "{versions:?}");
    }
}

#[test]
fn streams_are_bounded() {
    let node = || Some(Node { id: "p".into(), ..Node::default() });
    let names = |count: usize| (0..count).map(|number| format!("Route/{number}")).collect::<Vec<_>>();
    let first = |names: Vec<String>| DeltaDiscoveryRequest {
        node: node(),
        type_url: TYPE.into(),
        resource_names_subscribe: names,
        ..DeltaDiscoveryRequest::default()
    };
    let known = (0..11).map(|number| (format!("Route/{number}"), Version::ABSENT.to_string())).collect();
    for (request, expected) in [
        (first(names(10)), Ok(())),
        (first(names(11)), Err("more than 10 subscriptions")),
        (first(vec![String::new()]), Err("a name has 1 to 512 bytes")),
        (first(vec!["x".repeat(513)]), Err("a name has 1 to 512 bytes")),
        (DeltaDiscoveryRequest { node: None, ..first(Vec::new()) }, Err("the first request has no node")),
        (
            DeltaDiscoveryRequest { initial_resource_versions: known, ..first(Vec::new()) },
            Err("more than 10 resources"),
        ),
        (
            DeltaDiscoveryRequest { type_url: "other".into(), ..first(Vec::new()) },
            Err("type \"other\" is not served here"),
        ),
    ] {
        let mut stream = Stream::new(Limits { names_max: 10, ..Limits::default() });
        let result = stream.on_request(&Catalog::default(), request);
        assert_eq!(result, expected.map_err(|reason| Breach(reason.to_owned())));
    }
}

#[test]
fn versions_are_read_as_they_are_written() {
    let version = Version { revision: 41, hash: 0x0f };
    assert_eq!((version.to_string(), "41-000000000000000f".parse()), ("41-000000000000000f".to_owned(), Ok(version)));
    for text in ["", "41", "41-f", "41-000000000000000F", "-1-000000000000000f", "+41-000000000000000f"] {
        assert_eq!(text.parse::<Version>(), Err(()), "{text}");
    }
}

/// Runs of each row; 500 take three minutes.
const SEEDS: u64 = 20;

/// What everybody agrees on at last, however bad the way there was.
#[test]
fn they_always_converge() {
    let calm = Faults::default();
    let rows = [
        ("nothing goes wrong", calm),
        ("lines break", Faults { cut: 0.02, ..calm }),
        ("control starts anew", Faults { control_restart: 0.01, ..calm }),
        ("proxies start anew", Faults { proxy_restart: 0.01, forget: 0.5, ..calm }),
        ("messages are lost, doubled and out of order", Faults { garble: 0.02, ..calm }),
        ("rules are refused", Faults { bad: 0.1, ..calm }),
        ("some proxies try rules first", Faults { trial: 0.05, ..calm }),
        ("trials are refused on lines that break", Faults { trial: 0.05, bad: 0.1, cut: 0.02, garble: 0.01, ..calm }),
        (
            "all of it",
            Faults {
                cut: 0.01,
                control_restart: 0.003,
                proxy_restart: 0.005,
                forget: 0.3,
                garble: 0.01,
                bad: 0.1,
                trial: 0.02,
            },
        ),
    ];
    for (name, faults) in rows {
        for seed in 0..SEEDS {
            let mut simulation = Simulation::new(seed, faults);
            simulation.run(2_000);
            let problems = simulation.settle();
            assert!(problems.is_empty(), "{name}, seed {seed}: {problems:#?}");
        }
    }
}
