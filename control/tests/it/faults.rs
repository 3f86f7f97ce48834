//! What goes wrong between control and its proxies: one that never answers, one that lies about another, a control that is
//! killed again and again while it is written to, and a certificate that nobody should believe.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

use config::wire::envoy::config::core::v3::Node;
use config::wire::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use config::wire::evenkeel::v1::{ReportRequest, ReportResponse};
use config::xds::TYPE;
use e2e::kit::{Backend, Launch, PATIENCE, Peer, Rules, Scratch, Subscriber, evenkeel, free_port, until};
use prost::Message as _;
use proxy::ads::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, date_time_ymd};
use rustls::pki_types::PrivateKeyDer;
use serde_json::json;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint};
use tonic::{Code, Request, Status};

use crate::access;
use crate::partition::Ends;
use crate::server::{Control, gateway};
use crate::skew::{Line, runtime};

/// A Service with an instance, behind a Gateway.
fn behind(instance: u16) -> String {
    let service = format!(
        "{{apiVersion: evenkeel.dev/v1alpha1, kind: Service, metadata: {{name: a}}, spec: {{ports: [{{name: http, port: 80}}], \
         endpoints: [{{address: 10.0.0.1, ports: {{http: {instance}}}}}]}}}}"
    );
    let route = "{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {name: r}, spec: {parentRefs: [{name: \
                 g}], rules: [{backendRefs: [{name: a, port: 80}]}]}}";
    [gateway("g"), route.to_owned(), service].join("\n---\n")
}

/// What a proxy of this name says first.
fn first(id: &str) -> Vec<u8> {
    let request = DeltaDiscoveryRequest {
        node: Some(Node { id: id.into(), cluster: "default/g".into(), ..Node::default() }),
        type_url: TYPE.into(),
        resource_names_subscribe: vec!["Gateway/default/g/*".into(), "Endpoints/default/a".into()],
        ..DeltaDiscoveryRequest::default()
    };
    request.encode_to_vec()
}

fn answer(nonce: &str) -> Vec<u8> {
    let (type_url, response_nonce) = (config::xds::TYPE.into(), nonce.into());
    DeltaDiscoveryRequest { type_url, response_nonce, ..DeltaDiscoveryRequest::default() }.encode_to_vec()
}

/// The revision that a response completes, and how many names it has.
fn heard(line: &mut Line<'_>) -> (String, usize) {
    let response = DeltaDiscoveryResponse::decode(line.hear()).expect("a response");
    (response.system_version_info, response.resources.len() + response.removed_resources.len())
}

/// How far a revision is: the outcome, on how many of how many, and who is behind.
fn waited(control: &Control, revision: u64) -> String {
    let (_, told) = control.ask(&format!("GET /api/v1/wait?revision={revision}&timeout=100ms"), "", "");
    let behind = told["behind"]["proxies"].as_array().expect("a list");
    let names: Vec<&str> = behind.iter().filter_map(|proxy| proxy["id"].as_str()).collect();
    format!("{} {} of {} {}", told["outcome"], told["on"], told["of"], names.join(" "))
}

#[test]
fn who_never_answers_is_named_and_holds_nobody_up() {
    let folder = Scratch::create("faults").expect("a folder");
    let (control, runtime) = (Control::start(&folder), runtime());
    control.apply(&behind(1));
    let mut mute = Line::open(&runtime, control.xds);
    mute.say(first("default/g@mute"));
    assert_eq!(heard(&mut mute), ("1".into(), 5));
    let mut other = Subscriber::new("default/g@other", &["Gateway/default/g/*", "Endpoints/default/a"]);
    other.connect(control.xds);
    assert_eq!(other.take().revision, 1);
    for instance in 2..=200 {
        let revision = control.apply(&behind(instance));
        let took = other.take();
        assert_eq!((took.revision, took.names), (revision, vec!["Endpoints/default/a".to_owned()]));
    }
    assert_eq!(waited(&control, 200), "\"late\" 1 of 2 default/g@mute");
    // Answers to what it was not sent do not help.
    for nonce in ["2", "3", "200", ""] {
        mute.say(answer(nonce));
    }
    assert_eq!(waited(&control, 1), "\"late\" 1 of 2 default/g@mute");
    // Of two hundred changes it is sent the newest.
    mute.say(answer("1"));
    assert_eq!(heard(&mut mute), ("200".into(), 1));
    mute.say(answer("2"));
    until("everything in force", || (waited(&control, 200) == "\"inForce\" 2 of 2 ").then_some(()));
}

