//! What would follow an attempt, as tables.

use std::net::SocketAddr;

use config::snapshot::Outlier;

use super::*;
use crate::cluster::{ClusterState, ClusterStates, EndpointState};
use crate::shadow::OF_TRAFFIC;

fn settings() -> TrafficShadow {
    TrafficShadow {
        name: "TrafficPolicy default/x on Service default/web".into(),
        connect_timeout: Some(Duration::from_millis(100)),
        first_byte_timeout: Some(Duration::from_secs(1)),
        idle_timeout: None,
        outlier: None,
        bounds: None,
        retries: None,
    }
}

#[test]
fn attempts_end_as_they_would_have() {
    let ms = Duration::from_millis;
    let gone = ProxyError::upstream(Kind::Gone, Reached::Sent);
    let refused = ProxyError::upstream(Kind::Connect, Reached::Nothing);
    let left = ProxyError::downstream(Kind::Gone);
    let no_connect = ProxyError::upstream(Kind::ConnectTimeout, Reached::Nothing);
    let no_answer = ProxyError::upstream(Kind::AnswerTimeout, Reached::Sent);
    for (connect, answer, outcome, expected) in [
        (0, 0, Ok((200, None)), (None, Ok((200, None)))),
        (99, 999, Ok((503, None)), (None, Ok((503, None)))),
        (100, 0, Ok((200, None)), (Some(Would::ConnectTimeout), Err(no_connect))),
        (100, 2000, Ok((200, None)), (Some(Would::ConnectTimeout), Err(no_connect))),
        (0, 1000, Ok((200, None)), (Some(Would::FirstByteTimeout), Err(no_answer))),
        (0, 999, Err(gone), (None, Err(gone))),
        (0, 1001, Err(gone), (Some(Would::FirstByteTimeout), Err(no_answer))),
        // Whoever left had been answered by then.
        (0, 5000, Err(left), (Some(Would::FirstByteTimeout), Err(no_answer))),
        (7, 0, Err(refused), (None, Err(refused))),
    ] {
        let state = EndpointState::default();
        let endpoint = endpoint(&Arc::new(state));
        let attempted = Attempted {
            endpoint: &endpoint,
            outcome,
            reused: false,
            connect: ms(connect),
            answer: ms(answer),
            written: 0,
            is_answered: false,
        };
        assert_eq!(seen(&settings(), &attempted), expected, "{connect} {answer} {outcome:?}");
        let nothing = TrafficShadow { connect_timeout: None, first_byte_timeout: None, ..settings() };
        assert_eq!(seen(&nothing, &attempted), (None, outcome), "what is not written is not tried");
    }
}

#[test]
fn those_who_would_wait_have_a_place_and_those_who_would_not_have_none() {
    let taken = AtomicU32::new(0);
    let rooms: Vec<Room> = (0..6).map(|_| enter(&taken, 2, 2)).collect();
    assert_eq!(rooms, [Room::Free, Room::Free, Room::Wait, Room::Wait, Room::Full, Room::Full]);
    assert_eq!(taken.load(Relaxed), 4, "who is refused takes no place");
    drop([InUse(&taken), InUse(&taken), InUse(&taken)]);
    assert_eq!([enter(&taken, 2, 0), enter(&taken, 2, 0)], [Room::Free, Room::Full]);
    assert_eq!(room(u32::MAX - 1, u32::MAX, 1024), Room::Free);
}

#[test]
fn what_follows_is_what_would_follow() {
    let policy = Retries { attempts: 1, reset: true, codes: vec![503], ..Retries::default() };
    let get =
        retry::Request { is_idempotent: true, can_rewind: true, reused: false, was_stale: false, is_answered: false };
    let post = retry::Request { is_idempotent: false, ..get };
    let up = ProxyError::upstream;
    for (outcome, request, expected) in [
        (Ok((200, None)), get, Then::End),
        (Ok((503, None)), get, Then::Retry),
        (Ok((503, Some(&b"5"[..]))), get, Then::End),
        (Ok((503, None)), post, Then::End),
        (Ok((503, None)), retry::Request { can_rewind: false, ..get }, Then::End),
        (Ok((503, None)), retry::Request { is_answered: true, ..get }, Then::End),
        (Err(up(Kind::Connect, Reached::Nothing)), post, Then::Retry),
        (Err(up(Kind::Gone, Reached::Sent)), get, Then::Retry),
        (Err(up(Kind::Gone, Reached::Sent)), retry::Request { reused: true, ..get }, Then::Anew { rewind: true }),
        (Err(up(Kind::AnswerTimeout, Reached::Sent)), get, Then::End),
        (Err(ProxyError::downstream(Kind::Gone)), get, Then::End),
    ] {
        assert_eq!(then(&outcome, request, &policy), expected, "{outcome:?} {request:?}");
    }
}

