//! The commands that ask a control server, as an operator types them: what they print, where, and their exit codes; with real
//! gateways that take a change, refuse it, do not answer, or go away.

use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio};

use e2e::kit::{Gateway, Launch, Rules, Scratch, Subscriber, evenkeel, free_port, until};
use rustix::process::Signal;
use serde_json::Value;

use crate::server::{Control, gateway, service};

/// A command line, started in a folder.
fn start(control: &Control, folder: &Scratch, line: &str, input: &str) -> Child {
    let mut command = Command::new(evenkeel());
    command.args(line.split(' ')).current_dir(folder.path()).env("EVENKEEL_SERVER", control.address.to_string());
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("evenkeel can be started");
    // A command that does not read has perhaps ended.
    let _ = child.stdin.take().expect("it is piped").write_all(input.as_bytes());
    child
}

/// Its exit code, and what it printed, without what differs from run to run.
fn end(child: Child) -> (i32, String) {
    let output = child.wait_with_output().expect("a child can be waited for");
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    (output.status.code().expect("no signal"), steady(&text))
}

fn run(control: &Control, folder: &Scratch, line: &str) -> (i32, String) {
    end(start(control, folder, line, ""))
}

/// Times and process ids are other each time.
fn steady(text: &str) -> String {
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let word = |word: &str| {
        let bare = word.trim_end_matches([',', ':']);
        let process = bare.split_once('@').and_then(|(name, place)| Some((name, place.rsplit_once(':')?.1)));
        match process {
            Some((name, id)) if is_number(id) => format!("{name}@HOST{}", &word[bare.len()..]),
            _ if bare.ends_with('Z') && bare.contains('T') && is_number(&bare[..1]) => "TIME".to_owned(),
            _ => word.to_owned(),
        }
    };
    let line = |line: &str| {
        let mut words: Vec<String> = line.split(' ').map(word).collect();
        for place in 1..words.len() {
            let is_unit = ["ms", "s"].contains(&words[place].trim_end_matches([',', ':']));
            if is_unit && words[place - 1].parse::<f64>().is_ok() {
                words[place - 1] = "N".into();
                words[place] = words[place].replace("ms", "s");
            }
        }
        words.join(" ")
    };
    let lines: Vec<String> = text.lines().map(line).collect();
    lines.join("\n")
}

