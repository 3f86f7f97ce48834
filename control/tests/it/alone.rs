//! A gateway that control tells its rules, where control is away, slow, or asked for the first time.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::{Duration, Instant};

use e2e::kit::{Backend, Gateway, Launch, Peer, Rules, Scratch, evenkeel, until};
use rustix::process::Signal;

use crate::partition::Ends;
use crate::server::Control;

/// A backend that answers with a word.
fn saying(word: &str) -> Backend {
    Backend::canned(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{word}", word.len()))
}

/// Status and body of an answer.
fn ask(address: SocketAddr, host: &str) -> (u16, String) {
    let mut client = Peer::connect(address);
    client.send(format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n"));
    client.read().map_or_else(|ended| (0, format!("{ended:?}")), |answer| (answer.status(), answer.text()))
}

fn start(control: SocketAddr, data: &Path) -> Gateway {
    Launch::under(control).flags(&["--data", &data.display().to_string()]).spawn()
}

fn wait_until_ready(gateway: &Gateway) {
    until("a gateway that is ready", || gateway.get("/ready").filter(|answer| answer.status() == 200));
}

fn kill(mut gateway: Gateway) {
    gateway.signal(Signal::KILL);
    gateway.wait();
}

/// A copy on disk of rules that were in force, and the address that they listen on.
fn copy_of(control: &Control, data: &Path, rules: &Rules) -> SocketAddr {
    let gateway = start(control.xds, data);
    control.wait_until_in_force(control.apply(&gateway.fill(&rules.yaml())));
    let address = gateway.address();
    assert_eq!(ask(address, "a").0, 200);
    let copy = data.join("last-good");
    until("a copy with everything", || {
        let bytes = fs::read(&copy).unwrap_or_default();
        String::from_utf8_lossy(&bytes).contains("Endpoints/").then_some(())
    });
    kill(gateway);
    address
}

#[test]
fn it_starts_without_control_from_what_was_in_force_last() {
    let (folder, data) = (Scratch::create("control").expect("a folder"), Scratch::create("data").expect("a folder"));
    let (one, two) = (saying("one"), saying("two"));
    let control = Control::start(&folder);
    let places = [control.address, control.xds];
    let address = copy_of(&control, data.path(), &Rules::to(one.address()));
    control.kill();

    let gateway = start(places[1], data.path());
    wait_until_ready(&gateway);
    assert_eq!(ask(address, "a"), (200, "one".into()));
    let said = gateway.stderr();
    assert!(said.contains("the copy on disk of revision 1, in force since 20"), "{said}");
    assert!(said.contains("control last heard"), "{said}");
    assert_eq!(gateway.config()["control"]["connected"], false);
    assert_eq!(
        (gateway.metric("evenkeel_control_connected "), gateway.metric("evenkeel_control_revision ")),
        (0.0, 1.0)
    );
    let other = Launch::under(places[1]).flags(&["--data", &data.path().display().to_string()]).spawn();
    until("a second one that is refused", || other.stderr().contains("is in use by another process").then_some(()));

    // Control comes back: nothing of what the gateway has is sent, what changes is followed.
    let control = Control::start_at(&folder, places);
    control.wait_until_in_force(1);
    assert_eq!(ask(address, "a"), (200, "one".into()));
    let port = address.port().to_string();
    control.wait_until_in_force(control.apply(&Rules::to(two.address()).yaml().replace("{{port}}", &port)));
    assert_eq!(ask(address, "a"), (200, "two".into()));
    assert_eq!(gateway.config()["control"]["connected"], true);
}

#[test]
fn it_lives_and_ends_without_control_and_so_does_the_next() {
    let (folder, data) = (Scratch::create("control").expect("a folder"), Scratch::create("data").expect("a folder"));
    let backend = saying("one");
    let control = Control::start(&folder);
    let xds = control.xds;
    let address = copy_of(&control, data.path(), &Rules::to(backend.address()));
    control.kill();
    for life in 0..3 {
        let mut gateway = start(xds, data.path());
        wait_until_ready(&gateway);
        let mut client = Peer::connect(address);
        for _ in 0..100 {
            client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
            assert_eq!(client.read().map(|answer| answer.text()), Ok("one".into()), "life {life}");
        }
        drop(client);
        gateway.signal(Signal::TERM);
        assert_eq!(gateway.wait().and_then(|status| status.code()), Some(0), "life {life}");
        assert!(gateway.stderr().contains("the copy on disk of revision 1"), "{}", gateway.stderr());
    }
}

#[test]
fn a_full_disk_keeps_nobody_from_serving() {
    let (folder, data) = (Scratch::create("control").expect("a folder"), Scratch::create("data").expect("a folder"));
    let (one, two) = (saying("one"), saying("two"));
    let control = Control::start(&folder);
    // What is written there finds no room (ENOSPC).
    let fresh = data.path().join("last-good.new");
    std::os::unix::fs::symlink("/dev/full", &fresh).expect("a link");
    let gateway = start(control.xds, data.path());
    for (backend, word) in [(&one, "one"), (&two, "two")] {
        control.wait_until_in_force(control.apply(&gateway.fill(&Rules::to(backend.address()).yaml())));
        assert_eq!(ask(gateway.address(), "a"), (200, word.into()));
    }
    let told = || gateway.stderr().matches("cannot be kept on disk: No space left on device").count();
    until("a reason", || (told() > 0).then_some(()));
    assert!(!data.path().join("last-good").exists());
    // There is room again: what is in force is kept, though nothing changes.
    fs::remove_file(&fresh).expect("it is ours");
    until("a copy", || data.path().join("last-good").exists().then_some(()));
    assert_eq!(told(), 1, "it is told once");
    let (address, xds) = (gateway.address(), control.xds);
    control.kill();
    kill(gateway);
    let gateway = start(xds, data.path());
    wait_until_ready(&gateway);
    assert_eq!(ask(address, "a"), (200, "two".into()));
}

#[test]
fn a_disk_that_was_full_at_the_first_start_keeps_nobody_from_serving() {
    let (folder, data) = (Scratch::create("control").expect("a folder"), Scratch::create("data").expect("a folder"));
    let one = saying("one");
    let control = Control::start(&folder);
    let (key, copy) = (data.path().join("copy.key"), data.path().join("last-good"));
    // There is no room for the key; nor was there for that of a build that wrote it in its place.
    let fresh = data.path().join("copy.key.new");
    std::os::unix::fs::symlink("/dev/full", &fresh).expect("a link");
    fs::write(&key, "").expect("a file");
    let gateway = start(control.xds, data.path());
    control.wait_until_in_force(control.apply(&gateway.fill(&Rules::to(one.address()).yaml())));
    assert_eq!(ask(gateway.address(), "a"), (200, "one".into()));
    let told = |words: &str| until(words, || gateway.stderr().contains(words).then_some(()));
    told("No space left on device (os error 28): what is in force cannot be kept on disk; trying again");
    told("error the configuration in force cannot be kept on disk: No space");
    assert!(!copy.exists());
    fs::remove_file(&fresh).expect("it is ours");
    told("copy.key was lost, or cut short by a full disk, and is made anew");
    told("info  the configuration in force is kept on disk again");
    let (address, xds) = (gateway.address(), control.xds);
    control.kill();
    kill(gateway);
    let gateway = start(xds, data.path());
    wait_until_ready(&gateway);
    assert_eq!(ask(address, "a"), (200, "one".into()));
    kill(gateway);
    // A copy whose key is lost is nobody's.
    fs::write(&key, "short").expect("a file");
    let gateway = start(xds, data.path());
    until("a reason", || gateway.stderr().contains("last-good: it is damaged or forged").then_some(()));
    assert!(gateway.stderr().contains("copy.key was lost, or cut short"), "{}", gateway.stderr());
}

#[test]
fn a_folder_that_cannot_be_written_is_read() {
    let (folder, data) = (Scratch::create("control").expect("a folder"), Scratch::create("data").expect("a folder"));
    let empty = Scratch::create("data").expect("a folder");
    let locked = |folder: &Path, words: &[&str]| {
        let path = folder.display();
        let script = format!("mount --bind {path} {path} && mount -o remount,ro,bind {path} && exec \"$@\"");
        ["unshare", "-rm", "sh", "-c", &script, "-"]
            .iter()
            .chain(words)
            .map(|word| word.to_string())
            .collect::<Vec<_>>()
    };
    let words = locked(empty.path(), &["true"]);
    if !Command::new(&words[0]).args(&words[1..]).status().is_ok_and(|status| status.success()) {
        eprintln!("skipped: this machine lets nobody mount anything");
        return;
    }
    let one = saying("one");
    let control = Control::start(&folder);
    let (xds, address) = (control.xds, copy_of(&control, data.path(), &Rules::to(one.address())));
    let start_locked = |data: &Path| {
        let program = evenkeel();
        let words = locked(data, &[&*program.to_string_lossy(), "gateway"]);
        let words: Vec<&str> = words.iter().map(|word| &**word).collect();
        Launch::under(xds).program(&words).flags(&["--data", &data.display().to_string()]).spawn()
    };
    // Without a copy, with control.
    let gateway = start_locked(empty.path());
    wait_until_ready(&gateway);
    assert_eq!(ask(address, "a"), (200, "one".into()));
    assert!(gateway.stderr().contains("Read-only file system (os error 30): what is in force cannot be kept on disk"));
    kill(gateway);
    // With a copy, without control.
    control.kill();
    let gateway = start_locked(data.path());
    wait_until_ready(&gateway);
    assert_eq!(ask(address, "a"), (200, "one".into()));
    assert!(gateway.stderr().contains("the copy on disk of revision 1"), "{}", gateway.stderr());
    kill(gateway);
    // Without either it lives, and waits.
    let gateway = start_locked(empty.path());
    until("a probe", || gateway.get("/live").filter(|answer| answer.status() == 200));
}

#[test]
fn a_control_that_lost_everything_is_told_of() {
    let (folder, other) =
        (Scratch::create("control").expect("a folder"), Scratch::create("control").expect("a folder"));
    let one = saying("one");
    let control = Control::start(&folder);
    let places = [control.address, control.xds];
    let gateway = Launch::under(control.xds).spawn();
    control.wait_until_in_force(control.apply(&gateway.fill(&Rules::to(one.address()).yaml())));
    let words = "takes everything away, documents: 3; it is at revision 0, and revision 1 is in force here: is it";
    control.kill();
    let control = Control::start_at(&folder, places);
    control.wait_until_in_force(1);
    assert!(!gateway.stderr().contains("takes everything away"), "{}", gateway.stderr());
    control.kill();
    let _control = Control::start_at(&other, places);
    until(words, || gateway.stderr().contains(words).then_some(()));
}

#[test]
fn a_copy_that_is_not_its_own_is_not_used() {
    let (folder, data) = (Scratch::create("control").expect("a folder"), Scratch::create("data").expect("a folder"));
    let backend = saying("one");
    let control = Control::start(&folder);
    let places = [control.address, control.xds];
    let address = copy_of(&control, data.path(), &Rules::to(backend.address()));
    control.kill();
    let copy = data.path().join("last-good");
    let good = fs::read(&copy).expect("a copy");
    let head = good.iter().position(|byte| *byte == b'\n').expect("a first line");
    let forge = |(place, byte): (usize, &u8)| if place > head && *byte == b'w' { b'v' } else { *byte };
    let forged: Vec<u8> = good.iter().enumerate().map(forge).collect();
    for (bytes, reason) in [
        (&good[..good.len() / 2], "it is torn"),
        (&forged, "it is damaged or forged"),
        (&[], "it is torn"),
        (b"rules\n", "it is no copy"),
    ] {
        fs::write(&copy, bytes).expect("a file");
        let gateway = start(places[1], data.path());
        until("a reason", || gateway.stderr().contains(reason).then_some(()));
        // It lives, and waits.
        let probe = |path| gateway.get(path).map(|answer| answer.status());
        until("a probe", || (probe("/live") == Some(200)).then_some(()));
        assert_eq!(probe("/ready"), Some(503));
        assert!(Peer::try_connect(address).is_err(), "nothing is served");
        let (mut gateway, begun) = (gateway, Instant::now());
        gateway.signal(Signal::TERM);
        assert_eq!(gateway.wait().and_then(|status| status.code()), Some(0));
        assert!(begun.elapsed() < Duration::from_secs(5));
    }
    // With control it starts all the same.
    let control = Control::start_at(&folder, places);
    let gateway = start(control.xds, data.path());
    wait_until_ready(&gateway);
    assert_eq!(ask(address, "a"), (200, "one".into()));
}

#[test]
fn endpoints_come_with_the_first_request_that_needs_them() {
    let folder = Scratch::create("control").expect("a folder");
    let backend = saying("one");
    let control = Control::start(&folder);
    let gateway = Launch::under(control.xds).flags(&["--preload-services", "0"]).spawn();
    let rules = Rules::to(backend.address()).yaml().replace("  rules:", "  hostnames: [a]\n  rules:");
    // A lane in shadow, with an instance.
    let rules = rules.replace("ports: {http", "labels: {lane: blue}, ports: {http");
    let rules = format!(
        "{rules}\n---\n{{apiVersion: evenkeel.dev/v1alpha1, kind: LaneGroup, metadata: {{name: next}}, spec: {{mode: shadow, \
         entries: [{{group: gateway.networking.k8s.io, kind: Gateway, name: edge, sectionName: http}}], lanes: [{{name: blue, selector: {{lane: \
         blue}}, match: [{{headers: [{{name: x-user, value: bob}}]}}]}}]}}}}"
    );
    control.wait_until_in_force(control.apply(&gateway.fill(&rules)));
    let awaited = || gateway.config()["clusters"][0]["awaited"].clone();
    assert_eq!(awaited(), true);
    let told = gateway.post("/explain", "GET / HTTP/1.1\r\nHost: a\r\n\r\n").expect("an answer").text();
    assert!(told.contains("which control has not told so far"), "{told}");
    assert_eq!(awaited(), true, "who only looks asks for nothing");
    for host in 0..200 {
        assert_eq!(ask(gateway.address(), &format!("h{host}.nowhere.test")).0, 404);
    }
    assert_eq!(awaited(), true, "nor does a Host that no route knows");
    let mut client = gateway.connect();
    client.send("GET / HTTP/1.1\r\nHost: a\r\nX-User: bob\r\n\r\n");
    assert_eq!(client.read().map(|answer| (answer.status(), answer.text())), Ok((200, "one".into())));
    assert_eq!(awaited(), false);
    // What it would have met is judged by them, too.
    let decided = gateway.metric("evenkeel_shadow_lanes_total{policy=\"LaneGroup default/next\",lane=\"blue\"}");
    assert_eq!((decided, gateway.metrics().contains("evenkeel_shadow_lane_fallbacks_total{")), (1.0, false));
}

#[test]
fn who_waits_for_endpoints_meets_the_rules_of_then() {
    let folder = Scratch::create("control").expect("a folder");
    let control = Control::start(&folder);
    let (one, two) = (saying("one"), saying("two"));
    let gateway = Launch::under(control.xds).flags(&["--preload-services", "0"]).spawn();
    let rules = ["one", "two"].map(|name| {
        let rules = Rules::new().service("one", &[one.address()]).service("two", &[two.address()]);
        let filter =
            format!("{{type: RequestHeaderModifier, requestHeaderModifier: {{add: [{{name: way, value: {name}}}]}}}}");
        gateway.fill(&rules.rule(&format!("filters: [{filter}]\nbackendRefs: [{{name: {name}, port: 80}}]")).yaml())
    });
    control.wait_until_in_force(control.apply(&rules[0]));
    let is_over = AtomicBool::new(false);
    let load = || {
        let (mut client, mut served) = (gateway.connect(), 0);
        while !is_over.load(SeqCst) {
            client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody");
            let answer = client.read().map(|answer| (answer.status(), answer.text()));
            assert!(matches!(&answer, Ok((200, word)) if word == "one" || word == "two"), "{answer:?} after {served}");
            served += 1;
        }
        served
    };
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..4).map(|_| scope.spawn(load)).collect();
        let ends = Ends(&is_over);
        // Back and forth, faster than endpoints come; on a slow disk not for ever.
        let started = Instant::now();
        for rules in rules.iter().cycle().skip(1).take(300).take_while(|_| started.elapsed() < Duration::from_secs(4)) {
            control.apply(rules);
        }
        drop(ends);
        let served: u32 = clients.into_iter().map(|client| client.join().expect("no request fails")).sum();
        assert!(served > 20, "{served}");
    });
    // What came of the rules of before is gone from a request that met others.
    for (backend, name) in [(&one, "one"), (&two, "two")] {
        for request in backend.requests() {
            assert_eq!((request.get("way"), request.count("way"), &*request.text()), (Some(name), 1, "body"));
        }
    }
}

#[test]
fn who_waits_for_endpoints_waits_for_a_bounded_time() {
    let folder = Scratch::create("control").expect("a folder");
    let backend = saying("one");
    let control = Control::start(&folder);
    let gateway = Launch::under(control.xds).flags(&["--preload-services", "0"]).spawn();
    control.wait_until_in_force(control.apply(&gateway.fill(&Rules::to(backend.address()).yaml())));
    control.kill();
    until("a gateway that knows", || gateway.stderr().contains("its last rules stay").then_some(()));
    let begun = Instant::now();
    let (status, body) = ask(gateway.address(), "a");
    assert_eq!((status, &*body), (503, "the endpoints of the service are not known yet\n"));
    assert!((Duration::from_millis(900)..Duration::from_secs(5)).contains(&begun.elapsed()), "{:?}", begun.elapsed());
    // More than the line has places: each has its answer, and those beyond have it at once.
    let mut clients: Vec<Peer> = (0..1_100).map(|_| gateway.connect()).collect();
    for client in &mut clients {
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    }
    for client in &mut clients {
        assert_eq!(client.read().map(|answer| answer.status()), Ok(503));
    }
    assert!(gateway.stderr().lines().count() < 50, "and nothing of it is told a thousand times");
}
