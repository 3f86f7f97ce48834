//! What may go wrong while an instance goes: control that dies, callers that nobody can tell, that come from elsewhere or vanish,
//! downloads without an end, instances that are killed, cut off, or have each other's name or address. Real processes, under
//! load; nothing fails but what the test says.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::{Duration, Instant};

use e2e::kit::{Backend, Beside, Ended, Peer, Relay, Scratch, Sidecar, until};
use rustix::process::Signal;

use crate::mesh::{Load, Mesh, app, holding};
use crate::server::{Control, service};

/// Lets an instance go, and waits until it has, and its sidecar has ended, which stays for as long as the application does.
fn end(mesh: &Mesh, name: &str, sidecar: &mut Sidecar, app: Backend) {
    sidecar.signal(Signal::TERM);
    mesh.receipt(name);
    drop(app);
    assert!(sidecar.wait().is_some_and(|status| status.success()), "{}", sidecar.stderr());
}

#[test]
fn control_that_is_killed_before_all_have_forgotten_goes_on_with_it() {
    let mut mesh = Mesh::start(2);
    let (one, two) = (app("one"), app("two"));
    let [mut first, _second] = mesh.pair(&one, &two);
    let relay = Relay::to(mesh.control.xds);
    let (_direct, behind) = (mesh.gateway(0), mesh.gateway_by(1, relay.address(), &[]));
    until("both of them", || (behind.endpoint_states("default/web:80").len() == 2).then_some(()));
    let load = Load::default();
    std::thread::scope(|scope| {
        let running = [0, 1].map(|gateway| mesh.load(scope, gateway, &load));
        load.more(50);
        relay.swallow();
        first.signal(Signal::TERM);
        let waiting = mesh.wait_for_holders("one", 1);
        assert!(waiting[0].starts_with("default/g1@"), "{waiting:?}");
        let places = [mesh.control.address, mesh.control.xds];
        mesh.control.end();
        relay.pass();
        mesh.control = Control::start_at(&mesh.folder, places);
        drop(one);
        assert!(first.wait().is_some_and(|status| status.success()));
        mesh.wait_for(&[("two", "ready")]);
        let receipt = mesh.receipt("one");
        assert_eq!((holding(&receipt), &receipt["cut"]), (Vec::new(), &0.into()), "{receipt}");
        load.more(50);
        drop(running);
    });
    load.check();
}

#[test]
fn a_caller_that_was_cut_off_before_the_mark_is_told_by_the_instance_and_named() {
    let mesh = Mesh::start(2);
    let (one, two) = (app("one"), app("two"));
    let [mut first, _second] = mesh.pair(&one, &two);
    let relay = Relay::to(mesh.control.xds);
    let (_direct, behind) = (mesh.gateway(0), mesh.gateway_by(1, relay.address(), &[]));
    until("both of them", || (behind.endpoint_states("default/web:80").len() == 2).then_some(()));
    let load = Load::default();
    std::thread::scope(|scope| {
        let running = [0, 1].map(|gateway| mesh.load(scope, gateway, &load));
        load.more(50);
        relay.swallow();
        first.signal(Signal::TERM);
        mesh.wait_for_holders("one", 1);
        let receipt = mesh.receipt("one");
        drop(one);
        assert!(first.wait().is_some_and(|status| status.success()));
        let holding = holding(&receipt);
        assert!(holding.len() == 1 && holding[0].starts_with("default/g1@"), "{receipt}");
        assert_eq!(
            (&receipt["reason"], &receipt["cut"]),
            (&"it was quiet, though not all callers said that they have forgotten it".into(), &0.into())
        );
        load.more(50);
        drop(running);
    });
    load.check();
}

