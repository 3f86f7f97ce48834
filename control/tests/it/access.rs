//! Who may speak with the control server: its certificate, tokens and what they are for, what the audit says of it, and
//! how much one of them may take. Over TLS, as strangers would.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use config::wire::envoy::config::core::v3::Node;
use config::wire::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use e2e::kit::{Backend, Guard, Launch, PATIENCE, Peer, Rules, Scratch, Subscriber, evenkeel, free_port, until};
use proxy::ads::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use serde_json::{Value, json};
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint};
use tonic::{Code, Request, Status, Streaming};

/// A control server as it is for strangers.
pub(super) struct Control {
    _guard: Guard,
    pub(super) data: PathBuf,
    pub(super) api: SocketAddr,
    pub(super) xds: SocketAddr,
    runtime: tokio::runtime::Runtime,
}

impl Control {
    pub(super) fn start(folder: &Scratch, flags: &[&str]) -> Control {
        let [api, xds] = [(); 2].map(|()| SocketAddr::from((Ipv4Addr::LOCALHOST, free_port())));
        let log = File::create(folder.path().join("log")).expect("a file");
        let data = folder.path().join("data");
        let mut command = Command::new(evenkeel());
        command.arg("control").arg("--data").arg(&data).args(flags);
        command.args(["--listen", &api.to_string(), "--xds", &xds.to_string()]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let guard = Guard::start_anywhere(&mut command).expect("evenkeel can be started");
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let control = Control { _guard: guard, data, api, xds, runtime: runtime.expect("a runtime") };
        until("a control server that listens", || control.log(folder).contains(", xds on ").then_some(()));
        control
    }

    pub(super) fn log(&self, folder: &Scratch) -> String {
        fs::read_to_string(folder.path().join("log")).unwrap_or_default()
    }

    pub(super) fn ca(&self) -> PathBuf {
        self.data.join("ca.crt")
    }

    pub(super) fn admin(&self) -> String {
        fs::read_to_string(self.data.join("admin.token")).expect("the admin's token").trim().to_owned()
    }

    /// A connection, if its certificate is right for this name.
    fn connect(&self, name: &str) -> Result<StreamOwned<ClientConnection, TcpStream>, String> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(self.ca()).expect("a certificate")).expect("a CA");
        let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        let name = ServerName::try_from(name.to_owned()).expect("a name");
        let connection = ClientConnection::new(Arc::new(config), name).expect("a client");
        let socket = TcpStream::connect(self.api).map_err(|error| error.to_string())?;
        socket.set_read_timeout(Some(PATIENCE)).expect("a socket takes a timeout");
        let mut stream = StreamOwned::new(connection, socket);
        stream.conn.complete_io(&mut stream.sock).map_err(|error| error.to_string())?;
        Ok(stream)
    }

    /// An answer: its status, its head and its body.
    pub(super) fn ask(&self, token: Option<&str>, start: &str, body: &str) -> (u16, String, Value) {
        let mut stream = self.connect("localhost").expect("a connection");
        send(&mut stream, token, start, body);
        let mut answer = Vec::new();
        // Who is refused may see the connection end before it has sent everything.
        let _ = stream.read_to_end(&mut answer);
        let answer = String::from_utf8_lossy(&answer).into_owned();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer to {start}: {answer}"));
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
        (status, head.to_ascii_lowercase(), serde_json::from_str(body).unwrap_or_default())
    }

    /// The secret of a new token.
    pub(super) fn token(&self, wanted: &Value) -> String {
        let (status, _, made) = self.ask(Some(&self.admin()), "POST /api/v1/tokens", &wanted.to_string());
        assert_eq!(status, 201, "{made}");
        made["token"].as_str().expect("a secret").to_owned()
    }

    pub(super) fn apply(&self, document: &str) {
        let (status, _, answer) = self.ask(Some(&self.admin()), "POST /api/v1/objects", document);
        assert_eq!(status, 200, "{answer}");
    }

    /// A stream on which a proxy said something.
    fn stream(&self, token: Option<&str>, says: Vec<DeltaDiscoveryRequest>) -> Result<Heard, Status> {
        let pem = fs::read_to_string(self.ca()).expect("a certificate");
        self.runtime.block_on(async {
            let endpoint = Endpoint::from_shared(format!("https://{}", self.xds)).expect("an address");
            let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(pem)).domain_name("localhost");
            let channel = endpoint.tls_config(tls).expect("a CA").connect().await.expect("control listens");
            // It goes on listening after its last word.
            let (sender, mut receiver) = tokio::sync::mpsc::unbounded_channel();
            says.into_iter().for_each(|request| sender.send(request).expect("it is read"));
            let requests = futures_util::stream::poll_fn(move |context| receiver.poll_recv(context));
            let mut request = Request::new(requests);
            if let Some(token) = token {
                request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().expect("a token"));
            }
            let mut service = AggregatedDiscoveryServiceClient::new(channel);
            let responses = service.delta_aggregated_resources(request).await?.into_inner();
            Ok(Heard { _sender: sender, responses })
        })
    }

    /// What a proxy hears first.
    fn hear(&self, heard: &mut Heard) -> Result<Option<DeltaDiscoveryResponse>, Status> {
        self.runtime.block_on(async {
            tokio::time::timeout(PATIENCE, heard.responses.message()).await.expect("an answer in time")
        })
    }
}

