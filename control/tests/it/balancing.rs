//! Balancing over the wire, a little of each: shares are tested where they are decided, here only that the way from a
//! TrafficPolicy to a choice is whole.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use e2e::kit::{Backend, Gateway, Peer, Rules};

fn rules(backends: &[Backend], traffic: &str) -> Rules {
    let endpoints: Vec<SocketAddr> = backends.iter().map(Backend::address).collect();
    Rules::new().service("web", &endpoints).rule("backendRefs: [{name: web, port: 80}]").traffic("web", traffic)
}

fn ask(client: &mut Peer, fields: &str) {
    client.send(format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n"));
    assert_eq!(client.read().map(|answer| answer.status()), Ok(200));
}

fn counts(backends: &[Backend]) -> Vec<usize> {
    backends.iter().map(|backend| backend.requests().len()).collect()
}

#[test]
fn each_policy_shares_requests() {
    // How peak EWMA shares follows what it measures, on a busy machine, too; it asks everybody once.
    for (policy, least) in [("roundRobin", 40), ("leastRequest", 20), ("peakEwma", 1)] {
        let backends: Vec<Backend> = (0..3).map(|_| Backend::echo()).collect();
        let gateway = Gateway::start(&rules(&backends, &format!("loadBalancer: {{policy: {policy}}}")));
        let mut client = gateway.connect();
        (0..120).for_each(|_| ask(&mut client, ""));
        let counts = counts(&backends);
        assert_eq!(counts.iter().sum::<usize>(), 120);
        assert!(counts.iter().all(|count| *count >= least), "{policy}: {counts:?}");
    }
}

#[test]
fn alike_requests_go_to_the_same_endpoint() {
    for policy in ["ringHash", "maglev"] {
        let backends: Vec<Backend> = (0..5).map(|_| Backend::echo()).collect();
        let traffic = format!("loadBalancer: {{policy: {policy}, hashOn: [{{header: x-user}}, {{cookie: sid}}]}}");
        let gateway = Gateway::start(&rules(&backends, &traffic));
        let mut client = gateway.connect();
        for user in 0..20 {
            let before = counts(&backends);
            for fields in [format!("X-User: {user}\r\n"), format!("Cookie: a=b; sid={user}\r\n")] {
                (0..3).for_each(|_| ask(&mut client, &fields));
            }
            // The same bytes, whether they came as a header or as a cookie.
            let moved = counts(&backends).iter().zip(&before).filter(|(now, before)| now > before).count();
            assert_eq!(moved, 1, "{policy}: user {user}");
        }
        assert!(counts(&backends).iter().filter(|count| **count > 0).count() >= 3, "{policy}: {:?}", counts(&backends));
    }
}

#[test]
fn the_time_to_the_first_byte_is_the_policys() {
    let silent = [Backend::start(|served| {
        served.request();
        served.peer.read_to_end();
    })];
    let gateway = Gateway::start(&rules(&silent, "timeouts: {firstByte: 150ms}"));
    let mut client = gateway.connect();
    let started = Instant::now();
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.read().map(|answer| answer.status()), Ok(504));
    assert!((Duration::from_millis(150)..Duration::from_secs(10)).contains(&started.elapsed()));
}
