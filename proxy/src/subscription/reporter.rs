//! Tells control how requests fare: what has ended since it last heard of it, while there is something to tell. Nothing
//! waits for it, and what is not heard is told again with the next. Cold.

use std::time::Duration;

use config::wire::envoy::config::core::v3::Node;
use config::wire::evenkeel::v1::ReportRequest;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::Channel;
use tonic::{Code, Request};

use crate::edges::{self, Edge, Edges};
use crate::rpc::reports_client::ReportsClient;
use crate::status::Status;

/// For an answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// Where control did not hear it, it is told again no earlier.
const RETRY_AFTER: Duration = Duration::from_secs(10);
/// A control that does not know reports may be replaced.
const UNKNOWN_AFTER: Duration = Duration::from_secs(600);

/// The way there, for as long as the connection lives.
#[derive(Clone)]
pub(super) struct Way {
    pub(super) channel: Channel,
    pub(super) authorization: Option<MetadataValue<Ascii>>,
}

/// Requests that have ended, and those of them that failed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Fare {
    pub(crate) requests: u64,
    pub(crate) failed: u64,
}

/// What control has heard.
pub(super) struct Reporter {
    /// The document that this process stands for.
    workload: String,
    heard: Fare,
    heard_of_lanes: Edges,
    /// The last of those that were told.
    last_told: Option<Edge>,
    /// What had ended when the rules that are in force came into force.
    before: Fare,
    due: Instant,
    /// What it is being told, and what becomes of that.
    asking: Option<Asking>,
}

struct Asking {
    fare: Fare,
    of_lanes: Edges,
    answer: oneshot::Receiver<Result<Duration, Duration>>,
}

impl Reporter {
    pub(super) fn new(workload: String) -> Reporter {
        let (heard, before, heard_of_lanes) = (Fare::default(), Fare::default(), Edges::new());
        Reporter { workload, heard, heard_of_lanes, last_told: None, before, due: Instant::now(), asking: None }
    }

    /// Other rules are in force from now on: whether that is good shall be known soon, and not be taken for what was
    /// before.
    pub(super) fn on_rules(&mut self, now: Fare) {
        self.before = now;
        self.due = Instant::now();
    }

    /// Told again and again: tells what there is to tell, if it is time.
    pub(super) fn report(&mut self, way: &Way, node: &Node, revision: u64, status: &Status) {
        if let Some(mut asking) = self.asking.take() {
            let pause = match asking.answer.try_recv() {
                Err(oneshot::error::TryRecvError::Empty) => {
                    self.asking = Some(asking);
                    return;
                }
                Err(oneshot::error::TryRecvError::Closed) => RETRY_AFTER,
                Ok(Err(pause)) => pause,
                Ok(Ok(pause)) => {
                    (self.heard, self.heard_of_lanes) = (asking.fare, asking.of_lanes);
                    pause
                }
            };
            self.due += pause;
        }
        let now = status.fare();
        if Instant::now() < self.due {
            return;
        }
        let (lane_edges, of_lanes, last) = edges::news(&status.edges(), &self.heard_of_lanes, self.last_told.as_ref());
        if now == self.heard && lane_edges.is_empty() {
            return;
        }
        self.last_told = last.or(self.last_told.take());
        // From here on the answer decides.
        self.due = Instant::now();
        let (answer, answered) = oneshot::channel();
        let since = |then: Fare| Fare {
            requests: then.requests.saturating_sub(self.heard.requests),
            failed: then.failed.saturating_sub(self.heard.failed),
        };
        let (all, earlier) = (since(now), since(self.before));
        let mut request = Request::new(ReportRequest {
            node_id: node.id.clone(),
            node_cluster: node.cluster.clone(),
            requests: all.requests,
            failed: all.failed,
            earlier_requests: earlier.requests,
            earlier_failed: earlier.failed,
            revision,
            workload: self.workload.clone(),
            lane_edges,
        });
        if let Some(authorization) = &way.authorization {
            request.metadata_mut().insert("authorization", authorization.clone());
        }
        let mut client = ReportsClient::new(way.channel.clone());
        tokio::spawn(async move {
            let heard = match timeout(PATIENCE, client.report(request)).await {
                Ok(Ok(response)) => Ok(Duration::from_millis(response.into_inner().next_after_ms.into())),
                Ok(Err(status)) if status.code() == Code::Unimplemented => Err(UNKNOWN_AFTER),
                Ok(Err(_)) | Err(_) => Err(RETRY_AFTER),
            };
            // The process may end.
            let _ = answer.send(heard);
        });
        self.asking = Some(Asking { fare: now, of_lanes, answer: answered });
    }
}
