//! A control server that starts where something of an earlier start is lost or damaged: it says so, and makes up none.

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use e2e::kit::{Guard, Scratch, evenkeel};

use crate::access::Control;

/// All files, in the order in which the first start makes them.
const FILES: [&str; 4] = ["store.redb", "ca.key", "ca.crt", "admin.token"];

fn service(name: &str) -> String {
    crate::server::service(name, 80)
}

/// `evenkeel control ARGUMENTS`, with something on its standard input.
fn control(arguments: &[&str], data: &Path, input: Stdio) -> Output {
    let mut command = Command::new(evenkeel());
    command.arg("control").args(arguments).arg("--data").arg(data).stdin(input);
    command.output().expect("evenkeel can be started")
}

/// What a control says that ends at once; at loopback ports that are free.
fn refused(flags: &[&str], data: &Path) -> String {
    let places = ["--listen", "127.0.0.1:0", "--xds", "127.0.0.1:0"];
    let output = control(&[flags, &places].concat(), data, Stdio::null());
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(1) && !said.contains("panicked"), "{said}");
    said
}

fn succeed(arguments: &[&str], data: &Path) -> String {
    let output = control(arguments, data, Stdio::null());
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    said
}

fn status(control: &Control, token: &str) -> u16 {
    control.ask(Some(token), "GET /api/v1/objects", "").0
}

