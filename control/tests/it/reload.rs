//! Rules that change under a running gateway: valid ones are in force on all workers soon and at once, invalid ones
//! change nothing and are told; no connection notices.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::sync::Mutex;
use std::sync::mpsc::channel;
use std::time::Duration;

use e2e::kit::{Backend, Ended, Gateway, Launch, Message, Peer, Rules, free_port, until};

/// Far above what is demanded of a quiet machine (100 ms); the figure itself is printed.
const IN_TIME: Duration = Duration::from_secs(2);

/// Rules whose answers tell their version.
fn version(backend: &Backend, number: u32) -> String {
    let filter = format!(
        "filters: [{{type: ResponseHeaderModifier, responseHeaderModifier: {{set: [{{name: x-version, value: v{number}}}]}}}}]"
    );
    let rule = format!("{filter}\nbackendRefs: [{{name: web, port: 80}}]");
    Rules::new().service("web", &[backend.address()]).rule(&rule).yaml()
}

fn ask(client: &mut Peer) -> Message {
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    client.read().unwrap_or_else(|ended| panic!("a reload cost a connection: {ended:?}"))
}

fn seen_by(client: &mut Peer) -> String {
    ask(client).get("x-version").unwrap_or("none").to_owned()
}

#[test]
fn a_valid_change_is_in_force_on_all_workers_and_no_connection_notices() {
    let backend = Backend::echo();
    let gateway = Launch::new(version(&backend, 0)).workers(4).start();
    let mut clients: Vec<Peer> = (0..8).map(|_| gateway.connect()).collect();
    for client in &mut clients {
        assert_eq!(seen_by(client), "v0");
    }
    assert_eq!(gateway.stat("connections"), [2, 2, 2, 2], "the workers share connections");
    let mut times = Vec::new();
    for number in 1..=10 {
        times.push(gateway.reload(&version(&backend, number)));
        for client in &mut clients {
            assert_eq!(seen_by(client), format!("v{number}"));
        }
        assert_eq!(seen_by(&mut gateway.connect()), format!("v{number}"));
        assert_eq!(gateway.stat("revision"), vec![u64::from(number) + 1; 4]);
    }
    println!("from the file to all 4 workers: {times:?}");
    assert!(times.iter().all(|time| *time < IN_TIME), "{times:?}");
}

#[test]
fn an_invalid_change_changes_nothing_and_is_told() {
    let backend = Backend::echo();
    let gateway = Gateway::start(&Rules::to(backend.address()));
    gateway.reload(&version(&backend, 1));
    let mut client = gateway.connect();
    let good = version(&backend, 1);
    let rows = [
        ("no YAML", "a: [".to_owned(), "rules.yaml:"),
        ("an unknown field", good.replace("gatewayClassName", "gatewayClasName"), "gatewayClasName"),
        ("an unknown kind", good.replace("kind: HTTPRoute", "kind: HTTPRout"), "HTTPRout"),
        ("nothing", String::new(), "holds no document"),
        ("half of it", good[..good.find("kind: Service").expect("a service") + 9].to_owned(), "Ser"),
        ("a bad port", good.replace("port: 80}]", "port: 80000}]"), "80000"),
    ];
    for (name, yaml, expected) in rows {
        let revision = gateway.revision();
        let problems = gateway.reload_refused(&yaml);
        assert!(problems.iter().any(|problem| problem.contains(expected)), "{name}: {problems:?}");
        for problem in &problems {
            until("the problem in the log", || gateway.stderr().contains(problem).then_some(()));
        }
        assert_eq!(gateway.revision(), revision, "{name}");
        assert_eq!(seen_by(&mut client), "v1", "{name}");
        assert_eq!(gateway.get("/ready").map(|answer| answer.status()), Some(200), "{name}");
    }
    // What was in force comes back: nothing changes, and nothing is wrong any more.
    let revision = gateway.revision();
    gateway.write(&good);
    until("an end of the refusal", || gateway.config()["refused"].is_null().then_some(()));
    assert_eq!(gateway.revision(), revision);
    until("a word of it in the log", || gateway.stderr().contains("again those in force").then_some(()));
    assert!(gateway.metric("evenkeel_config_refused_total") >= 6.0, "{}", gateway.metrics());
}

