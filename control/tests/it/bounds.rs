//! Bounds of a TrafficPolicy hold over all workers of the process, and who waits at one is served in turn.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use e2e::kit::{Backend, Gateway, Launch, Peer, Rules, until};

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";

fn rules(backends: &[SocketAddr], connections: &str) -> Rules {
    let traffic = format!("connections: {{{connections}}}");
    Rules::new().service("web", backends).rule("backendRefs: [{name: web, port: 80}]").traffic("web", &traffic)
}

/// How many connections are open at once, and the most that ever were.
#[derive(Clone, Default)]
struct Meter(Arc<(AtomicUsize, AtomicUsize)>);

impl Meter {
    fn most(&self) -> usize {
        self.0.1.load(SeqCst)
    }

    fn open(&self) -> usize {
        self.0.0.load(SeqCst)
    }

    /// A service that counts its connections.
    fn backend(&self) -> Backend {
        self.slow_backend(Duration::ZERO)
    }

    /// One that takes its time for each answer, too.
    fn slow_backend(&self, pace: Duration) -> Backend {
        let meter = self.clone();
        Backend::start(move |served| {
            let (open, most) = &*meter.0;
            most.fetch_max(open.fetch_add(1, SeqCst) + 1, SeqCst);
            while served.request().is_some() {
                std::thread::sleep(pace);
                if !served.peer.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok") {
                    break;
                }
            }
            open.fetch_sub(1, SeqCst);
        })
    }
}

fn waiting(gateway: &Gateway) -> f64 {
    gateway.metric("evenkeel_waiting{cluster=\"default/web:80\"}")
}

#[test]
fn one_connection_is_one_with_four_workers_and_two_endpoints() {
    let meter = Meter::default();
    let backends = [meter.backend(), meter.backend()];
    let addresses = [backends[0].address(), backends[1].address()];
    let gateway = Launch::new(rules(&addresses, "max: 1").yaml()).workers(4).start();
    let clients: Vec<_> = (0..12)
        .map(|_| {
            let mut client = gateway.connect();
            std::thread::spawn(move || {
                for _ in 0..25 {
                    client.send(GET);
                    assert_eq!(client.read().map(|answer| answer.status()), Ok(200));
                }
            })
        })
        .collect();
    clients.into_iter().for_each(|client| client.join().expect("all are served"));
    assert_eq!(backends.iter().map(|backend| backend.requests().len()).sum::<usize>(), 300);
    // The gateway closes one before it opens the next; the service may see it a moment later.
    assert!(meter.most() <= 2, "{} at once", meter.most());
    assert_eq!(gateway.metric("evenkeel_connections{cluster=\"default/web:80\"}"), 1.0);
    assert_eq!(waiting(&gateway), 0.0);
    // Those that waited took over connections that were there, also from other workers.
    let opened: usize = backends.iter().map(Backend::connections).sum();
    assert!(opened <= 60, "{opened} connections for 300 requests");
}

#[test]
fn a_bound_that_comes_or_falls_holds_while_there_is_load() {
    for before in ["max: 20", "maxRequests: 1000"] {
        let meter = Meter::default();
        let backend = meter.slow_backend(Duration::from_millis(5));
        let gateway = Launch::new(rules(&[backend.address()], before).yaml()).workers(2).start();
        let is_over = Arc::new(AtomicBool::new(false));
        let clients: Vec<_> = (0..10)
            .map(|_| {
                let (mut client, is_over) = (gateway.connect(), is_over.clone());
                std::thread::spawn(move || {
                    while !is_over.load(SeqCst) {
                        client.send(GET);
                        assert_eq!(client.read().map(|answer| answer.status()), Ok(200));
                    }
                })
            })
            .collect();
        until("more connections than the new bound", || (meter.open() > 6).then_some(()));
        gateway.reload(&rules(&[backend.address()], "max: 2, maxPending: 100").yaml());
        until("connections within the new bound", || (meter.open() <= 2).then_some(()));
        let served = backend.requests().len();
        until("a hundred requests more", || {
            // What is closed at the gateway may be open at the service for a moment.
            assert!(meter.open() <= 4, "{before}: {} connections", meter.open());
            (backend.requests().len() >= served + 100).then_some(())
        });
        assert_eq!(gateway.metric("evenkeel_connections{cluster=\"default/web:80\"}"), 2.0, "{before}");
        is_over.store(true, SeqCst);
        clients.into_iter().for_each(|client| client.join().expect("all are served"));
    }
}

