//! Services whose instances are the addresses of a name: traffic follows the DNS, and trouble with it is nobody's but
//! the log's. When names are asked for is tested where it is decided.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use e2e::kit::{Backend, Gateway, Launch, NameServer, Peer, Reply, Rules, free_port, until};
use serde_json::Value;

fn start(server: &NameServer, rules: &Rules) -> Gateway {
    Launch::new(rules.yaml()).flags(&["--resolver", &server.address().to_string()]).start()
}

fn rules(dns: &str, port: u16) -> Rules {
    Rules::new().named_service("web", dns, port).rule("backendRefs: [{name: web, port: 80}]")
}

fn local(last: u8) -> IpAddr {
    IpAddr::from([127, 0, 0, last])
}

/// Backends at 127.0.0.2 and so on, all with one port.
fn backends(count: u8) -> (Vec<Backend>, u16) {
    let port = free_port();
    ((2..2 + count).map(|last| Backend::echo_at(SocketAddr::new(local(last), port))).collect(), port)
}

fn ask(client: &mut Peer, path: &str) -> u16 {
    client.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n"));
    client.read().expect("an answer").status()
}

/// What `/config` tells of a name.
fn name(gateway: &Gateway, name: &str) -> Value {
    let config = gateway.config();
    let names = config["names"].as_array().expect("a list");
    names.iter().find(|known| known["name"] == *name).cloned().unwrap_or(Value::Null)
}

#[test]
fn traffic_follows_the_addresses() {
    let (server, (backends, port)) = (NameServer::start(), backends(3));
    server.set("web.test", Reply::Addresses(vec![local(2)], 1));
    let gateway = start(&server, &rules("web.test", port));
    let (mut client, revision) = (gateway.connect(), gateway.revision());
    assert_eq!(ask(&mut client, "/"), 200, "ready means that names are known");
    assert_eq!(name(&gateway, "web.test")["addresses"], serde_json::json!(["127.0.0.2"]));
    server.set("web.test", Reply::Addresses(vec![local(3), local(2)], 1));
    until("requests at an address more", || {
        assert_eq!(ask(&mut client, "/"), 200);
        (!backends[1].requests().is_empty()).then_some(())
    });
    (0..20).for_each(|_| assert_eq!(ask(&mut client, "/"), 200));
    assert_eq!((backends[0].connections(), backends[1].connections()), (1, 1), "connections stay with what stays");
    server.set("web.test", Reply::Addresses(vec![local(4), local(3)], 1));
    until("requests at the new addresses", || {
        assert_eq!(ask(&mut client, "/"), 200);
        (!backends[2].requests().is_empty()).then_some(())
    });
    let count = backends[0].requests().len();
    (0..50).for_each(|_| assert_eq!(ask(&mut client, "/"), 200));
    assert_eq!(backends[0].requests().len(), count, "nothing goes where the name no longer points");
    assert_eq!(gateway.revision(), revision + 2);
    // Another order, several times: no change.
    let asked = server.asked("web.test");
    server.set("web.test", Reply::Addresses(vec![local(3), local(4), local(3)], 1));
    until("two more questions", || (server.asked("web.test") >= asked + 4).then_some(()));
    assert_eq!(gateway.revision(), revision + 2);
    assert_eq!(gateway.metric("evenkeel_dns_names{state=\"fresh\"}"), 1.0);
    assert!(gateway.stderr().contains("in force: new addresses of web.test"), "{}", gateway.stderr());
}

#[test]
fn trouble_with_the_dns_is_not_noticed() {
    let (server, (_backends, port)) = (NameServer::start(), backends(1));
    let troubles = [Reply::Silence, Reply::Failure, Reply::NoName, Reply::Nothing];
    let mut rules = Rules::new();
    for index in 0..troubles.len() {
        server.set(&format!("n{index}.test"), Reply::Addresses(vec![local(2)], 1));
        rules = rules
            .named_service(&format!("s{index}"), &format!("n{index}.test"), port)
            .rule(&format!("matches: [{{path: {{value: /{index}}}}}]\nbackendRefs: [{{name: s{index}, port: 80}}]"));
    }
    let gateway = start(&server, &rules);
    let revision = gateway.revision();
    for (index, trouble) in troubles.iter().enumerate() {
        server.set(&format!("n{index}.test"), trouble.clone());
    }
    let mut client = gateway.connect();
    let states = || (0..troubles.len()).map(|index| name(&gateway, &format!("n{index}.test"))["state"].clone());
    until("trouble everywhere", || {
        (0..troubles.len()).for_each(|index| assert_eq!(ask(&mut client, &format!("/{index}")), 200));
        states().all(|state| state == "kept").then_some(())
    });
    let reason = |index: usize| name(&gateway, &format!("n{index}.test"))["failure"]["reason"].to_string();
    let reasons: Vec<String> = (0..troubles.len()).map(reason).collect();
    assert!(reasons[1].contains("Server Failure") && reasons[2].contains("Non-Existent Domain"), "{reasons:?}");
    assert!(reasons[3].contains("no addresses"), "{reasons:?}");
    (0..troubles.len()).for_each(|index| server.set(&format!("n{index}.test"), Reply::Addresses(vec![local(2)], 1)));
    until("all well again", || states().all(|state| state == "fresh").then_some(()));
    (0..troubles.len()).for_each(|index| assert_eq!(ask(&mut client, &format!("/{index}")), 200));
    assert_eq!(gateway.revision(), revision, "nothing was changed by all that");
    for index in 0..troubles.len() {
        for told in [format!("asking for n{index}.test fails"), format!("asking for n{index}.test succeeds again")] {
            assert_eq!(gateway.stderr().matches(&told).count(), 1, "{told}:\n{}", gateway.stderr());
        }
    }
}

