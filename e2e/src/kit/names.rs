//! A DNS server that says what a test tells it, over UDP. Its packets are made by hand, so that it shares no code with
//! what is under test. Cold.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

/// What is said of a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// These addresses, for so many seconds.
    Addresses(Vec<IpAddr>, u32),
    /// The same, so much later.
    Late(Duration, Vec<IpAddr>, u32),
    /// There is no such name (NXDOMAIN).
    NoName,
    /// There is such a name, and it has no addresses.
    Nothing,
    /// SERVFAIL.
    Failure,
    /// Nothing at all.
    Silence,
}

#[derive(Default)]
struct Shared {
    replies: Mutex<HashMap<String, Reply>>,
    asked: Mutex<HashMap<String, usize>>,
    stopping: AtomicBool,
}

/// A running server; names that nobody told it of are not there.
pub struct NameServer {
    address: SocketAddr,
    shared: Arc<Shared>,
    server: Option<JoinHandle<()>>,
}

/// The type of an A record; AAAA is 28 (RFC 1035 3.2.2, RFC 3596 2.1).
const A: u16 = 1;
const AAAA: u16 = 28;

impl NameServer {
    /// Starts one on a port of its own.
    pub fn start() -> NameServer {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port is free");
        let address = socket.local_addr().expect("a bound socket has an address");
        let shared = Arc::new(Shared::default());
        let of_server = shared.clone();
        let server = std::thread::spawn(move || {
            let mut packet = [0; 1500];
            while let Ok((length, from)) = socket.recv_from(&mut packet) {
                if of_server.stopping.load(SeqCst) {
                    return;
                }
                answer(&socket, &of_server, &packet[..length], from);
            }
        });
        NameServer { address, shared, server: Some(server) }
    }

    /// Where it is asked.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it says of a name from now on.
    pub fn set(&self, name: &str, reply: Reply) {
        self.shared.replies.lock().expect("no holder of this lock panics").insert(name.to_owned(), reply);
    }

    /// How often it was asked for addresses of that name, of both kinds together.
    pub fn asked(&self, name: &str) -> usize {
        self.shared.asked.lock().expect("no holder of this lock panics").get(name).copied().unwrap_or(0)
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.shared.stopping.store(true, SeqCst);
        // Wakes the server.
        let _ = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|socket| socket.send_to(&[0], self.address));
        if let Some(server) = self.server.take() {
            let _ = server.join();
        }
    }
}

fn answer(socket: &UdpSocket, shared: &Shared, query: &[u8], from: SocketAddr) {
    let Some((name, end)) = question(query) else { return };
    let kind = u16::from_be_bytes([query[end], query[end + 1]]);
    *shared.asked.lock().expect("no holder of this lock panics").entry(name.clone()).or_default() += 1;
    let reply = shared.replies.lock().expect("no holder of this lock panics").get(&name).cloned();
    let (code, addresses, ttl, delay) = match reply.unwrap_or(Reply::NoName) {
        Reply::Silence => return,
        Reply::Addresses(addresses, ttl) => (0, addresses, ttl, None),
        Reply::Late(delay, addresses, ttl) => (0, addresses, ttl, Some(delay)),
        Reply::Nothing => (0, Vec::new(), 0, None),
        Reply::NoName => (3, Vec::new(), 0, None),
        Reply::Failure => (2, Vec::new(), 0, None),
    };
    let addresses: Vec<IpAddr> = addresses
        .into_iter()
        .filter(|address| (address.is_ipv4() && kind == A) || (address.is_ipv6() && kind == AAAA))
        .collect();
    // An answer with recursion (RFC 1035 4.1.1): one question, so many answers, nothing else.
    let mut packet = query[..2].to_vec();
    packet.extend([0x81, 0x80 | code, 0, 1]);
    packet.extend((addresses.len() as u16).to_be_bytes());
    packet.extend([0; 4]);
    packet.extend(&query[12..end + 4]);
    for address in addresses {
        // The name of the question, again.
        packet.extend([0xc0, 12]);
        packet.extend(kind.to_be_bytes());
        packet.extend(1_u16.to_be_bytes());
        packet.extend(ttl.to_be_bytes());
        let bytes = match address {
            IpAddr::V4(address) => address.octets().to_vec(),
            IpAddr::V6(address) => address.octets().to_vec(),
        };
        packet.extend((bytes.len() as u16).to_be_bytes());
        packet.extend(bytes);
    }
    match delay {
        None => drop(socket.send_to(&packet, from)),
        Some(delay) => {
            let socket = socket.try_clone().expect("a socket can be cloned");
            std::thread::spawn(move || {
                std::thread::sleep(delay);
                // Whoever asked may be gone.
                let _ = socket.send_to(&packet, from);
            });
        }
    }
}

/// The name of the first question, and where its type stands.
fn question(query: &[u8]) -> Option<(String, usize)> {
    let mut labels = Vec::new();
    let mut at = 12;
    loop {
        let length = usize::from(*query.get(at)?);
        at += 1;
        if length == 0 {
            return (query.len() >= at + 4).then(|| (labels.join(".").to_ascii_lowercase(), at));
        }
        labels.push(String::from_utf8_lossy(query.get(at..at + length)?).into_owned());
        at += length;
    }
}
