//! The commands over TLS, as operators of a control server with tokens type them: whom they believe, who they are, and
//! what becomes of it.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use e2e::kit::{Backend, Launch, Peer, Rules, Scratch, Subscriber, evenkeel, until};

use crate::access::Control;
use crate::server::service;

/// A command as it is typed, in a folder, with nothing of the environment.
fn output(folder: &Scratch, line: &str) -> Output {
    let mut command = Command::new(evenkeel());
    command.args(line.split(' ')).current_dir(folder.path()).stdin(Stdio::null());
    for name in ["SERVER", "CA", "TOKEN_FILE", "FINGERPRINT", "CONTROL_DATA"] {
        command.env_remove(format!("EVENKEEL_{name}"));
    }
    command.output().expect("evenkeel can be started")
}

/// Its exit code, and what it printed.
fn run(folder: &Scratch, line: &str) -> (i32, String) {
    let Output { status, stdout, stderr } = output(folder, line);
    let text = String::from_utf8_lossy(&stdout) + String::from_utf8_lossy(&stderr);
    (status.code().expect("no signal"), text.trim_end().to_owned())
}

#[test]
fn a_command_believes_whom_it_is_told_to_and_says_why_not() {
    let folder = Scratch::create("operators").expect("a folder");
    let control = Control::start(&folder, &[]);
    let other = Scratch::create("operators").expect("a folder");
    let stranger = Control::start(&other, &["--plaintext"]);
    let another = Scratch::create("operators").expect("a folder");
    let foreign = Control::start(&another, &[]);
    let log = fs::read_to_string(folder.path().join("log")).expect("a log");
    let fingerprint = &log.split("SHA-256 is ").nth(1).expect("it is told")[..95];
    let bare = fingerprint.replace(':', "").to_ascii_lowercase();
    // One of 256 ends so.
    let end = if fingerprint.ends_with("00") { "01" } else { "00" };
    let wrong = format!("{}{end}", &fingerprint[..93]);
    fs::copy(foreign.ca(), folder.path().join("foreign.crt")).expect("a copy");
    fs::write(folder.path().join("empty.crt"), "").expect("a file");
    let (at, port) = (control.api, control.api.port());
    let token = "--token-file data/admin.token";
    // What is typed after `get`, the exit code, and words of what is printed.
    for (words, code, expected) in [
        (format!("--server {at} --ca data/ca.crt {token}"), 0, "there is none"),
        (format!("--server https://localhost:{port} --ca data/ca.crt {token}"), 0, "there is none"),
        (format!("--server {at} --fingerprint {fingerprint} {token}"), 0, "there is none"),
        (format!("--server {at} --fingerprint {bare} {token}"), 0, "there is none"),
        (format!("--server {at} --fingerprint {bare} --ca data/ca.crt {token}"), 0, "there is none"),
        (format!("--server {at} --data data"), 0, "there is none"),
        (
            format!("--server {} --data data", stranger.api),
            1,
            "does not speak TLS (was control started with --plaintext?",
        ),
        (format!("--server http://{}", stranger.api), 0, "there is none"),
        (
            format!("--server {at} --ca data/ca.crt"),
            1,
            "who is it? send `authorization: Bearer TOKEN`\n  say who you are",
        ),
        (
            format!("--server {at} --ca foreign.crt {token}"),
            1,
            "its certificate is from another CA than the one to believe",
        ),
        (format!("--server {at} --fingerprint {wrong} {token}"), 1, "its certificate is from another CA"),
        (format!("--server {} --fingerprint {fingerprint} {token}", foreign.api), 1, "from another CA"),
        // The same place, by an address that the certificate does not have.
        (
            format!("--server [::ffff:127.0.0.1]:{port} --data data"),
            1,
            "its certificate is not for ::ffff:127.0.0.1, but for localhost, ",
        ),
        (format!("--server 127.0.0.2:{port} --data data"), 1, "Connection refused"),
        (format!("--server {} --data data", control.xds), 1, "what answers there is not control's API"),
        (format!("--server {at}"), 1, "does not speak plain HTTP (does it speak TLS?"),
        (format!("--server https://{at}"), 2, "whom shall it believe to be control? --ca FILE"),
        (format!("--server http://{at} --ca data/ca.crt"), 2, "http:// is without TLS"),
        (format!("--server {at} --ca nowhere"), 2, "--ca nowhere: No such file"),
        (format!("--server {at} --ca empty.crt"), 2, "--ca empty.crt: there is no certificate in it"),
        (
            format!("--server {at} --ca foreign.crt --fingerprint {bare}"),
            2,
            "no certificate in it has that fingerprint",
        ),
        (format!("--server {at} --data nowhere"), 2, "--data nowhere: there is neither ca.crt nor admin.token in it"),
        (format!("--server {at} --fingerprint {}", &fingerprint[..47]), 2, "all of which are compared"),
        (format!("--server ftp://{at}"), 2, "it is https:// or http://, not ftp://"),
    ] {
        let (seen, text) = run(&folder, &format!("get {words}"));
        assert!(seen == code && text.contains(expected), "get {words}: {seen}\n{text}");
    }
}

