//! Speaks for the instance beside which the proxy stands, on a stream of its own beside that of the resources: how far it is,
//! and that it goes. Control says how it stands, and who has forgotten it. What is said is what is so, again on each new
//! stream: nothing that was said before is counted on. Cold.

use std::sync::Arc;
use std::time::Duration;

use config::wire::evenkeel::v1::{Ending, JoinRequest, JoinResponse, Member, Phase};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::sync::watch;
use tokio::time::Instant;
use tonic::{Code, Request, Status, Streaming};

use super::reporter::Way;
use crate::log::event;
use crate::rpc::registry_client::RegistryClient;

/// After a refusal it is tried again: whoever took the name or the address may go.
const PAUSE_FIRST: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// How far the instance is, as its proxy sees it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Standing {
    /// Its application is not ready, for this reason.
    Starting(String),
    /// It is.
    Ready,
    /// It goes.
    Draining {
        /// From when on.
        since: std::time::Instant,
        /// At this time at the latest.
        until: std::time::Instant,
        /// What it waits for, in words.
        waits_for: &'static str,
    },
    /// It has gone.
    Ended {
        /// From when on it went.
        since: std::time::Instant,
        /// What there is to say of it.
        ending: Ending,
    },
}

/// How it stands as control has it.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Known {
    /// None: control is not there, or has not said anything.
    pub(crate) response: Option<JoinResponse>,
    /// Why it was not let in, if it was not.
    pub(crate) refusal: Option<String>,
    /// It never was, for certain.
    pub(crate) is_unknown: bool,
    /// Control's last word was that it does not let it in.
    pub(crate) is_refused: bool,
    /// Whom others of its Service call, each `namespace/name`, as control said last.
    pub(crate) calls: Arc<[String]>,
}

/// Both ends of what is said.
pub(crate) struct Voice {
    pub(crate) member: Member,
    pub(crate) standing: watch::Receiver<Standing>,
    pub(crate) known: watch::Sender<Known>,
}

/// Whoever speaks; nobody at a gateway.
pub(super) struct Speaker {
    voice: Option<Voice>,
    line: Line,
    failures: u32,
    /// Control may have let the instance in, once.
    may_be_known: bool,
    /// Control knows that the instance has gone: there is nothing left to say, and its name and address may be another's.
    is_over: bool,
}

enum Line {
    Down { until: Instant },
    Opening(tokio::task::JoinHandle<Result<Open, Status>>),
    Up(Box<Open>),
}

type Open = (UnboundedSender<JoinRequest>, Streaming<JoinResponse>);

/// What happens.
pub(super) enum Said {
    /// There is something else to say.
    Standing,
    /// It is time to begin.
    Time,
    Opened(Result<Open, Status>),
    Response(Result<JoinResponse, Status>),
}

impl Speaker {
    pub(super) fn new(voice: Option<Voice>) -> Speaker {
        Speaker { voice, line: Line::Down { until: Instant::now() }, failures: 0, may_be_known: false, is_over: false }
    }

    /// What happens next, where there is somebody to speak to. May be dropped at any time and called again.
    pub(super) async fn next(&mut self, is_up: bool) -> Said {
        let Some(voice) = &mut self.voice else { return std::future::pending().await };
        match &mut self.line {
            Line::Down { until } if is_up && !self.is_over => {
                tokio::time::sleep_until(*until).await;
                Said::Time
            }
            Line::Down { .. } => std::future::pending().await,
            Line::Opening(opening) => Said::Opened(opening.await.unwrap_or_else(|_| Err(Status::cancelled("it ends")))),
            Line::Up(open) => tokio::select! {
                changed = voice.standing.changed() => match changed {
                    Ok(()) => Said::Standing,
                    // The process ends.
                    Err(_) => std::future::pending().await,
                },
                response = open.1.message() => Said::Response(match response {
                    Ok(Some(response)) => Ok(response),
                    Ok(None) => Err(Status::unavailable("control ended the stream")),
                    Err(status) => Err(status),
                }),
            },
        }
    }