#[test]
fn commands_say_what_they_did() {
    let folder = Scratch::create("cli").expect("a folder");
    let control = Control::start(&folder);
    let write = |name: &str, text: &str| drop(folder.write(name, text).expect("a file"));
    write("a.yaml", &service("a", 80));
    std::fs::create_dir(folder.path().join("both")).expect("a folder");
    write("both/a.yaml", &format!("# changed\n{}", service("a", 81)));
    write(
        "both/b.json",
        r#"{"apiVersion": "evenkeel.dev/v1alpha1", "kind": "Service", "metadata": {"name": "b", "namespace": "n"}, "spec": {"ports": [{"name": "http", "port": 1}]}}"#,
    );
    write("bad.yaml", "# two\nkind: Service\n---\nkind: Servise\napiVersion: evenkeel.dev/v1alpha1\n");
    let grantless = "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: r, namespace: n}\nspec:\n  \
                     parentRefs: [{name: g}]\n  rules:\n  - backendRefs:\n    - {name: a, namespace: default, port: 80}\n";
    write("grantless.yaml", grantless);
    write("dangling.yaml", &grantless.replace(", namespace: default", "").replace("name: a", "name: gone"));
    write(
        "mended.yaml",
        &[grantless.replace(", namespace: default", ""), gateway("g").replace("name: g", "name: g, namespace: n")]
            .join("---\n"),
    );
    write("latin.yaml", "");
    std::fs::write(folder.path().join("latin.yaml"), b"a: b\nc: \xe4\n").expect("a file");
    write("empty.yaml", "# nothing\n");
    // What is typed, the exit code, and what is printed.
    for (line, code, expected) in [
        ("get", 0, "there is none in namespace default; -A looks at all namespaces"),
        ("history", 0, "nothing has been changed so far"),
        ("get proxies", 0, "no proxy is connected"),
        ("apply -f a.yaml --dry-run", 0, "created  Service/default/a\na dry run: 1 document would change, nothing did"),
        ("diff -f a.yaml", 1, "created  Service/default/a"),
        ("apply -f a.yaml -m first", 0, "created  Service/default/a\nrevision 1: 1 document"),
        ("diff -f a.yaml", 0, ""),
        ("apply -f a.yaml", 0, "nothing changes: at revision 1 it is so already"),
        ("diff -f both", 1, "changed  Service/default/a\n  spec.ports[0].port: 80 -> 81\ncreated  Service/n/b"),
        (
            "apply -f both --wait",
            0,
            "changed  Service/default/a\ncreated  Service/n/b\nrevision 2 is kept, and in force nowhere: no proxy is connected",
        ),
        ("get", 0, "KIND     NAMESPACE  NAME  REVISION  IN FORCE  NOTE\nService  default    a     2         nobody's"),
        (
            "get svc b -n n",
            0,
            "KIND     NAMESPACE  NAME  REVISION  IN FORCE  NOTE\nService  n          b     2         nobody's",
        ),
        (
            "get services -n n -o yaml",
            0,
            "apiVersion: evenkeel.dev/v1alpha1\nkind: Service\nmetadata:\n  name: b\n  namespace: \"n\"\nspec:\n  ports:\n  - name: \
             http\n    port: 1",
        ),
        ("get service zz", 1, "there is no Service/default/zz"),
        ("status", 0, "revision 2: 2 documents kept, and in force nowhere: no proxy is connected"),
        ("status svc a", 0, "Service/default/a of revision 2: accepted\n  no proxy that is connected is to have it"),
        // What is wrong has its file and line, whoever found it.
        (
            "apply -f a.yaml bad.yaml",
            1,
            "error: bad.yaml:2: apiVersion: is missing\nerror: bad.yaml:4: kind: Servise is not enforced by this build (did you \
             mean Service?)\nrefused: 2 problems\n  nothing was changed",
        ),
        (
            "apply -f a.yaml both/a.yaml",
            1,
            "error: both/a.yaml:2: metadata.name: Service/default/a is there already, at a.yaml:1\nrefused: 1 problem\n  nothing \
             was changed",
        ),
        (
            "apply -f grantless.yaml",
            1,
            "error: grantless.yaml:8: spec.rules[0].backendRefs[0]: Service default/a is in another namespace, which does not \
             allow it (write a ReferenceGrant in default)\nrefused: 1 problem\n  nothing was changed",
        ),
        ("diff -f bad.yaml", 2, ""),
        ("apply -f latin.yaml", 2, "latin.yaml:2: is not UTF-8"),
        ("apply -f nowhere.yaml", 2, "nowhere.yaml: cannot be read: No such file or directory (os error 2)"),
        ("apply -f empty.yaml", 2, "there is no document in it"),
        ("diff -f empty.yaml", 2, "there is no document in it"),
        ("apply -f a.yaml --canary 0", 2, ""),
        ("apply -f a.yaml --canary 101%", 2, ""),
        ("status -n nosuch", 2, "there is no document in namespace nosuch"),
        ("status route", 2, "there is no HTTPRoute"),
        ("status proxies", 2, "proxies are no documents: evenkeel get proxies lists them"),
        ("apply", 2, ""),
        ("apply -f a.yaml --wait --timeout never", 2, ""),
        ("get servises", 2, ""),
        ("get --token-file nowhere", 2, "--token-file nowhere: No such file or directory (os error 2)"),
        (
            "history",
            0,
            "REVISION  TIME                  WHO    DOCUMENTS                     WHY\n2         TIME  local  Service/default/a \
             and 1 more\n1         TIME  local  Service/default/a             first",
        ),
        (
            "history svc a",
            0,
            "REVISION  TIME                  WHO    CHANGE                        WHY\n2         TIME  local  \
             spec.ports[0].port: 80 -> 81\n1         TIME  local  created                       first",
        ),
        (
            "rollback 1 --dry-run",
            0,
            "changed  Service/default/a\nremoved  Service/n/b\na dry run: 2 documents would change, nothing did",
        ),
        ("rollback 1 -n n", 0, "removed  Service/n/b\nrevision 3: 1 document"),
        ("rollback 9", 1, "there is no revision 9 so far; the last one is 3"),
        ("delete svc a -m gone", 0, "removed  Service/default/a\nrevision 4: 1 document"),
        ("delete svc a", 1, "there is no Service/default/a"),
        (
            "get --server 127.0.0.1:1",
            1,
            "cannot ask control at 127.0.0.1:1: Connection refused (os error 111)\n  is evenkeel control running there? Another \
             place: --server ADDRESS:PORT or EVENKEEL_SERVER",
        ),
        ("token list", 0, "there is none"),
    ] {
        let (seen, text) = run(&control, &folder, line);
        assert_eq!(seen, code, "{line}: {text}");
        // Where the words are somebody else's, the code is enough.
        assert!(text == expected || (expected.is_empty() && code != 0), "{line}:\n{text}\n\nexpected:\n{expected}");
    }
    // Warnings are not a refusal, and have a place, too.
    let (code, text) = run(&control, &folder, "apply -f dangling.yaml");
    assert!(code == 0 && text.contains("warning: dangling.yaml:"), "{code} {text}");

    // They are known of what is there, not of what was only tried, and outlive the process.
    run(&control, &folder, "apply -f mended.yaml --dry-run");
    let expected = [
        "HTTPRoute/n/r of revision 5: accepted",
        "  warning: HTTPRoute/n/r: spec.parentRefs[0]: there is no Gateway n/g",
        "  warning: HTTPRoute/n/r: spec.rules[0].backendRefs[0]: there is no Service n/gone: its share of requests is answered 500",
        "  no proxy that is connected is to have it",
    ]
    .join("\n");
    assert_eq!(run(&control, &folder, "status route r -n n"), (0, expected.clone()));
    let places = [control.address, control.xds];
    control.kill();
    let control = Control::start_at(&folder, places);
    until("the warnings", || (run(&control, &folder, "status route r -n n").1 == expected).then_some(()));

    // Out and in again is nothing new.
    let export = |line: &str| {
        let output = start(&control, &folder, line, "").wait_with_output().expect("a child can be waited for");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let all = export("export");
    let (code, text) = end(start(&control, &folder, "apply -f -", &all));
    assert!(code == 0 && text.starts_with("nothing changes"), "{text}\n{all}");
    let answer: Value = serde_json::from_str(&export("get -A -o json")).expect("JSON");
    assert_eq!(answer["objects"][0]["name"], "HTTPRoute/n/r");
    for shell in ["bash", "zsh", "fish"] {
        assert!(export(&format!("completion {shell}")).contains("rollback"), "{shell}");
    }
}

#[test]
fn long_lists_are_cut_and_counted() {
    let folder = Scratch::create("cli").expect("a folder");
    let control = Control::start(&folder);
    let all: Vec<String> = (0..30).map(|number| service(&format!("s{number:02}"), 80)).collect();
    control.apply(&all.join("\n---\n"));
    for (line, lines, last) in [
        ("get", 22, "... and 10 more of 30; --full shows all"),
        ("get --full", 31, "Service  default    s29   1         nobody's"),
        ("status", 1, "revision 1: 30 documents kept, and in force nowhere: no proxy is connected"),
    ] {
        let (code, text) = run(&control, &folder, line);
        assert_eq!((code, text.lines().count(), text.lines().last()), (0, lines, Some(last)), "{line}:\n{text}");
    }
}

/// Documents of a Gateway with a route and a Service of its own.
fn documents(name: &str, port: u16, backend: u16) -> String {
    let yaml = Rules::to(SocketAddr::from((Ipv4Addr::LOCALHOST, backend))).yaml();
    let names = [("{{port}}", port.to_string()), ("edge", name.to_owned()), ("name: all", format!("name: {name}"))];
    let yaml = names.iter().fold(yaml, |yaml, (from, to)| yaml.replace(from, to));
    yaml.replace("name: web", &format!("name: {name}"))
}

#[test]
fn a_change_is_waited_for_and_who_lacks_it_is_named() {
    let folder = Scratch::create("cli").expect("a folder");
    let control = Control::start(&folder);
    let ports = [free_port(), free_port(), free_port()];
    let write = |name: &str, port: u16, backend: u16| {
        folder.write(&format!("{name}.yaml"), &documents(name, port, backend)).expect("a file");
    };
    let tell = |line: &str, code: i32, expected: &str| {
        let (seen, text) = run(&control, &folder, line);
        assert_eq!((seen, &*text), (code, expected), "{line}");
    };
    write("one", ports[0], 1);
    write("two", ports[1], 1);
    tell(
        "apply -f one.yaml two.yaml",
        0,
        "created  Gateway/default/one\ncreated  Gateway/default/two\ncreated  HTTPRoute/default/one\ncreated  \
         HTTPRoute/default/two\ncreated  Service/default/one\ncreated  Service/default/two\nrevision 1: 6 documents",
    );
    let one = Launch::named(control.xds, "default/one").start();
    let two = Launch::named(control.xds, "default/two").start();
    write("one", ports[0], 2);
    tell(
        "apply -f one.yaml --wait",
        0,
        "changed  Service/default/one\nrevision 2 in force on 2 of 2 proxies after N s",
    );
    tell("status", 0, "revision 2, 2 proxies: 6 documents in force wherever they are wanted");
    tell(
        "get svc one",
        0,
        "KIND     NAMESPACE  NAME  REVISION  IN FORCE  NOTE\nService  default    one   2         1 of 1",
    );

    // One cannot: it says why, and its old rules stay. What has nothing to do with that goes on.
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, ports[2])).expect("a free port");
    write("two", ports[2], 1);
    let refusal = format!(
        "refused by default/two@HOST: Gateway/default/two\n    cannot listen on 127.0.0.1:{} for default/two/http: Address \
         already in use (os error 98)",
        ports[2]
    );
    tell(
        "apply -f two.yaml --wait",
        1,
        &format!(
            "changed  Gateway/default/two\nrevision 3 refused by 1 of 2 proxies; in force on 1 after N s\n  {refusal}\n  their \
             rules from before stay in force there; mend it and apply again, or roll back"
        ),
    );
    tell(
        "status",
        1,
        "revision 3, 2 proxies: 1 of 6 documents not in force everywhere\nDOCUMENT             REVISION  IN FORCE  NOTE\n\
         Gateway/default/two  3         0 of 1    refused by 1\nevenkeel status KIND NAME says where and why",
    );
    tell(
        "status gw two",
        1,
        &format!("Gateway/default/two of revision 3: accepted\n  in force on 0 of 1 proxies\n  {refusal}"),
    );
    write("one", ports[0], 3);
    tell(
        "apply -f one.yaml --wait",
        0,
        &format!(
            "changed  Service/default/one\nrevision 4 in force on 2 of 2 proxies after N s\n  still refused from before by{}",
            refusal.strip_prefix("refused by").expect("it starts so")
        ),
    );
    drop(taken);
    let (_, status) = run(&control, &folder, "rollback 2 --wait");
    assert!(status.ends_with("revision 5 in force on 2 of 2 proxies after N s"), "{status}");

    // One does not answer, and goes away at last.
    one.signal(Signal::STOP);
    write("one", ports[0], 4);
    let silent = "it has not answered for N s what it was sent (is it stopped, overloaded or cut off?)";
    tell(
        "apply -f one.yaml --wait --timeout 200ms",
        1,
        &format!(
            "changed  Service/default/one\nrevision 6 in force on only 1 of 2 proxies after N s\n  not on default/one@HOST: {silent}"
        ),
    );
    tell(
        "status svc one",
        1,
        &format!(
            "Service/default/one of revision 6: accepted\n  in force on 0 of 1 proxies\n  not on default/one@HOST: {silent}"
        ),
    );
    let (_, proxies) = run(&control, &folder, "get proxies");
    assert!(proxies.contains("has not answered for N s") && proxies.contains("5 of 6"), "{proxies}");
    let waiting = start(&control, &folder, "apply -f one.yaml --wait", "");
    kill(one);
    let (code, text) = end(waiting);
    let broken = "its connection broke N s ago, before it had taken it, and it is not back (is it running?)";
    assert_eq!(code, 1, "{text}");
    assert!(
        text.ends_with(&format!("6 in force on only 1 of 2 proxies after N s\n  not on default/one@HOST: {broken}")),
        "{text}"
    );
    drop(two);
}