#[test]
fn a_caller_that_starts_from_its_copy_leaves_alone_who_goes_or_has_gone() {
    let mut mesh = Mesh::with_retries(1);
    let data = Scratch::create("data").expect("a folder");
    let flags = ["--data", data.path().to_str().expect("UTF-8")];
    let (one, two, three) = (app("one"), app("two"), app("three"));
    let mut first = mesh.sidecar("one", &one, &[]);
    let mut second = mesh.sidecar("two", &two, &["--drain-within", "15"]);
    let _third = mesh.sidecar("three", &three, &[]);
    mesh.wait_for(&[("one", "ready"), ("three", "ready"), ("two", "ready")]);
    let mut gateway = mesh.gateway_by(0, mesh.control.xds, &flags);
    until("all of them", || (gateway.endpoint_states("default/web:80").len() == 3).then_some(()));
    // Later than those.
    mesh.control.apply(&service("web", 80).replace("{name: web}", "{name: web, annotations: {note: later}}"));
    until("a copy with everything", || {
        let bytes = std::fs::read(data.path().join("last-good")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).contains("later").then_some(())
    });
    gateway.signal(Signal::KILL);
    gateway.wait();
    drop(gateway);
    // One has gone before it is back, another goes meanwhile, and nobody can say so.
    end(&mesh, "one", &mut first, one);
    mesh.control.end();
    second.signal(Signal::TERM);
    let gateway = mesh.gateway_by(0, mesh.control.xds, &flags);
    assert!(gateway.stderr().contains("the copy on disk of revision"), "{}", gateway.stderr());
    assert_eq!(gateway.endpoint_states("default/web:80").len(), 3);
    let load = Load::default();
    std::thread::scope(|scope| {
        let running = mesh.load(scope, 0, &load);
        load.more(200);
        let before = two.requests().len();
        load.more(200);
        assert_eq!(two.requests().len(), before, "it has said that it goes");
        drop(two);
        assert!(second.wait().is_some_and(|status| status.success()));
        load.more(50);
        drop(running);
    });
    load.check();
}

#[test]
fn a_caller_that_comes_in_mid_drain_never_knows_the_instance() {
    let mesh = Mesh::start(2);
    let (one, two) = (app("one"), app("two"));
    let [mut first, _second] = mesh.pair(&one, &two);
    let relay = Relay::to(mesh.control.xds);
    let _behind = mesh.gateway_by(0, relay.address(), &[]);
    let (before, after) = (Load::default(), Load::default());
    std::thread::scope(|scope| {
        let running = mesh.load(scope, 0, &before);
        before.more(50);
        relay.swallow();
        first.signal(Signal::TERM);
        mesh.wait_for_holders("one", 1);
        let late = mesh.gateway(1);
        let running = [running, mesh.load(scope, 1, &after)];
        after.more(50);
        assert_eq!((after.answers(), late.endpoint_states("default/web:80").len()), (vec!["two".to_owned()], 1));
        assert_eq!(mesh.wait_for_holders("one", 1).len(), 1, "it is not waited for");
        relay.pass();
        let receipt = mesh.receipt("one");
        drop(one);
        assert!(first.wait().is_some_and(|status| status.success()));
        let proxies = receipt["proxies"].to_string();
        assert!(holding(&receipt).is_empty() && !proxies.contains("default/g1@"), "{receipt}");
        [&before, &after].iter().for_each(|load| load.more(50));
        drop((running, late));
    });
    [before, after].iter().for_each(Load::check);
}

#[test]
fn a_caller_that_vanishes_in_mid_drain_is_named() {
    let mesh = Mesh::start(2);
    let (one, two, three) = (app("one"), app("two"), app("three"));
    let mut first = mesh.sidecar("one", &one, &["--drain-within", "3"]);
    let mut second = mesh.sidecar("two", &two, &[]);
    let _third = mesh.sidecar("three", &three, &[]);
    mesh.wait_for(&[("one", "ready"), ("three", "ready"), ("two", "ready")]);
    let (mut vanishing, _other) = (mesh.gateway(0), mesh.gateway(1));
    let load = Load::default();
    std::thread::scope(|scope| {
        let running = mesh.load(scope, 1, &load);
        load.more(50);
        vanishing.signal(Signal::STOP);
        for sidecar in [&first, &second] {
            sidecar.signal(Signal::TERM);
        }
        for name in ["one", "two"] {
            mesh.wait_for_holders(name, 1);
        }
        vanishing.signal(Signal::KILL);
        vanishing.wait();
        drop((one, two));
        for (sidecar, name, reason) in [
            (&mut first, "one", "its time was over"),
            (&mut second, "two", "it was quiet, though not all callers said that they have forgotten it"),
        ] {
            assert!(sidecar.wait().is_some_and(|status| status.success()));
            let receipt = mesh.receipt(name);
            let holding = holding(&receipt);
            assert!(holding.len() == 1 && holding[0].starts_with("default/g0@"), "{receipt}");
            assert!(receipt["reason"].as_str().is_some_and(|told| told.starts_with(reason)), "{receipt}");
            assert_eq!(receipt["cut"], 0, "{receipt}");
        }
        load.more(50);
        drop(running);
    });
    load.check();
}

