//! A proxy's connection to control: gRPC by hand over h2, since ten thousand clients with a stack of their own each would
//! measure the clients. Cold.

use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use config::wire::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use h2::client::Connection;
use h2::{RecvStream, SendStream};
use prost::Message as _;
use prost::bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use rustls::client::Resumption;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::{Because, Failure, Outcome};

const METHOD: &str = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";
/// Before each message: whether it is compressed, and its length.
const PREFIX_BYTES: usize = 5;
/// Enough for everything that a proxy of the fleet is sent at once.
const WINDOW: u32 = 1 << 20;

trait Socket: AsyncRead + AsyncWrite + Unpin {}

impl<S: AsyncRead + AsyncWrite + Unpin> Socket for S {}

/// How proxies reach control.
#[derive(Clone)]
pub struct Way {
    control: SocketAddr,
    /// And what they say who they are with.
    tls: Option<(TlsConnector, Arc<str>)>,
}

impl Way {
    /// In plaintext.
    pub fn plain(control: SocketAddr) -> Way {
        Way { control, tls: None }
    }

    /// Over TLS, with the CA of control and a token. Each handshake is a whole one: ten thousand proxies are ten thousand
    /// processes, and who was restarted knows no sessions.
    pub fn tls(control: SocketAddr, ca: &Path, token: &str) -> Outcome<Way> {
        let mut roots = RootCertStore::empty();
        let certificate = CertificateDer::from_pem_file(ca).map_err(|error| Failure(format!("{error:?}")))?;
        roots.add(certificate).map_err(|error| Failure(error.to_string()))?;
        let mut config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = vec![b"h2".to_vec()];
        config.resumption = Resumption::disabled();
        Ok(Way { control, tls: Some((TlsConnector::from(Arc::new(config)), token.into())) })
    }
}

/// A connection with its one stream. It is one task's: what control says is read, and what is said to it is written, while
/// that waits for the next message.
pub struct Line {
    connection: Connection<Box<dyn Socket>, Bytes>,
    sender: SendStream<Bytes>,
    body: RecvStream,
    buffer: BytesMut,
}

impl Line {
    /// Connects and opens the stream; `first` is said at once.
    pub async fn open(way: &Way, first: &DeltaDiscoveryRequest) -> Outcome<Line> {
        let socket = TcpStream::connect(way.control).await.because(|| "connecting to control".to_owned())?;
        socket.set_nodelay(true)?;
        let (scheme, socket): (_, Box<dyn Socket>) = match &way.tls {
            None => ("http", Box::new(socket)),
            Some((connector, _)) => {
                let name = ServerName::try_from("localhost").map_err(|error| Failure(error.to_string()))?;
                let stream = connector.connect(name, socket).await.because(|| "TLS with control".to_owned())?;
                ("https", Box::new(stream))
            }
        };
        let mut builder = h2::client::Builder::new();
        builder.initial_window_size(WINDOW).initial_connection_window_size(WINDOW);
        let (mut requests, mut connection) = builder.handshake::<_, Bytes>(socket).await.map_err(ended)?;
        let mut request = http::Request::post(format!("{scheme}://localhost{METHOD}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers");
        if let Some((_, token)) = &way.tls {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let request = request.body(()).map_err(|error| Failure(error.to_string()))?;
        let (response, mut sender) = requests.send_request(request, false).map_err(ended)?;
        say(&mut sender, first)?;
        let response = tokio::select! {
            response = response => response.map_err(ended)?,
            _ = &mut connection => return Err(Failure::new("control ended the connection")),
        };
        Ok(Line { connection, sender, body: response.into_body(), buffer: BytesMut::new() })
    }

    /// Says something with the next wait; it is small, so that windows are no matter.
    pub fn say(&mut self, request: &DeltaDiscoveryRequest) -> Outcome<()> {
        say(&mut self.sender, request)
    }

    /// The next message; an error once the stream has ended.
    pub async fn next(&mut self) -> Outcome<DeltaDiscoveryResponse> {
        loop {
            if let Some(length) = self.buffer.get(1..PREFIX_BYTES) {
                let length = u32::from_be_bytes(length.try_into().expect("four bytes")) as usize;
                if self.buffer.len() >= PREFIX_BYTES + length {
                    self.buffer.advance(PREFIX_BYTES);
                    let message = self.buffer.split_to(length).freeze();
                    return DeltaDiscoveryResponse::decode(message).map_err(|error| Failure(error.to_string()));
                }
            }
            let chunk = std::future::poll_fn(|context| self.poll_chunk(context)).await?;
            // It is ours from here on: control may send as much again.
            let _ = self.body.flow_control().release_capacity(chunk.len());
            self.buffer.extend_from_slice(&chunk);
        }
    }

    fn poll_chunk(&mut self, context: &mut Context<'_>) -> Poll<Outcome<Bytes>> {
        // What came before its end is still to be had.
        let is_over = Pin::new(&mut self.connection).poll(context).is_ready();
        match self.body.poll_data(context) {
            Poll::Ready(Some(chunk)) => Poll::Ready(chunk.map_err(ended)),
            Poll::Ready(None) => Poll::Ready(Err(Failure::new("control ended the stream"))),
            Poll::Pending if is_over => Poll::Ready(Err(Failure::new("control ended the connection"))),
            Poll::Pending => Poll::Pending,
        }
    }
}

fn ended(error: h2::Error) -> Failure {
    Failure(format!("control: {error}"))
}

fn say(sender: &mut SendStream<Bytes>, request: &DeltaDiscoveryRequest) -> Outcome<()> {
    let mut frame = BytesMut::with_capacity(PREFIX_BYTES + request.encoded_len());
    frame.put_u8(0);
    frame.put_u32(request.encoded_len() as u32);
    request.encode(&mut frame).map_err(|error| Failure(error.to_string()))?;
    sender.send_data(frame.freeze(), false).map_err(ended)
}
