//! `evenkeel up`: what a newcomer meets in the first minute, and that nothing of it stays behind.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use e2e::kit::{Guard, PATIENCE, Peer, Scratch, evenkeel, free_port, until};
use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcgetattr, tcsetwinsize};

/// A demonstration with a folder of its own for what it writes.
struct Up {
    guard: Guard,
    folder: Scratch,
    port: u16,
}

impl Up {
    fn start(flags: &[&str]) -> Up {
        let folder = Scratch::create("up").expect("a folder");
        let log = |name: &str| File::create(folder.path().join(name)).expect("a file");
        Up::on(flags, Stdio::null(), log("stdout").into(), log("stderr").into(), folder)
    }

    fn on(flags: &[&str], stdin: Stdio, stdout: Stdio, stderr: Stdio, folder: Scratch) -> Up {
        let port = free_port();
        let temporary = folder.path().join("tmp");
        fs::create_dir(&temporary).expect("a folder");
        let mut command = Command::new(evenkeel());
        command.arg("up").args(flags).args(["--port", &port.to_string()]).env("TMPDIR", temporary);
        command.stdin(stdin).stdout(stdout).stderr(stderr);
        Up { guard: Guard::start_anywhere(&mut command).expect("evenkeel can be started"), folder, port }
    }

    fn told(&self, name: &str) -> String {
        fs::read_to_string(self.folder.path().join(name)).unwrap_or_default()
    }

    /// Its rules, once it serves.
    fn rules(&self) -> PathBuf {
        until("a line with figures", || self.told("stdout").contains("   1s  ").then_some(()));
        let started = fs::read_dir(self.folder.path().join("tmp")).expect("a folder").next().expect("its folder");
        started.expect("an entry").path().join("rules.yaml")
    }

    fn end(&mut self) -> ExitStatus {
        self.guard.wait(PATIENCE).expect("a child can be waited for").expect("it ends by itself")
    }

    /// Runs to its end with these keys, and tells its exit code, standard output and standard error.
    fn press(keys: &str, seconds: &str) -> (Option<i32>, String, String) {
        let mut up = Up::start(&["--plain", "--keys", keys, "--seconds", seconds]);
        let status = up.end();
        up.check_nothing_is_left();
        (status.code(), up.told("stdout"), up.told("stderr"))
    }

    /// Its children that still run and have all of these words in their command line, and the children's own children.
    fn children(&self, words: &[&str]) -> Vec<Pid> {
        let folder = self.folder.path().join("tmp").display().to_string();
        let processes = fs::read_dir("/proc").expect("Linux has it").flatten();
        let children = processes.filter_map(|entry| {
            let pid = Pid::from_raw(entry.file_name().to_str()?.parse().ok()?)?;
            let line = fs::read(entry.path().join("cmdline")).ok()?;
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            (line.contains(&folder) && words.iter().all(|word| line.contains(word))).then_some(pid)
        });
        children.collect()
    }

    /// Neither a process, nor a file, nor a listener.
    fn check_nothing_is_left(&self) {
        assert_eq!(self.left(), [""; 0]);
    }

    fn left(&self) -> Vec<String> {
        let files = fs::read_dir(self.folder.path().join("tmp")).expect("a folder").flatten();
        let mut left: Vec<String> = files.map(|file| file.path().display().to_string()).collect();
        left.extend(self.children(&[]).iter().map(|pid| format!("process {pid:?}")));
        let stdout = self.told("stdout");
        let api = stdout.split_once("EVENKEEL_SERVER=").and_then(|(_, rest)| rest.split(' ').next());
        let doors = [Some(format!("127.0.0.1:{}", self.port)), api.map(str::to_owned)];
        left.extend(doors.into_iter().flatten().filter(|door| TcpListener::bind(door).is_err()));
        left
    }
}

/// The number before these words in the last lines.
fn count(stdout: &str, words: &str) -> u64 {
    let last = stdout.split_once("ended after").expect("it ends with a summary").1;
    let before = last.split_once(words).unwrap_or_else(|| panic!("{words:?} is missing: {last}")).0;
    before.rsplit(' ').next().expect("a word").parse().expect("a number")
}