/// Answers with its name; `/export` without an end, and `/slow` not at all.
fn endless(name: &'static str) -> Backend {
    Backend::start(move |served| {
        while let Some(request) = served.request() {
            let head = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n";
            if request.start.contains("/export") {
                served.peer.send(format!("{head}Transfer-Encoding: chunked\r\n\r\n"));
                while served.peer.send(format!("400\r\n{}\r\n", "x".repeat(1_024))) {
                    std::thread::sleep(Duration::from_millis(2));
                }
                return;
            }
            if request.start.contains("/slow") {
                served.peer.read_to_end();
                return;
            }
            served.peer.send(format!("{head}Content-Length: {}\r\n\r\n{name}", name.len()));
        }
    })
}

#[test]
fn a_download_without_an_end_is_cut_at_the_deadline_and_named() {
    let mesh = Mesh::start(1);
    let (one, two, three) = (endless("one"), app("two"), app("three"));
    let first = mesh.sidecar("one", &one, &["--drain-within", "4"]);
    mesh.wait_for(&[("one", "ready")]);
    let _gateway = mesh.gateway(0);
    let mut download = mesh.connect(0);
    download.send("GET /export?token=secret HTTP/1.1\r\nHost: shop.test\r\n\r\n");
    assert_eq!(download.read_head().expect("an answer").status(), 200);
    let mut slow = first.connect_inbound();
    slow.send("POST /slow HTTP/1.1\r\nHost: web\r\nContent-Length: 2\r\n\r\nhi");
    until("both at the application", || (one.requests().len() == 2).then_some(()));
    let mut second = mesh.sidecar("two", &two, &[]);
    let _third = mesh.sidecar("three", &three, &[]);
    mesh.wait_for(&[("one", "ready"), ("three", "ready"), ("two", "ready")]);
    let load = Load::default();
    std::thread::scope(|scope| {
        let running = mesh.load(scope, 0, &load);
        load.more(50);
        let waits = scope.spawn(|| mesh.command("drain web/one --wait"));
        until("its drain", || (mesh.all().iter().any(|one| one["phase"] == "draining")).then_some(()));
        // Whoever goes beside it does not wait for it.
        end(&mesh, "two", &mut second, two);
        assert_eq!(mesh.find_receipt("one"), None);
        let (_, table) = mesh.command("get drains");
        assert!(table.contains("waits for requests under way"), "{table}");
        let (code, text) = waits.join().expect("it ends");
        let mut cut: Vec<&str> = text.lines().filter_map(|line| line.trim().strip_prefix("cut: ")).collect();
        cut.sort_unstable();
        let place = slow.local_address();
        assert!(
            code == 1 && text.contains("its time was over") && cut.len() == 2 && !text.contains("secret"),
            "{code}: {text}"
        );
        assert!(
            cut[0].starts_with("GET shop.test/export from default/g0, under way for ")
                && cut[0].ends_with(" bytes of the answer sent"),
            "{text}"
        );
        assert!(
            cut[1].starts_with(&format!("POST web/slow from {place}, under way for "))
                && cut[1].ends_with(" s, nothing of an answer sent"),
            "{text}"
        );
        let (code, text) = mesh.command("drain web/one");
        assert!(
            code == 1 && text.contains("its time was over") && text.contains("there is no instance"),
            "{code}: {text}"
        );
        let (code, text) = mesh.command("drain web/one -o json");
        assert!(code == 1 && text.contains("forgottenMilliseconds") && !text.contains("has gone"), "{code}: {text}");
        let receipt = mesh.receipt("one");
        assert_eq!((&receipt["cut"], receipt["cutRequests"].as_array().map(Vec::len)), (&2.into(), Some(2)));
        let (_, table) = mesh.command("get drains");
        assert!(
            cut.iter().any(|name| table.contains(&format!("cut: {name}, and 1 more, its time was over"))),
            "{table}"
        );
        drop(running);
    });
    load.check();
    // They are cut, and not only said to be.
    let answer = slow.read().expect("an answer");
    assert_eq!((answer.status(), answer.text()), (503, "the instance has gone\n".into()));
    assert!(matches!(download.read_to_end(), Ended::Closed | Ended::Reset));
    until("the log", || first.stderr().contains("cut: GET shop.test/export from default/g0").then_some(()));
}