/// Ends a gateway that cannot hear us.
fn kill(mut gateway: Gateway) {
    gateway.signal(Signal::KILL);
    gateway.wait();
}

#[test]
fn proxies_that_are_too_old_are_named() {
    let folder = Scratch::create("cli").expect("a folder");
    let control = Control::start(&folder);
    let limit = "{apiVersion: evenkeel.dev/v1alpha1, kind: ListenerPolicy, metadata: {name: p}, spec: {targetRefs: [{group: \
                 gateway.networking.k8s.io, kind: Gateway, name: g}], maxRequestBody: 10}}";
    control.apply(&[gateway("g"), limit.to_owned()].join("\n---\n"));
    let mut proxies = [
        Subscriber::knowing("new", &["Gateway", "ListenerPolicy"], &["Gateway/default/g/*"]),
        Subscriber::knowing("old", &["Gateway"], &["Gateway/default/g/*"]),
    ];
    for proxy in &mut proxies {
        proxy.connect(control.xds);
        proxy.take();
    }
    until("revision 1 in force on both", || run(&control, &folder, "get gw g").1.contains("2 of 2").then_some(()));
    for (line, code, expected) in [
        (
            "status",
            1,
            "revision 1, 2 proxies: 1 of 2 documents not in force everywhere\nDOCUMENT                  REVISION  IN FORCE  \
             NOTE\nListenerPolicy/default/p  1         1 of 1    not enforced by 1\nevenkeel status KIND NAME says where and why",
        ),
        (
            "status listenerpolicy p",
            1,
            "ListenerPolicy/default/p of revision 1: accepted\n  in force on 1 of 1 proxies\n  not enforced by old: too old to \
             know this kind",
        ),
    ] {
        assert_eq!(run(&control, &folder, line), (code, expected.to_owned()), "{line}");
    }
}

