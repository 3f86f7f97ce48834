//! How commands talk to the control server: where it is, who asks, one request, and what an answer that is no success means.
//! Whom to believe that it is control is `trust`'s business. Cold.

use std::fmt;
use std::io::Read as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Bytes;
use hyper::{Method, Request, header};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::cli::trust::{self, Fingerprint};

/// Where control listens if nobody says so.
const PORT: u16 = 15012;
/// For a connection, until it stands.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// For an answer that nobody asked to wait for.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// Of an answer.
const ANSWER_BYTES_MAX: usize = 1 << 30;
/// Of a file with a token; what is longer is none.
const TOKEN_FILE_BYTES_MAX: u64 = 64 << 10;
/// Where there may be nobody.
const ELSEWHERE: &str =
    "\n  is evenkeel control running there? Another place: --server ADDRESS:PORT or EVENKEEL_SERVER";

/// Where the control server is, and who asks.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Server {
    /// Where the control server's API is. With https://, --ca, --fingerprint or --data over TLS
    #[arg(long, env = "EVENKEEL_SERVER", value_name = "ADDRESS:PORT", default_value = "127.0.0.1:15012")]
    server: String,
    /// A file that holds the token which says who you are
    #[arg(long, env = "EVENKEEL_TOKEN_FILE", value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// The certificates of those that may vouch for the server, as PEM: control's ca.crt
    #[arg(long, env = "EVENKEEL_CA", value_name = "FILE")]
    ca: Option<PathBuf>,
    /// The fingerprint of the CA that may vouch for the server, as control says it at its start; enough without --ca
    #[arg(long, env = "EVENKEEL_FINGERPRINT", value_name = "SHA256", value_parser = Fingerprint::parse)]
    fingerprint: Option<Fingerprint>,
    /// The folder of a control on this machine: its ca.crt and admin.token are used where no other is said
    #[arg(long, env = "EVENKEEL_CONTROL_DATA", value_name = "FOLDER")]
    data: Option<PathBuf>,
}

/// Why there is no answer, or none that helps.
#[derive(Debug)]
pub enum Failure {
    /// It is wrong as it is written here.
    Usage(String),
    /// Control could not be asked.
    Unreachable(String),
    /// Control said no: the status, and the answer's body.
    Refused(u16, Value),
}

impl Failure {
    /// What it comes to for whoever started the command.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Failure::Usage(_) => ExitCode::from(2),
            _ => ExitCode::FAILURE,
        }
    }

    /// Why control would say no to what was only tried.
    pub fn of_dry_run(answer: &Value) -> Option<Failure> {
        let refusal = &answer["refusal"];
        let status = u16::try_from(refusal["status"].as_u64()?).ok()?;
        Some(Failure::Refused(status, refusal.clone()))
    }

    /// What is wrong with a body, one by one.
    pub fn problems(&self) -> &[Value] {
        match self {
            Failure::Refused(_, answer) => answer["problems"].as_array().map_or(&[], Vec::as_slice),
            _ => &[],
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (status, answer) = match self {
            Failure::Usage(reason) | Failure::Unreachable(reason) => return out.write_str(reason),
            Failure::Refused(status, answer) => (*status, answer),
        };
        let reason = answer["error"].as_str().unwrap_or("control does not say why");
        let next = match status {
            401 => {
                "\n  say who you are: --token-file FILE or EVENKEEL_TOKEN_FILE; on control's machine --data FOLDER does"
            }
            403 => "\n  use a token that may do this, or ask for one: evenkeel token create",
            409 if reason.contains("on trial") => "",
            409 if reason.contains("is not as expected") => {
                "\n  somebody changed it meanwhile: look at it with evenkeel get, then try again"
            }
            422 => "\n  nothing was changed",
            423 => "\n  nothing was changed; whoever may, and must, says --break-glass -m WHY, and the audit tells",
            429 => "\n  nothing was changed; try again in a second",
            503 => "\n  nothing was changed; the log of control says more",
            _ => "",
        };
        match status {
            400 | 404 | 409 | 422 | 429 => write!(out, "{reason}{next}"),
            423 => write!(out, "frozen: {reason}{next}"),
            401 => write!(out, "control does not know who you are: {reason}{next}"),
            403 => write!(out, "control does not let you: {reason}{next}"),
            _ => write!(out, "control answers {status}: {reason}{next}"),
        }
    }
}