    /// Carries out what happens.
    pub(super) fn on(&mut self, said: Said, way: Option<&Way>) {
        let Some(voice) = &mut self.voice else { return };
        match said {
            Said::Time => {
                let Some(way) = way.cloned() else { return };
                let (sender, mut receiver) = unbounded_channel();
                let first =
                    JoinRequest { member: Some(voice.member.clone()), ..request(&voice.standing.borrow_and_update()) };
                // It is there: we hold the other end.
                let _ = sender.send(first);
                self.line = Line::Opening(tokio::spawn(async move {
                    let requests = futures_util::stream::poll_fn(move |context| receiver.poll_recv(context));
                    let mut request = Request::new(requests);
                    if let Some(authorization) = way.authorization {
                        request.metadata_mut().insert("authorization", authorization);
                    }
                    let responses = RegistryClient::new(way.channel).join(request).await?;
                    Ok((sender, responses.into_inner()))
                }));
            }
            Said::Opened(Ok(open)) => {
                // What has changed meanwhile.
                let _ = open.0.send(request(&voice.standing.borrow_and_update()));
                self.line = Line::Up(Box::new(open));
            }
            Said::Standing => {
                let request = request(&voice.standing.borrow_and_update());
                if let Line::Up(open) = &self.line {
                    // A stream that has just ended is noticed where it is read.
                    let _ = open.0.send(request);
                }
            }
            Said::Response(Ok(mut response)) => {
                self.failures = 0;
                self.may_be_known = true;
                let has_ended = matches!(*voice.standing.borrow(), Standing::Ended { .. });
                self.is_over |= has_ended && response.phase() == Phase::Ended;
                let calls = match std::mem::take(&mut response.calls) {
                    calls if calls.is_empty() => voice.known.borrow().calls.clone(),
                    calls => calls.into(),
                };
                let before = voice.known.send_replace(Known { response: Some(response), calls, ..Known::default() });
                if before.refusal.is_some() {
                    event("info", "control knows this instance");
                }
            }
            Said::Opened(Err(status)) | Said::Response(Err(status)) => self.lose(Some(&status)),
        }
    }

    /// The connection is gone, or the stream ended.
    pub(super) fn lose(&mut self, status: Option<&Status>) {
        let Some(voice) = &mut self.voice else { return };
        let refusal = status.filter(|status| is_word(status.code())).map(|status| status.message().to_owned());
        // Something was on its way to control, and perhaps arrived.
        self.may_be_known |= refusal.is_none() && !matches!(self.line, Line::Down { .. });
        let is_unknown = refusal.is_some() && !self.may_be_known;
        let Known { is_refused, calls, .. } = voice.known.borrow().clone();
        let is_refused = is_refused || refusal.is_some();
        let known = Known { response: None, refusal: refusal.clone(), is_unknown, is_refused, calls };
        let before = voice.known.send_replace(known);
        if let Some(reason) = refusal.filter(|_| before.refusal != voice.known.borrow().refusal && !self.is_over) {
            event("warn", &format!("control does not let this instance in: {reason}"));
        }
        let pause = PAUSE_FIRST.saturating_mul(1 << self.failures.min(10)).min(PAUSE_MAX);
        self.failures += u32::from(status.is_some());
        self.line = Line::Down { until: Instant::now() + if status.is_some() { pause } else { Duration::ZERO } };
    }
}

/// Whether this is control's word, and not that of a connection which broke: others tell that.
fn is_word(code: Code) -> bool {
    !matches!(code, Code::Unknown | Code::Unavailable | Code::Cancelled | Code::Internal | Code::DeadlineExceeded)
}

/// What is said of a standing.
fn request(standing: &Standing) -> JoinRequest {
    let phase = |phase: Phase| JoinRequest { phase: phase.into(), ..JoinRequest::default() };
    match standing {
        Standing::Starting(why) => JoinRequest { note: why.clone(), ..phase(Phase::Starting) },
        Standing::Ready => phase(Phase::Ready),
        Standing::Draining { since, until, waits_for } => JoinRequest {
            drain_since_ms: since.elapsed().as_millis() as u64,
            drain_within_ms: until.saturating_duration_since(std::time::Instant::now()).as_millis() as u64,
            note: (*waits_for).to_owned(),
            ..phase(Phase::Draining)
        },
        Standing::Ended { since, ending } => JoinRequest {
            drain_since_ms: since.elapsed().as_millis() as u64,
            ending: Some(ending.clone()),
            ..phase(Phase::Ended)
        },
    }
}