#[test]
fn a_store_that_is_lost_is_missed() {
    let folder = Scratch::create("starts").expect("a folder");
    let server = Control::start(&folder, &[]);
    server.apply(&service("a"));
    let data = server.data.clone();
    drop(server);
    let store = data.join("store.redb");
    let export = folder.path().join("export");
    fs::write(&export, control(&["export"], &data, Stdio::null()).stdout).expect("a file");

    fs::write(&store, "").expect("a file");
    let said = refused(&[], &data);
    let words =
        "store.redb is empty, and ca.key, ca.crt, admin.token, connected of an earlier start are: is the disk mounted?";
    assert!(said.contains(words) && said.contains("control import --data") && said.contains("control new"), "{said}");
    fs::remove_file(&store).expect("it is ours");
    for _ in 0..2 {
        let said = refused(&[], &data);
        assert!(said.contains("store.redb is not there, and ca.key, ca.crt, admin.token, connected of an"), "{said}");
        assert!(!store.exists(), "the next one shall not take it for a store that is empty");
    }
    let said = String::from_utf8_lossy(&control(&["reset-admin"], &data, Stdio::null()).stderr).into_owned();
    assert!(said.contains("the store: there is none in"), "{said}");
    // It comes back from an export, with those who are known, and once only.
    let input = || fs::File::open(&export).expect("a file").into();
    assert!(control(&["import"], &data, input()).status.success());
    assert!(String::from_utf8_lossy(&control(&["new"], &data, Stdio::null()).stderr).contains("there is one in"));
    let server = Control::start(&folder, &[]);
    let objects = server.ask(Some(&server.admin()), "GET /api/v1/objects", "");
    assert!(objects.0 == 200 && objects.2.to_string().contains("Service"), "{objects:?}");
    drop(server);
    // One file is enough, with --plaintext and without.
    fs::write(data.join("connected"), "default/edge@host:1\n").expect("a file");
    for name in FILES {
        fs::remove_file(data.join(name)).expect("it is ours");
    }
    let said = refused(&["--plaintext"], &data);
    assert!(said.contains("store.redb is not there, and connected of an earlier start is: is the disk"), "{said}");
    // Who means it begins with nothing.
    assert!(succeed(&["new"], &data).contains("an empty store is in"));
    let server = Control::start(&folder, &[]);
    let objects = server.ask(Some(&server.admin()), "GET /api/v1/objects", "");
    assert_eq!((objects.0, &*objects.2.to_string()), (200, r#"{"objects":[],"revision":0}"#));
}

#[test]
fn a_first_start_that_is_cut_short_locks_nobody_out() {
    let whole = Scratch::create("starts").expect("a folder");
    drop(Control::start(&whole, &[]));
    // As many files as it had made, and what it was at.
    for (count, left) in [
        (0, Some("store.next")),
        (0, Some("store.redb")),
        (1, None),
        (1, Some("ca.next")),
        (2, None),
        (3, None),
        (3, Some("admin.next")),
        (4, None),
    ] {
        let folder = Scratch::create("starts").expect("a folder");
        let data = folder.path().join("data");
        if count > 0 {
            // No token in a file is in this store.
            succeed(&["new"], &data);
        }
        fs::create_dir_all(&data).expect("a folder");
        for name in FILES.iter().take(count).skip(1) {
            fs::copy(whole.path().join("data").join(name), data.join(name)).expect("a file");
        }
        if let Some(name) = left {
            fs::write(data.join(name), "").expect("a file");
        }
        let control = Control::start(&folder, &[]);
        assert_eq!(status(&control, &control.admin()), 200, "{count} {left:?}");
    }
    // Killed anywhere.
    for round in 0..30 {
        let folder = Scratch::create("starts").expect("a folder");
        for millis in [round, 30 - round] {
            let mut command = Command::new(evenkeel());
            command.args(["control", "--listen", "127.0.0.1:0", "--xds", "127.0.0.1:0", "--data"]);
            command.arg(folder.path().join("data")).stdin(Stdio::null()).stderr(Stdio::null());
            let guard = Guard::start_anywhere(&mut command).expect("evenkeel can be started");
            std::thread::sleep(Duration::from_millis(millis));
            drop(guard);
        }
        let control = Control::start(&folder, &[]);
        assert_eq!(status(&control, &control.admin()), 200, "{round}");
    }
}

#[test]
fn a_store_that_is_damaged_is_named() {
    let folder = Scratch::create("starts").expect("a folder");
    let server = Control::start(&folder, &[]);
    for name in ["a", "b", "c"] {
        server.apply(&service(name));
    }
    let data = server.data.clone();
    drop(server);
    let store = data.join("store.redb");
    let good = fs::read(&store).expect("a file");
    let with = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = good.clone();
        change(&mut bytes);
        bytes
    };
    for (what, bytes) in [
        ("cut off", good[..good.len() / 2].to_vec()),
        ("cut to a page", good[..4096].to_vec()),
        ("cut to a word", good[..5].to_vec()),
        ("zeros", vec![0; good.len()]),
        ("a zero", vec![0]),
        ("another file", b"documents: none\n".repeat(1_000)),
        ("another word at the front", with(&|bytes| bytes[0] ^= 1)),
        ("zeros at the front", with(&|bytes| bytes[..4096].fill(0))),
        ("noise after the front", with(&|bytes| bytes[9..320].fill(0xa5))),
        ("zeros behind", with(&|bytes| bytes[4096..].fill(0))),
        ("noise behind", with(&|bytes| bytes[4096..].fill(0xa5))),
    ] {
        fs::write(&store, bytes).expect("a file");
        let said = refused(&[], &data);
        assert!(
            said.contains("store.redb is damaged, or is none: ") && said.contains("control import --data FOLDER"),
            "{what}: {said}"
        );
        let said = String::from_utf8_lossy(&control(&["export"], &data, Stdio::null()).stderr).into_owned();
        assert!(said.contains("store.redb is damaged, or is none: "), "{what}: {said}");
    }
    fs::write(&store, good).expect("a file");
    let server = Control::start(&folder, &[]);
    assert_eq!(status(&server, &server.admin()), 200);
}

#[test]
fn a_lost_token_is_made_anew_by_whoever_has_the_folder() {
    let folder = Scratch::create("starts").expect("a folder");
    let server = Control::start(&folder, &[]);
    let (data, first) = (server.data.clone(), server.admin());
    let file = data.join("admin.token");
    drop(server);
    // Somebody may have it elsewhere: nothing happens to it by itself.
    fs::remove_file(&file).expect("it is ours");
    let server = Control::start(&folder, &[]);
    let hint = "admin.token has no admin's token: if nobody else has one, `evenkeel control reset-admin --data";
    assert!(server.log(&folder).contains(hint), "{}", server.log(&folder));
    assert_eq!((status(&server, &first), file.exists()), (200, false));
    let busy = String::from_utf8_lossy(&control(&["reset-admin"], &data, Stdio::null()).stderr).into_owned();
    assert!(busy.contains("is control running there?") && !file.exists(), "{busy}");
    drop(server);
    assert!(succeed(&["reset-admin"], &data).contains("the admin's token is in"));
    let server = Control::start(&folder, &[]);
    let second = server.admin();
    assert_eq!([&first, &second].map(|token| status(&server, token)), [401, 200]);
    assert!(!server.log(&folder).contains(hint));
    let audit = server.ask(Some(&second), "GET /api/v1/audit?count=9", "").2.to_string();
    assert_eq!(audit.matches(r#""name":"admin""#).count(), 2, "{audit}");

    // One that was revoked stays so, as long as there is another admin.
    let boss = server.token(&serde_json::json!({"name": "boss", "role": "admin"}));
    assert_eq!(server.ask(Some(&boss), "DELETE /api/v1/tokens/admin", "").0, 200);
    drop(server);
    let server = Control::start(&folder, &[]);
    assert_eq!([&second, &boss].map(|token| status(&server, token)), [401, 200]);
    assert!(server.log(&folder).contains(hint));
    drop(server);
    fs::remove_file(data.join("ca.crt")).expect("it is ours");
    succeed(&["reset-admin"], &data);
    let server = Control::start(&folder, &[]);
    assert_eq!([&second, &boss, &server.admin()].map(|token| status(&server, token)), [401, 200, 200]);
    let log = server.log(&folder);
    assert!(log.contains("ca.crt was not there, and is made anew from ca.key: whoever has the old file"), "{log}");
    drop(server);
    fs::remove_file(data.join("ca.key")).expect("it is ours");
    let said = refused(&[], &data);
    assert!(said.contains("ca.crt is there, and ") && said.contains("ca.key is not: bring ca.key back"), "{said}");
}
