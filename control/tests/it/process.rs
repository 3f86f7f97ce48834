//! The process: how it starts, what bounds it, how it ends.

use std::sync::Mutex;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use e2e::kit::{Backend, Gateway, Launch, Peer, Rules, until};
use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, prlimit};

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";

fn status(client: &mut Peer) -> u16 {
    client.send(GET);
    client.read().map_or(0, |answer| answer.status())
}

#[test]
fn it_is_ready_soon() {
    let backend = Backend::echo();
    let gateway = Launch::new(Rules::to(backend.address()).yaml()).workers(2).start();
    let stderr = gateway.stderr();
    let line = stderr.lines().find(|line| line.contains("ready with 2 workers")).expect("a line that says so");
    let words: Vec<&str> = line.split_whitespace().collect();
    let ms: u64 = words[words.len() - 2].parse().expect("a number of ms");
    println!("from start to ready: {ms} ms");
    assert!(ms < 1_000, "{line}");
}

#[test]
fn requests_in_flight_are_finished_after_sigterm() {
    let (go, wait) = channel::<()>();
    let wait = Mutex::new(wait);
    let backend = Backend::start(move |served| {
        while let Some(request) = served.request() {
            if request.start.contains("/slow") {
                wait.lock().expect("one at a time").recv().expect("a test that goes on");
            }
            served.peer.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndone");
        }
    });
    let mut gateway = Launch::new(Rules::to(backend.address()).yaml()).workers(2).start();
    let (mut idle, mut slow) = (gateway.connect(), gateway.connect());
    assert_eq!(status(&mut idle), 200);
    slow.send("GET /slow HTTP/1.1\r\nHost: a\r\n\r\n");
    until("the request at the service", || (backend.requests().len() == 2).then_some(()));
    gateway.signal(Signal::TERM);
    assert_eq!(idle.outcome(), "closed", "an idle connection ends after a moment");
    let (answer, _) = until("an end of readiness", || gateway.get("/ready").filter(|answer| answer.status() == 503));
    assert_eq!(answer.text(), "not ready\n");
    until("an end of listening", || Peer::try_connect(gateway.address()).is_err().then_some(()));
    go.send(()).expect("a service that waits");
    let answer = slow.read().expect("the answer to the request in flight");
    assert_eq!((answer.text(), answer.get("connection")), ("done".into(), Some("close")));
    assert_eq!(slow.outcome(), "closed");
    assert_eq!(gateway.wait().and_then(|status| status.code()), Some(0), "{}", gateway.stderr());
}

#[test]
fn idle_connections_end_at_once_however_their_requests_came() {
    let backend = Backend::echo();
    let mut gateway = Launch::new(Rules::to(backend.address()).yaml()).start();
    let mut clients: Vec<Peer> = (0..50).map(|_| gateway.connect()).collect();
    for client in &mut clients {
        for byte in GET.as_bytes().chunks(7) {
            client.send(byte);
        }
        assert_eq!(client.read().map(|answer| answer.status()), Ok(200));
        // As much as one read takes, after which the gateway does not know whether there is more.
        client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 32768\r\n\r\n");
        until("the head in the gateway", || (gateway.stat("requestsInFlight") == [1]).then_some(()));
        client.send([b'x'; 32 * 1024]);
        assert_eq!(client.read().map(|answer| answer.status()), Ok(200));
    }
    let started = Instant::now();
    gateway.signal(Signal::TERM);
    assert_eq!(gateway.wait().and_then(|status| status.code()), Some(0), "{}", gateway.stderr());
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
}

#[test]
fn what_does_not_finish_ends_at_the_deadline_or_at_the_second_signal() {
    for (signals, within) in [(1, "1"), (2, "60")] {
        let backend = Backend::start(|served| {
            served.request();
            served.peer.read_to_end();
        });
        let rules = Rules::to(backend.address()).yaml();
        let mut gateway = Launch::new(rules).flags(&["--finish-within", within]).start();
        let mut client = gateway.connect();
        client.send(GET);
        until("the request at the service", || (backend.requests().len() == 1).then_some(()));
        let started = Instant::now();
        gateway.signal(Signal::TERM);
        if signals == 2 {
            until("the first signal's effect", || gateway.stderr().contains("finishing").then_some(()));
            gateway.signal(Signal::TERM);
        }
        assert_eq!(gateway.wait().and_then(|status| status.code()), Some(0), "{}", gateway.stderr());
        assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
        assert_ne!(client.outcome(), "200 closed");
    }
}