#[test]
fn files_change_in_many_ways() {
    let backend = Backend::echo();
    let gateway = Gateway::start(&Rules::to(backend.address()));
    let file = gateway.rules_folder().join("rules.yaml");
    let text = |number| gateway.fill(&version(&backend, number));
    let ways: [(&str, &dyn Fn()); 6] = [
        ("written in place", &|| fs::write(&file, text(1)).expect("a write")),
        ("an editor that moves the old file away", &|| {
            fs::rename(&file, file.with_extension("yaml~")).expect("a rename");
            fs::write(&file, text(2)).expect("a write");
            fs::remove_file(file.with_extension("yaml~")).expect("a removal");
        }),
        ("an editor that writes a new file first", &|| gateway.write(&version(&backend, 3))),
        ("in pieces", &|| {
            let text = text(4);
            for end in [text.len() / 3, text.len() / 2, text.len()] {
                fs::write(&file, &text[..end]).expect("a write");
                // A writer, not a wait: shorter than the gateway's patience with writers.
                std::thread::sleep(Duration::from_millis(5));
            }
        }),
        ("as several files", &|| {
            let text = text(5);
            let (head, tail) = text.split_at(text.find("---\n").expect("documents"));
            fs::write(&file, head).expect("a write");
            fs::write(file.with_file_name("more.yaml"), tail).expect("a write");
        }),
        ("as one file again", &|| {
            fs::remove_file(file.with_file_name("more.yaml")).expect("a removal");
            fs::write(&file, text(6)).expect("a write");
        }),
    ];
    let mut client = gateway.connect();
    for (index, (name, change)) in ways.iter().enumerate() {
        change();
        let expected = format!("v{}", index + 1);
        let (_, time) = until(name, || (seen_by(&mut client) == expected).then_some(()));
        println!("{name}: {time:?}");
        assert!(time < IN_TIME, "{name}: {time:?}");
    }
}

#[test]
fn a_config_map_is_swapped_as_a_whole() {
    let backend = Backend::echo();
    let gateway = Launch::new(version(&backend, 1)).config_map().start();
    let mut client = gateway.connect();
    assert_eq!(seen_by(&mut client), "v1");
    for number in 2..=5 {
        let before = gateway.revision();
        gateway.swap(number, &version(&backend, number));
        let time = gateway.wait_for_revision_after(before);
        assert_eq!(seen_by(&mut client), format!("v{number}"));
        assert!(time < IN_TIME, "{time:?}");
    }
    assert_eq!(gateway.metric("evenkeel_config_refused_total"), 0.0, "{}", gateway.stderr());
}

#[test]
fn a_download_goes_on_while_everything_about_them_changes() {
    let (piece, pieces) = channel::<&'static str>();
    let pieces = Mutex::new(pieces);
    let old = Backend::start(move |served| {
        if served.request_head().is_none() {
            return;
        }
        served.peer.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
        for piece in pieces.lock().expect("one at a time").iter() {
            served.peer.send(format!("{:x}\r\n{piece}\r\n", piece.len()));
        }
        served.peer.send("0\r\n\r\n");
    });
    let new = Backend::echo();
    let gateway = Launch::new(Rules::to(old.address()).yaml()).workers(2).start();
    let mut download = gateway.connect();
    download.send("GET /stream HTTP/1.1\r\nHost: a\r\n\r\n");
    piece.send("one ").expect("a service that waits");
    let mut body = Vec::new();
    assert_eq!(download.read_head().map(|answer| answer.status()), Ok(200));
    for number in 0..5 {
        // Its service, its route and its timeouts are gone; it is a stream that has begun.
        gateway.reload(&version(&new, number));
        piece.send("two ").expect("a service that waits");
    }
    drop(piece);
    while !body.ends_with(b"0\r\n\r\n") {
        body.extend(download.take(1).expect("the rest of the download"));
    }
    assert_eq!(String::from_utf8_lossy(&body).matches("two ").count(), 5);
    // The connection goes on, to the new service.
    assert_eq!(seen_by(&mut download), "v4");
}