/// A proxy's stream.
struct Heard {
    _sender: tokio::sync::mpsc::UnboundedSender<DeltaDiscoveryRequest>,
    responses: Streaming<DeltaDiscoveryResponse>,
}

fn send(stream: &mut impl Write, token: Option<&str>, start: &str, body: &str) {
    let token = token.map_or(String::new(), |token| format!("Authorization: Bearer {token}\r\n"));
    let length = body.len();
    let head = format!("{start} HTTP/1.1\r\nHost: c\r\nConnection: close\r\n{token}Content-Length: {length}\r\n\r\n");
    // A refusal may come before everything is sent.
    let _ = stream.write_all((head + body).as_bytes());
}

fn service(name: &str, namespace: &str) -> String {
    json!({
        "apiVersion": "evenkeel.dev/v1alpha1", "kind": "Service", "metadata": {"name": name, "namespace": namespace},
        "spec": {"ports": [{"name": "http", "port": 80}]},
    })
    .to_string()
}

fn first(id: &str, cluster: &str, names: &[&str]) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        node: Some(Node { id: id.into(), cluster: cluster.into(), ..Node::default() }),
        type_url: config::xds::TYPE.into(),
        resource_names_subscribe: names.iter().map(|name| name.to_string()).collect(),
        ..DeltaDiscoveryRequest::default()
    }
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("it is there").permissions().mode() & 0o777
}