#[test]
fn an_emergency_limit_says_where_and_until_when_and_a_freeze_is_broken_with_a_reason() {
    let folder = Scratch::create("cli").expect("a folder");
    let control = Control::start(&folder);
    let port = free_port();
    let one = documents("one", port, 1);
    folder.write("one.yaml", &one).expect("a file");
    folder.write("two.yaml", &one.replace("port: 80", "port: 81")).expect("a file");
    let freeze = "apiVersion: evenkeel.dev/v1alpha1\nkind: ChangeFreeze\nmetadata: {name: night}\nspec:\n  \
                  scope: {namespaces: [default]}\n  windows: [{start: \"2026-01-01T00:00:00Z\", duration: 87600h}]\n  \
                  allow: [rollback, emergencyLimit]\n";
    folder.write("freeze.yaml", freeze).expect("a file");
    let tell = |line: &str, code: i32, expected: &str| {
        let (seen, text) = run(&control, &folder, line);
        assert_eq!((seen, &*text), (code, expected), "{line}");
    };
    tell("emergency list", 0, "there is none");
    tell("emergency limit one --rps 5 --for 10m", 1, "there is no Service/default/one");
    run(&control, &folder, "apply -f one.yaml");
    let gateway = Launch::named(control.xds, "default/one").start();
    let in_force = "in force on 1 of 1 proxies after N s";
    let limited =
        |revision: u64| format!("at most 5 a second to default/one: revision {revision} {in_force}, until TIME");
    tell("emergency limit one --rps 5 --for 10m", 0, &limited(2));
    let portless = "warning: HTTPRoute/default/one: spec.rules[0].backendRefs[0]: Service default/one has no port 81: its share of \
                    requests is answered 500";
    let frozen = "must not be changed before TIME ChangeFreeze default/night; with breakGlass=true and a message these roles \
                  may: admin\n  nothing was changed; whoever may, and must, says --break-glass -m WHY, and the audit tells";
    for (line, code, expected) in [
        ("apply -f freeze.yaml", 0, "created  ChangeFreeze/default/night\nrevision 3: 1 document".to_owned()),
        (
            "emergency list",
            0,
            "SERVICE      REQUESTS/S  UNTIL                 REVISION\ndefault/one  5           TIME  2".into(),
        ),
        ("apply -f two.yaml", 1, format!("frozen: HTTPRoute/default/one and 1 more {frozen}")),
        ("delete svc one", 1, format!("frozen: Service/default/one {frozen}")),
        ("apply -f two.yaml --break-glass", 2, String::new()),
        (
            "apply -f two.yaml --wait --break-glass -m fire",
            0,
            format!("changed  HTTPRoute/default/one\nchanged  Service/default/one\nrevision 4 {in_force}"),
        ),
        // What a freeze lets pass needs no breaking.
        ("emergency end one", 0, format!("the limit is gone: revision 5 {in_force}")),
        ("emergency end one", 1, "there is no RateLimit/default/emergency-one".into()),
        ("emergency limit one --rps 5 --for 10m", 0, limited(6)),
        ("rollback 2 --wait", 1, format!("frozen: ChangeFreeze/default/night {frozen}")),
        ("rollback 3 --kind Service -m back", 0, format!("changed  Service/default/one\nrevision 7: 1 document\n{portless}")),
        // Whoever goes back in an emergency needs its limits.
        (
            "rollback 5 --kind RateLimit",
            0,
            "kept     RateLimit/default/emergency-one: evenkeel emergency end takes it away\nnothing changes: at revision 7 it is \
             so already"
                .into(),
        ),
        // What it would come to is told all the same.
        (
            "apply -f one.yaml --dry-run",
            1,
            format!(
                "changed  HTTPRoute/default/one\na dry run: 1 document would change, nothing did\nand now it would be refused: \
                 frozen: HTTPRoute/default/one {frozen}"
            ),
        ),
        (
            "diff -f one.yaml",
            1,
            format!(
                "changed  HTTPRoute/default/one\n  spec.rules[0].backendRefs[0].port: 81 -> 80\napply would be refused now: \
                 frozen: HTTPRoute/default/one {frozen}"
            ),
        ),
        // It is no longer the last word of anybody.
        ("status", 0, format!("revision 7, 1 proxy: 5 documents in force wherever they are wanted\n  {portless}")),
        ("emergency limit one --rps 0 --for 10m", 2, String::new()),
        (
            "emergency limit one --rps 5 --for 8d",
            1,
            "for: \"8d\" is not a time such as 30s, 10m or 2h, 7d at most\n  nothing was changed".into(),
        ),
    ] {
        let (seen, text) = run(&control, &folder, line);
        assert_eq!(seen, code, "{line}: {text}");
        assert!(text == expected || (expected.is_empty() && code == 2), "{line}:\n{text}\n\nexpected:\n{expected}");
    }
    let (_, history) = run(&control, &folder, "history");
    for words in ["fire", "back", "the emergency is over", "emergency: 5 requests a second to"] {
        assert!(history.contains(words), "{words}: {history}");
    }
    drop(gateway);
}