#[test]
fn the_last_instance_goes_on_until_it_has_almost_no_time_left() {
    let mesh = Mesh::start(1);
    let one = app("one");
    let mut first = mesh.sidecar("one", &one, &["--drain-within", "5"]);
    mesh.wait_for(&[("one", "ready")]);
    let _gateway = mesh.gateway(0);
    let mut client = mesh.connect(0);
    let mut ask = || {
        client.send("GET / HTTP/1.1\r\nHost: web\r\n\r\n");
        client.read().map(|answer| answer.status())
    };
    let mut served = || (ask() == Ok(200)).then_some(());
    served().expect("it is there");
    let began = Instant::now();
    first.signal(Signal::TERM);
    mesh.wait_for(&[("one", "last")]);
    while served().is_some() {
        assert!(began.elapsed() < Duration::from_secs(5), "nobody is told that it goes");
    }
    assert!(began.elapsed() >= Duration::from_millis(1_990), "{:?}", began.elapsed());
    drop(one);
    assert!(first.wait().is_some_and(|status| status.success()));
    let receipt = mesh.receipt("one");
    assert_eq!(receipt["reason"], "all callers have forgotten it, and it was quiet");
    let after = |name: &str| receipt[name].as_f64().expect("a time");
    assert!((1_990.0..5_000.0).contains(&after("toldMilliseconds")), "{receipt}");
    assert!(after("toldMilliseconds") <= after("forgottenMilliseconds"), "{receipt}");
    assert!(after("forgottenMilliseconds") <= after("tookMilliseconds"), "{receipt}");
}

#[test]
fn the_last_one_is_used_though_another_has_just_died() {
    let mesh = Mesh::with_retries(1);
    let (one, two, three) = (app("one"), app("two"), app("three"));
    let [mut first, mut second] = mesh.pair(&one, &two);
    let _gateway = mesh.gateway(0);
    let load = Load::default();
    first.signal(Signal::KILL);
    first.wait();
    drop(one);
    second.signal(Signal::TERM);
    mesh.wait_for(&[("one", "ready"), ("two", "last")]);
    std::thread::scope(|scope| {
        let running = mesh.load(scope, 0, &load);
        load.more(300);
        // The dead one goes when its time is over, though nobody else is ready.
        mesh.wait_for(&[("two", "last")]);
        load.more(100);
        let _third = mesh.sidecar("three", &three, &[]);
        mesh.receipt("two");
        drop(two);
        assert!(second.wait().is_some_and(|status| status.success()));
        load.more(50);
        drop(running);
    });
    load.check();
    assert_eq!(load.answers(), ["three", "two"]);
}

#[test]
fn an_address_that_is_another_services_at_once_answers_nobody_who_meant_the_first() {
    let mesh = Mesh::with_retries(1);
    mesh.control.apply(&service("pay", 80));
    let (one, two, pay) = (app("one"), app("two"), app("pay"));
    let [mut first, _second] = mesh.pair(&one, &two);
    let relay = Relay::to(mesh.control.xds);
    let _gateway = mesh.gateway_by(0, relay.address(), &[]);
    let (meanwhile, after) = (Load::default(), Load::default());
    std::thread::scope(|scope| {
        let running = mesh.load(scope, 0, &meanwhile);
        meanwhile.more(50);
        // Nobody can tell the gateway.
        relay.swallow();
        first.signal(Signal::KILL);
        first.wait();
        let beside = Beside::under_at(mesh.control.xds, "pay", pay.address(), first.inbound());
        let other = beside.flags(&["--instance", "other"]).start();
        until("its instance", || {
            let all = mesh.all();
            (all.iter().any(|one| one["instance"] == "default/pay/other" && one["phase"] == "ready")).then_some(())
        });
        let running = [running, mesh.load(scope, 0, &after)];
        // Given back, and sent elsewhere.
        let is_it = |line: &str| line.contains("response_flags=\"MD\"") && line.contains("reporter=\"destination\"");
        until("a request that was given back", || other.metrics().lines().any(is_it).then_some(()));
        after.more(200);
        relay.pass();
        after.more(200);
        drop(running);
    });
    after.check();
    assert_eq!(after.answers(), ["two"]);
    assert!(pay.requests().is_empty());
    // What it had in hand when it was killed is lost, and nothing else.
    let failed = meanwhile.failed();
    assert!(failed.len() <= 4 && !meanwhile.answers().contains(&"pay".to_owned()), "{failed:?}");
}