#[test]
fn who_takes_the_name_of_another_answers_for_itself() {
    let folder = Scratch::create("faults").expect("a folder");
    let (control, runtime) = (Control::start(&folder), runtime());
    control.apply(&behind(1));
    let mut lines = [(); 2].map(|()| Line::open(&runtime, control.xds));
    for line in &mut lines {
        line.say(first("default/g@one"));
        assert_eq!(heard(line), ("1".into(), 5));
    }
    let [honest, liar] = lines;
    liar.say(answer("1"));
    until("one of both", || (waited(&control, 1) == "\"late\" 1 of 2 default/g@one").then_some(()));
    drop(liar);
    until("the liar's end", || (waited(&control, 1) == "\"late\" 0 of 1 default/g@one").then_some(()));
    honest.say(answer("1"));
    until("everything in force", || (waited(&control, 1) == "\"inForce\" 1 of 1 ").then_some(()));
}

#[test]
fn a_control_that_has_just_started_knows_whom_it_does_not_know() {
    let folder = Scratch::create("faults").expect("a folder");
    let mut control = Control::start(&folder);
    let places = [control.address, control.xds];
    let revision = control.apply(&behind(1));
    let mut proxies = ["one", "two"]
        .map(|name| Subscriber::new(&format!("default/g@{name}"), &["Gateway/default/g/*", "Endpoints/default/a"]));
    for proxy in &mut proxies {
        proxy.connect(places[1]);
        assert_eq!(proxy.take().revision, revision);
    }
    let names = folder.path().join("data/connected");
    let kept = || std::fs::read_to_string(&names).unwrap_or_default();
    until("both names", || (kept() == "default/g@one\ndefault/g@two\n").then_some(()));
    // Twice: who is not back in between is still waited for.
    for _ in 0..2 {
        control.kill();
        control = Control::start_at(&folder, places);
        assert_eq!(waited(&control, revision), "\"late\" 0 of 2 default/g@one default/g@two");
    }
    let canary = "POST /api/v1/objects?canary=1";
    let (status, told) = control.ask(canary, "", &behind(2));
    assert!(status == 409 && told.to_string().contains("default/g@one and 1 more are not back"), "{status} {told}");
    let awaited = |control: &Control, place: &str| control.ask(place, "", "").1["awaited"]["count"].clone();
    for place in ["GET /api/v1/status", "GET /api/v1/objects/Gateway/default/g/status"] {
        assert_eq!(awaited(&control, place), 2, "{place}");
    }
    let [one, two] = &mut proxies;
    one.connect(places[1]);
    until("the first of them", || (waited(&control, revision) == "\"late\" 1 of 2 default/g@two").then_some(()));
    // Who waits is answered as soon as the last of them is back.
    std::thread::scope(|scope| {
        let wait = scope.spawn(|| control.ask("GET /api/v1/wait?timeout=60s", "", "").1);
        two.connect(places[1]);
        let told = wait.join().expect("an answer");
        assert_eq!((&told["outcome"], &told["on"]), (&"inForce".into(), &2.into()), "{told}");
    });
    assert_eq!(awaited(&control, "GET /api/v1/status"), 0);
    assert_eq!(control.ask(canary, "", &behind(2)).0, 200, "there are those who can try it");
}

