//! What is tried again and what is not: a request that an endpoint may have executed is never repeated, unless its method
//! says that this does no harm and the policy asks for it.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

use e2e::kit::{Backend, Gateway, Peer, Rules, until};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

fn rules(endpoints: &[SocketAddr], retries: &str) -> Rules {
    let traffic = format!("loadBalancer: {{policy: roundRobin}}\n  {retries}");
    Rules::new().service("web", endpoints).rule("backendRefs: [{name: web, port: 80}]").traffic("web", &traffic)
}

fn ask(client: &mut Peer, request: &str) -> u16 {
    client.send(request);
    client.read().expect("an answer").status()
}

/// An address where nobody listens.
fn nobody() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port is free");
    listener.local_addr().expect("a listening socket has an address")
}

#[test]
fn what_reached_nobody_is_tried_elsewhere_whatever_it_is() {
    let backend = Backend::echo();
    for retries in ["timeouts: {connect: 1s}", "retries: {attempts: 1}"] {
        let gateway = Gateway::start(&rules(&[nobody(), backend.address()], retries));
        let mut client = gateway.connect();
        for _ in 0..20 {
            assert_eq!(ask(&mut client, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello"), 200);
        }
        let retries = gateway.metric("evenkeel_retries_total");
        assert!((1.0..10.0).contains(&retries), "{retries}: nobody is left alone for a while");
    }
    let gateway = Gateway::start(&rules(&[nobody(), backend.address()], "retries: {attempts: 0}"));
    let mut client = gateway.connect();
    let statuses: Vec<u16> = (0..4).map(|_| ask(&mut client, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")).collect();
    assert_eq!(statuses.iter().filter(|status| **status == 503).count(), 1, "{statuses:?}");
}

#[test]
fn who_takes_no_connection_is_left_alone_until_it_does() {
    let backends = [Backend::echo(), Backend::echo(), Backend::echo()];
    let missing = nobody();
    let [one, two, three] = [0, 1, 2].map(|place: usize| backends[place].address());
    // Half of them, and so few retries that they would not do.
    let endpoints = [missing, one, nobody(), two, nobody(), three];
    let gateway = Gateway::start(&rules(&endpoints, "retries: {attempts: 2, budget: {ratio: 0, minPerSecond: 3}}"));
    let mut client = gateway.connect();
    let statuses: Vec<u16> = (0..100).map(|_| ask(&mut client, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")).collect();
    assert!(statuses.iter().all(|status| *status == 200), "{statuses:?}");
    let states = |state: &str| gateway.endpoint_states("default/web:80").iter().filter(|word| *word == state).count();
    assert_eq!((states("refusing"), states("ready")), (3, 3));
    // One of them comes.
    let late = Backend::echo_at(missing);
    until("all who are there", || {
        ask(&mut client, "GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        (!late.requests().is_empty() && states("ready") >= 4).then_some(())
    });
}

/// Services that note who has seen which request, if only a byte of it, and of which the first `dying` requests end after
/// so many bytes.
#[derive(Clone, Default)]
struct Witness {
    seen: Arc<Mutex<HashMap<String, usize>>>,
    cut: Arc<AtomicUsize>,
}

impl Witness {
    fn see(&self, id: &str) {
        *self.seen.lock().expect("no holder of this lock panics").entry(id.to_owned()).or_default() += 1;
    }

    /// Dies after having read so many bytes of a request; the current one is told by the test.
    fn dying(&self, current: &Arc<Mutex<String>>) -> Backend {
        let (witness, current) = (self.clone(), current.clone());
        Backend::start(move |served| {
            let cut = witness.cut.load(SeqCst);
            if served.peer.take(cut).is_ok() {
                if cut > 0 {
                    witness.see(&current.lock().expect("no holder of this lock panics"));
                }
                served.peer.set_reset();
            }
        })
    }

    fn living(&self) -> Backend {
        let witness = self.clone();
        Backend::start(move |served| {
            while let Some(request) = served.request() {
                witness.see(request.get("x-id").expect("each has one"));
                if !served.peer.send(OK) {
                    return;
                }
            }
        })
    }
}

#[test]
fn a_post_is_never_seen_twice() {
    let (witness, current) = (Witness::default(), Arc::new(Mutex::new(String::new())));
    let backends = [witness.dying(&current), witness.living()];
    let endpoints: Vec<SocketAddr> = backends.iter().map(Backend::address).collect();
    let eager = "retries: {attempts: 5, on: [connectFailure, reset, timeout], codes: [502, 503], \
                 budget: {ratio: 1, minPerSecond: 1000}}";
    let gateway = Gateway::start(&rules(&endpoints, eager));
    let post =
        |id: &str| format!("POST /pay HTTP/1.1\r\nHost: a\r\nX-Id: {id}\r\nContent-Length: 10\r\n\r\n0123456789");
    // What the gateway sends is longer by its own fields; all of it is read at the end.
    let length = post("0000").len() + 60;
    let mut statuses = HashMap::new();
    for number in 0..2 * length {
        let id = format!("{number:04}");
        witness.cut.store(number / 2, SeqCst);
        current.lock().expect("no holder of this lock panics").clone_from(&id);
        *statuses.entry(ask(&mut gateway.connect(), &post(&id))).or_insert(0) += 1;
    }
    let seen = witness.seen.lock().expect("no holder of this lock panics");
    let twice: Vec<_> = seen.iter().filter(|(_, count)| **count > 1).collect();
    assert!(twice.is_empty(), "seen more than once: {twice:?}");
    assert!(statuses[&200] >= length - 1 && statuses[&502] >= length / 2, "{statuses:?}");
}

#[test]
fn a_get_is_repeated_where_the_policy_asks_for_it() {
    let (witness, current) = (Witness::default(), Arc::new(Mutex::new("dead".to_owned())));
    let backends = [witness.dying(&current), witness.living()];
    let endpoints: Vec<SocketAddr> = backends.iter().map(Backend::address).collect();
    let get = "GET / HTTP/1.1\r\nHost: a\r\nX-Id: 1\r\n\r\n";
    for (retries, failures) in [("retries: {attempts: 1, on: [reset]}", 0), ("retries: {attempts: 1}", 10)] {
        witness.cut.store(20, SeqCst);
        let gateway = Gateway::start(&rules(&endpoints, retries));
        let mut client = gateway.connect();
        let failed = (0..20).filter(|_| ask(&mut client, get) != 200).count();
        assert_eq!(failed, failures, "{retries}");
    }
}

#[test]
fn a_body_is_sent_again_as_far_as_it_is_kept() {
    let first = Backend::start(|served| drop(served.request()));
    let second = Backend::echo();
    let retries = "retries: {attempts: 1, on: [reset]}";
    let gateway = Gateway::start(&rules(&[first.address(), second.address()], retries));
    for (bytes, expected) in [(10, 200), (20_000, 200), (60_000, 200), (80_000, 502)] {
        // Whoever's turn it is: one of two requests begins at the one that dies.
        for chunked in [false, true] {
            let body: Vec<u8> = (0..bytes).map(|at| b'a' + (at % 26) as u8).collect();
            let statuses: Vec<u16> = (0..2)
                .map(|_| {
                    let mut client = gateway.connect();
                    match chunked {
                        false => {
                            client.send(format!("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: {bytes}\r\n\r\n"));
                            client.send(&body);
                        }
                        true => {
                            client.send("PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
                            for piece in body.chunks(7_000) {
                                client.send(format!("{:x}\r\n", piece.len()));
                                client.send(piece);
                                client.send("\r\n");
                            }
                            client.send("0\r\n\r\n");
                        }
                    }
                    let answer = client.read().expect("an answer");
                    assert!(answer.status() != 200 || answer.body == body, "{bytes} bytes, chunked {chunked}");
                    answer.status()
                })
                .collect();
            assert!(statuses.contains(&200) && statuses.contains(&expected), "{bytes}, {chunked}: {statuses:?}");
        }
    }
}

#[test]
fn statuses_are_retried_unless_the_service_says_later() {
    for (answer, codes, method, expected) in [
        ("503 Service Unavailable", "[503]", "GET", 200),
        ("503 Service Unavailable", "[503]", "POST", 503),
        ("503 Service Unavailable", "[502]", "GET", 503),
        ("503 Service Unavailable\r\nRetry-After: 0", "[503]", "GET", 200),
        ("503 Service Unavailable\r\nRetry-After: 3", "[503]", "GET", 503),
        ("429 Too Many Requests", "[429, 503]", "GET", 200),
    ] {
        let busy = Backend::canned(format!("HTTP/1.1 {answer}\r\nContent-Length: 4\r\n\r\nbusy"));
        let free = Backend::canned(OK);
        let retries = format!("retries: {{attempts: 1, codes: {codes}}}");
        let gateway = Gateway::start(&rules(&[busy.address(), free.address()], &retries));
        let mut client = gateway.connect();
        let request = format!("{method} / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n");
        let statuses: Vec<u16> = (0..2).map(|_| ask(&mut client, &request)).collect();
        assert!(statuses.contains(&200) && statuses.contains(&expected), "{answer:?} {codes} {method}: {statuses:?}");
    }
}

#[test]
fn retries_never_become_the_load() {
    let busy = Backend::canned("HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n");
    let retries = "retries: {attempts: 3, codes: [503], budget: {ratio: 0.1, minPerSecond: 0}}";
    let gateway = Gateway::start(&rules(&[busy.address()], retries));
    let mut client = gateway.connect();
    assert!((0..200).all(|_| ask(&mut client, "GET / HTTP/1.1\r\nHost: a\r\n\r\n") == 503));
    let attempts = busy.requests().len();
    assert!((210..=220).contains(&attempts), "{attempts} attempts for 200 requests");
    assert!(gateway.metric("evenkeel_retries_over_budget_total") >= 180.0);
}

#[test]
fn the_deadline_is_over_all_attempts() {
    let silent = Backend::start(|served| {
        served.request();
        served.peer.read_to_end();
    });
    let rules = Rules::new()
        .service("web", &[silent.address()])
        .rule("backendRefs: [{name: web, port: 80}]\ntimeouts: {request: 400ms, backendRequest: 150ms}")
        .traffic("web", "retries: {attempts: 10, on: [timeout]}");
    let gateway = Gateway::start(&rules);
    let started = std::time::Instant::now();
    assert_eq!(ask(&mut gateway.connect(), "GET / HTTP/1.1\r\nHost: a\r\n\r\n"), 504);
    let attempts = silent.requests().len();
    assert!((2..=3).contains(&attempts) && started.elapsed().as_millis() >= 400, "{attempts} attempts");
}