#[test]
fn connections_are_bounded_and_counted() {
    let backend = Backend::echo();
    let gateway = Launch::new(Rules::to(backend.address()).policy("maxConnections: 4").yaml()).workers(2).start();
    for _ in 0..3 {
        let mut clients: Vec<Peer> = (0..4).map(|_| gateway.connect()).collect();
        for client in &mut clients {
            assert_eq!(status(client), 200);
        }
        let mut fifth = gateway.connect();
        assert_eq!(status(&mut fifth), 0, "a fifth connection is closed");
        clients.pop();
        until("room for another", || (status(&mut gateway.connect()) == 200).then_some(()));
        drop(clients);
        gateway.settle();
    }
    assert!(gateway.stat("connectionsRefused").iter().sum::<u64>() >= 3);
}

#[test]
fn few_connections_are_shared_by_all_workers() {
    let backend = Backend::echo();
    let gateway = Launch::new(Rules::to(backend.address()).yaml()).workers(4).start();
    for _ in 0..5 {
        let mut clients: Vec<Peer> = (0..8).map(|_| gateway.connect()).collect();
        assert!(clients.iter_mut().all(|client| status(client) == 200));
        assert_eq!(gateway.stat("connections"), [2, 2, 2, 2]);
        drop(clients);
        gateway.settle();
    }
}

#[test]
fn without_descriptors_it_waits_and_goes_on() {
    let backend = Backend::echo();
    let gateway = Gateway::start(&Rules::to(backend.address()));
    let mut clients: Vec<Peer> = (0..8).map(|_| gateway.connect()).collect();
    // One after the other they share one connection to the service, which stays for the ones to come.
    assert!(clients.iter_mut().all(|client| status(client) == 200));
    let id = i32::try_from(gateway.id()).ok().and_then(Pid::from_raw);
    let limit = |current| {
        let maximum = getrlimit(Resource::Nofile).maximum;
        prlimit(id, Resource::Nofile, Rlimit { current: Some(current), maximum }).expect("the process is ours");
    };
    // Those that are open stay open; not even a number that becomes free can be had again.
    limit(0);
    // The kernel completes the handshakes; the gateway cannot take them.
    let mut waiting: Vec<Peer> = (0..3).map(|_| gateway.connect()).collect();
    for client in &mut waiting {
        client.send(GET);
    }
    // Its count of errors shows that it tried; the door has no descriptor either, so time is what is left to look at.
    let shares: Vec<f64> = (0..5)
        .map(|_| {
            let before = (gateway.cpu_time(), Instant::now());
            assert!(!waiting[0].hears_within(Duration::from_millis(100)), "there is a descriptor left");
            (gateway.cpu_time() - before.0).as_secs_f64() / before.1.elapsed().as_secs_f64()
        })
        .collect();
    // Who turns in circles does so all the time; a machine that stands still for a moment may charge us for that.
    assert!(shares.iter().any(|share| *share < 0.2), "{shares:?} of a CPU while waiting");
    // Each needs a descriptor for itself, and most another for the service: what the ones before give back.
    let open = || -> Vec<u64> {
        let open = std::fs::read_dir(format!("/proc/{}/fd", gateway.id())).expect("the process is ours");
        open.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect()
    };
    let before = open();
    clients.clear();
    until("eight descriptors less", || (open().len() + 8 <= before.len()).then_some(()));
    limit(before.iter().max().expect("a socket that listens") + 1);
    for client in &mut waiting {
        assert_eq!(client.read().map(|answer| answer.status()), Ok(200));
    }
    assert!(gateway.stat("acceptErrors").iter().sum::<u64>() > 0);
    drop(waiting);
    gateway.settle();
}

#[test]
fn idle_connections_to_services_give_way_to_clients() {
    let backend = Backend::echo();
    let gateway = Gateway::start(&Rules::to(backend.address()));
    let mut clients: Vec<Peer> = (0..6).map(|_| gateway.connect()).collect();
    for client in &mut clients {
        // Begun and not ended, so that each has a connection of its own to the service.
        client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nx");
    }
    until("six connections to the service", || (backend.connections() == 6).then_some(()));
    for client in &mut clients {
        client.send("x");
        assert_eq!(client.read().map(|answer| answer.status()), Ok(200));
    }
    let id = i32::try_from(gateway.id()).ok().and_then(Pid::from_raw);
    let open = || {
        let open = std::fs::read_dir(format!("/proc/{}/fd", gateway.id())).expect("the process is ours");
        open.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u64>().ok()).collect::<Vec<_>>()
    };
    // As many numbers as are in use; those of the doors may just have become free.
    let limit = Rlimit { current: Some(open().len() as u64), maximum: getrlimit(Resource::Nofile).maximum };
    prlimit(id, Resource::Nofile, limit).expect("the process is ours");
    let mut more: Vec<Peer> = (0..3).map(|_| gateway.connect()).collect();
    for client in &mut more {
        client.send(GET);
    }
    assert!(more.iter_mut().all(|client| client.read().map(|answer| answer.status()) == Ok(200)));
}