#[test]
fn traffic_flows_in_lanes() {
    let mut up = Up::start(&["--plain", "--seconds", "3"]);
    let status = up.end();
    let (stdout, stderr) = (up.told("stdout"), up.told("stderr"));
    assert_eq!(status.code(), Some(0), "{stdout}\n{stderr}");
    for words in [
        "base      web(base) > cart(base) > price(base) > stock(base)\n",
        "blue      web(blue) > cart(blue) > price(base) > stock(blue)\n",
        " limited, 0 failed, 0 wrong lane",
        ", 0 failed, 0 in a wrong lane\n  base: ",
        "try it    curl http://127.0.0.1:",
    ] {
        assert!(stdout.contains(words), "{words:?} is missing:\n{stdout}\n{stderr}");
    }
    assert!(!stdout.contains('\x1b'), "{stdout:?}");
    assert!(!stderr.contains("panicked"), "{stderr}");
    up.check_nothing_is_left();
}

#[test]
fn it_ends_at_each_signal_and_leaves_nothing() {
    for signal in [Signal::INT, Signal::TERM, Signal::HUP] {
        let mut up = Up::start(&["--plain"]);
        let rules = fs::read_to_string(up.rules()).expect("rules");
        assert!(rules.contains("kind: LaneGroup") && rules.starts_with("# "), "{rules}");
        let mut alice = Peer::connect(SocketAddr::from((Ipv4Addr::LOCALHOST, up.port)));
        alice.send("GET / HTTP/1.1\r\nHost: a\r\nx-user: alice\r\n\r\n");
        let answer = alice.read().expect("an answer");
        assert_eq!(answer.text(), "web(blue) > cart(blue) > price(base) > stock(blue)\n");
        assert_eq!((answer.status(), answer.get("x-evenkeel-lane")), (200, None));
        let began = std::time::Instant::now();
        let status = up.guard.end(signal, PATIENCE).expect("a signal").expect("it ends by itself");
        // Two seconds, and as many for a busy machine.
        assert!(began.elapsed() < Duration::from_secs(4), "{signal:?}: {:?}", began.elapsed());
        assert_eq!(status.code(), Some(0), "{signal:?}: {}", up.told("stdout"));
        up.check_nothing_is_left();
    }
}

#[test]
fn a_wrong_lane_is_noticed_and_named() {
    let mut up = Up::start(&["--plain", "--seconds", "4"]);
    let path = up.rules();
    let rules = fs::read_to_string(&path).expect("rules");
    fs::write(&path, rules.replace("value: alice", "value: nobody")).expect("a file");
    assert_eq!(up.end().code(), Some(1), "{}", up.told("stdout"));
    let stdout = up.told("stdout");
    assert!(stdout.contains("instead of blue"), "{stdout}\n{}", up.told("stderr"));
    up.check_nothing_is_left();
}

#[test]
fn instances_are_replaced_and_a_lane_is_opened_and_no_request_fails() {
    let (code, stdout, stderr) = Up::press("2rl", "3");
    assert_eq!(code, Some(0), "{stdout}\n{stderr}");
    for words in
        ["cart base restarts", "cart base restarted: 2 in", "0 requests failed", "20 of 100 others", "of files changed"]
    {
        assert!(stderr.contains(words), "{words:?} is missing:\n{stdout}\n{stderr}");
    }
    assert!(stdout.contains("  2 drained, last cart-2 forgotten by "), "{stdout}\n{stderr}");
    assert_eq!((count(&stdout, " failed, "), count(&stdout, " in a wrong lane")), (0, 0), "{stdout}\n{stderr}");
}

