//! The way to a control server: where it is, whom it must prove to be, and what proves who this is. What is said there is
//! `subscription`'s business. Cold.

use std::fmt;
use std::fs::File;
use std::io::Read as _;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};
use tonic::{Request, Status};

use crate::trust;

/// For a connection, until it stands.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How often a connection without news is asked whether it is still there, and how long it may take to say so.
const ALIVE_EVERY: Duration = Duration::from_secs(10);
const ALIVE_WITHIN: Duration = Duration::from_secs(5);

/// Of a file with certificates or a token.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// The field of a stream's head that says for whom a proxy will speak.
const INSTANCE: &str = "evenkeel-instance";

const API_PORT: &str = "is that its REST API? Proxies go to the address of --xds, by default port 15010";

/// `HOST:PORT`, a name or an address.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ControlAddress {
    host: String,
    port: u16,
}

/// How to get there.
#[derive(Debug, Clone)]
pub(crate) struct Control {
    pub(crate) address: ControlAddress,
    /// The CA that vouches for it. None: without TLS.
    ca: Option<PathBuf>,
    token: Option<PathBuf>,
    /// For whom this proxy will speak, `NAMESPACE/SERVICE/NAME`: whoever is sent away before that is found by it.
    instance: Option<MetadataValue<Ascii>>,
}

impl Control {
    /// The error is for whoever started this.
    pub(crate) fn new(address: ControlAddress, ca: Option<PathBuf>, token: Option<PathBuf>) -> Result<Control, String> {
        if ca.is_none() && !address.is_loopback() {
            return Err(format!(
                "{address} is no loopback address: say whose certificate it has with --control-ca FILE"
            ));
        }
        let control = Control { address, ca, token, instance: None };
        // What is wrong with the files is better told now than with each connection.
        control.certificate()?;
        control.authorization()?;
        Ok(control)
    }

    /// The same, for a proxy that speaks for an instance of this Service, `NAMESPACE/SERVICE`.
    pub(crate) fn speaking_for(self, service: &str, name: &str) -> Control {
        Control { instance: format!("{service}/{name}").parse().ok(), ..self }
    }

    /// A stream's request, with what proves who this is.
    pub(crate) fn request<T>(&self, message: T, authorization: Option<MetadataValue<Ascii>>) -> Request<T> {
        let mut request = Request::new(message);
        let fields = [("authorization", authorization), (INSTANCE, self.instance.clone())];
        for (name, value) in fields.into_iter().filter_map(|(name, value)| Some((name, value?))) {
            request.metadata_mut().insert(name, value);
        }
        request
    }

    /// Connects. Files are read each time, since what they hold is replaced from time to time.
    pub(crate) async fn connect(&self) -> Result<(Channel, Option<MetadataValue<Ascii>>), Status> {
        let (certificate, authorization) =
            (self.certificate().map_err(Status::internal)?, self.authorization().map_err(Status::internal)?);
        let scheme = if certificate.is_some() { "https" } else { "http" };
        let endpoint = Endpoint::from_shared(format!("{scheme}://{}", self.address)).map_err(failed)?;
        let endpoint = endpoint.connect_timeout(CONNECT_TIMEOUT).tcp_nodelay(true);
        let endpoint = endpoint.http2_keep_alive_interval(ALIVE_EVERY).keep_alive_timeout(ALIVE_WITHIN);
        let endpoint = match certificate {
            None => endpoint,
            Some(certificate) => {
                let tls = ClientTlsConfig::new().ca_certificate(certificate).domain_name(&*self.address.host);
                endpoint.tls_config(tls).map_err(failed)?
            }
        };
        Ok((endpoint.connect().await.map_err(|error| self.hinted(failed(error)))?, authorization))
    }

    /// What is behind the errors of those who speak to the wrong door, or in the wrong way.
    pub(crate) fn hinted(&self, status: Status) -> Status {
        let said = status.message();
        let hint = match self.ca {
            None if ["frame with invalid size", "FRAME_SIZE_ERROR"].iter().any(|words| said.contains(words)) => {
                "does it speak TLS? Then say --control-ca FILE"
            }
            // Who takes what we say for TLS may end the connection before it has told so.
            None if ["broken pipe", "connection reset"].iter().any(|words| said.contains(words)) => {
                "it ended the connection; does it speak TLS? Then say --control-ca FILE"
            }
            None if said.contains("HTTP_1_1_REQUIRED") || said.contains("invalid HTTP version") => API_PORT,
            Some(_) if said.contains("NoApplicationProtocol") => API_PORT,
            Some(_) if said.contains("InvalidContentType") => "does it speak TLS? Without, leave --control-ca away",
            _ => return status,
        };
        Status::new(status.code(), format!("{said} ({hint})"))
    }

