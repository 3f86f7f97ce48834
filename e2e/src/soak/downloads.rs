//! Downloads that live through revisions: `cargo run --release -p e2e -- soak downloads`. While rules change a hundred times
//! a second, started streams go on and keep nothing of the revisions that they outlive: memory stays where it was. A
//! RateLimit that no revision changes keeps counting. Cold.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::kit::{Gateway, Launch, Peer, Rules, until};
use crate::{Failure, Outcome};

/// Each download gets a piece so often.
const PIECE_EVERY: Duration = Duration::from_millis(500);
const PIECE: &[u8] = b"10\r\n0123456789abcdef\r\n";
/// Rules change so often.
const CHANGE_EVERY: Duration = Duration::from_millis(10);
/// Requests that the unchanged RateLimit lets through.
const LIMIT: u32 = 50;

/// What a run found.
#[derive(Clone, Copy, Debug)]
pub struct Found {
    /// Downloads, all alive at the end.
    pub downloads: usize,
    /// Revisions put in force meanwhile.
    pub revisions: u64,
    /// Resident memory before and after.
    pub resident_kib: (u64, u64),
    /// Requests that the RateLimit let through in all that time.
    pub admitted: u32,
    /// How long rules changed.
    pub elapsed: Duration,
}

impl Found {
    /// How much memory grew.
    pub fn growth(&self) -> f64 {
        self.resident_kib.1 as f64 / self.resident_kib.0 as f64 - 1.0
    }

    /// The limit held, and memory did not grow by more than a tenth.
    pub fn is_good(&self) -> bool {
        self.growth() <= 0.10 && self.admitted == LIMIT
    }
}

impl std::fmt::Display for Found {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            formatter,
            "{} downloads lived through {} revisions in {:.0?} ({:.0} a second)\n\
             resident memory {} to {} KiB: {:+.1} % (at most +10 % is allowed)\n\
             a RateLimit of {LIMIT} an hour let {} through",
            self.downloads,
            self.revisions,
            self.elapsed,
            self.revisions as f64 / self.elapsed.as_secs_f64(),
            self.resident_kib.0,
            self.resident_kib.1,
            self.growth() * 100.0,
            self.admitted,
        )
    }
}

/// Lets so many downloads live through so many changes of the rules.
pub fn run(launch: impl FnOnce(String) -> Launch, downloads: usize, changes: u64) -> Outcome<Found> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let backend = listener.local_addr()?;
    let gateway = launch(rules(backend, 0)).start();
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let served = scope.spawn(|| serve(&listener, &ended));
        let result = drive(&gateway, backend, downloads, changes);
        ended.store(true, Relaxed);
        served.join().map_err(|_| Failure::new("the service panicked"))??;
        result
    })
}

fn drive(gateway: &Gateway, backend: SocketAddr, downloads: usize, changes: u64) -> Outcome<Found> {
    let mut clients = Vec::new();
    for _ in 0..downloads {
        let mut client = TcpStream::connect(gateway.address())?;
        client.write_all(b"GET /download HTTP/1.1\r\nHost: a\r\n\r\n")?;
        client.set_nonblocking(true)?;
        clients.push(client);
    }
    let mut received = vec![0; clients.len()];
    until("a first piece of each download", || {
        read_all(&mut clients, &mut received).ok()?;
        received.iter().all(|received| *received > 200).then_some(())
    });
    // What a first revision touches for the first time is not what is looked at.
    for number in 1..=20 {
        change(gateway, backend, number);
    }
    let (revision, before) = (gateway.revision(), gateway.resident_kib());
    let mut limited = Peer::connect(gateway.address());
    let mut admitted = 0;
    let started = Instant::now();
    for number in 0..changes {
        change(gateway, backend, 21 + number);
        if number % 16 == 0 {
            limited.send("GET /limited HTTP/1.1\r\nHost: a\r\n\r\n");
            let answer = limited.read().map_err(|ended| Failure(format!("{ended:?}")))?;
            admitted += u32::from(answer.status() == 200);
            read_all(&mut clients, &mut received)?;
        }
        let next = CHANGE_EVERY * (number as u32 + 1);
        std::thread::sleep(next.saturating_sub(started.elapsed()));
    }
    let elapsed = started.elapsed();
    let (revisions, after) = (gateway.revision() - revision, gateway.resident_kib());
    let counts = received.clone();
    until("one more piece of each download", || {
        read_all(&mut clients, &mut received).ok()?;
        received.iter().zip(&counts).all(|(now, before)| now > before).then_some(())
    });
    Ok(Found { downloads, revisions, resident_kib: (before, after), admitted, elapsed })
}

/// Reads what is there. An error: a download has ended.
fn read_all(clients: &mut [TcpStream], received: &mut [usize]) -> Outcome<()> {
    let mut buffer = [0; 4096];
    for (client, received) in clients.iter_mut().zip(received) {
        loop {
            match client.read(&mut buffer) {
                Ok(0) => return Err(Failure::new("a download has ended")),
                Ok(count) => *received += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(Failure(format!("a download has ended: {error}"))),
            }
        }
    }
    Ok(())
}

fn change(gateway: &Gateway, backend: SocketAddr, number: u64) {
    gateway.write(&rules(backend, number));
    gateway.signal(Signal::HUP);
}

/// Rules of which everything but the RateLimit is another each time.
fn rules(backend: SocketAddr, number: u64) -> String {
    let header = format!(
        "{{type: RequestHeaderModifier, requestHeaderModifier: {{set: [{{name: x-n, value: \"{number}\"}}]}}}}"
    );
    Rules::new()
        .service("web", &[backend])
        .rule(&format!("name: limited\nmatches: [{{path: {{value: /limited}}}}]\nfilters: [{header}]\nbackendRefs: [{{name: web, port: 80}}]"))
        .rule(&format!("name: rest\nfilters: [{header}]\nbackendRefs: [{{name: web, port: 80}}]"))
        .traffic("web", &format!("timeouts: {{firstByte: {}ms}}", 50_000 + number))
        .protect(
            "RateLimit",
            "all",
            "{group: gateway.networking.k8s.io, kind: HTTPRoute, name: all, sectionName: limited}",
            &format!("limits: [{{requests: {LIMIT}, per: 1h}}]"),
        )
        .yaml()
}

/// A service on one thread: `/limited` is answered at once, everything else never ends.
fn serve(listener: &TcpListener, ended: &AtomicBool) -> Outcome<()> {
    listener.set_nonblocking(true)?;
    let (mut asking, mut streaming): (Vec<TcpStream>, Vec<TcpStream>) = Default::default();
    let mut next = Instant::now();
    while !ended.load(Relaxed) {
        while let Ok((stream, _)) = listener.accept() {
            stream.set_nonblocking(true)?;
            asking.push(stream);
        }
        let mut index = 0;
        while index < asking.len() {
            let mut buffer = [0; 4096];
            match asking[index].read(&mut buffer) {
                Ok(0) => drop(asking.swap_remove(index)),
                Ok(count) if buffer[..count].starts_with(b"GET /limited") => {
                    asking[index].write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")?;
                }
                Ok(_) => {
                    let mut stream = asking.swap_remove(index);
                    stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")?;
                    stream.write_all(PIECE)?;
                    streaming.push(stream);
                }
                Err(_) => index += 1,
            }
        }
        if Instant::now() >= next {
            next = Instant::now() + PIECE_EVERY;
            // A few bytes fit into any socket's buffer; who has gone is gone.
            streaming.retain_mut(|stream| stream.write_all(PIECE).is_ok());
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}