#[test]
fn a_log_that_cannot_be_written_ends_nothing() {
    let folder = Scratch::create("faults").expect("a folder");
    let places = [(); 2].map(|()| SocketAddr::from((Ipv4Addr::LOCALHOST, free_port())));
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").expect("a full disk");
    let mut command = Command::new(evenkeel());
    command.args(["control", "--plaintext", "--data"]).arg(folder.path().join("data"));
    command.args(["--listen", &places[0].to_string(), "--xds", &places[1].to_string()]);
    let mut running =
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(full).spawn().expect("evenkeel can be started");
    let asked = until("an answer", || {
        let mut peer = Peer::try_connect(places[0]).ok()?;
        peer.send("GET /api/v1/objects HTTP/1.1\r\nHost: c\r\n\r\n");
        peer.read().ok().map(|answer| answer.status())
    });
    let ended = running.try_wait().expect("a child");
    running.kill().and_then(|()| running.wait()).expect("it is ours");
    assert_eq!((asked.0, ended), (200, None));
    // What a command says is its result: where that is lost, it has failed.
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").expect("a full disk");
    let lost = Command::new(evenkeel()).arg("schema").stdout(full).output().expect("a command");
    assert_eq!(lost.status.code(), Some(1), "{lost:?}");
    assert!(String::from_utf8_lossy(&lost.stderr).contains("standard output: No space left"), "{lost:?}");
}

#[test]
fn nobody_reports_for_another() {
    let folder = Scratch::create("faults").expect("a folder");
    let (control, runtime) = (access::Control::start(&folder, &[]), runtime());
    let edge = control.token(&json!({"name": "edge", "role": "proxy", "namespaces": ["shop"], "gateway": "edge"}));
    let viewer = control.token(&json!({"name": "look", "role": "viewer"}));
    let pem = std::fs::read_to_string(control.ca()).expect("a certificate");
    // `stream` is whose stream is on the same connection, by the names of its requests.
    let tell =
        |token: &str, stream: &str, (id, cluster): (&str, &str), requests: u64, failed: u64| -> Result<(), Status> {
            runtime.block_on(async {
                let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(&pem)).domain_name("localhost");
                let endpoint = Endpoint::from_shared(format!("https://{}", control.xds)).expect("an address");
                let channel = endpoint.tls_config(tls).expect("a CA").connect().await.expect("control listens");
                let bearer: tonic::metadata::MetadataValue<_> = format!("Bearer {token}").parse().expect("a token");
                let mut streams = AggregatedDiscoveryServiceClient::new(channel.clone());
                let introduction = |id: &str| {
                    let node = Some(Node { id: id.into(), cluster: "shop/edge".into(), ..Node::default() });
                    DeltaDiscoveryRequest { node, type_url: TYPE.into(), ..Default::default() }
                };
                let says: Vec<_> = stream.split_whitespace().map(introduction).collect();
                let says = futures_util::stream::iter(says);
                let mut begun = Request::new(futures_util::StreamExt::chain(says, futures_util::stream::pending()));
                begun.metadata_mut().insert("authorization", bearer.clone());
                let mut responses = streams.delta_aggregated_resources(begun).await.map(tonic::Response::into_inner);
                if let (Ok(responses), false) = (&mut responses, stream.is_empty()) {
                    // It has been introduced, or refused.
                    let _ = tokio::time::timeout(PATIENCE, responses.message()).await.expect("an answer in time");
                }
                let mut line = tonic::client::Grpc::new(channel);
                line.ready().await.expect("it is connected");
                let (node_id, node_cluster) = (id.into(), cluster.into());
                let mut request =
                    Request::new(ReportRequest { node_id, node_cluster, requests, failed, ..ReportRequest::default() });
                request.metadata_mut().insert("authorization", bearer);
                let codec = tonic_prost::ProstCodec::<ReportRequest, ReportResponse>::default();
                let path = PathAndQuery::from_static("/evenkeel.v1.Reports/Report");
                line.unary(request, path, codec).await.map(drop)
            })
        };
    let own = ("shop/edge@h:1", "shop/edge");
    let sibling = ("shop/edge@h:2", "shop/edge");
    for (token, stream, who, requests, failed, expected) in [
        (&*edge, own.0, own, 10, 1, Ok(())),
        (&*edge, own.0, own, 10, 1, Err((Code::ResourceExhausted, "it was heard just now"))),
        (&*edge, "", own, 10, 10, Err((Code::PermissionDenied, "each proxy tells of itself"))),
        (&*edge, sibling.0, own, 10, 10, Err((Code::PermissionDenied, "each proxy tells of itself"))),
        // Who has another name from its second request on.
        (
            &*edge,
            "shop/edge@h:2 shop/edge@h:1",
            own,
            10,
            10,
            Err((Code::PermissionDenied, "each proxy tells of itself")),
        ),
        (&*edge, sibling.0, sibling, 1, 2, Err((Code::InvalidArgument, "that cannot be"))),
        (&*edge, own.0, ("shop/other@h:1", "shop/other"), 10, 10, Err((Code::PermissionDenied, "may not be proxy"))),
        (&*edge, own.0, ("shop/other@h:1", "shop/edge"), 10, 10, Err((Code::PermissionDenied, "may not be proxy"))),
        (&*viewer, "", own, 10, 10, Err((Code::PermissionDenied, "look (viewer)"))),
        ("none", "", own, 10, 10, Err((Code::Unauthenticated, "this token is none"))),
    ] {
        match (tell(token, stream, who, requests, failed), expected) {
            (Ok(()), Ok(())) => {}
            (Err(status), Err((code, words))) => {
                assert!(status.code() == code && status.message().contains(words), "{who:?}: {status:?}");
            }
            (found, expected) => panic!("{who:?}: {found:?}, not {expected:?}"),
        }
    }
}