fn endpoint(state: &Arc<EndpointState>) -> EndpointView {
    EndpointView {
        incarnation: 0,
        address: SocketAddr::from(([127, 0, 0, 1], 1)),
        pool: Default::default(),
        load: Default::default(),
        state: state.clone(),
        removed: Cell::new(false),
    }
}

/// The state of a cluster with so many endpoints, and theirs.
fn cluster(count: u16) -> (Arc<ClusterState>, Vec<Arc<EndpointState>>) {
    let endpoints: Vec<String> =
        (1..=count).map(|port| format!("{{address: 127.0.0.1, ports: {{http: {port}}}}}")).collect();
    let yaml = format!(
        "{{apiVersion: gateway.networking.k8s.io/v1, kind: Gateway, metadata: {{name: g}}, spec: {{gatewayClassName: \
         evenkeel, listeners: [{{name: http, port: 80, protocol: HTTP}}]}}}}\n---\n\
         {{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {{name: r}}, spec: {{parentRefs: \
         [{{name: g}}], rules: [{{backendRefs: [{{name: web, port: 80}}]}}]}}}}\n---\n\
         {{apiVersion: evenkeel.dev/v1alpha1, kind: Service, metadata: {{name: web}}, spec: {{ports: \
         [{{name: http, port: 80}}], endpoints: [{}]}}}}\n",
        endpoints.join(", ")
    );
    let source = config::Source { name: "rules.yaml".into(), bytes: yaml.into_bytes() };
    let snapshot = config::read(&[source]).expect("the rules are right").snapshot;
    ClusterStates::default().join(&snapshot.clusters[0], 1, Duration::ZERO)
}

#[test]
fn who_would_be_ejected_is_told_once_and_stays() {
    let outlier = Outlier {
        failures: 2,
        interval: Duration::from_secs(10),
        ejection: Duration::from_secs(30),
        ejected_percent_max: 50,
    };
    let (state, endpoints) = cluster(2);
    let s = Duration::from_secs;
    let (first, second) = (&endpoints[0], &endpoints[1]);
    let ejected = |seconds| Some(Ejection::Ejected { failures: 2, length: s(seconds) });
    for (endpoint, failed, now, expected) in [
        (first, true, 1, None),
        (first, false, 1, None),
        (first, true, 1, None),
        (first, true, 1, ejected(30)),
        // Requests that go on to it say nothing: it would not have got them.
        (first, true, 2, None),
        (first, true, 3, None),
        // One of two may be ejected, and that is told once for a row.
        (second, true, 3, None),
        (second, true, 3, Some(Ejection::TooMany)),
        (second, true, 3, None),
        (second, false, 3, None),
        // The next time is longer.
        (first, true, 32, None),
        (first, true, 32, ejected(60)),
    ] {
        let told = state.would_tell(endpoint, failed, s(now), &outlier);
        assert_eq!(told, expected, "at {now}");
        assert_eq!(endpoint.ejected_until(), Duration::ZERO, "nobody is left alone");
    }
    assert_eq!(endpoints.iter().map(|endpoint| endpoint.ejections_total()).sum::<u64>(), 0);
    assert!(first.tried.is_ejected(s(60)) && !second.tried.is_ejected(s(60)));
    // What is in force counts for itself.
    state.tell(second, SocketAddr::from(([127, 0, 0, 1], 2)), true, s(70), &outlier);
    state.tell(second, SocketAddr::from(([127, 0, 0, 1], 2)), true, s(70), &outlier);
    assert_eq!((second.ejected_until(), second.tried.is_ejected(s(70))), (s(100), false));
}

#[test]
fn reasons_of_ejections_are_told_apart() {
    let ejection = Ejection::Ejected { failures: 2, length: Duration::ZERO };
    let up = ProxyError::upstream;
    for (ejection, outcome, expected) in [
        (ejection, Ok((500, None)), Would::EjectStatus),
        (ejection, Err(up(Kind::Connect, Reached::Nothing)), Would::EjectConnect),
        (ejection, Err(up(Kind::ConnectTimeout, Reached::Nothing)), Would::EjectConnect),
        (ejection, Err(up(Kind::AnswerTimeout, Reached::Sent)), Would::EjectNoAnswer),
        (ejection, Err(up(Kind::Gone, Reached::Sent)), Would::EjectNoAnswer),
        (Ejection::TooMany, Ok((500, None)), Would::NotEject),
    ] {
        assert_eq!(ejected(ejection, &outcome), expected, "{outcome:?}");
    }
    let all: std::collections::BTreeSet<_> = OF_TRAFFIC.iter().map(|would| would.word()).collect();
    assert_eq!(all.len(), OF_TRAFFIC.len(), "each has a word of its own");
}