#[test]
fn listeners_come_and_go() {
    let backend = Backend::echo();
    let one = Rules::to(backend.address()).yaml();
    let second = free_port();
    let listener = format!("  - {{name: second, port: {second}, protocol: HTTP}}\n");
    let two = one.replacen("protocol: HTTP}\n", &format!("protocol: HTTP}}\n{listener}"), 1);
    let gateway = Launch::new(one.clone()).workers(2).start();
    let address = SocketAddr::from(([127, 0, 0, 1], second));
    let mut stays = gateway.connect();
    for _ in 0..3 {
        assert!(Peer::try_connect(address).is_err(), "nobody should listen on {second}");
        gateway.reload(&two);
        // Each worker has a socket of its own, and the kernel chooses.
        for _ in 0..8 {
            assert_eq!(ask(&mut Peer::connect(address)).status(), 200);
        }
        let mut goes = Peer::connect(address);
        assert_eq!(ask(&mut goes).status(), 200);
        gateway.reload(&one);
        until("an end of the listener", || Peer::try_connect(address).is_err().then_some(()));
        // What was accepted there is served no further.
        assert_eq!(goes.outcome(), "closed");
        assert_eq!(ask(&mut stays).status(), 200);
    }
}

#[test]
fn who_is_on_the_way_to_a_listener_that_goes_is_served() {
    let backend = Backend::echo();
    let one = Rules::to(backend.address()).yaml();
    let second = free_port();
    let listener = format!("  - {{name: second, port: {second}, protocol: HTTP}}\n");
    let two = one.replacen("protocol: HTTP}\n", &format!("protocol: HTTP}}\n{listener}"), 1);
    let gateway = Launch::new(two).workers(2).start();
    let address = SocketAddr::from(([127, 0, 0, 1], second));
    let mut idle: Vec<Peer> = (0..4).map(|_| Peer::connect(address)).collect();
    assert!(idle.iter_mut().all(|client| ask(client).status() == 200));
    // The kernel has these, and the gateway not yet.
    let silent = (0..4).map(|_| Peer::connect(address));
    let mut clients: Vec<Peer> = idle.into_iter().chain(silent).collect();
    gateway.reload(&one);
    // At once, for the time that they have is short.
    clients.extend((0..4).map(|_| Peer::connect(address)));
    for client in &mut clients {
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    }
    for client in &mut clients {
        let answer = client.read().expect("an answer");
        assert_eq!((answer.status(), answer.get("connection")), (200, Some("close")));
    }
    until("an end of the listener", || Peer::try_connect(address).is_err().then_some(()));
}

#[test]
fn a_listener_may_move_between_addresses_on_its_port() {
    let backend = Backend::echo();
    let port = free_port();
    let local = Rules::to(backend.address()).yaml().replace("{{port}}", &port.to_string());
    let everywhere = local.replace("addresses: [{value: 127.0.0.1}]", "addresses: [{value: '::'}]");
    let gateway = Launch::new(local.clone()).workers(2).start();
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    for rules in [&everywhere, &local, &everywhere] {
        gateway.reload(rules);
        assert!((0..8).all(|_| ask(&mut Peer::connect(address)).status() == 200));
    }
}

#[test]
fn an_answer_tells_that_its_listener_is_gone() {
    let (go, gate) = channel::<()>();
    let gate = Mutex::new(gate);
    let backend = Backend::start(move |served| {
        served.request();
        let _ = gate.lock().expect("no holder panics").recv();
        served.peer.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    });
    let one = Rules::to(backend.address()).yaml();
    let second = free_port();
    let listener = format!("  - {{name: second, port: {second}, protocol: HTTP}}\n");
    let two = one.replacen("protocol: HTTP}\n", &format!("protocol: HTTP}}\n{listener}"), 1);
    let gateway = Launch::new(two).start();
    let mut client = Peer::connect(SocketAddr::from(([127, 0, 0, 1], second)));
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    until("the request at the service", || (backend.requests().len() == 1).then_some(()));
    gateway.reload(&one);
    go.send(()).expect("the service waits");
    let answer = client.read().expect("requests in flight are answered");
    assert_eq!((answer.status(), answer.get("connection"), answer.text().as_str()), (200, Some("close"), "ok"));
    assert_eq!(client.read_to_end(), Ended::Closed);
}