#[test]
fn a_name_that_never_resolves_keeps_nobody_else() {
    let (server, (_backends, port)) = (NameServer::start(), backends(1));
    server.set("good.test", Reply::Addresses(vec![local(2)], 300));
    server.set("silent.test", Reply::Silence);
    let mut rules = Rules::new();
    // Two Services of one name.
    for (service, dns) in
        [("good", "good.test"), ("same", "good.test"), ("gone", "gone.test."), ("silent", "silent.test")]
    {
        rules = rules
            .named_service(service, dns, port)
            .rule(&format!("matches: [{{path: {{value: /{service}}}}}]\nbackendRefs: [{{name: {service}, port: 80}}]"));
    }
    let started = Instant::now();
    let gateway = start(&server, &rules);
    assert!(started.elapsed() >= Duration::from_secs(2), "it waits for first answers, for a while");
    let mut client = gateway.connect();
    for (path, status) in [("/good", 200), ("/same", 200), ("/gone", 503), ("/silent", 503)] {
        assert_eq!(ask(&mut client, path), status, "{path}");
    }
    assert!(gateway.metrics().contains("response_flags=\"UH\""));
    assert_eq!(server.asked("good.test"), 2, "one question of each kind for both Services");
    let config = gateway.config();
    let cluster =
        config["clusters"].as_array().expect("a list").iter().find(|known| known["name"] == "default/gone:80");
    assert_eq!(cluster.expect("it is there")["dns"], "gone.test.");
    server.set("gone.test", Reply::Addresses(vec![local(2)], 300));
    server.set("silent.test", Reply::Addresses(vec![local(2)], 300));
    until("the others", || (ask(&mut client, "/gone") == 200 && ask(&mut client, "/silent") == 200).then_some(()));
}

#[test]
fn rules_with_new_names_wait_for_them_and_old_names_are_forgotten() {
    let (server, (backends, port)) = (NameServer::start(), backends(2));
    let gateway = start(&server, &Rules::to(backends[0].address()));
    let late = Reply::Late(Duration::from_millis(700), vec![local(3)], 1);
    server.set("web.test", late.clone());
    let revision = gateway.revision();
    gateway.write(&rules("web.test", port).yaml());
    let mut client = gateway.connect();
    until("the next revision", || {
        assert_eq!(ask(&mut client, "/"), 200, "there is always an instance");
        (gateway.revision() > revision).then_some(())
    });
    assert_eq!(ask(&mut client, "/"), 200);
    assert!(!backends[1].requests().is_empty());
    // A name that nobody answers for: the rules are in force all the same, after a while.
    server.set("other.test", Reply::Silence);
    let took = gateway.reload(&rules("other.test", port).yaml());
    assert!(took >= Duration::from_secs(2) && took < Duration::from_secs(4), "{took:?}");
    assert_eq!(ask(&mut client, "/"), 503);
    assert_eq!(name(&gateway, "web.test"), Value::Null);
    gateway.reload(&Rules::to(backends[0].address()).yaml());
    assert_eq!(ask(&mut client, "/"), 200);
    assert_eq!(gateway.config()["names"], serde_json::json!([]));
    // While another name of one second is asked for again and again.
    server.set("beat.test", Reply::Addresses(vec![local(2)], 1));
    gateway.reload(&rules("beat.test", port).yaml());
    let (asked, beats) = (server.asked("web.test"), server.asked("beat.test"));
    until("the end of its time to live, twice", || (server.asked("beat.test") >= beats + 4).then_some(()));
    assert_eq!(server.asked("web.test"), asked, "nobody asks for it any more");
}
