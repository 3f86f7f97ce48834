//! The gRPC side of reports: who tells how requests fare, and when it is heard again. Cold.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use config::wire::evenkeel::v1::{ReportRequest, ReportResponse};
use http::HeaderMap;
use tokio::time::{Sleep, sleep};
use tonic::Status;

use crate::access::Action;
use crate::server::admission;
use crate::server::feed::Feed;
use crate::server::fleet::Fleet;
use crate::server::grpc::Exchange;
use crate::server::guard::{Caller, Guard};
use crate::server::lanes::Lanes;
use crate::server::rates::{Counts, Rates, Told};
use crate::server::wire::Link;

/// How often a proxy is heard, at least where something is tried. Where there are more than a thousand, each of the others
/// is heard less often, so that all of them are a thousand reports in a second.
const EVERY: Duration = Duration::from_secs(1);
/// Who is earlier than this is not heard: clocks and networks are not exact.
const EVERY_AT_LEAST: Duration = Duration::from_millis(500);

/// For what is told to be there.
const TOLD_WITHIN: Duration = Duration::from_secs(10);

/// What proxies tell.
#[derive(Clone)]
pub(crate) struct Reports {
    guard: Arc<Guard>,
    feed: Arc<Feed>,
    fleet: Arc<Fleet>,
    told: Listeners,
}

/// Who makes something of what is told.
#[derive(Clone)]
pub(crate) struct Listeners {
    pub(crate) rates: Arc<Mutex<Rates>>,
    pub(crate) lanes: Arc<Lanes>,
}

impl Reports {
    pub(crate) fn new(guard: Arc<Guard>, feed: Arc<Feed>, fleet: Arc<Fleet>, told: Listeners) -> Reports {
        Reports { guard, feed, fleet, told }
    }
}

/// A proxy that tells.
pub(crate) struct Report {
    reports: Reports,
    caller: Caller,
    link: Arc<Link>,
    late: Pin<Box<Sleep>>,
    is_answered: bool,
}

impl Reports {
    /// Lets somebody tell, or says why not.
    pub(crate) fn begin(&self, headers: &HeaderMap, link: &Arc<Link>) -> Result<Report, Status> {
        let caller = admission::caller(&self.guard, headers, link, "a proxy's report")?;
        let late = Box::pin(sleep(TOLD_WITHIN));
        Ok(Report { reports: self.clone(), caller, link: link.clone(), late, is_answered: false })
    }

    /// What is told, and when it is heard again.
    fn take(&self, caller: &Caller, link: &Link, request: ReportRequest) -> Result<ReportResponse, Status> {
        let ReportRequest {
            node_id,
            node_cluster,
            requests,
            failed,
            earlier_requests,
            earlier_failed,
            revision,
            workload,
            lane_edges,
        } = request;
        let introduce = Action::Introduce { id: &node_id, cluster: &node_cluster };
        caller.may(&introduce, "a proxy's report").map_err(admission::denied)?;
        // Proxies of one token could spoil what is told of each other.
        if !link.is_of(&node_id) {
            return Err(Status::permission_denied("each proxy tells of itself, beside its stream"));
        }
        let (later, later_failed) = (requests.checked_sub(earlier_requests), failed.checked_sub(earlier_failed));
        let are_possible = failed <= requests
            && earlier_failed <= earlier_requests
            && later.zip(later_failed).is_some_and(|(requests, failed)| failed <= requests);
        if node_id.len() > config::xds::NAME_BYTES_MAX || !are_possible {
            return Err(Status::invalid_argument("that cannot be"));
        }
        let counts = |requests: u64, failed: u64| Counts { requests: requests as f64, failed: failed as f64 };
        let told = Told { all: counts(requests, failed), earlier: counts(earlier_requests, earlier_failed), revision };
        let now = Instant::now();
        let is_own = matches!(workload.split_once('/'), Some(("Gateway" | "Service", of)) if *of == *node_cluster);
        if !lane_edges.is_empty() && !is_own {
            return Err(Status::invalid_argument("each proxy tells of its own lanes"));
        }
        let mut rates = self.told.rates.lock().unwrap_or_else(PoisonError::into_inner);
        if !rates.take(&node_id, told, now, EVERY_AT_LEAST) {
            return Err(Status::resource_exhausted("it was heard just now"));
        }
        drop(rates);
        self.told.lanes.take(&workload, &lane_edges, now);
        let tries = self.feed.catalog().trial().is_some_and(|(_, ids)| ids.contains(&*node_id));
        let every = if tries { EVERY } else { EVERY.max(Duration::from_millis(self.fleet.count() as u64)) };
        Ok(ReportResponse { next_after_ms: u32::try_from(every.as_millis()).unwrap_or(u32::MAX) })
    }
}

impl Report {
    /// Ready: it has ended.
    pub(crate) fn poll(&mut self, exchange: &mut Exchange, context: &mut Context<'_>) -> Poll<Result<(), Status>> {
        let Exchange { incoming, outgoing } = exchange;
        if !self.is_answered {
            match incoming.poll_next(context)? {
                Poll::Ready(None) => return Poll::Ready(Err(Status::internal("there is no message"))),
                Poll::Ready(Some(request)) => outgoing.say(&self.reports.take(&self.caller, &self.link, request)?),
                Poll::Pending => {
                    ready!(self.late.as_mut().poll(context));
                    return Poll::Ready(Err(Status::deadline_exceeded("it does not say what it wants")));
                }
            }
            self.is_answered = true;
        }
        outgoing.poll_taken(context)
    }
}
