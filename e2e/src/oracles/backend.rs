//! The server behind a gateway under test: answers every request with 200 and keeps its bytes. It tells where one
//! ends with our own reader, which is no leniency: what a gateway sends on should be plain. Cold.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::ours::Ours;
use super::reading::Verdict;

/// A listening server; its thread lives as long as the process.
pub(super) struct Backend {
    pub address: SocketAddr,
    seen: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Backend {
    /// Listens on a free port.
    pub fn start() -> io::Result<Backend> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let seen = Arc::new(Mutex::new(Vec::new()));
        let all = Arc::clone(&seen);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let seen = Arc::clone(&all);
                // A gateway may close whenever it likes.
                std::thread::spawn(move || serve(stream, &seen).unwrap_or_default());
            }
        });
        Ok(Backend { address, seen })
    }

    /// The requests since the last call. One that cannot be read is there up to where its connection ended.
    pub fn take(&self) -> Vec<Vec<u8>> {
        std::mem::take(&mut *self.seen.lock().unwrap_or_else(|poisoned| poisoned.into_inner()))
    }
}

fn serve(mut stream: TcpStream, seen: &Mutex<Vec<Vec<u8>>>) -> io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let mut input = Vec::new();
    let mut piece = [0; 8192];
    let keep = |request| seen.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).push(request);
    loop {
        match Ours::of(&input).verdict {
            Verdict::Accepted(reading) => {
                keep(input.drain(..reading.end.unwrap_or_default()).collect());
                stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")?;
                continue;
            }
            Verdict::Refused(_) => {
                keep(input);
                return Ok(());
            }
            Verdict::Unfinished => {}
        }
        match stream.read(&mut piece)? {
            0 if input.is_empty() => return Ok(()),
            0 => {
                keep(input);
                return Ok(());
            }
            n => input.extend_from_slice(&piece[..n]),
        }
    }
}