#[test]
fn connections_are_told_where_they_are_counted() {
    let backend = Backend::echo();
    for (bound, expected) in [("maxRequests: 9", None), ("max: 9", Some(1))] {
        let gateway = Gateway::start(&rules(&[backend.address()], bound));
        let mut client = gateway.connect();
        client.send(GET);
        assert_eq!(client.read().map(|answer| answer.status()), Ok(200));
        let body = gateway.get("/endpoints").expect("an answer").text();
        let told: serde_json::Value = serde_json::from_str(&body).expect("JSON");
        assert_eq!(told[0]["connections"].as_u64(), expected, "{told}");
        let metrics = gateway.get("/metrics").expect("an answer").text();
        assert_eq!(metrics.contains("evenkeel_connections{"), expected.is_some(), "{bound}");
    }
}

#[test]
fn the_line_has_a_bound_and_the_dead_leave_it() {
    let (backend, tell) = Backend::patient();
    let gateway = Gateway::start(&rules(&[backend.address()], "max: 1, maxPending: 2"));
    let send = || {
        let mut client = gateway.connect();
        client.send(GET);
        client
    };
    let mut first = send();
    until("a request at the service", || (backend.requests().len() == 1).then_some(()));
    let second = send();
    until("one in the line", || (waiting(&gateway) == 1.0).then_some(()));
    let mut third = send();
    until("two in the line", || (waiting(&gateway) == 2.0).then_some(()));
    assert_eq!(send().read().map(|answer| answer.status()), Ok(503), "the line is full");
    assert_eq!(gateway.metric("evenkeel_overflows_total"), 1.0);
    drop(second);
    until("one in the line again", || (waiting(&gateway) == 1.0).then_some(()));
    let mut fifth = send();
    until("two in the line", || (waiting(&gateway) == 2.0).then_some(()));
    for client in [&mut first, &mut third, &mut fifth] {
        tell.send(()).expect("the service lives");
        assert_eq!(client.read().map(|answer| answer.status()), Ok(200));
    }
    assert_eq!((backend.requests().len(), backend.connections()), (3, 1));
}

#[test]
fn who_waits_too_long_is_told_so() {
    let (backend, _tell) = Backend::patient();
    let rules = Rules::new()
        .service("web", &[backend.address()])
        .rule("backendRefs: [{name: web, port: 80}]")
        .traffic("web", "connections: {max: 1}\n  timeouts: {connect: 50ms}");
    let gateway = Gateway::start(&rules);
    let mut first = gateway.connect();
    first.send(GET);
    until("a request at the service", || (backend.requests().len() == 1).then_some(()));
    let mut second = gateway.connect();
    second.send(GET);
    assert_eq!(second.read().map(|answer| answer.status()), Ok(503));
    // What is counted at the end of a request may come a moment after its answer.
    let counted = "istio_requests_total{reporter=\"source\",destination_service=\"web.default\"";
    until("a request that is over", || (gateway.metric(counted) == 1.0).then_some(()));
}

#[test]
fn requests_at_the_same_time_have_a_bound() {
    let (backend, tell) = Backend::patient();
    let gateway = Launch::new(rules(&[backend.address()], "maxRequests: 3").yaml()).workers(4).start();
    let mut under_way: Vec<Peer> = (1..=3)
        .map(|count| {
            let mut client = gateway.connect();
            client.send(GET);
            until("a request at the service", || (backend.requests().len() == count).then_some(()));
            client
        })
        .collect();
    for _ in 0..4 {
        let mut client = gateway.connect();
        client.send(GET);
        assert_eq!(client.read().map(|answer| answer.status()), Ok(503));
    }
    // Each in turn, whoever of them the service happens to hear first.
    (0..3).for_each(|_| tell.send(()).expect("the service lives"));
    assert!(under_way.iter_mut().all(|client| client.read().map(|answer| answer.status()) == Ok(200)));
    tell.send(()).expect("the service lives");
    let mut client = gateway.connect();
    client.send(GET);
    assert_eq!(client.read().map(|answer| answer.status()), Ok(200));
}