#[test]
fn of_many_that_fall_silent_at_once_none_is_taken_away() {
    let mesh = Mesh::start(1);
    mesh.control.apply(&service("cart", 80));
    let apps = ["a", "b", "c", "d", "e"].map(|name| (name, app(name)));
    let relays: Vec<Relay> = (0..3).map(|_| Relay::to(mesh.control.xds)).collect();
    let way = |number: usize| relays.get(number).map_or(mesh.control.xds, Relay::address);
    let started = apps.iter().enumerate().map(|(number, (name, app))| {
        let xds = if number < 2 { way(number) } else { mesh.control.xds };
        mesh.sidecar_by(name, app, xds, &[])
    });
    let _sidecars: Vec<Sidecar> = started.collect();
    // Of two, one may go: when it does, the time of the others is over, too.
    let cart = app("cart");
    let beside = |name, xds| Beside::under(xds, "cart", cart.address()).flags(&["--instance", name]).start();
    let _carts = [beside("stays", mesh.control.xds), beside("goes", way(2))];
    let count = || mesh.all().iter().filter(|one| one["phase"] == "ready").count();
    until("all of them", || (count() == 7).then_some(()));
    let _gateway = mesh.gateway(0);
    let load = Load::default();
    std::thread::scope(|scope| {
        let running = mesh.load(scope, 0, &load);
        load.more(50);
        drop(relays);
        until("those that are silent", || {
            let silent = mesh.all().iter().filter(|one| one["unconfirmed"] == true).count();
            (silent == 3).then_some(())
        });
        until("the end of their time", || (count() == 6).then_some(()));
        let (_, table) = mesh.command("get drains");
        let gone: Vec<&str> =
            table.lines().filter(|line| line.contains("fell silent, and did not come back")).collect();
        assert!(gone.len() == 1 && gone[0].starts_with("default/cart/goes "), "{table}");
        let notes = |name: &str| {
            let name = format!("default/web/{name}");
            mesh.all().iter().find(|one| one["instance"] == *name).expect("it is there")["notes"].to_string()
        };
        for name in ["a", "b"] {
            assert!(notes(name).contains("unconfirmed, and kept: so are too many of its Service"), "{}", notes(name));
        }
        assert!(mesh.command("status").1.contains("default/web"), "{}", mesh.command("status").1);
        let before = apps.each_ref().map(|(_, app)| app.requests().len());
        load.more(500);
        for ((name, app), before) in apps.iter().zip(before) {
            assert!(app.requests().len() > before, "{name} is used no more");
        }
        drop(running);
    });
    load.check();
}

#[test]
fn of_two_instances_with_one_name_the_second_waits_outside() {
    let mesh = Mesh::start(1);
    let (one, two, twin) = (app("one"), app("two"), app("twin"));
    let [mut first, _second] = mesh.pair(&one, &two);
    let _gateway = mesh.gateway(0);
    let load = Load::default();
    std::thread::scope(|scope| {
        let running = mesh.load(scope, 0, &load);
        load.more(50);
        let other = mesh.unready("one", &twin, &[]);
        let place = first.inbound();
        let reason = format!("another process of that name is there, at {place}: give each a name of its own");
        until("a refusal", || (mesh.refused() == [("default/web/one".into(), reason.clone())]).then_some(()));
        let (code, text) = mesh.command("get instances");
        assert!(code == 0 && text.contains("refused") && text.contains(&reason), "{code}: {text}");
        let (code, text) = mesh.command("status");
        assert!(code == 1 && text.contains("1 instance is refused"), "{code}: {text}");
        until("its own word", || {
            let said = format!("control does not let this instance in: {reason}");
            other.stderr().contains(&said).then_some(())
        });
        load.more(100);
        assert_eq!(load.answers(), ["one", "two"]);
        // It tries again, and the name is free as soon as the first has gone, even if its process is there for a while.
        first.signal(Signal::TERM);
        mesh.receipt("one");
        let port = u64::from(other.inbound().port());
        until("the second in its place", || {
            let all = mesh.all();
            let it = all.iter().find(|one| one["instance"] == "default/web/one")?;
            (it["ports"][""] == port && it["phase"] == "ready").then_some(())
        });
        until("its answers", || load.answers().contains(&"twin".to_owned()).then_some(()));
        assert_eq!(mesh.refused(), []);
        assert!(!first.stderr().contains("does not let this instance in"), "{}", first.stderr());
        drop(one);
        assert!(first.wait().is_some_and(|status| status.success()));
        drop((running, other));
    });
    load.check();
}

