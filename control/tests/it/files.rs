//! Documents that stand in files of control's machine, and a store that becomes a file and a store again.

use std::fs;
use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use e2e::kit::{Scratch, evenkeel, free_port, until};
use serde_json::Value;

use crate::server::{Control, service};

/// A control server with the files of folder `rules`.
fn start(folder: &Scratch) -> Control {
    let places = [(); 2].map(|()| SocketAddr::from((Ipv4Addr::LOCALHOST, free_port())));
    let rules = folder.path().join("rules");
    Control::start_with(folder, places, &["-f", &rules.to_string_lossy()])
}

fn write(folder: &Scratch, name: &str, text: &str) {
    fs::create_dir_all(folder.path().join("rules")).expect("a folder");
    // In one step, as editors do.
    let next = folder.path().join("rules").join(format!(".{name}"));
    fs::write(&next, text).expect("a file");
    fs::rename(next, folder.path().join("rules").join(name)).expect("a file");
}

fn log(folder: &Scratch) -> String {
    fs::read_to_string(folder.path().join("log")).unwrap_or_default()
}

fn until_said(folder: &Scratch, words: &str) {
    until(words, || log(folder).contains(words).then_some(()));
}

/// Names of all documents, and who made each change, newest first.
fn kept(control: &Control) -> (Vec<String>, Vec<String>) {
    let (_, objects) = control.ask("GET /api/v1/objects", "", "");
    let (_, history) = control.ask("GET /api/v1/history", "", "");
    let words = |list: &Value, field: &str| -> Vec<String> {
        list.as_array().into_iter().flatten().map(|one| one[field].as_str().unwrap_or_default().to_owned()).collect()
    };
    (words(&objects["objects"], "name"), words(&history["revisions"], "author"))
}

const GRANTLESS: &str = "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: r, namespace: n}\n\
                         spec:\n  parentRefs: [{name: g}]\n  rules:\n  - backendRefs:\n    - {name: a, namespace: \
                         default, port: 80}\n";