/// One who asks.
pub struct Client {
    authority: String,
    tls: Option<(TlsConnector, ServerName<'static>)>,
    token: Option<String>,
    runtime: tokio::runtime::Runtime,
}

/// A way to control.
trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

impl Client {
    /// As the command line says. Nothing is asked so far.
    pub fn open(server: &Server) -> Result<Client, Failure> {
        let Place { scheme, authority } = place(&server.server).map_err(Failure::Usage)?;
        let (mut ca, mut token_file) = (server.ca.clone(), server.token_file.clone());
        if let Some(folder) = &server.data {
            let (found_ca, found_token) = trust::in_folder(folder);
            if found_ca.is_none() && found_token.is_none() {
                let reason = "there is neither ca.crt nor admin.token in it (is it the folder of a control server?)";
                return Err(Failure::Usage(format!("--data {}: {reason}", folder.display())));
            }
            let is_named = ca.is_some() || server.fingerprint.is_some();
            ca = ca.or(found_ca.filter(|_| !is_named));
            token_file = token_file.or(found_token);
        }
        let is_plain = scheme == Some("http");
        if is_plain && (server.ca.is_some() || server.fingerprint.is_some()) {
            let reason = "http:// is without TLS, and --ca or --fingerprint ask for it: say https://, or neither";
            return Err(Failure::Usage(reason.into()));
        }
        let wants_tls = scheme == Some("https") || ca.is_some() || server.fingerprint.is_some();
        let tls = (wants_tls && !is_plain).then(|| {
            let config = trust::config(ca.as_deref(), server.fingerprint)?;
            let host = authority.rsplit_once(':').map_or(&*authority, |(host, _)| host);
            let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
            let name = ServerName::try_from(host).map_err(|_| format!("--server {authority}: it is no name"))?;
            Ok::<_, String>((TlsConnector::from(Arc::new(config)), name))
        });
        let tls = tls.transpose().map_err(Failure::Usage)?;
        let token = token_file.map(|file| {
            let mut text = String::new();
            let read = std::fs::File::open(&file)
                .and_then(|opened| opened.take(TOKEN_FILE_BYTES_MAX).read_to_string(&mut text));
            read.map_err(|error| Failure::Usage(format!("--token-file {}: {error}", file.display())))?;
            let token = text.trim();
            match token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
                true => Err(Failure::Usage(format!("--token-file {}: it holds no token", file.display()))),
                false => Ok(token.to_owned()),
            }
        });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| Failure::Unreachable(format!("cannot start: {error}")))?;
        Ok(Client { authority, tls, token: token.transpose()?, runtime })
    }

    /// Asks for something.
    pub fn get(&self, path: &str) -> Result<Value, Failure> {
        self.call(Method::GET, path, Vec::new(), PATIENCE)
    }

    /// Sends a body, and what control answers.
    pub fn post(&self, path: &str, body: Vec<u8>) -> Result<Value, Failure> {
        self.call(Method::POST, path, body, PATIENCE)
    }

    /// One request; the error is everything but a success within `patience`.
    pub fn call(&self, method: Method, path: &str, body: Vec<u8>, patience: Duration) -> Result<Value, Failure> {
        let answer = self.runtime.block_on(async {
            let stream = self.stream().await?;
            let asked = self.ask(stream, method, path, body);
            let asked = timeout(patience, asked)
                .await
                .unwrap_or_else(|_| Err(format!("no answer within {} s; its log may say more", patience.as_secs())));
            asked.map_err(|reason| (reason, ""))
        });
        let (status, body) = answer.map_err(|(reason, next)| self.failed(&reason, next))?;
        let answer: Value = match serde_json::from_slice(&body) {
            Ok(answer) => answer,
            Err(_) if status < 300 => return Err(self.failed("what answers there is not a control server", ELSEWHERE)),
            // Such as the words of a framework about a query.
            Err(_) => serde_json::json!({ "error": String::from_utf8_lossy(&body).trim() }),
        };
        if status >= 300 { Err(Failure::Refused(status, answer)) } else { Ok(answer) }
    }

    /// The way to control, with TLS if that is asked for.
    async fn stream(&self) -> Result<Box<dyn Stream>, (String, &'static str)> {
        let connected = timeout(CONNECT_TIMEOUT, TcpStream::connect(&self.authority)).await;
        let late = |_| (format!("nobody answers within {} s", CONNECT_TIMEOUT.as_secs()), ELSEWHERE);
        let stream = connected.map_err(late)?.map_err(|error| (error.to_string(), ELSEWHERE))?;
        if let Some((connector, name)) = &self.tls {
            let shaken = timeout(CONNECT_TIMEOUT, connector.connect(name.clone(), stream)).await;
            return Ok(Box::new(shaken.map_err(late)?.map_err(|error| (trust::explained(&error), ""))?));
        }
        let is_here = stream.peer_addr().is_ok_and(|address: SocketAddr| address.ip().is_loopback());
        if self.token.is_some() && !is_here {
            let reason = "a token is not sent to another machine without TLS (--ca FILE or --fingerprint SHA256)";
            return Err((reason.into(), ""));
        }
        Ok(Box::new(stream))
    }

    async fn ask(
        &self,
        stream: Box<dyn Stream>,
        method: Method,
        path: &str,
        body: Vec<u8>,
    ) -> Result<(u16, Bytes), String> {
        let is_plain = self.tls.is_none();
        let failed = |error: hyper::Error| match is_plain && (error.is_parse() || error.is_incomplete_message()) {
            true => {
                "what answers there does not speak plain HTTP (does it speak TLS? Then say --ca FILE, --fingerprint \
                     SHA256 or --data FOLDER)"
                    .into()
            }
            false => format!("the connection broke: {error}"),
        };
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(failed)?;
        // It ends with the request; what is wrong with it, the request tells.
        tokio::spawn(connection);
        let mut request = Request::builder().method(method).uri(path).header(header::HOST, &self.authority);
        if let Some(token) = &self.token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        if !body.is_empty() {
            let is_json = body.first() == Some(&b'{');
            let kind = if is_json { "application/json" } else { "application/yaml" };
            request = request.header(header::CONTENT_TYPE, kind);
        }
        let request = request.body(Full::new(Bytes::from(body))).map_err(|error| error.to_string())?;
        let response = sender.send_request(request).await.map_err(failed)?;
        let status = response.status().as_u16();
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
        Ok((status, body.map_err(|error| format!("the answer broke off: {error}"))?.to_bytes()))
    }

    fn failed(&self, reason: &str, next: &str) -> Failure {
        Failure::Unreachable(format!("cannot ask control at {}: {reason}{next}", self.authority))
    }
}

