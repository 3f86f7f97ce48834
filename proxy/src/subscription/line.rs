//! The connection to control: down for a while, being opened, or up. Cold.

use std::net::SocketAddr;
use std::time::Duration;

use config::wire::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tonic::transport::{Channel, Endpoint};
use tonic::{Status, Streaming};

use crate::ads::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;

/// For a connection, until it stands.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How often a connection without news is asked whether it is still there, and how long it may take to say so.
const ALIVE_EVERY: Duration = Duration::from_secs(10);
const ALIVE_WITHIN: Duration = Duration::from_secs(5);
/// Documents of one message are bounded by control; this is beyond it.
const MESSAGE_BYTES_MAX: usize = 64 << 20;

pub(super) type Opened = Result<(UnboundedSender<DeltaDiscoveryRequest>, Streaming<DeltaDiscoveryResponse>), Status>;

/// The connection.
pub(super) enum Line {
    Down { until: Instant },
    Opening(JoinHandle<Opened>),
    Up(UnboundedSender<DeltaDiscoveryRequest>, Box<Streaming<DeltaDiscoveryResponse>>),
}

/// What a line has to say.
pub(super) enum News {
    /// It is time to open it.
    Time,
    Opened(Opened),
    Response(Result<DeltaDiscoveryResponse, Status>),
}

pub(super) async fn news(line: &mut Line) -> News {
    match line {
        Line::Down { until } => {
            tokio::time::sleep_until(*until).await;
            News::Time
        }
        Line::Opening(opening) => {
            News::Opened(opening.await.unwrap_or_else(|error| Err(Status::internal(error.to_string()))))
        }
        Line::Up(_, responses) => match responses.message().await {
            Ok(Some(response)) => News::Response(Ok(response)),
            Ok(None) => News::Response(Err(Status::unavailable("it ended the stream"))),
            Err(status) => News::Response(Err(status)),
        },
    }
}

pub(super) async fn open(control: SocketAddr) -> Opened {
    let endpoint = Endpoint::from_shared(format!("http://{control}")).map_err(failed)?;
    let endpoint = endpoint.connect_timeout(CONNECT_TIMEOUT).tcp_nodelay(true);
    let endpoint = endpoint.http2_keep_alive_interval(ALIVE_EVERY).keep_alive_timeout(ALIVE_WITHIN);
    let channel: Channel = endpoint.connect().await.map_err(failed)?;
    let (sender, mut receiver) = unbounded_channel();
    let requests = futures_util::stream::poll_fn(move |context| receiver.poll_recv(context));
    let mut service = AggregatedDiscoveryServiceClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX);
    let responses = tokio::time::timeout(CONNECT_TIMEOUT, service.delta_aggregated_resources(requests)).await;
    let responses = responses.map_err(|_| Status::deadline_exceeded("it does not answer"))??;
    Ok((sender, responses.into_inner()))
}

/// What is behind an error, too: that of the transport says only that there is one.
fn failed(error: tonic::transport::Error) -> Status {
    let cause = std::error::Error::source(&error).map_or(String::new(), |cause| format!(": {cause}"));
    Status::unavailable(format!("{error}{cause}"))
}