#[test]
fn a_control_that_is_killed_while_it_writes_costs_no_request_and_forgets_no_change() {
    let folder = Scratch::create("faults").expect("a folder");
    let mut control = Control::start(&folder);
    let places = [control.address, control.xds];
    let backends = ["one", "two"]
        .map(|word| Backend::canned(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{word}", word.len())));
    let gateway = Launch::under(control.xds).workers(2).spawn();
    let rules = backends.each_ref().map(|backend| gateway.fill(&Rules::to(backend.address()).yaml()));
    control.wait_until_in_force(control.apply(&rules[0]));
    let is_over = AtomicBool::new(false);
    let load = || {
        let (mut client, mut served) = (gateway.connect(), 0);
        while !is_over.load(SeqCst) {
            client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
            let word = client.read().map(|answer| answer.text());
            assert!(word == Ok("one".into()) || word == Ok("two".into()), "{word:?} after {served}");
            served += 1;
            // A little load, not all that this machine can do.
            std::thread::sleep(Duration::from_millis(1));
        }
        served
    };
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..4).map(|_| scope.spawn(load)).collect();
        let ends = Ends(&is_over);
        for round in 0..3 {
            // One rule after the other, until there is no answer any more.
            let is_busy = Arc::new(AtomicBool::new(false));
            let (of_writer, rules) = (is_busy.clone(), &rules);
            let write = move || {
                let mut acknowledged = 0;
                let mut peer = Peer::connect(places[0]);
                for rules in rules.iter().cycle() {
                    let length = rules.len();
                    let head = "POST /api/v1/objects HTTP/1.1\r\nHost: c\r\nContent-Length:";
                    peer.send(format!("{head} {length}\r\n\r\n{rules}"));
                    let Ok(answer) = peer.read() else { break };
                    let told: serde_json::Value = serde_json::from_slice(&answer.body).expect("JSON");
                    acknowledged = told["revision"].as_u64().expect("a number");
                    if acknowledged % 20 == 0 {
                        of_writer.store(true, SeqCst);
                    }
                }
                acknowledged
            };
            let writer = scope.spawn(write);
            until("some changes", || is_busy.load(SeqCst).then_some(()));
            control.kill();
            let acknowledged = writer.join().expect("a writer ends");
            control = Control::start_at(&folder, places);
            let (_, kept) = control.ask("GET /api/v1/objects", "", "");
            let revision = kept["revision"].as_u64().expect("a number");
            // One more may have been written, whose answer was lost.
            assert!((acknowledged..=acknowledged + 1).contains(&revision), "round {round}: {revision}, {acknowledged}");
            control.wait_until_in_force(revision);
        }
        drop(ends);
        let served: u32 = clients.into_iter().map(|client| client.join().expect("no request fails")).sum();
        assert!(served > 100, "{served}");
    });
}