#[test]
fn a_low_limit_bounds_connections_from_the_start() {
    let backend = Backend::echo();
    let evenkeel = e2e::kit::evenkeel().display().to_string();
    let shell = ["sh", "-c", "ulimit -n 300; exec \"$0\" \"$@\"", &evenkeel, "gateway"];
    let gateway = Launch::new(Rules::to(backend.address()).yaml()).program(&shell).start();
    assert_eq!(gateway.stats()["connectionsMax"], 22);
    let mut clients: Vec<Peer> = (0..40).map(|_| gateway.connect()).collect();
    let served = clients.iter_mut().filter_map(|client| (status(client) == 200).then_some(())).count();
    assert_eq!(served, 22);
    drop(clients);
    gateway.settle();
    assert_eq!(status(&mut gateway.connect()), 200);
}

#[test]
fn every_line_of_the_access_log_is_written_before_the_end() {
    let backend = Backend::echo();
    let rules = Rules::to(backend.address()).yaml();
    let mut gateway = Launch::new(rules).workers(2).flags(&["--access-log", "-"]).start();
    let mut clients: Vec<Peer> = (0..4).map(|_| gateway.connect()).collect();
    for client in &mut clients {
        client.send(GET.repeat(500));
    }
    for client in &mut clients {
        assert!((0..500).all(|_| client.read().is_ok_and(|answer| answer.status() == 200)));
    }
    gateway.signal(Signal::TERM);
    assert_eq!(gateway.wait().and_then(|status| status.code()), Some(0));
    assert_eq!(gateway.stdout().lines().count(), 2_000);
}

#[test]
fn the_doors_show_what_belongs_to_them() {
    let backend = Backend::echo();
    let (probe, metrics) = (e2e::kit::free_port(), e2e::kit::free_port());
    let flags = [format!("127.0.0.1:{probe}"), format!("127.0.0.1:{metrics}")];
    let rules = Rules::to(backend.address()).yaml();
    let gateway = Launch::new(rules).flags(&["--probe", &flags[0], "--metrics", &flags[1]]).start();
    assert_eq!(status(&mut gateway.connect()), 200);
    let ask = |port: u16, path: &str| {
        let mut client = Peer::connect(([127, 0, 0, 1], port).into());
        client.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n"));
        client.read().expect("an answer").status()
    };
    for (port, path, expected) in [
        (probe, "/live", 200),
        (probe, "/ready", 200),
        (probe, "/metrics", 404),
        (probe, "/config", 404),
        (probe, "/stats", 404),
        (metrics, "/metrics", 200),
        (metrics, "/config", 404),
        (metrics, "/ready", 404),
    ] {
        assert_eq!(ask(port, path), expected, "{path}");
    }
    for (answer, status, words) in [
        (gateway.get("/explain"), 405, "only POST\n"),
        (gateway.post("/config", ""), 405, "only GET, HEAD\n"),
        (gateway.get("/help"), 404, " /policies /stats, and POST /explain\n"),
    ] {
        let answer = answer.expect("an answer");
        assert!(answer.status() == status && answer.text().ends_with(words), "{answer:?}");
    }
    let row = "istio_requests_total{reporter=\"source\",destination_service=\"web.default\"";
    until("a request in the metrics", || (gateway.metric(row) == 1.0).then_some(()));
}

#[test]
fn an_idle_connection_is_told_of_the_end_with_its_last_answer() {
    let backend = Backend::echo();
    let mut gateway = Gateway::start(&Rules::to(backend.address()));
    let mut client = gateway.connect();
    assert_eq!(status(&mut client), 200);
    gateway.signal(Signal::TERM);
    until("an end of readiness", || gateway.get("/ready").filter(|answer| answer.status() == 503));
    client.send(GET);
    let answer = client.read().expect("an answer after the signal");
    assert_eq!((answer.status(), answer.get("connection")), (200, Some("close")));
    assert_eq!(gateway.wait().and_then(|status| status.code()), Some(0), "{}", gateway.stderr());
}

