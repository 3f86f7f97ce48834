//! The image: the Dockerfile's own build line makes static binaries, and they serve in a folder that has nothing else,
//! as a user without rights. What only an image registry could show is not tested: that the base image exists.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use e2e::kit::{Backend, Launch, Rules};
use rustix::process::Signal;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("control lies in the workspace")
}

/// The one `RUN` line, without its word.
fn build_line(dockerfile: &str) -> &str {
    let lines: Vec<&str> = dockerfile.lines().filter_map(|line| line.strip_prefix("RUN ")).collect();
    assert_eq!(lines.len(), 1, "the Dockerfile has one RUN line: {lines:?}");
    lines[0]
}

/// Where the build leaves what is copied into the image, and where in the image it lies.
fn copied(dockerfile: &str) -> Vec<(PathBuf, &str)> {
    dockerfile
        .lines()
        .filter_map(|line| line.strip_prefix("COPY --from=build /src/"))
        .map(|line| line.split_once(' ').expect("from and to"))
        .map(|(from, to)| (root().join(from), to))
        .collect()
}

/// Loaders and libraries that a binary asks for.
fn needed(binary: &Path) -> Vec<String> {
    let output = Command::new(e2e::need("readelf").expect("readelf"))
        .args(["--program-headers", "--dynamic", "--wide"])
        .arg(binary)
        .output()
        .expect("readelf can be started");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines().filter(|line| line.contains("INTERP") || line.contains("(NEEDED)")).map(str::to_owned).collect()
}

#[test]
fn the_build_line_makes_static_binaries_that_serve_in_an_empty_root() {
    assert!(
        rustix::process::geteuid().is_root(),
        "only root can change its root folder; run: sudo -E cargo test -p control --test it image"
    );
    let dockerfile = std::fs::read_to_string(root().join("Dockerfile")).expect("a Dockerfile");
    let status = Command::new("sh")
        .args(["-c", build_line(&dockerfile)])
        .current_dir(root())
        // The paths of the image are relative to its source folder.
        .env("CARGO_TARGET_DIR", root().join("target"))
        .stdin(Stdio::null())
        .status()
        .expect("sh can be started");
    assert!(status.success(), "{status}");
    assert!(dockerfile.contains("\nUSER 65532:65532\n") && dockerfile.contains("\nFROM scratch\n"), "{dockerfile}");
    let binaries = copied(&dockerfile);
    assert_eq!(binaries.iter().map(|(_, to)| *to).collect::<Vec<_>>(), ["/evenkeel", "/evenkeel-proxy"]);
    for (binary, to) in binaries {
        assert_eq!(needed(&binary), Vec::<String>::new(), "{to} is not static");
        let backend = Backend::canned("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello");
        let words: &[&str] = if to == "/evenkeel" { &["gateway"] } else { &[] };
        let rules = Rules::to(backend.address()).yaml();
        let mut gateway = Launch::new(rules).chroot(&binary, words).start();
        let uid = std::fs::read_to_string(format!("/proc/{}/status", gateway.id())).expect("the process is ours");
        assert!(uid.lines().any(|line| line == "Uid:\t65532\t65532\t65532\t65532"), "{uid}");
        let mut client = gateway.connect();
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(client.read().map(|answer| answer.text()), Ok("hello".into()), "{to}");
        // Files are watched there, too.
        let empty = Rules::new().service("web", &[]).rule("backendRefs: [{name: web, port: 80}]").yaml();
        let time = gateway.reload(&empty);
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(client.read().map(|answer| answer.status()), Ok(503), "{to}");
        println!("{to}: {} bytes, reloaded after {time:?}", std::fs::metadata(&binary).expect("a file").len());
        gateway.signal(Signal::TERM);
        assert_eq!(gateway.wait().and_then(|status| status.code()), Some(0), "{}", gateway.stderr());
    }
}