    fn certificate(&self) -> Result<Option<Certificate>, String> {
        let Some(path) = &self.ca else { return Ok(None) };
        let text = read(path)?;
        if !text.contains("-----BEGIN CERTIFICATE-----") {
            return Err(format!("{}: there is no certificate in it", path.display()));
        }
        Ok(Some(Certificate::from_pem(text)))
    }

    fn authorization(&self) -> Result<Option<MetadataValue<Ascii>>, String> {
        let Some(path) = &self.token else { return Ok(None) };
        let text = read(path)?;
        let value = format!("Bearer {}", text.trim()).parse::<MetadataValue<Ascii>>();
        let mut value = value.map_err(|_| format!("{}: what is in it is no token", path.display()))?;
        value.set_sensitive(true);
        Ok(Some(value))
    }
}

/// A small file of text.
fn read(path: &Path) -> Result<String, String> {
    let mut text = String::new();
    let read = File::open(path).and_then(|file| file.take(FILE_BYTES_MAX).read_to_string(&mut text));
    read.map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(text)
}

impl ControlAddress {
    /// Nobody else's machine. `localhost` is none either (RFC 6761 6.3).
    fn is_loopback(&self) -> bool {
        self.host == "localhost" || self.host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
    }
}

impl FromStr for ControlAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<ControlAddress, String> {
        let wrong = || format!("{text:?} is not HOST:PORT");
        let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
        let address = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let host = match address {
            Some(address) => address.parse::<std::net::Ipv6Addr>().map_err(|_| wrong())?.to_string(),
            None => host.to_ascii_lowercase(),
        };
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
        if host.is_empty() || (address.is_none() && !host.bytes().all(is_name)) {
            return Err(wrong());
        }
        Ok(ControlAddress { host, port: port.parse().map_err(|_| wrong())? })
    }
}

impl fmt::Display for ControlAddress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(formatter, "[{}]:{}", self.host, self.port),
            false => write!(formatter, "{}:{}", self.host, self.port),
        }
    }
}

fn failed(error: tonic::transport::Error) -> Status {
    Status::unavailable(trust::found(&error).unwrap_or_else(|| with_causes(error.to_string(), &error)))
}

/// What is behind an error, too: that of the transport says only that there is one.
pub(crate) fn with_causes(text: String, error: &dyn std::error::Error) -> String {
    let mut text = plain(text);
    let mut cause = error.source();
    while let Some(inner) = cause {
        let said = plain(inner.to_string());
        // Many say what their cause says.
        if !text.contains(&said) {
            text += &format!(": {said}");
        }
        cause = inner.source();
    }
    text
}

/// How TLS tells of a process that was killed comes with a page to read for who writes one.
fn plain(mut text: String) -> String {
    if let Some(place) = text.find("peer closed connection without sending TLS close_notify") {
        text.truncate(place);
        text += "the connection broke off";
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_a_host_and_a_port() {
        for (text, expected) in [
            ("127.0.0.1:15010", Some(("127.0.0.1:15010", true))),
            ("LocalHost:1", Some(("localhost:1", true))),
            ("[::1]:15010", Some(("[::1]:15010", true))),
            ("[2001:DB8::1]:1", Some(("[2001:db8::1]:1", false))),
            ("control.mesh.svc:15010", Some(("control.mesh.svc:15010", false))),
            ("control", None),
            (":15010", None),
            ("control:", None),
            ("control:65536", None),
            ("::1:15010", None),
            ("[control]:1", None),
            ("http://control:1", None),
            ("user@control:1", None),
        ] {
            let parsed =
                text.parse::<ControlAddress>().ok().map(|address| (address.to_string(), address.is_loopback()));
            assert_eq!(parsed, expected.map(|(shown, is_loopback)| (shown.to_owned(), is_loopback)), "{text}");
        }
    }

    #[test]
    fn only_this_machine_needs_no_certificate() {
        let file = |name: &str| Some(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(name));
        for (address, ca, token, expected) in [
            ("localhost:1", None, None, None),
            ("control:1", None, None, Some("say whose certificate it has with --control-ca FILE")),
            ("control:1", file("Cargo.toml"), None, Some("there is no certificate in it")),
            ("localhost:1", None, file("none"), Some("none: No such file")),
            ("localhost:1", None, file("Cargo.toml"), Some("what is in it is no token")),
        ] {
            let address = address.parse().expect("an address");
            match (Control::new(address, ca, token), expected) {
                (Ok(_), None) => {}
                (Err(problem), Some(words)) => assert!(problem.contains(words), "{problem}"),
                (other, expected) => panic!("{other:?}, not {expected:?}"),
            }
        }
    }
}
