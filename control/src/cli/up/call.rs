//! Asks over kept connections, as services and browsers do. What fails is the caller's to tell: nothing is tried again.
//! Cold.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{HOST, HeaderMap, HeaderValue};
use hyper::rt::{Read, Write};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpStream, UnixStream};

/// Longer than any timeout of the rules: it is the gateway that shall answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// Connections kept between requests.
const IDLE_MAX: usize = 32;
/// The largest answer, which is that of `/metrics`.
const BODY_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Where somebody can be asked.
#[derive(Debug, Clone)]
pub enum Place {
    /// TCP.
    At(SocketAddr),
    /// A unix socket.
    Path(PathBuf),
}

/// One who asks one server, under one name.
pub struct Caller {
    place: Place,
    host: HeaderValue,
    idle: Mutex<Vec<SendRequest<Empty<Bytes>>>>,
}

/// What came back.
#[derive(Debug)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The head's fields.
    pub headers: HeaderMap,
    /// The body as text.
    pub body: String,
}

impl Caller {
    /// Asks who is at `place` by the name `host`.
    pub fn new(place: Place, host: &str) -> Caller {
        let host = HeaderValue::from_str(host).expect("names of ours are header values");
        Caller { place, host, idle: Mutex::default() }
    }

    /// GETs `path` with these fields. The error is a sentence.
    pub async fn get(&self, path: &str, headers: &HeaderMap) -> Result<Answer, String> {
        self.get_within(PATIENCE, path, headers).await
    }

    /// The same with more, or less, patience.
    pub async fn get_within(&self, patience: Duration, path: &str, headers: &HeaderMap) -> Result<Answer, String> {
        match tokio::time::timeout(patience, self.exchange(path, headers)).await {
            Ok(answer) => answer,
            Err(_) => Err(format!("no answer within {patience:?}")),
        }
    }

    async fn exchange(&self, path: &str, headers: &HeaderMap) -> Result<Answer, String> {
        let mut sender = match self.take().await {
            Some(sender) => sender,
            None => self.connect().await?,
        };
        let mut request = Request::get(path).body(Empty::new()).map_err(|error| error.to_string())?;
        *request.headers_mut() = headers.clone();
        request.headers_mut().insert(HOST, self.host.clone());
        let response = sender.send_request(request).await.map_err(told)?;
        let (head, body) = Response::into_parts(response);
        let body = Limited::new(body, BODY_BYTES_MAX).collect().await.map_err(|error| error.to_string())?;
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < IDLE_MAX && !sender.is_closed() {
            idle.push(sender);
        }
        let body = String::from_utf8_lossy(&body.to_bytes()).into_owned();
        Ok(Answer { status: head.status.as_u16(), headers: head.headers, body })
    }

    /// A kept connection that the other side has not closed.
    async fn take(&self) -> Option<SendRequest<Empty<Bytes>>> {
        loop {
            let mut sender = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop()?;
            if sender.ready().await.is_ok() {
                return Some(sender);
            }
        }
    }

    async fn connect(&self) -> Result<SendRequest<Empty<Bytes>>, String> {
        match &self.place {
            Place::At(address) => {
                let stream = TcpStream::connect(address).await.map_err(|error| error.to_string())?;
                let _ = stream.set_nodelay(true);
                shake(stream).await
            }
            Place::Path(path) => shake(UnixStream::connect(path).await.map_err(|error| error.to_string())?).await,
        }
    }
}

async fn shake<S>(stream: S) -> Result<SendRequest<Empty<Bytes>>, String>
where
    TokioIo<S>: Read + Write + Unpin + Send + 'static,
{
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(told)?;
    tokio::spawn(async move {
        // Who waits for an answer hears of it.
        let _ = connection.await;
    });
    Ok(sender)
}

/// hyper's words with those of the system beneath.
fn told(error: hyper::Error) -> String {
    match std::error::Error::source(&error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}
