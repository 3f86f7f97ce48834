//! The gRPC side of reports: who tells how requests fare, and when it is heard again. Cold.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use config::wire::evenkeel::v1::{ReportRequest, ReportResponse};
use tonic::{Request, Response, Status};

use crate::access::Action;
use crate::server::admission;
use crate::server::feed::Feed;
use crate::server::fleet::Fleet;
use crate::server::guard::Guard;
use crate::server::rates::{Counts, Rates};
use crate::server::reports_rpc::reports_server::Reports as Service;

/// How often a proxy is heard, at least where something is tried. Where there are more than a thousand, each of the others
/// is heard less often, so that all of them are a thousand reports in a second.
const EVERY: Duration = Duration::from_secs(1);
/// Who is earlier than this is not heard: clocks and networks are not exact.
const EVERY_AT_LEAST: Duration = Duration::from_millis(500);

/// What proxies tell.
#[derive(Clone)]
pub(crate) struct Reports {
    guard: Arc<Guard>,
    feed: Arc<Feed>,
    fleet: Arc<Fleet>,
    rates: Arc<Mutex<Rates>>,
}

impl Reports {
    pub(crate) fn new(guard: Arc<Guard>, feed: Arc<Feed>, fleet: Arc<Fleet>, rates: Arc<Mutex<Rates>>) -> Reports {
        Reports { guard, feed, fleet, rates }
    }
}

#[tonic::async_trait]
impl Service for Reports {
    async fn report(&self, request: Request<ReportRequest>) -> Result<Response<ReportResponse>, Status> {
        let caller = admission::caller(&self.guard, &request, "a proxy's report")?;
        let ReportRequest { node_id, node_cluster, requests, failed } = request.into_inner();
        let introduce = Action::Introduce { id: &node_id, cluster: &node_cluster };
        caller.may(&introduce, "a proxy's report").map_err(admission::denied)?;
        if node_id.len() > config::xds::NAME_BYTES_MAX || failed > requests {
            return Err(Status::invalid_argument("that cannot be"));
        }
        let counts = Counts { requests: requests as f64, failed: failed as f64 };
        let now = Instant::now();
        let mut rates = self.rates.lock().unwrap_or_else(PoisonError::into_inner);
        if !rates.take(&node_id, counts, now, EVERY_AT_LEAST) {
            return Err(Status::resource_exhausted("it was heard just now"));
        }
        drop(rates);
        let tries = self.feed.catalog().trial().is_some_and(|(_, ids)| ids.contains(&*node_id));
        let every = if tries { EVERY } else { EVERY.max(Duration::from_millis(self.fleet.count() as u64)) };
        Ok(Response::new(ReportResponse { next_after_ms: u32::try_from(every.as_millis()).unwrap_or(u32::MAX) }))
    }
}