/// What people write of a server.
#[derive(Debug, PartialEq, Eq)]
struct Place<'t> {
    /// What stands before `://`.
    scheme: Option<&'t str>,
    /// `ADDRESS:PORT`.
    authority: String,
}

fn place(server: &str) -> Result<Place<'_>, String> {
    let (scheme, rest) = server.split_once("://").map_or((None, server), |(scheme, rest)| (Some(scheme), rest));
    if let Some(other) = scheme.filter(|scheme| !["http", "https"].contains(scheme)) {
        return Err(format!("--server {server}: it is https:// or http://, not {other}://"));
    }
    let text = rest.trim_end_matches('/');
    let has_port = text.rsplit_once(':').is_some_and(|(host, port)| {
        !port.is_empty()
            && port.bytes().all(|byte| byte.is_ascii_digit())
            && (!host.contains(':') || host.ends_with(']'))
    });
    let authority = match (has_port, text.contains(':') && !text.starts_with('[')) {
        (true, _) => text.to_owned(),
        (false, true) => format!("[{text}]:{PORT}"),
        (false, false) => format!("{text}:{PORT}"),
    };
    Ok(Place { scheme, authority })
}

/// A path with parameters, those that are there.
pub fn path(path: &str, parameters: &[(&str, Option<&str>)]) -> String {
    let mut text = path.to_owned();
    let mut separator = '?';
    for (name, value) in parameters {
        if let Some(value) = value {
            text += &format!("{separator}{name}={}", escaped(value));
            separator = '&';
        }
    }
    text
}

/// A text as a part of a path or query (RFC 3986 2.1).
pub fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            true => escaped.push(char::from(byte)),
            false => escaped += &format!("%{byte:02X}"),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_and_queries_are_written_out() {
        for (server, scheme, expected) in [
            ("127.0.0.1:1", None, "127.0.0.1:1"),
            ("http://127.0.0.1:1/", Some("http"), "127.0.0.1:1"),
            ("https://control", Some("https"), "control:15012"),
            ("control", None, "control:15012"),
            ("::1", None, "[::1]:15012"),
            ("[::1]", None, "[::1]:15012"),
            ("[::1]:2", None, "[::1]:2"),
        ] {
            assert_eq!(place(server), Ok(Place { scheme, authority: expected.to_owned() }), "{server}");
        }
        assert!(place("ftp://control").is_err());
        let parameters = [("message", Some("a b&c=ü")), ("kind", None), ("dryRun", Some("true"))];
        assert_eq!(path("/x", &parameters), "/x?message=a%20b%26c%3D%C3%BC&dryRun=true");
    }
}