#[test]
fn nobody_notices_that_control_is_killed() {
    let (code, stdout, stderr) = Up::press("cc", "4");
    assert_eq!(code, Some(0), "{stdout}\n{stderr}");
    for words in ["you: control is killed", "is not there, its last rules stay in force", "you: control comes back"] {
        assert!(stderr.contains(words), "{words:?} is missing:\n{stdout}\n{stderr}");
    }
    let lines: Vec<&str> = stdout.lines().filter(|line| line.contains(" limited, 0 failed, 0 wrong lane")).collect();
    assert!(lines.iter().any(|line| line.contains("control DEAD for ")), "{stdout}");
    assert!(!lines.last().expect("lines").contains("DEAD"), "{stdout}");
}

#[test]
fn who_is_killed_comes_back() {
    let mut up = Up::start(&["--plain", "--keys", "2k"]);
    up.rules();
    // By others, too.
    let kill = |words: &[&str]| {
        let found = up.children(words);
        assert_eq!(found.len(), 1, "{words:?}");
        kill_process(found[0], Signal::KILL).expect("it runs");
        found[0]
    };
    kill(&[" proxy ", "--instance stock-3"]);
    until("all are back", || {
        let stderr = up.told("stderr");
        ["cart-5 stands in for cart-1", "stock-5 stands in for stock-3"]
            .iter()
            .all(|words| stderr.contains(words))
            .then_some(())
    });
    let before = kill(&[" gateway "]);
    until("another gateway", || up.children(&[" gateway "]).into_iter().find(|pid| *pid != before));
    until("clients come in", || Peer::try_connect(SocketAddr::from((Ipv4Addr::LOCALHOST, up.port))).ok());
    assert_eq!(up.children(&[" proxy "]).len(), 16);
    up.guard.end(Signal::INT, PATIENCE).expect("a signal").expect("it ends by itself");
    up.check_nothing_is_left();
    let (stdout, stderr) = (up.told("stdout"), up.told("stderr"));
    for words in
        ["cart-1 is killed", "stock-3 has ended (signal: 9 (SIGKILL))", "gateway has ended (signal: 9 (SIGKILL)"]
    {
        assert!(stderr.contains(words), "{words:?} is missing:\n{stdout}\n{stderr}");
    }
    assert_eq!(count(&stdout, " in a wrong lane"), 0, "{stdout}\n{stderr}");
}

#[test]
fn a_service_that_forgets_its_trace_is_found_and_named() {
    let (code, stdout, stderr) = Up::press("3t", "4");
    assert_eq!(code, Some(1), "{stdout}\n{stderr}");
    let words = " times wrong lane: price > stock: stock(base) served a request of blue";
    assert_eq!(count(&stdout, words), count(&stdout, " in a wrong lane"), "{stdout}\n{stderr}");
    assert!(stdout.contains("| price-1 NO TRACE | price-2 NO TRACE"), "{stdout}\n{stderr}");
}

#[test]
fn nothing_is_left_of_one_that_is_killed() {
    let mut up = Up::start(&["--plain"]);
    up.rules();
    // Control, the gateway, sixteen sidecars, and the broom.
    assert_eq!(up.children(&[]).len(), 19);
    up.guard.end(Signal::KILL, PATIENCE).expect("a signal");
    until("everything is gone", || up.left().is_empty().then_some(()));
}

#[test]
fn it_talks_to_nobody_else() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    taken.set_nonblocking(true).expect("a socket takes that");
    let port = taken.local_addr().expect("an address").port().to_string();
    let output = Command::new(evenkeel())
        .args(["up", "--plain", "--seconds", "2", "--port", &port])
        .output()
        .expect("evenkeel can be started");
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("cannot listen on"), "{output:?}");
    assert!(taken.accept().is_err(), "it talked to another program");
}

