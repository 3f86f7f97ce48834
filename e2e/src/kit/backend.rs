//! A service behind the gateway that does what a test tells it, and remembers what it was sent. Cold.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use super::{Message, Peer, until};

/// What all connections of a backend share.
#[derive(Default)]
struct Shared {
    stopping: AtomicBool,
    connections: AtomicUsize,
    requests: Mutex<Vec<Message>>,
}

/// A listening service; each connection runs the script on a thread of its own.
pub struct Backend {
    address: SocketAddr,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

/// What a script has: its connection, its number from 0, and where it notes requests.
pub struct Served {
    /// The connection.
    pub peer: Peer,
    /// How many connections came before this one.
    pub number: usize,
    shared: Arc<Shared>,
}

impl Served {
    /// The next request, noted. None: there is none, however the connection ended.
    pub fn request(&mut self) -> Option<Message> {
        let request = self.peer.read().ok()?;
        self.note(request.clone());
        Some(request)
    }

    /// The head of the next request, noted; its body stays unread.
    pub fn request_head(&mut self) -> Option<Message> {
        let request = self.peer.read_head().ok()?;
        self.note(request.clone());
        Some(request)
    }

    fn note(&self, request: Message) {
        self.shared.requests.lock().expect("no holder of this lock panics").push(request);
    }
}

impl Backend {
    /// Starts a service whose connections run `script`; when it returns, the connection is closed.
    pub fn start(script: impl Fn(&mut Served) + Send + Sync + 'static) -> Backend {
        Backend::start_at((Ipv4Addr::LOCALHOST, 0).into(), script)
    }

    /// The same at an address of one's choice.
    pub fn start_at(address: SocketAddr, script: impl Fn(&mut Served) + Send + Sync + 'static) -> Backend {
        let listener = TcpListener::bind(address).expect("an address that is free");
        let address = listener.local_addr().expect("a listening socket has an address");
        let shared = Arc::new(Shared::default());
        let (script, of_acceptor) = (Arc::new(script), shared.clone());
        let acceptor = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if of_acceptor.stopping.load(SeqCst) {
                    return;
                }
                let Ok(stream) = stream else { continue };
                let number = of_acceptor.connections.fetch_add(1, SeqCst);
                let (script, shared) = (script.clone(), of_acceptor.clone());
                std::thread::spawn(move || script(&mut Served { peer: Peer::of(stream), number, shared }));
            }
        });
        Backend { address, shared, acceptor: Some(acceptor) }
    }

    /// Answers each request, once all of it is there, with the same bytes.
    pub fn canned(answer: impl Into<Vec<u8>>) -> Backend {
        let answer = answer.into();
        Backend::start(move |served| while served.request().is_some() && served.peer.send(&answer) {})
    }

    /// Answers each request with 200, telling back its body.
    pub fn echo() -> Backend {
        Backend::echo_at((Ipv4Addr::LOCALHOST, 0).into())
    }

    /// The same at an address of one's choice.
    pub fn echo_at(address: SocketAddr) -> Backend {
        Backend::start_at(address, |served| {
            while let Some(request) = served.request() {
                let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", request.body.len());
                if !served.peer.send([head.as_bytes(), &request.body].concat()) {
                    return;
                }
            }
        })
    }

    /// Answers each request when it is told to, and no more once the teller is gone.
    pub fn patient() -> (Backend, Sender<()>) {
        let (tell, told) = std::sync::mpsc::channel();
        let told = Mutex::new(told);
        let backend = Backend::start(move |served| {
            while served.request().is_some() {
                let told = told.lock().expect("no holder of this lock panics").recv();
                if told.is_err() || !served.peer.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok") {
                    return;
                }
            }
        });
        (backend, tell)
    }

    /// Answers 200, or 503 as long as it is ill, both without a body.
    pub fn ailing(is_ill: &Arc<AtomicBool>) -> Backend {
        let is_ill = is_ill.clone();
        Backend::start(move |served| {
            while served.request().is_some() {
                let status = if is_ill.load(SeqCst) { "503 Service Unavailable" } else { "200 OK" };
                if !served.peer.send(format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n")) {
                    return;
                }
            }
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many connections came.
    pub fn connections(&self) -> usize {
        self.shared.connections.load(SeqCst)
    }

    /// The requests so far.
    pub fn requests(&self) -> Vec<Message> {
        self.shared.requests.lock().expect("no holder of this lock panics").clone()
    }

    /// The one request that came, waiting for it, and forgets it.
    pub fn only_request(&self) -> Message {
        until("a request at the backend", || (!self.requests().is_empty()).then_some(()));
        let mut requests = std::mem::take(&mut *self.shared.requests.lock().expect("no holder of this lock panics"));
        assert_eq!(requests.len(), 1, "{requests:?}");
        requests.remove(0)
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.shared.stopping.store(true, SeqCst);
        // Wakes the acceptor, which then closes the listening socket.
        let _ = std::net::TcpStream::connect(self.address);
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
    }
}