/// Answers with its name; `/hold` when it is told to.
fn holding_back(name: &'static str, is_released: &Arc<AtomicBool>) -> Backend {
    let is_released = is_released.clone();
    Backend::start(move |served| {
        while let Some(request) = served.request() {
            if request.start.contains("/hold") {
                until("a release", || is_released.load(SeqCst).then_some(()));
            }
            served.peer.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{name}", name.len()));
        }
    })
}

#[test]
fn a_sidecar_that_is_killed_takes_what_it_had_in_hand_and_nothing_else() {
    let mesh = Mesh::with_retries(1);
    let is_released = Arc::new(AtomicBool::new(false));
    let (one, two) = (holding_back("one", &is_released), holding_back("two", &is_released));
    let [mut first, _second] = mesh.pair(&one, &two);
    let _gateway = mesh.gateway(0);
    let (meanwhile, after) = (Load::default(), Load::default());
    let holds = |app: &Backend| app.requests().iter().filter(|request| request.start.contains("/hold")).count();
    std::thread::scope(|scope| {
        let running = mesh.load(scope, 0, &meanwhile);
        let mut held: Vec<Peer> = (0..8).map(|_| mesh.connect(0)).collect();
        for client in &mut held {
            client.send("POST /hold HTTP/1.1\r\nHost: web\r\nContent-Length: 2\r\n\r\nhi");
        }
        until("all of them", || (holds(&one) + holds(&two) == 8).then_some(()));
        let on_it = holds(&one);
        assert!((1..8).contains(&on_it), "{on_it} of 8");
        meanwhile.more(50);
        first.signal(Signal::KILL);
        first.wait();
        let running = [running, mesh.load(scope, 0, &after)];
        after.more(200);
        is_released.store(true, SeqCst);
        let statuses: Vec<u16> =
            held.iter_mut().map(|client| client.read().map_or(0, |answer| answer.status())).collect();
        let lost = statuses.iter().filter(|status| **status != 200).count();
        assert_eq!((lost, holds(&two)), (on_it, 8 - on_it), "{statuses:?}");
        drop(running);
    });
    // Of those clients each had one request at most in hand.
    assert!(meanwhile.failed().len() <= 4, "{:?}", meanwhile.failed());
    after.check();
    assert_eq!(after.answers(), ["two"]);
}

#[test]
fn instances_are_replaced_while_a_third_of_the_proxies_is_cut_off() {
    let mesh = Mesh::start(3);
    let [one, two, three, four] = ["one", "two", "three", "four"].map(app);
    let relays = [(); 2].map(|()| Relay::to(mesh.control.xds));
    let mut first = mesh.sidecar("one", &one, &[]);
    let mut second = mesh.sidecar_by("two", &two, relays[0].address(), &[]);
    mesh.wait_for(&[("one", "ready"), ("two", "ready")]);
    // Of six proxies two.
    let _gateways = [mesh.gateway(0), mesh.gateway(1), mesh.gateway_by(2, relays[1].address(), &[])];
    let loads = [(); 3].map(|()| Load::default());
    std::thread::scope(|scope| {
        let running: Vec<_> = loads.iter().enumerate().map(|(number, load)| mesh.load(scope, number, load)).collect();
        loads.iter().for_each(|load| load.more(50));
        relays.iter().for_each(Relay::swallow);
        let _third = mesh.sidecar("three", &three, &[]);
        mesh.wait_for(&[("one", "ready"), ("three", "ready"), ("two", "ready")]);
        end(&mesh, "one", &mut first, one);
        let receipt = mesh.receipt("one");
        let mut holding = holding(&receipt);
        holding.sort_unstable();
        assert_eq!(holding.len(), 2, "{receipt}");
        assert!(holding[0].starts_with("default/g2@") && holding[1] == "default/web@two", "{receipt}");
        loads.iter().for_each(|load| load.more(50));
        assert!(!loads[2].answers().contains(&"three".to_owned()));
        relays.iter().for_each(Relay::pass);
        until("the gateway that was cut off", || loads[2].answers().contains(&"three".to_owned()).then_some(()));
        mesh.wait_for(&[("three", "ready"), ("two", "ready")]);
        let _fourth = mesh.sidecar("four", &four, &[]);
        mesh.wait_for(&[("four", "ready"), ("three", "ready"), ("two", "ready")]);
        end(&mesh, "two", &mut second, two);
        mesh.wait_for(&[("four", "ready"), ("three", "ready")]);
        loads.iter().for_each(|load| load.more(50));
        drop(running);
    });
    loads.iter().for_each(Load::check);
}