#[test]
fn strangers_see_a_certificate_and_need_a_token() {
    let folder = Scratch::create("access").expect("a folder");
    let control = Control::start(&folder, &["--name", "mesh.test", "--name", "10.9.8.7"]);
    for name in ["localhost", "127.0.0.1", "::1", "mesh.test", "10.9.8.7"] {
        assert!(control.connect(name).is_ok(), "{name}");
    }
    assert!(control.connect("other.test").is_err_and(|error| error.contains("other.test")));
    for (file, expected) in
        [("", 0o700), ("ca.key", 0o600), ("ca.crt", 0o600), ("admin.token", 0o600), ("store.redb", 0o600)]
    {
        assert_eq!(mode(&control.data.join(file)), expected, "{file}");
    }
    let log = control.log(&folder);
    assert!(log.contains("ca.crt, its SHA-256 is ") && log.contains("api on https://"), "{log}");
    assert!(log.contains("the admin's token is in ") && !log.contains(&control.admin()), "{log}");
    // Without TLS there is nothing to hear.
    let mut plain = Peer::connect(control.api);
    plain.send("GET /api/v1/objects HTTP/1.1\r\nHost: c\r\n\r\n");
    plain.read_to_end();
    assert!(!String::from_utf8_lossy(&plain.received).contains("HTTP/1.1"));

    let admin = control.admin();
    let forged = format!("{}0", &admin[..admin.len() - 1]);
    let forged = if forged == admin { format!("{}1", &admin[..admin.len() - 1]) } else { forged };
    for (token, status, challenge) in [
        (None, 401, r#"www-authenticate: bearer realm="evenkeel"#),
        (Some(&*forged), 401, r#"error="invalid_token""#),
        (Some("x"), 401, r#"error="invalid_token""#),
        (Some(&*admin), 200, "content-type: application/json"),
    ] {
        let (seen, head, answer) = control.ask(token, "GET /api/v1/objects", "");
        assert!(seen == status && head.contains(challenge), "{token:?}: {head} {answer}");
    }
    let refused = control.stream(None, Vec::new()).err().expect("no stream");
    assert_eq!(refused.code(), Code::Unauthenticated);

    // The same CA after a start, and a way back in for whoever has the folder.
    let fingerprint = |log: &str| log.split("SHA-256 is ").nth(1).map(|rest| rest[..95].to_owned()).expect("a line");
    assert_eq!(control.ask(Some(&admin), "DELETE /api/v1/tokens/admin", "").0, 200);
    assert_eq!(control.ask(Some(&admin), "GET /api/v1/objects", "").0, 401);
    drop(control);
    let control = Control::start(&folder, &[]);
    assert_eq!(fingerprint(&control.log(&folder)), fingerprint(&log));
    assert_ne!(control.admin(), admin);
    assert_eq!(control.ask(Some(&control.admin()), "GET /api/v1/objects", "").0, 200);
}

#[test]
fn a_start_that_makes_no_sense_is_refused() {
    let folder = Scratch::create("access").expect("a folder");
    for (flags, words) in [
        (
            &["--plaintext", "--listen", "0.0.0.0:0"][..],
            "0.0.0.0:0 is no loopback address: --plaintext is not for others",
        ),
        (&["--plaintext", "--xds", "[::]:0"], "[::]:0 is no loopback address"),
        (&["--name", "a b"], "\"a b\" is no name of a server"),
        (&["--plaintext", "--name", "a"], "cannot be used with"),
    ] {
        let mut command = Command::new(evenkeel());
        command.arg("control").arg("--data").arg(folder.path().join("data")).args(flags);
        let output = command.stdin(Stdio::null()).output().expect("evenkeel can be started");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains(words), "{flags:?}: {said}");
    }
}

#[test]
fn without_tls_whoever_is_on_this_machine_is_admin_but_no_page_of_a_browser() {
    let folder = Scratch::create("access").expect("a folder");
    let control = Control::start(&folder, &["--plaintext"]);
    assert!(!control.ca().exists() && !control.data.join("admin.token").exists());
    let wanted = r#"{"name": "look", "role": "viewer"}"#;
    let mut secret = String::new();
    for (start, headers, body, status, words) in [
        ("GET /api/v1/tokens", "Host: localhost:15012", "", 200, "[]"),
        ("POST /api/v1/tokens", "Host: 127.0.0.1:15012", wanted, 201, "evenkeel.look."),
        ("GET /api/v1/objects", "Host: rebound.example:15012", "", 403, "pages of other sites"),
        (
            "POST /api/v1/objects",
            "Host: 127.0.0.1:15012\r\nOrigin: https://page.example",
            "",
            403,
            "pages of other sites",
        ),
        ("POST /api/v1/objects", "Host: a\r\nAuthorization: Bearer {secret}", "", 403, "look (viewer)"),
        ("GET /api/v1/objects", "Host: a\r\nAuthorization: Bearer {secret}", "", 200, "objects"),
        ("GET /api/v1/objects", "Host: a\r\nAuthorization: Bearer {secret}0", "", 401, "is none"),
        ("GET /api/v1/objects", "Host: a\r\nAuthorization: Basic {secret}", "", 401, "is none"),
    ] {
        let mut peer = Peer::connect(control.api);
        let headers = headers.replace("{secret}", &secret);
        peer.send(format!("{start} HTTP/1.1\r\n{headers}\r\nContent-Length: {}\r\n\r\n{body}", body.len()));
        let answer = peer.read().expect("an answer");
        let text = answer.text();
        assert!(answer.status() == status && text.contains(words), "{start} {headers}: {text}");
        if let Ok(Value::Object(made)) = serde_json::from_str(&text) {
            secret = made.get("token").and_then(Value::as_str).map_or(secret, String::from);
        }
    }
}

#[test]
fn each_token_may_what_its_role_says_and_the_audit_tells() {
    let folder = Scratch::create("access").expect("a folder");
    let control = Control::start(&folder, &[]);
    let admin = control.admin();
    let viewer = control.token(&json!({"name": "look", "role": "viewer"}));
    let operator = control.token(&json!({"name": "ci", "role": "operator", "namespaces": ["shop"]}));
    let proxy = control.token(&json!({"name": "edge", "role": "proxy", "namespaces": ["shop"], "gateway": "edge"}));
    let (shop, pay) = (service("a", "shop"), service("a", "pay"));
    let both = format!("{shop}\n---\n{pay}");
    for (token, start, body, status, words) in [
        (&viewer, "GET /api/v1/objects", "", 200, "objects"),
        (&viewer, "POST /api/v1/objects?dryRun=true", &*shop, 200, "created"),
        (&viewer, "POST /api/v1/objects", &shop, 403, "look (viewer) may not change anything: operator and admin may"),
        (&viewer, "POST /api/v1/rollback?revision=0", "", 403, "look (viewer)"),
        (&viewer, "GET /api/v1/tokens", "", 403, "look (viewer) may not see or change tokens: admin may"),
        (&viewer, "GET /api/v1/audit", "", 403, "may not see the audit"),
        (&operator, "POST /api/v1/objects?message=why", &shop, 200, "created"),
        (
            &operator,
            "POST /api/v1/objects",
            &both,
            403,
            "ci (operator) may not change Service/pay/a: it is for namespace shop",
        ),
        (&operator, "PUT /api/v1/objects/Service/pay/a", &pay, 403, "Service/pay/a"),
        (&operator, "POST /api/v1/tokens", r#"{"name": "own", "role": "admin"}"#, 403, "ci (operator)"),
        (&proxy, "GET /api/v1/objects", "", 403, "edge (proxy) may not read: it is for the xDS port only"),
        (&admin, "POST /api/v1/tokens", r#"{"name": "ci", "role": "viewer"}"#, 409, "there is a token ci already"),
        (&admin, "POST /api/v1/tokens", r#"{"name": "", "role": "x"}"#, 422, "role: "),
        (&admin, "POST /api/v1/tokens", "[", 422, "refused: body:1: EOF"),
        (&admin, "DELETE /api/v1/tokens/none", "", 404, "there is no token none"),
        (&admin, "DELETE /api/v1/tokens/look", "", 200, "look"),
        (&viewer, "GET /api/v1/objects", "", 401, "no longer"),
        (&admin, "GET /api/v1/history", "", 200, r#""author":"ci","message":"why""#),
    ] {
        let (seen, _, answer) = control.ask(Some(token), start, body);
        let text = answer.to_string();
        assert!(seen == status && text.contains(words), "{start}: {seen} {text}");
    }
    let (_, _, tokens) = control.ask(Some(&admin), "GET /api/v1/tokens", "");
    let text = tokens.to_string();
    assert!(
        !text.contains("hash") && ![&admin, &operator, &proxy].iter().any(|secret| text.contains(*secret)),
        "{text}"
    );
    let names: Vec<&str> =
        tokens["tokens"].as_array().expect("a list").iter().filter_map(|token| token["name"].as_str()).collect();
    assert_eq!(names, ["admin", "ci", "edge"]);

    // Attempts are written as soon as there is time for it.
    let (told, _) = until("all of it in the audit", || {
        let (_, _, audit) = control.ask(Some(&admin), "GET /api/v1/audit?count=100", "");
        let entries = audit["entries"].as_array().expect("a list").clone();
        let line = |entry: &Value| {
            let [who, role, action, attempt] =
                ["who", "role", "action", "attempt"].map(|field| entry[field].as_str().unwrap_or("-").to_owned());
            let name = entry["token"]["name"].as_str().or(entry["objects"][0]["object"].as_str());
            format!("{who} {role} {action} {}", name.unwrap_or(&attempt))
        };
        let lines: Vec<String> = entries.iter().rev().map(line).collect();
        (lines.len() >= 15).then_some((lines, entries))
    });
    let (lines, entries) = told;
    let expected = [
        "control admin created token admin",
        "admin admin created token look",
        "admin admin created token ci",
        "admin admin created token edge",
        "look viewer refused POST /api/v1/objects",
        "look viewer refused POST /api/v1/rollback",
        "look viewer refused GET /api/v1/tokens",
        "look viewer refused GET /api/v1/audit",
        "ci operator changed Service/shop/a",
        "ci operator refused change Service/pay/a",
        "ci operator refused change Service/pay/a",
        "ci operator refused POST /api/v1/tokens",
        "edge proxy refused GET /api/v1/objects",
        "admin admin revoked token look",
        "- - refused GET /api/v1/objects",
    ];
    assert_eq!(lines, expected);
    let change = entries.iter().find(|entry| entry["action"] == "changed").expect("it is there");
    assert_eq!(
        (&change["revision"], &change["from"], &change["message"]),
        (&1.into(), &"127.0.0.1".into(), &"why".into())
    );
    assert_eq!(change["objects"][0]["differences"][0]["after"]["metadata"]["name"], "a");
}

#[test]
fn a_proxy_gets_only_what_its_token_is_for() {
    let folder = Scratch::create("access").expect("a folder");
    let control = Control::start(&folder, &[]);
    let bound = control.token(&json!({"name": "edge", "role": "proxy", "namespaces": ["shop"], "gateway": "edge"}));
    let wide = control.token(&json!({"name": "shop", "role": "proxy", "namespaces": ["shop"]}));
    let viewer = control.token(&json!({"name": "look", "role": "viewer"}));
    let own = ("shop/edge@h:1", "shop/edge");
    for (token, (id, cluster), name, expected) in [
        (&bound, own, "Gateway/shop/edge/*", Ok(())),
        (&bound, own, "Gateway/shop/other/*", Err("edge (proxy) may not subscribe to \"Gateway/shop/other/*\"")),
        (&bound, own, "Gateway/pay/edge/*", Err("it is for Gateway edge in namespace shop")),
        (&bound, own, "Service/shop/a", Err("may not subscribe to \"Service/shop/a\"")),
        (&bound, ("shop/other@h:1", "shop/other"), "Gateway/shop/edge/*", Err("may not be proxy \"shop/other@h:1\"")),
        (&bound, ("shop/other@h:1", "shop/edge"), "Gateway/shop/edge/*", Err("may not be proxy \"shop/other@h:1\"")),
        (&bound, ("", ""), "Gateway/shop/edge/*", Err("may not be proxy \"\"")),
        (&wide, ("shop/other@h:1", "shop/other"), "Gateway/shop/other/*", Ok(())),
        (&wide, own, "Gateway/pay/edge/*", Err("it is for namespace shop")),
        (&viewer, own, "Gateway/shop/edge/*", Err("look (viewer) may not open a proxy's stream")),
    ] {
        let heard = control.stream(Some(token), vec![first(id, cluster, &[name])]);
        let heard = heard.and_then(|mut stream| control.hear(&mut stream));
        match (heard, expected) {
            (Ok(Some(response)), Ok(())) => assert_eq!(response.removed_resources, [name]),
            (Err(status), Err(words)) => {
                assert!(status.code() == Code::PermissionDenied && status.message().contains(words), "{status:?}");
            }
            (heard, expected) => panic!("{id} {name}: {heard:?}, not {expected:?}"),
        }
    }
}

#[test]
fn who_is_revoked_is_cut_at_once() {
    let folder = Scratch::create("access").expect("a folder");
    let control = Control::start(&folder, &[]);
    let admin = control.admin();
    let viewer = control.token(&json!({"name": "look", "role": "viewer"}));
    let soon = jiff::Timestamp::now() + Duration::from_millis(2_500);
    let wanted = json!({"name": "edge", "role": "proxy", "namespaces": ["shop"], "expires": soon.to_string()});
    let proxy = control.token(&wanted);
    let mut watch = control.connect("localhost").expect("a connection");
    send(&mut watch, Some(&viewer), "GET /api/v1/watch", "");
    let mut head = [0; 12];
    watch.read_exact(&mut head).expect("a head");
    assert_eq!(&head, b"HTTP/1.1 200");
    let says = vec![first("shop/edge@h:1", "shop/edge", &["Gateway/shop/edge/*"])];
    let mut stream = control.stream(Some(&proxy), says.clone()).expect("a stream");
    assert!(control.hear(&mut stream).is_ok_and(|response| response.is_some()));

    let started = Instant::now();
    assert_eq!(control.ask(Some(&admin), "DELETE /api/v1/tokens/look", "").0, 200);
    // The end of a TLS connection may come without its last word.
    let _ = watch.read_to_end(&mut Vec::new());
    assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
    let status = control.hear(&mut stream).expect_err("its time is over");
    assert!(jiff::Timestamp::now() >= soon && status.message() == "token edge is revoked, or over", "{status:?}");
    let refused = control.stream(Some(&proxy), says).err().expect("it is over");
    assert_eq!(refused.code(), Code::Unauthenticated);
    assert!(refused.message().contains("token edge is over since 20"), "{refused:?}");
}

#[test]
fn instances_are_told_as_soon_as_they_are_its_business() {
    let folder = Scratch::create("access").expect("a folder");
    let control = Control::start(&folder, &[]);
    let admin = control.admin();
    let token = control.token(&json!({"name": "edge", "role": "proxy", "namespaces": ["default"]}));
    let pem = std::fs::read_to_string(control.ca()).expect("a certificate");
    let service = |name: &str| {
        format!(
            "{{apiVersion: evenkeel.dev/v1alpha1, kind: Service, metadata: {{name: {name}}}, spec: {{ports: [{{name: http, port: \
             80}}], endpoints: [{{address: 10.0.0.1, ports: {{http: 1}}}}]}}}}"
        )
    };
    let route = |to: &str| {
        format!(
            "{{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {{name: r}}, spec: {{parentRefs: [{{name: \
             g}}], rules: [{{backendRefs: [{{name: {to}, port: 80}}]}}]}}}}"
        )
    };
    control.apply(&[crate::server::gateway("g"), route("one"), service("one"), service("two")].join("\n---\n"));
    let two: Arc<str> = "Endpoints/default/two".into();
    // They ask for both at once, as those do that had both before.
    let mut proxies = ["a", "b"].map(|name| {
        let wanted = ["Gateway/default/g/*", "Endpoints/default/one", &two];
        let mut proxy = Subscriber::new(&format!("default/g@{name}"), &wanted);
        proxy.connect_with(control.xds, &pem, &token);
        assert!(proxy.take().names.contains(&"Service/default/one".to_owned()));
        assert!(!proxy.held().contains_key(&two), "nobody sends to it");
        proxy
    });
    let (status, _, told) = control.ask(Some(&admin), "POST /api/v1/objects?canary=1&bake=10m", &route("two"));
    assert_eq!(status, 200, "{told}");
    let (tries, _) = until("one that tries it", || {
        let (_, _, told) = control.ask(Some(&admin), "GET /api/v1/canary", "");
        told["canary"]["tries"][0].as_str().map(str::to_owned)
    });
    let [first, second] = &mut proxies;
    let (tries, waits) = if tries.ends_with("@a") { (first, second) } else { (second, first) };
    let take_two = |proxy: &mut Subscriber| {
        while !proxy.held().contains_key(&two) {
            proxy.take();
        }
    };
    take_two(tries);
    assert!(waits.hears_nothing_for(Duration::from_millis(100)) && !waits.held().contains_key(&two));
    assert_eq!(control.ask(Some(&admin), "POST /api/v1/canary/promote", "").0, 200);
    take_two(waits);
}

#[test]
fn a_gateway_shows_its_token_and_believes_one_ca() {
    let folder = Scratch::create("access").expect("a folder");
    let control = Control::start(&folder, &[]);
    let other = Scratch::create("access").expect("a folder");
    let stranger = Control::start(&other, &[]);
    let wanted = |name: &str| json!({"name": name, "role": "proxy", "namespaces": ["default"], "gateway": "edge"});
    let file = folder.write("token", &control.token(&wanted("first"))).expect("a file");
    let (ca, token) = (control.ca(), file.to_string_lossy().into_owned());
    let flags =
        |ca: &Path| ["--control-ca".into(), ca.to_string_lossy().into_owned(), "--token-file".into(), token.clone()];
    let launch = |ca: &Path| {
        let flags = flags(ca);
        Launch::under(control.xds).flags(&flags.each_ref().map(String::as_str)).spawn()
    };
    let misled = launch(&stranger.ca());
    until("a gateway that believes another", || misled.stderr().contains("certificate").then_some(()));

    // What is wrong is said in words of those who can mend it.
    for (place, flags, words) in [
        (control.xds, &[][..], "does it speak TLS? Then say --control-ca FILE)"),
        (control.api, &flags(&ca), "(is that its REST API? Proxies go to the address of --xds, by default port 15010)"),
        (control.xds, &flags(&ca)[..2], "refuses this proxy, there are no rules so far: who is it?"),
    ] {
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        let lost = Launch::under(place).flags(&flags).spawn();
        let told = || lost.stderr().contains("there are no rules so far").then(|| lost.stderr());
        let (told, _) = until("a gateway that is lost", told);
        assert!(told.contains(words), "{told}");
    }
    let gateway = launch(&ca);
    until("a gateway that waits", || gateway.stderr().contains("does not know this Gateway").then_some(()));
    let backend = Backend::canned("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\none");
    control.apply(&gateway.fill(&Rules::to(backend.address()).yaml()));
    let answers = || {
        let mut client = Peer::try_connect(gateway.address()).ok()?;
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        client.read().ok().filter(|answer| answer.text() == "one").map(drop)
    };
    until("rules in force", answers);
    assert_eq!(control.ask(Some(&control.admin()), "DELETE /api/v1/tokens/first", "").0, 200);
    until("a gateway that is sent away", || gateway.stderr().contains("token first is revoked").then_some(()));
    let gone = control.ask(Some(&control.admin()), "GET /api/v1/status", "").2["gone"]["proxies"][0]["why"].clone();
    assert_eq!(gone, "control sent it away (token first is revoked, or over)");
    assert!(answers().is_some(), "the last rules stay");
    fs::write(&file, control.token(&wanted("second"))).expect("a file");
    let connected = || gateway.stderr().matches("connected to control").count();
    until("a gateway with its new token", || (connected() == 2).then_some(()));
}

#[test]
fn one_client_takes_its_share() {
    let folder = Scratch::create("access").expect("a folder");
    let control = Control::start(&folder, &["--requests-per-second", "2"]);
    let admin = control.admin();
    let viewer = control.token(&json!({"name": "look", "role": "viewer"}));
    let statuses = |token: &str| -> Vec<u16> {
        (0..8)
            .map(|_| control.ask(Some(token), "GET /api/v1/objects", ""))
            .map(|(status, head, _)| {
                assert!(status == 200 || head.contains("retry-after: 1"), "{head}");
                status
            })
            .collect()
    };
    let seen = statuses(&viewer);
    assert!(seen[..4] == [200; 4] && seen.contains(&429), "{seen:?}");
    // Others do not suffer from it.
    assert_eq!(control.ask(Some(&admin), "GET /api/v1/objects", "").0, 200);
    // Too large is told before it is read.
    let mut stream = control.connect("localhost").expect("a connection");
    let head = format!(
        "POST /api/v1/objects HTTP/1.1\r\nHost: c\r\nAuthorization: Bearer {admin}\r\nContent-Length: {}\r\n\r\n",
        33 << 20
    );
    stream.write_all(head.as_bytes()).expect("it is read");
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).expect("an answer");
    assert_eq!(&answer, b"HTTP/1.1 413");
    // Whoever tries tokens is told to wait, and fills no audit.
    let mut wrong = 0;
    until("a source that has tried enough", || {
        wrong += 1;
        let (status, _, _) = control.ask(Some("evenkeel.admin.0"), "GET /api/v1/objects", "");
        assert!(status == 401 || (status == 429 && wrong > 50), "{status} after {wrong}");
        (status == 429).then_some(())
    });
    until("the admin's next request", || (control.ask(Some(&admin), "GET /api/v1/audit", "").0 == 200).then_some(()));
}
