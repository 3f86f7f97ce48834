//! An instance's app: answers with its name and with what the next service answered. Of a request it sends on nothing but its
//! path and its `traceparent`, and not even that where the path says that it loses it. Simple: a thread for each connection,
//! and no bodies but answers. Hot.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};

use crate::Outcome;

/// Of a head, and of an answer.
const BYTES_MAX: u64 = 64 << 10;

/// A running app. It takes no more connections once it is dropped; those that it has end with their sidecar.
pub(super) struct App {
    pub(super) address: SocketAddr,
    has_ended: Arc<AtomicBool>,
}

/// The next service and where its calls go out, once that is known.
pub(super) struct Next {
    pub(super) service: String,
    pub(super) door: OnceLock<SocketAddr>,
}

/// A request or an answer, as far as anybody here looks at it.
#[derive(Debug, Default)]
pub(super) struct Message {
    /// The second word of its first line: a path, or a status.
    pub(super) word: String,
    trace: Option<String>,
    length: usize,
}

impl App {
    /// Starts one that calls itself `service-lane`.
    pub(super) fn start(service: &str, lane: &str, next: Option<Arc<Next>>) -> Outcome<App> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let (address, has_ended) = (listener.local_addr()?, Arc::new(AtomicBool::new(false)));
        let (own, is_over) = ((format!("{service}-{lane}"), super::lost_at(service)), has_ended.clone());
        let own = Arc::new((own.0, own.1, next));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if is_over.load(Relaxed) {
                    return;
                }
                let own = own.clone();
                std::thread::spawn(move || serve(stream, &own.0, &own.1, own.2.as_deref()));
            }
        });
        Ok(App { address, has_ended })
    }
}

impl Drop for App {
    fn drop(&mut self) {
        self.has_ended.store(true, Relaxed);
        let _ = TcpStream::connect(self.address);
    }
}

/// The life of a connection, with one of its own to the next service.
fn serve(stream: TcpStream, name: &str, loses: &str, next: Option<&Next>) {
    let _ = stream.set_nodelay(true);
    let (mut reader, mut out) = (BufReader::new(stream), None);
    while let Some(request) = read(&mut reader) {
        let trace = request.trace.filter(|_| !request.word.ends_with(loses));
        let said = next.map(|next| {
            let field = trace.map_or(String::new(), |trace| format!("traceparent: {trace}\r\n"));
            let question = format!("GET {} HTTP/1.1\r\nHost: {}\r\n{field}\r\n", request.word, next.service);
            ask(&mut out, next.door.get().copied(), &question)
        });
        let body = match said {
            None => name.to_owned(),
            Some((200, said)) => format!("{name} {said}"),
            Some((status, said)) => format!("{name} {status}:{said}"),
        };
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        if reader.get_mut().write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}

/// Asks on a kept connection, or on a new one. Status 0: there was no answer, and why.
pub(super) fn ask(kept: &mut Option<BufReader<TcpStream>>, door: Option<SocketAddr>, question: &str) -> (u16, String) {
    let connect = || TcpStream::connect(door?).ok();
    let Some(mut reader) = kept.take().or_else(|| connect().map(BufReader::new)) else { return (0, "nobody".into()) };
    let _ = reader.get_ref().set_nodelay(true);
    if reader.get_mut().write_all(question.as_bytes()).is_err() {
        return (0, "it does not listen".into());
    }
    let Some(answer) = read(&mut reader) else { return (0, "no answer".into()) };
    let mut body = vec![0; answer.length];
    if reader.read_exact(&mut body).is_err() {
        return (0, "half an answer".into());
    }
    *kept = Some(reader);
    (answer.word.parse().unwrap_or(0), String::from_utf8_lossy(&body).into_owned())
}

/// The head of a message. None: the connection has ended, or it is none.
fn read(reader: &mut BufReader<TcpStream>) -> Option<Message> {
    let (mut message, mut lines) = (Message::default(), reader.take(BYTES_MAX));
    let mut line = String::new();
    lines.read_line(&mut line).ok().filter(|bytes| *bytes > 0)?;
    message.word = line.split(' ').nth(1)?.trim().to_owned();
    loop {
        line.clear();
        lines.read_line(&mut line).ok().filter(|bytes| *bytes > 0)?;
        let Some((name, value)) = line.trim_end().split_once(':') else { return Some(message) };
        match name.to_ascii_lowercase().as_str() {
            "traceparent" => message.trace = Some(value.trim().to_owned()),
            "content-length" => {
                message.length = value.trim().parse().ok().filter(|length| *length < BYTES_MAX as usize)?
            }
            _ => {}
        }
    }
}
