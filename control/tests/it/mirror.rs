//! Copies of requests for other services: they get what the service gets, and whatever they do, the client notices
//! nothing.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::time::{Duration, Instant};

use e2e::kit::{Backend, Gateway, Launch, Message, Peer, Rules, until};

const GET: &str = "GET /a?b=c HTTP/1.1\r\nHost: shop.test\r\n\r\n";
const POST: &str = "POST /pay HTTP/1.1\r\nHost: shop.test\r\nContent-Length: 5\r\n\r\nhello";
const CHUNKED: &str =
    "PUT /put HTTP/1.1\r\nHost: shop.test\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n4\r\ndefg\r\n0\r\n\r\n";

fn rules(backend: SocketAddr, mirror: SocketAddr, share: &str) -> Rules {
    let filters = format!(
        "filters: [{{type: RequestMirror, requestMirror: {{backendRef: {{name: shadow, port: 80}}{share}}}}}, \
         {{type: RequestHeaderModifier, requestHeaderModifier: {{set: [{{name: x-rule, value: all}}]}}}}]"
    );
    Rules::new()
        .service("web", &[backend])
        .service("shadow", &[mirror])
        .rule(&format!("{filters}\nbackendRefs: [{{name: web, port: 80}}]"))
}

fn ask(client: &mut Peer, request: &str) -> Message {
    client.send(request);
    client.read().expect("an answer")
}

/// Copies for `shadow` that ended so.
fn copies(gateway: &Gateway, result: &str) -> f64 {
    gateway.metric(&format!("evenkeel_mirrored_total{{cluster=\"default/shadow:80\",result=\"{result}\"}}"))
}

fn wait_for_copies(gateway: &Gateway, result: &str, count: usize) {
    until(&format!("{count} copies {result}"), || (copies(gateway, result) == count as f64).then_some(()));
}

#[test]
fn the_mirror_gets_what_the_service_gets() {
    let (backend, mirror) = (Backend::echo(), Backend::canned("HTTP/1.1 500 No\r\nContent-Length: 3\r\n\r\nbad"));
    // Limits of the mirror's Service are for requests.
    let limit = "limits: [{requests: 1, per: 1h}]";
    let target = "{group: \"\", kind: Service, name: shadow}";
    let rules = rules(backend.address(), mirror.address(), "").protect("RateLimit", "few", target, limit);
    let gateway = Gateway::start(&rules);
    let mut client = gateway.connect();
    for (count, request) in (1..).zip([GET, POST, CHUNKED, GET, POST]) {
        let answer = ask(&mut client, request);
        assert_eq!(answer.status(), 200, "{request}");
        wait_for_copies(&gateway, "sent", count);
        let (original, copy) = (backend.only_request(), mirror.only_request());
        assert_eq!(original.get("x-evenkeel-mirror"), None);
        assert_eq!(copy.fields[0], ("x-evenkeel-mirror".to_owned(), "1".to_owned()));
        assert_eq!(Message { fields: copy.fields[1..].to_vec(), ..copy }, original, "{request}");
        assert_eq!((original.get("host"), original.get("x-rule")), (Some("shop.test"), Some("all")));
    }
    assert_eq!(mirror.connections(), 1, "kept from one copy to the next");
    drop(client);
    gateway.settle();
    assert_eq!(gateway.metric("istio_requests_total{"), 5.0, "copies are no requests");
}

#[test]
fn whatever_the_mirror_does_changes_nothing() {
    let nobody =
        TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|gone| gone.local_addr()).expect("a port is free");
    // One that never accepts, and one that reads nothing.
    let deaf = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port is free");
    let deaf_address = deaf.local_addr().expect("a listening socket has an address");
    let silent = Backend::start(|served| while served.request().is_some() {});
    let rude = Backend::start(|served| {
        served.request_head();
        served.peer.set_reset();
    });
    let endless = Backend::start(|served| {
        served.request();
        served.peer.send("HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n");
        while served.peer.send([b'x'; 65_536]) {}
    });
    let slow = Backend::start(|served| {
        served.request();
        while served.peer.send("H") {
            std::thread::sleep(Duration::from_millis(100));
        }
    });
    let addresses = [nobody, deaf_address, silent.address(), rude.address(), endless.address(), slow.address()];
    for (mirror, result) in addresses.into_iter().zip(["failed", "", "", "failed", "sent", ""]) {
        let backend = Backend::echo();
        let gateway = Gateway::start(&rules(backend.address(), mirror, ""));
        let mut client = gateway.connect();
        let started = Instant::now();
        for request in [GET, POST, CHUNKED].repeat(10) {
            assert_eq!(ask(&mut client, request).status(), 200);
        }
        // A mirror that does not answer is given ten seconds.
        assert!(started.elapsed() < Duration::from_secs(5), "{:?} with {result}", started.elapsed());
        match result {
            "" => assert_eq!(copies(&gateway, "sent") + copies(&gateway, "dropped"), 0.0, "all of them still wait"),
            _ => wait_for_copies(&gateway, result, 30),
        }
        drop(client);
        gateway.settle();
    }
    assert!(!silent.requests().is_empty());
}

#[test]
fn a_request_whose_service_is_gone_is_copied_all_the_same() {
    let nobody =
        TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|gone| gone.local_addr()).expect("a port is free");
    let mirror = Backend::echo();
    let gateway = Gateway::start(&rules(nobody, mirror.address(), ""));
    assert_eq!(ask(&mut gateway.connect(), GET).status(), 503);
    assert_eq!(mirror.only_request().start, "GET /a?b=c HTTP/1.1");
    // Nobody has read its body.
    assert_eq!(ask(&mut gateway.connect(), POST).status(), 503);
    wait_for_copies(&gateway, "dropped", 1);
}