#[test]
fn who_connected_before_the_end_is_served_though_silent_so_far() {
    let backend = Backend::echo();
    let mut gateway = Launch::new(Rules::to(backend.address()).yaml()).workers(2).start();
    assert_eq!(status(&mut gateway.connect()), 200);
    // The kernel holds these back until they speak.
    let mut clients: Vec<Peer> = (0..8).map(|_| gateway.connect()).collect();
    gateway.signal(Signal::TERM);
    until("the signal's effect", || gateway.stderr().contains("finishing").then_some(()));
    // At once, for the time that they have is short.
    clients.extend((0..4).map(|_| gateway.connect()));
    for client in &mut clients {
        client.send(GET);
    }
    for client in &mut clients {
        // The first may be answered before the workers have heard of the signal.
        assert_eq!(client.read().map(|answer| answer.status()), Ok(200));
    }
    assert_eq!(gateway.wait().and_then(|status| status.code()), Some(0), "{}", gateway.stderr());
}

#[test]
fn an_answer_that_ends_with_the_connection_is_reset_if_cut() {
    let backend = Backend::start(|served| {
        served.request();
        served.peer.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n");
        served.peer.read_to_end();
    });
    let mut gateway = Launch::new(Rules::to(backend.address()).yaml()).flags(&["--finish-within", "1"]).start();
    let mut client = gateway.connect();
    client.send("GET / HTTP/1.0\r\nHost: a\r\n\r\n");
    assert_eq!(client.read_head().map(|head| head.status()), Ok(200));
    assert_eq!(client.take(5), Ok(b"hello".to_vec()));
    gateway.signal(Signal::TERM);
    assert_eq!(client.read_to_end(), e2e::kit::Ended::Reset);
    assert_eq!(gateway.wait().and_then(|status| status.code()), Some(0), "{}", gateway.stderr());
}

#[test]
fn signals_of_habit_do_no_harm() {
    let backend = Backend::echo();
    let log = std::env::temp_dir().join(format!("evenkeel-it-signals-{}.log", std::process::id()));
    let moved = log.with_extension("1");
    let name = log.to_str().expect("a name");
    let mut gateway = Launch::new(Rules::to(backend.address()).yaml()).flags(&["--access-log", name]).start();
    let mut client = gateway.connect();
    assert_eq!(status(&mut client), 200);
    let lines = |path: &std::path::Path| std::fs::read_to_string(path).unwrap_or_default().lines().count();
    until("the first line", || (lines(&log) == 1).then_some(()));
    std::fs::rename(&log, &moved).expect("a rename");
    for signal in [Signal::HUP, Signal::USR1, Signal::USR2] {
        gateway.signal(signal);
    }
    until("a new log", || log.exists().then_some(()));
    assert_eq!(status(&mut client), 200);
    until("the second line", || (lines(&log) == 1).then_some(()));
    assert_eq!(lines(&moved), 1);
    gateway.signal(Signal::INT);
    assert_eq!(gateway.wait().and_then(|status| status.code()), Some(0), "{}", gateway.stderr());
    let _ = (std::fs::remove_file(&log), std::fs::remove_file(&moved));
}

#[test]
fn a_start_that_fails_takes_no_connection() {
    let backend = Backend::echo();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let door = taken.local_addr().expect("an address").to_string();
    let mut gateway = Launch::new(Rules::to(backend.address()).yaml()).flags(&["--metrics", &door]).spawn();
    assert_eq!(gateway.wait().and_then(|status| status.code()), Some(1));
    let stderr = gateway.stderr();
    assert!(stderr.contains("for metrics") && !stderr.contains("info  listening on"), "{stderr}");
}

#[test]
fn connections_that_wait_to_be_accepted_are_served_at_the_end() {
    let backend = Backend::echo();
    let mut gateway = Launch::new(Rules::to(backend.address()).yaml()).workers(2).start();
    // Stopped, so that the kernel holds them all when the signal comes.
    gateway.signal(Signal::STOP);
    let mut clients: Vec<Peer> = (0..100).map(|_| gateway.connect()).collect();
    for client in &mut clients {
        client.send(GET);
    }
    gateway.signal(Signal::TERM);
    gateway.signal(Signal::CONT);
    for (number, client) in clients.iter_mut().enumerate() {
        assert_eq!(client.read().map(|answer| answer.status()), Ok(200), "client {number}");
    }
    assert_eq!(gateway.wait().and_then(|status| status.code()), Some(0), "{}", gateway.stderr());
}
