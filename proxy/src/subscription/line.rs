//! The connection to control: down for a while, being opened, or up. Cold.

use std::sync::Arc;

use config::wire::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tonic::{Status, Streaming};

use crate::ads::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use crate::control::{CONNECT_TIMEOUT, Control, with_causes};
use crate::subscription::reporter::Way;

/// Documents of one message are bounded by control; this is beyond it.
const MESSAGE_BYTES_MAX: usize = 64 << 20;

pub(super) type Opened = Result<Open, Status>;
/// What is said, what is heard, and the way for what is said beside it.
type Open = (UnboundedSender<DeltaDiscoveryRequest>, Streaming<DeltaDiscoveryResponse>, Way);

/// The connection.
pub(super) enum Line {
    Down { until: Instant },
    Opening(JoinHandle<Opened>),
    Up(UnboundedSender<DeltaDiscoveryRequest>, Box<Streaming<DeltaDiscoveryResponse>>, Way),
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
        Line::Up(_, responses, _) => match responses.message().await {
            Ok(Some(response)) => News::Response(Ok(response)),
            Ok(None) => News::Response(Err(Status::unavailable("it ended the stream"))),
            Err(status) => News::Response(Err(status)),
        },
    }
}

pub(super) async fn open(control: Arc<Control>) -> Opened {
    let (channel, authorization) = control.connect().await?;
    let (sender, mut receiver) = unbounded_channel();
    let requests = futures_util::stream::poll_fn(move |context| receiver.poll_recv(context));
    let way = Way { channel: channel.clone(), authorization: authorization.clone() };
    let request = control.request(requests, authorization);
    let mut service = AggregatedDiscoveryServiceClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX);
    let responses = tokio::time::timeout(CONNECT_TIMEOUT, service.delta_aggregated_resources(request)).await;
    let responses = responses.map_err(|_| Status::deadline_exceeded("it does not answer"))?;
    let explained =
        |status: Status| control.hinted(Status::new(status.code(), with_causes(status.message().to_owned(), &status)));
    Ok((sender, responses.map_err(explained)?.into_inner(), way))
}