#[test]
fn what_cannot_be_shown_or_written_is_a_failure() {
    let scratch = Scratch::create("up-missing").expect("a folder");
    let missing = scratch.path().join("missing");
    let run = |stdout: Stdio, temporary: &Path| {
        let mut command = Command::new(evenkeel());
        command.args(["up", "--seconds", "20", "--port", &free_port().to_string()]).env("TMPDIR", temporary);
        let output = command.stdin(Stdio::null()).stdout(stdout).output().expect("evenkeel can be started");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let full = File::options().write(true).open("/dev/full").expect("Linux has it");
    let (code, stderr) = run(full.into(), scratch.path());
    assert!(code == Some(1) && stderr.contains("the view ended: No space left on device"), "{code:?}: {stderr}");
    let (code, stderr) = run(Stdio::null(), &missing.join("dir"));
    let expected = format!("cannot create {}/dir/evenkeel-up-", missing.display());
    assert!(code == Some(1) && stderr.starts_with(&expected), "{code:?}: {stderr}");
    assert!(!missing.exists(), "it was created");
    // A reader that has seen enough is none.
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let (code, stderr) = run(writer.into(), scratch.path());
    assert_eq!(code, Some(0), "{stderr}");
    let left: Vec<_> = fs::read_dir(scratch.path()).expect("a folder").collect();
    assert!(left.is_empty(), "{left:?}");
}

/// Our side and the other side of a new terminal, and the name of the latter.
fn terminal() -> (File, File, String) {
    // Not for children: a terminal is closed when nobody has our side.
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let master = openpt(flags).expect("a pseudo-terminal");
    grantpt(&master).and_then(|()| unlockpt(&master)).expect("it is ours");
    let name = ptsname(&master, Vec::new()).expect("a name").into_string().expect("a path");
    let other = open(&name);
    let size = Winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 };
    tcsetwinsize(&other, size).expect("a terminal has a size");
    (File::from(master), other, name)
}

fn open(name: &str) -> File {
    File::options().read(true).write(true).open(name).expect("a terminal")
}

/// Reads on until these words were seen.
fn read_until(screen: &mut File, seen: &mut String, words: &str) {
    let mut bytes = [0; 4096];
    until(words, || {
        if seen.contains(words) {
            return Some(());
        }
        // It draws again and again, so that this never waits for long.
        let length = screen.read(&mut bytes).unwrap_or(0);
        seen.push_str(&String::from_utf8_lossy(&bytes[..length]));
        None
    });
}

#[test]
fn the_live_view_takes_keys_and_gives_the_terminal_back() {
    // The other side is kept open, so that it is the same terminal before and after.
    let (mut screen, kept, name) = terminal();
    let modes = || tcgetattr(&kept).map(|modes| (modes.local_modes, modes.input_modes, modes.output_modes));
    let before = modes().expect("a terminal has modes");
    let folder = Scratch::create("up-live").expect("a folder");
    let log = File::create(folder.path().join("stderr")).expect("a file");
    let mut up = Up::on(&[], open(&name).into(), open(&name).into(), log.into(), folder);
    let mut seen = String::new();
    read_until(&mut screen, &mut seen, "\x1b[?1049h");
    read_until(&mut screen, &mut seen, "blue");
    screen.write_all(b"4bf").expect("keys");
    read_until(&mut screen, &mut seen, "FAILING");
    screen.write_all(b"3R").expect("keys");
    read_until(&mut screen, &mut seen, "restarted ");
    screen.write_all(b"q").expect("a key");
    read_until(&mut screen, &mut seen, "\x1b[?1049l");
    read_until(&mut screen, &mut seen, "ended after");
    assert_eq!(up.end().code(), Some(0), "{}", up.told("stderr"));
    assert_eq!(modes().expect("a terminal has modes"), before);
    assert_eq!(up.told("stderr"), "", "it would have been written over the view");
    up.check_nothing_is_left();
}

#[test]
fn a_terminal_that_is_closed_ends_it() {
    let (mut screen, kept, name) = terminal();
    let folder = Scratch::create("up-closed").expect("a folder");
    let mut up = Up::on(&[], open(&name).into(), open(&name).into(), open(&name).into(), folder);
    read_until(&mut screen, &mut String::new(), "blue");
    drop((screen, kept));
    assert_eq!(up.end().code(), Some(0));
    up.check_nothing_is_left();
}