/// What shows a certificate of these years to whoever comes, and the PEM of the CA that vouches for it.
fn showing(years: [i32; 2]) -> (SocketAddr, String) {
    let mut ca = CertificateParams::default();
    (ca.not_before, ca.not_after) = (date_time_ymd(2000, 1, 1), date_time_ymd(9999, 12, 31));
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca_key = KeyPair::generate().expect("a key");
    let authority = ca.self_signed(&ca_key).expect("a CA");
    let mut server = CertificateParams::new(["127.0.0.1".to_owned()]).expect("a name");
    (server.not_before, server.not_after) = (date_time_ymd(years[0], 1, 1), date_time_ymd(years[1], 1, 1));
    let key = KeyPair::generate().expect("a key");
    let certificate = server.signed_by(&key, &Issuer::from_params(&ca, &ca_key)).expect("a certificate");
    let key = PrivateKeyDer::try_from(key.serialize_der()).expect("a key");
    let config = rustls::ServerConfig::builder().with_no_client_auth();
    let mut config = config.with_single_cert(vec![certificate.der().clone()], key).expect("a certificate with its key");
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let config = Arc::new(config);
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let address = listener.local_addr().expect("a listening socket has an address");
    std::thread::spawn(move || {
        for mut socket in listener.incoming().flatten() {
            let mut connection = rustls::ServerConnection::new(config.clone()).expect("a server");
            // Whoever does not believe it ends it.
            let _ = connection.complete_io(&mut socket);
        }
    });
    (address, authority.pem())
}

#[test]
fn a_certificate_that_is_not_good_is_told_with_its_reason() {
    let folder = Scratch::create("faults").expect("a folder");
    let (_, foreign) = showing([2020, 9999]);
    // The years of the certificate, whether the CA is its own, and what is said of it.
    for (years, is_own, expected) in [
        ([2020, 2021], true, "its certificate ended at 2021-01-01T00:00:00Z (are the clocks of both machines right?)"),
        ([9998, 9999], true, "its certificate begins at 9998-01-01T00:00:00Z (are the clocks of both machines right?)"),
        ([2020, 9999], false, "its certificate is from another CA than the one to believe"),
    ] {
        let (address, pem) = showing(years);
        let ca = folder.write("ca.crt", if is_own { &pem } else { &foreign }).expect("a file").display().to_string();
        let mut command = Command::new(evenkeel());
        command.args(["get", "--server", &address.to_string(), "--ca", &ca]).env_remove("EVENKEEL_TOKEN_FILE");
        let output = command.stdin(Stdio::null()).output().expect("evenkeel can be started");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(1) && said.contains(expected), "{years:?}: {said}");

        let gateway = Launch::under(address).flags(&["--control-ca", &ca]).spawn();
        until("a reason", || gateway.stderr().contains("is not there").then_some(()));
        assert!(gateway.stderr().contains(expected), "{years:?}: {}", gateway.stderr());
        assert_eq!(gateway.get("/live").map(|answer| answer.status()), Some(200));
    }
}