#[test]
fn an_address_in_use_is_told_and_nothing_changes() {
    let backend = Backend::echo();
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let port = taken.local_addr().expect("an address").port();
    let one = Rules::to(backend.address()).yaml();
    let second = format!("protocol: HTTP}}\n  - {{name: second, port: {port}, protocol: HTTP}}\n");
    let gateway = Gateway::start(&Rules::to(backend.address()));
    let problems = gateway.reload_refused(&one.replacen("protocol: HTTP}\n", &second, 1));
    assert!(problems[0].contains(&format!("cannot listen on 127.0.0.1:{port}")), "{problems:?}");
    assert_eq!((gateway.revision(), ask(&mut gateway.connect()).status()), (1, 200));

    // Another gateway of the same user could share the first one's address, and must not.
    let mut second = Launch::new(one.replace("{{port}}", &gateway.address().port().to_string())).spawn();
    assert_eq!(second.wait().and_then(|status| status.code()), Some(1));
    assert!(second.stderr().contains("cannot listen on 127.0.0.1:"), "{}", second.stderr());

    let mut fails = Launch::new(one.replace("{{port}}", &port.to_string())).spawn();
    assert_eq!(fails.wait().and_then(|status| status.code()), Some(1));
    assert!(fails.stderr().contains(&format!("cannot listen on 127.0.0.1:{port}")), "{}", fails.stderr());
}

#[test]
fn at_the_start_all_problems_are_told_at_once() {
    let backend = Backend::echo();
    let good = version(&backend, 1);
    let bad = good.replace("gatewayClassName", "gatewayClasName").replace("port: 80}]", "port: 80000}]");
    let mut gateway = Launch::new(bad).spawn();
    assert_eq!(gateway.wait().and_then(|status| status.code()), Some(1));
    let stderr = gateway.stderr();
    for word in ["gatewayClasName", "80000", "rules.yaml:"] {
        assert!(stderr.contains(word), "{word:?} is missing:\n{stderr}");
    }
}

#[test]
fn idle_connections_to_a_removed_service_are_closed_at_once() {
    let (ended, ends) = channel();
    let old = Backend::start(move |served| {
        while served.request().is_some() && served.peer.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n") {}
        ended.send(()).expect("a test that waits");
    });
    let new = Backend::echo();
    let gateway = Launch::new(Rules::to(old.address()).yaml()).workers(2).start();
    let mut clients: Vec<Peer> = (0..4).map(|_| gateway.connect()).collect();
    for client in &mut clients {
        assert_eq!(ask(client).status(), 200);
    }
    let kept = old.connections();
    gateway.reload(&Rules::to(new.address()).yaml());
    for _ in 0..kept {
        ends.recv_timeout(IN_TIME).expect("an end of each connection");
    }
    for client in &mut clients {
        assert_eq!(ask(client).status(), 200);
    }
    assert_eq!((old.requests().len(), new.requests().len()), (4, 4));
}

/// The program's small count; how long a worker may stand still is only demanded of a quiet machine.
#[test]
fn valid_and_invalid_changes_under_load_cost_no_request_and_no_connection() {
    let found = e2e::soak::reload(|yaml| Launch::new(yaml).workers(2), Duration::from_secs(3)).expect("no failure");
    println!("{found}");
    assert!(found.answered > 1_000 && found.applied >= 5 && found.refused >= 5, "{found:?}");
}

#[test]
fn what_is_no_regular_file_is_refused_and_never_waited_for() {
    let backend = Backend::echo();
    let gateway = Gateway::start(&Rules::to(backend.address()));
    let pipe = gateway.rules_folder().join("pipe.yaml");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status().expect("mkfifo runs");
    assert!(made.success());
    let (refused, _) = until("a refusal", || {
        let config = gateway.config();
        config["refused"]["problems"][0].as_str().map(str::to_owned)
    });
    assert!(refused.contains("pipe.yaml: cannot be read: it is not a regular file"), "{refused}");
    assert_eq!(ask(&mut gateway.connect()).status(), 200);
    std::fs::remove_file(&pipe).expect("a file");
    until("an end of the refusal", || gateway.config()["refused"].is_null().then_some(()));
}

#[test]
fn streams_outlive_revisions_and_keep_nothing_of_them() {
    // The full count: cargo run --release -p e2e -- soak downloads
    let found = e2e::soak::downloads::run(|yaml| Launch::new(yaml).workers(2), 50, 900).expect("no download has ended");
    // Fifty downloads weigh little beside what allocators keep at hand.
    assert!(found.revisions >= 50 && found.admitted == 50 && found.growth() <= 0.5, "{found}");
}