#[test]
fn a_share_is_copied() {
    for (share, least, most) in [
        (", percent: 0", 0, 0),
        (", percent: 100", 1_000, 1_000),
        (", fraction: {numerator: 1, denominator: 2}", 400, 600),
        (", percent: 10", 50, 150),
    ] {
        let (backend, mirror) = (Backend::echo(), Backend::echo());
        let gateway = Gateway::start(&rules(backend.address(), mirror.address(), share));
        let mut client = gateway.connect();
        (0..1_000).for_each(|_| assert_eq!(ask(&mut client, GET).status(), 200));
        // Copies end after the requests that they are of: as many as there should be come sooner or later, and none beyond.
        until(&format!("{least} to {most} copies of 1000 with{share}"), || {
            let count = mirror.requests().len();
            ((least..=most).contains(&count) && copies(&gateway, "sent") as usize == count).then_some(())
        });
    }
}

#[test]
fn large_bodies_are_not_copied() {
    let (backend, mirror) = (Backend::echo(), Backend::echo());
    let gateway = Gateway::start(&rules(backend.address(), mirror.address(), ""));
    let mut client = gateway.connect();
    let body = "x".repeat(100_000);
    let length = format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n{body}");
    let chunked =
        format!("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n0\r\n\r\n", 100_000);
    for (count, request) in (1..).zip([&length, &chunked]) {
        assert_eq!(ask(&mut client, request).body.len(), 100_000);
        wait_for_copies(&gateway, "dropped", count);
    }
    let middle = format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 60000\r\n\r\n{}", "x".repeat(60_000));
    assert_eq!(ask(&mut client, &middle).body.len(), 60_000);
    wait_for_copies(&gateway, "sent", 1);
    assert_eq!(mirror.only_request().body.len(), 60_000);
}

#[test]
fn copies_under_way_are_bounded() {
    let deaf = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port is free");
    let backend = Backend::echo();
    let mirror = deaf.local_addr().expect("a listening socket has an address");
    // Whoever finds no room in the listener's queue waits for a connection all the time.
    let rules = rules(backend.address(), mirror, "").traffic("shadow", "timeouts: {connect: 1m}");
    let gateway = Gateway::start(&rules);
    let mut client = gateway.connect();
    (0..1_100).for_each(|_| assert_eq!(ask(&mut client, GET).status(), 200));
    assert_eq!(copies(&gateway, "dropped"), 1_100.0 - 1_024.0);
}

#[test]
fn clients_make_no_copies() {
    let (backend, mirror) = (Backend::echo(), Backend::echo());
    let plain = rules(backend.address(), mirror.address(), "");
    let trusting = plain.clone().policy("clientAddress: {trustedCIDRs: [127.0.0.0/8]}");
    // What the service sees, and what the mirror does: of the mark, each value.
    for (rules, sent, original, copy) in
        [(&plain, "0", &[][..], &["1"][..]), (&plain, "1", &[], &["1"]), (&trusting, "1", &["1"], &["1"])]
    {
        let gateway = Gateway::start(rules);
        let mut client = gateway.connect();
        ask(&mut client, &format!("GET / HTTP/1.1\r\nHost: a\r\nX-Evenkeel-Mirror: {sent}\r\n\r\n"));
        wait_for_copies(&gateway, "sent", 1);
        let marks = |message: Message| -> Vec<String> {
            let is_mark = |name: &str| name.eq_ignore_ascii_case("x-evenkeel-mirror");
            message.fields.into_iter().filter(|(name, _)| is_mark(name)).map(|(_, value)| value).collect()
        };
        assert_eq!((marks(backend.only_request()), marks(mirror.only_request())), (owned(original), owned(copy)));
    }
}

fn owned(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| word.to_string()).collect()
}

#[test]
fn a_copy_stays_in_the_lane_of_its_request() {
    let (backend, base, blue) = (Backend::echo(), Backend::echo(), Backend::echo());
    let rules = rules(backend.address(), base.address(), "");
    let endpoint = |backend: &Backend| format!("{{address: 127.0.0.1, ports: {{http: {}}}", backend.address().port());
    let both = format!("{}}}, {}, labels: {{lane: blue}}}}", endpoint(&base), endpoint(&blue));
    let yaml = rules.yaml().replace(&format!("{}}}", endpoint(&base)), &both)
        + "---\napiVersion: evenkeel.dev/v1alpha1\nkind: LaneGroup\nmetadata: {name: lanes}\nspec:\n  \
           entries: [{group: gateway.networking.k8s.io, kind: Gateway, name: edge}]\n  baseline: base\n  lanes:\n  \
           - {name: blue, selector: {lane: blue}, match: [{headers: [{name: x-user, value: alice}]}]}\n";
    let gateway = Launch::new(yaml).start();
    let mut client = gateway.connect();
    assert_eq!(ask(&mut client, GET).status(), 200);
    assert_eq!(base.only_request().get("x-evenkeel-lane"), None);
    assert_eq!(ask(&mut client, "GET / HTTP/1.1\r\nHost: a\r\nX-User: alice\r\n\r\n").status(), 200);
    assert_eq!(blue.only_request().get("x-evenkeel-lane"), Some("blue"));
    assert!(base.requests().is_empty());
}