#[test]
fn tokens_are_made_used_and_taken_back() {
    let folder = Scratch::create("operators").expect("a folder");
    let control = Control::start(&folder, &[]);
    folder.write("a.yaml", &service("a", 80)).expect("a file");
    let at = format!("--server {} --ca data/ca.crt", control.api);
    let admin = format!("{at} --token-file data/admin.token");
    let tell = |line: &str, code: i32, expected: &str| {
        let (seen, text) = run(&folder, line);
        assert!(seen == code && text.contains(expected), "{line}: {seen}\n{text}");
    };
    tell(&format!("token create ci --role root {admin}"), 2, "viewer, operator, admin, proxy");
    tell(&format!("token create C.I --role viewer -n a {admin}"), 1, "error: name: \"C.I\" is no name");
    tell(
        &format!("token create ci --role operator --expires soon {admin}"),
        2,
        "--expires soon: it is neither such as",
    );
    for (name, words, told) in [
        ("ci", "--role operator -n default --expires 90d", "token ci for role operator of namespace default until 2"),
        ("pay", "--role operator -n pay", "token pay for role operator of namespace pay; it is not shown again"),
        ("edge", "--role proxy --gateway default/edge", "token edge for role proxy of Gateway default/edge; it"),
    ] {
        let made = output(&folder, &format!("token create {name} {words} {admin}"));
        let (secret, told_of_it) = (String::from_utf8_lossy(&made.stdout), String::from_utf8_lossy(&made.stderr));
        assert!(made.status.success() && told_of_it.starts_with(told), "{told_of_it}");
        // Nothing but the secret: it goes into a file.
        assert!(secret.starts_with(&format!("evenkeel.{name}.")) && secret.lines().count() == 1, "{secret}");
        folder.write(&format!("{name}.token"), &secret).expect("a file");
    }
    tell(&format!("token create ci --role viewer {admin}"), 1, "there is a token ci already");
    let (_, list) = run(&folder, &format!("token list {admin}"));
    for (place, words) in [
        ["NAME ", "ROLE ", "FOR ", "EXPIRES ", "MADE BY"],
        ["admin ", "admin ", "everything ", "never ", "control"],
        ["ci ", "operator ", "namespace default ", "20", "admin"],
        ["edge ", "proxy ", "Gateway default/edge ", "never ", "admin"],
        ["pay ", "operator ", "namespace pay ", "never ", "admin"],
    ]
    .iter()
    .enumerate()
    {
        let line = list.lines().nth(place).unwrap_or_default();
        assert!(words.iter().all(|word| line.contains(word)), "{words:?}: {list}");
    }
    let apply = |who: &str| format!("apply -f a.yaml {at} --token-file {who}.token");
    tell(&apply("ci"), 0, "revision 1: 1 document");
    tell(
        &apply("pay"),
        1,
        "control does not let you: pay (operator) may not change Service/default/a: it is for namespace pay",
    );
    tell(&apply("edge"), 1, "control does not let you: edge (proxy)");
    tell(&format!("token list {at} --token-file ci.token"), 1, "may not see or change tokens: admin may");
    tell(&format!("history {at} --token-file ci.token"), 0, "  ci   ");
    tell(&format!("token delete ci {admin}"), 0, "token ci is taken back");
    tell(&format!("token delete ci {admin}"), 1, "there is no token ci");
    tell(&apply("ci"), 1, "control does not know who you are: this token is none, or no longer");
}

#[test]
fn a_gateway_with_a_token_of_its_own_gets_its_endpoints_and_no_others() {
    let folder = Scratch::create("operators").expect("a folder");
    let control = Control::start(&folder, &[]);
    let backend = Backend::canned("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\none");
    let admin = format!("--server {} --data data", control.api);
    let made = output(&folder, &format!("token create edge --role proxy --gateway default/edge {admin}"));
    let secret = String::from_utf8_lossy(&made.stdout).trim().to_owned();
    let token = folder.write("edge.token", &secret).expect("a file");
    let ca = control.ca();
    let flags = ["--control-ca", &ca.to_string_lossy(), "--token-file", &token.to_string_lossy()].map(String::from);
    let gateway = Launch::under(control.xds).flags(&flags.each_ref().map(String::as_str)).spawn();
    let address = backend.address();
    let rules = gateway.fill(&Rules::to(address).service("other", &[address]).yaml());
    folder.write("rules.yaml", &rules).expect("a file");
    until("a gateway that waits", || gateway.stderr().contains("does not know this Gateway").then_some(()));
    let (code, text) = run(&folder, &format!("apply -f rules.yaml --wait {admin}"));
    assert!(code == 0 && text.contains("revision 1 in force on 1 of 1 proxies after"), "{text}");
    // Rules and endpoints.
    let mut client = Peer::connect(gateway.address());
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.read().map(|answer| answer.text()), Ok("one".into()));

    // Whoever has its token and asks for more gets what belongs to it.
    let pem = fs::read_to_string(&ca).expect("a certificate");
    let wanted = ["Gateway/default/edge/*", "Endpoints/default/web", "Endpoints/default/other"];
    let mut curious = Subscriber::new("default/edge@curious:1", &wanted);
    curious.connect_with(control.xds, &pem, &secret);
    let expected = [
        "Endpoints/default/web",
        "Gateway/default/edge",
        "Gateway/default/edge/*",
        "HTTPRoute/default/all",
        "Service/default/web",
    ];
    assert_eq!(curious.take().names, expected);
    let elsewhere = SocketAddr::from((Ipv4Addr::LOCALHOST, 1));
    let moved = Rules::to(address).service("other", &[elsewhere]).yaml();
    folder.write("rules.yaml", &gateway.fill(&moved)).expect("a file");
    let (code, text) = run(&folder, &format!("apply -f rules.yaml {admin}"));
    assert!(code == 0 && text.contains("changed  Service/default/other"), "{text}");
    assert!(curious.hears_nothing_for(Duration::from_millis(300)));

    // The admin's stream may have them.
    let mut admins = Subscriber::new("default/edge@admin:1", &wanted);
    admins.connect_with(control.xds, &pem, &control.admin());
    assert!(admins.take().names.contains(&"Endpoints/default/other".to_owned()));
}
