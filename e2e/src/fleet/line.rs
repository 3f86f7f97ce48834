//! A proxy's connection to control: gRPC by hand over h2, since ten thousand clients with a stack of their own each would
//! measure the clients. Cold.

use std::net::SocketAddr;

use config::wire::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use h2::{RecvStream, SendStream};
use prost::Message as _;
use prost::bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use tokio::net::TcpStream;

use crate::{Because, Failure, Outcome};

const METHOD: &str = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";
/// Before each message: whether it is compressed, and its length.
const PREFIX_BYTES: usize = 5;
/// Enough for everything that a proxy of the fleet is sent at once.
const WINDOW: u32 = 1 << 20;

/// The sending half.
pub struct Sender(SendStream<Bytes>);

/// The receiving half.
pub struct Receiver {
    body: RecvStream,
    buffer: BytesMut,
}

/// Connects and opens the stream; `first` is said at once.
pub async fn open(control: SocketAddr, first: &DeltaDiscoveryRequest) -> Outcome<(Sender, Receiver)> {
    let socket = TcpStream::connect(control).await.because(|| "connecting to control".to_owned())?;
    socket.set_nodelay(true)?;
    let mut builder = h2::client::Builder::new();
    builder.initial_window_size(WINDOW).initial_connection_window_size(WINDOW);
    let failed = |error: h2::Error| Failure(format!("control: {error}"));
    let (mut requests, connection) = builder.handshake::<_, Bytes>(socket).await.map_err(failed)?;
    tokio::task::spawn_local(async move {
        // How it ends is seen by the stream.
        let _ = connection.await;
    });
    let request = http::Request::post(format!("http://{control}{METHOD}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())
        .map_err(|error| Failure(error.to_string()))?;
    let (response, stream) = requests.send_request(request, false).map_err(failed)?;
    let mut sender = Sender(stream);
    sender.send(first)?;
    let body = response.await.map_err(failed)?.into_body();
    Ok((sender, Receiver { body, buffer: BytesMut::new() }))
}

impl Sender {
    /// Says something; it is small, so that windows are no matter.
    pub fn send(&mut self, request: &DeltaDiscoveryRequest) -> Outcome<()> {
        let mut frame = BytesMut::with_capacity(PREFIX_BYTES + request.encoded_len());
        frame.put_u8(0);
        frame.put_u32(request.encoded_len() as u32);
        request.encode(&mut frame).map_err(|error| Failure(error.to_string()))?;
        self.0.send_data(frame.freeze(), false).map_err(|error| Failure(error.to_string()))
    }
}

impl Receiver {
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
            let chunk = self.body.data().await.ok_or(Failure::new("control ended the stream"))?;
            let chunk = chunk.map_err(|error| Failure(format!("control: {error}")))?;
            // It is ours from here on: control may send as much again.
            let _ = self.body.flow_control().release_capacity(chunk.len());
            self.buffer.extend_from_slice(&chunk);
        }
    }
}
