//! What may go wrong while an instance goes. Real processes, under load; nothing fails but what the test says.

use std::time::Duration;

use e2e::kit::{Backend, Ended, Sidecar, until};
use rustix::process::Signal;

use crate::mesh::{Load, Mesh, app};

/// Lets an instance go, and waits until it has, and its sidecar has ended, which stays for as long as the application does.
fn end(mesh: &Mesh, name: &str, sidecar: &mut Sidecar, app: Backend) {
    sidecar.signal(Signal::TERM);
    mesh.receipt(name);
    drop(app);
    assert!(sidecar.wait().is_some_and(|status| status.success()), "{}", sidecar.stderr());
}

/// Answers with its name; `/export` without an end, and `/slow` not at all.
fn endless(name: &'static str) -> Backend {
    Backend::start(move |served| {
        while let Some(request) = served.request() {
            let head = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n";
            if request.start.contains("/export") {
                served.peer.send(format!("{head}Transfer-Encoding: chunked\r\n\r\n"));
                while served.peer.send(format!("400\r\n{}\r\n", "x".repeat(1_024))) {
                    std::thread::sleep(Duration::from_millis(2));
                }
                return;
            }
            if request.start.contains("/slow") {
                served.peer.read_to_end();
                return;
            }
            served.peer.send(format!("{head}Content-Length: {}\r\n\r\n{name}", name.len()));
        }
    })
}

#[test]
fn a_download_without_an_end_is_cut_at_the_deadline_and_named() {
    let mesh = Mesh::start(1);
    let (one, two, three) = (endless("one"), app("two"), app("three"));
    let first = mesh.sidecar("one", &one, &["--drain-within", "4"]);
    mesh.wait_for(&[("one", "ready")]);
    let _gateway = mesh.gateway(0);
    let mut download = mesh.connect(0);
    download.send("GET /export?token=secret HTTP/1.1\r\nHost: shop.test\r\n\r\n");
    assert_eq!(download.read_head().expect("an answer").status(), 200);
    let mut slow = first.connect_inbound();
    slow.send("POST /slow HTTP/1.1\r\nHost: web\r\nContent-Length: 2\r\n\r\nhi");
    until("both at the application", || (one.requests().len() == 2).then_some(()));
    let mut second = mesh.sidecar("two", &two, &[]);
    let _third = mesh.sidecar("three", &three, &[]);
    mesh.wait_for(&[("one", "ready"), ("three", "ready"), ("two", "ready")]);
    let load = Load::default();
    std::thread::scope(|scope| {
        let running = mesh.load(scope, 0, &load);
        load.more(50);
        let waits = scope.spawn(|| mesh.command("drain web/one --wait"));
        until("its drain", || (mesh.all().iter().any(|one| one["phase"] == "draining")).then_some(()));
        // Whoever goes beside it does not wait for it.
        end(&mesh, "two", &mut second, two);
        assert_eq!(mesh.find_receipt("one"), None);
        let (code, text) = waits.join().expect("it ends");
        let mut cut: Vec<&str> = text.lines().filter_map(|line| line.trim().strip_prefix("cut: ")).collect();
        cut.sort_unstable();
        let place = slow.local_address();
        assert!(
            code == 1 && text.contains("its time was over") && cut.len() == 2 && !text.contains("secret"),
            "{code}: {text}"
        );
        assert!(
            cut[0].starts_with("GET shop.test/export from default/g0, under way for ")
                && cut[0].ends_with(" bytes of the answer sent"),
            "{text}"
        );
        assert!(
            cut[1].starts_with(&format!("POST web/slow from {place}, under way for "))
                && cut[1].ends_with(" s, nothing of an answer sent"),
            "{text}"
        );
        let receipt = mesh.receipt("one");
        assert_eq!((&receipt["cut"], receipt["cutRequests"].as_array().map(Vec::len)), (&2.into(), Some(2)));
        drop(running);
    });
    load.check();
    // They are cut, and not only said to be.
    let answer = slow.read().expect("an answer");
    assert_eq!((answer.status(), answer.text()), (503, "the instance has gone\n".into()));
    assert!(matches!(download.read_to_end(), Ended::Closed | Ended::Reset));
    until("the log", || first.stderr().contains("cut: GET shop.test/export from default/g0").then_some(()));
}