#[test]
fn files_are_kept_with_all_others_and_changed_nowhere_else() {
    let folder = Scratch::create("files").expect("a folder");
    write(&folder, "a.yaml", &format!("# one\n{}\n---\n{}\n", service("a", 80), service("b", 80)));
    let control = start(&folder);
    until_said(&folder, "revision 1: 2 documents of files changed");
    control.apply(&service("free", 80));
    let place = format!("{}:2", folder.path().join("rules/a.yaml").display());
    let of_file = format!("Service/default/a is from {place}: change it there");
    for (start, body, status, words) in [
        ("POST /api/v1/objects", service("a", 81), 409, &*of_file),
        ("POST /api/v1/objects?dryRun=true", service("a", 81), 200, &of_file),
        ("DELETE /api/v1/objects/Service/default/a", String::new(), 409, &of_file),
        ("PUT /api/v1/objects/Service/default/a", service("a", 81), 409, &of_file),
        ("POST /api/v1/rollback?revision=0", String::new(), 409, "a.yaml:4: change them there"),
        // As it is it may be said anywhere.
        ("POST /api/v1/objects", service("a", 80), 200, r#""changes":[]"#),
        ("POST /api/v1/rollback?revision=1", String::new(), 200, "Service/default/free"),
    ] {
        let (seen, answer) = control.ask(start, "", &body);
        let text = answer.to_string();
        assert!(seen == status && text.contains(words), "{start}: {seen} {text}");
    }

    // Both change at once; what is no longer there goes.
    write(&folder, "a.yaml", &format!("{}\n---\n{}\n", service("a", 81), service("c", 80)));
    until_said(&folder, "revision 4: 3 documents of files changed, 1 of them removed");
    let names = |names: &[&str]| names.iter().map(|name| format!("Service/default/{name}")).collect::<Vec<_>>();
    assert_eq!(kept(&control), (names(&["a", "c"]), ["files", "local", "local", "files"].map(String::from).into()));

    // What is wrong is told, all of it, and changes nothing.
    write(&folder, "b.yaml", "# one\nkind: Service\n---\nkind: Servise\napiVersion: evenkeel.dev/v1alpha1\n");
    let rules = folder.path().join("rules").display().to_string();
    until_said(&folder, &format!("error: {rules}/b.yaml:2: apiVersion: is missing"));
    until_said(&folder, &format!("error: {rules}/b.yaml:4: kind: Servise is not enforced by this build"));
    until_said(&folder, "files are refused, and what was taken from them before stays");
    write(&folder, "b.yaml", GRANTLESS);
    until_said(
        &folder,
        &format!("error: {rules}/b.yaml:8: spec.rules[0].backendRefs[0]: Service default/a is in another namespace"),
    );
    assert_eq!(kept(&control).0, names(&["a", "c"]));
    assert_eq!(control.ask("DELETE /api/v1/objects/Service/default/c", "", "").0, 409);
    // Whoever asks hears it, too, for as long as it is so.
    let refused = || control.ask("GET /api/v1/status", "", "").1["files"].clone();
    let told = refused();
    assert_eq!(told["count"], 1);
    assert!(told["first"][0].as_str().is_some_and(|line| line.contains("b.yaml:8: spec.rules[0]")), "{told}");
    write(&folder, "b.yaml", &service("d", 80));
    until_said(&folder, "files are taken again");
    assert!(refused().is_null());
    fs::remove_file(folder.path().join("rules/b.yaml")).expect("it is ours");
    until("one less", || (kept(&control).0 == names(&["a", "c"])).then_some(()));
    write(&folder, "b.yaml", GRANTLESS);

    fs::remove_file(folder.path().join("rules/b.yaml")).expect("it is ours");
    // What a full disk leaves of a file, and an editor: neither says that everything shall go.
    for text in ["", "# nothing\n", "---\n"] {
        let refused = log(&folder).matches("a.yaml: holds no document").count();
        write(&folder, "a.yaml", text);
        until("a refusal", || (log(&folder).matches("a.yaml: holds no document").count() > refused).then_some(()));
    }
    assert_eq!(kept(&control).0, names(&["a", "c"]));
    write(&folder, "b.yaml", GRANTLESS);

    // So it is after a start; and what went meanwhile goes.
    control.kill();
    let control = start(&folder);
    assert_eq!(kept(&control).0, names(&["a", "c"]));
    let (status, answer) = control.ask("DELETE /api/v1/objects/Service/default/c", "", "");
    assert_eq!(
        (status, &answer["error"]),
        (409, &"Service/default/c is from files, which are wrong now: change it there".into())
    );
    control.kill();
    fs::remove_file(folder.path().join("rules/b.yaml")).expect("it is ours");
    write(&folder, "a.yaml", &service("c", 80));
    let control = start(&folder);
    assert_eq!(kept(&control).0, names(&["c"]));
    // A folder that is empty is an accident.
    fs::remove_file(folder.path().join("rules/a.yaml")).expect("it is ours");
    until_said(&folder, "rules: holds no .yaml, .yml or .json file");
    assert_eq!(kept(&control).0, names(&["c"]));
    control.kill();

    // Without files they are like others.
    let control = Control::start(&folder);
    assert_eq!(control.ask("DELETE /api/v1/objects/Service/default/c", "", "").0, 200);
}

#[test]
fn a_freeze_holds_files_until_it_is_over() {
    let folder = Scratch::create("files").expect("a folder");
    write(&folder, "a.yaml", &service("a", 80));
    let control = start(&folder);
    control.apply(
        "{apiVersion: evenkeel.dev/v1alpha1, kind: ChangeFreeze, metadata: {name: night}, spec: {windows: [{start: \
         \"2026-01-01T00:00:00Z\", duration: 87600h}], breakGlass: {roles: [operator, admin]}}}",
    );
    write(&folder, "a.yaml", &service("a", 81));
    until_said(&folder, "a.yaml:1: Service/default/a must not be changed before 2035-12-30");
    let gone = control.ask("DELETE /api/v1/objects/ChangeFreeze/default/night?breakGlass=true&message=over", "", "");
    assert_eq!(gone.0, 200, "{}", gone.1);
    // It is read again when it changes; nobody waits for the freeze's end in a test.
    write(&folder, "a.yaml", &format!("# again\n{}", service("a", 81)));
    until_said(&folder, "revision 4: 1 document of files changed");
}

#[test]
fn a_first_start_with_bad_files_ends() {
    let folder = Scratch::create("files").expect("a folder");
    write(&folder, "a.yaml", &format!("{}\n---\nkind: Service\n", service("a", 80)));
    write(&folder, "b.yaml", &service("a", 81));
    let mut command = Command::new(evenkeel());
    command.args(["control", "--plaintext", "--listen", "127.0.0.1:0", "--xds", "127.0.0.1:0", "--data", "data"]);
    let output = command.args(["-f", "rules"]).current_dir(folder.path()).stdin(Stdio::null()).output();
    let output = output.expect("evenkeel can be started");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let expected = "error: rules/a.yaml:3: apiVersion: is missing\nerror: rules/b.yaml:1: metadata.name: Service/default/a is there \
                    already, at rules/a.yaml:1";
    assert!(output.status.code() == Some(1) && said.trim_end() == expected, "{said}");
}

/// `evenkeel control WORD --data FOLDER` with something on its standard input.
fn store(word: &str, data: &Path, input: &[u8]) -> Output {
    let mut command = Command::new(evenkeel());
    command.args(["control", word, "--data"]).arg(data);
    let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = piped.spawn().expect("evenkeel can be started");
    // Whoever has seen enough reads no more.
    let _ = child.stdin.take().expect("it is piped").write_all(input);
    child.wait_with_output().expect("a child can be waited for")
}

#[test]
fn a_store_becomes_a_file_and_a_store_again() {
    let folder = Scratch::create("files").expect("a folder");
    let control = Control::start(&folder);
    control.apply(&service("a", 80));
    control.apply(&service("a", 81));
    control.apply(&service("b", 80));
    control.ask("DELETE /api/v1/objects/Service/default/b", "", "");
    let (_, made) = control.ask("POST /api/v1/tokens", "", r#"{"name": "ci", "role": "operator"}"#);
    let secret = made["token"].as_str().expect("a secret").to_owned();
    let everything = |control: &Control| {
        [
            "objects",
            "history?count=9",
            "objects/Service/default/a/history",
            "objects/Service/default/b/history",
            "tokens",
            "audit",
        ]
        .map(|path| control.ask(&format!("GET /api/v1/{path}"), "", "").1.to_string())
    };
    let before = everything(&control);
    let data = folder.path().join("data");
    let busy = store("export", &data, b"");
    let said = String::from_utf8_lossy(&busy.stderr).into_owned();
    assert!(!busy.status.success() && said.contains("is control running there?"), "{said}");
    control.kill();
    let export = store("export", &data, b"");
    assert!(export.status.success(), "{}", String::from_utf8_lossy(&export.stderr));
    let text = String::from_utf8_lossy(&export.stdout).into_owned();
    assert!(!text.contains(&secret) && text.lines().count() > 10, "{text}");

    let other = Scratch::create("files").expect("a folder");
    let into = other.path().join("data");
    let lines: Vec<&str> = text.lines().collect();
    let torn = lines[..lines.len() - 1].join("\n") + "\n";
    let short = [lines[..3].join("\n"), lines[lines.len() - 1].to_owned()].join("\n");
    for (input, words) in [
        ("", "line 1: it breaks off; nothing was imported"),
        ("{}\n", "line 1: it is no export of a store"),
        ("what\n", "line 1: expected value"),
        (&torn, "it breaks off; nothing was imported"),
        (&short, "line 4: 3 lines came, and"),
        (&text.replacen(r#""format":1"#, r#""format":9"#, 1), "line 1: its format is 9, and this build knows 1"),
        (&text.replace("Service/default/a", "Service/default/x"), "the document is not what it is called"),
        (&text.replacen('\n', "\n{\"trial\":\"now\",\"is\":{}}\n", 1), "line 2: it is nothing that could be on trial"),
    ] {
        let output = store("import", &into, input.as_bytes());
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(1) && said.contains(words), "{words}: {said}");
    }
    let import = store("import", &into, text.as_bytes());
    let said = String::from_utf8_lossy(&import.stderr).into_owned();
    assert!(import.status.success() && said.contains("lines imported into"), "{said}");
    // Not on top of something.
    let again = store("import", &into, text.as_bytes());
    assert!(String::from_utf8_lossy(&again.stderr).contains("there is something in it already"));
    assert_eq!(String::from_utf8_lossy(&store("export", &into, b"").stdout), text);
    let control = Control::start(&other);
    assert_eq!(everything(&control), before);
    let token = format!("Authorization: Bearer {secret}\r\n");
    assert_eq!(control.ask("POST /api/v1/objects", &token, &service("c", 80)).0, 200);
    let nothing = store("export", &folder.path().join("nowhere"), b"");
    assert!(String::from_utf8_lossy(&nothing.stderr).contains("the store: there is none in"));
}
