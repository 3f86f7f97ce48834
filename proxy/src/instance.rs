//! The life of the instance beside which a sidecar stands: whether its application is ready, how it goes, and what control
//! is told of both. What is decided about its going is `drain`'s; here is what that sees. Cold.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use config::wire::evenkeel::v1::{Ending, Phase};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::{oneshot, watch};
use tokio::time::timeout;

use crate::cut::CutRequests;
use crate::drain::{self, Forgetting, Reason, Seen, Terms, Verdict};
use crate::log::event;
use crate::shared::{Mail, Shared};
use crate::status::Status;
use crate::subscription::{Known, Standing};

/// From one look at an application that is not ready to the next, and at one that is.
const LOOK_EVERY: Duration = Duration::from_millis(50);
const CHECK_EVERY: Duration = Duration::from_secs(1);
/// For its answer.
const CHECK_WITHIN: Duration = Duration::from_secs(1);
/// Of one that was ready, answers in a row that are not good.
const FAILURES_MAX: u32 = 3;
/// From one look at how a drain stands to the next.
const DRAIN_EVERY: Duration = Duration::from_millis(5);
/// For workers to cut what is under way: they look at their mail at once.
const CUT_WITHIN: Duration = Duration::from_secs(1);
/// For control to hear of the end.
const ENDED_WITHIN: Duration = Duration::from_secs(1);
/// Of the head of an answer: its status is in the first bytes.
const STATUS_BYTES: usize = 12;
/// For control, where it is there, to tell callers of an instance that is ready.
const TOLD_WITHIN: Duration = Duration::from_secs(1);
/// An application that is not ready may say why again and again in other words.
const TOLD_EVERY: Duration = Duration::from_secs(1);

/// What is known of an application's readiness.
#[derive(Debug, Clone)]
pub(crate) struct Check {
    /// Where it listens.
    pub(crate) app: SocketAddr,
    /// What it is asked for; None: it is ready when it takes connections.
    pub(crate) path: Option<String>,
    /// For how long it must be ready before callers are told.
    pub(crate) settles_within: Duration,
}

/// Somebody wants the instance to go, and hears when it has.
type Order = oneshot::Sender<Value>;

/// Where others reach it.
#[derive(Clone)]
pub(crate) struct Handle {
    orders: UnboundedSender<Order>,
    /// None: it serves. Else what remains of its drain.
    drained: watch::Receiver<Option<Value>>,
    /// When it was told to go, as soon as it was.
    began: watch::Receiver<Option<Instant>>,
    within: Duration,
    check: Check,
    /// The process is to end.
    is_to_end: bool,
}

/// The instance.
pub(crate) struct Instance {
    pub(crate) terms: Terms,
    pub(crate) check: Check,
    pub(crate) standing: watch::Sender<Standing>,
    pub(crate) known: watch::Receiver<Known>,
    /// Held where there is no control, which could say something.
    pub(crate) silence: Option<watch::Sender<Known>>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) status: Arc<Status>,
}

/// What workers have counted of requests for the application.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Counts {
    begun: u64,
    in_flight: u64,
    /// When the last one began or ended, and when the last one of an outside caller came, in milliseconds since the start.
    at_ms: u64,
    outside_at_ms: u64,
}

/// Comes when control says something else.
async fn news(known: &mut watch::Receiver<Known>) {
    if known.changed().await.is_err() {
        // Nobody will.
        std::future::pending().await
    }
}

impl Handle {
    /// Lets the instance go, and waits until it has.
    pub(crate) async fn drain(&self) -> Value {
        event("info", "asked to go: GET /drain");
        let (answer, answered) = oneshot::channel();
        // It ends with the process.
        let _ = self.orders.send(answer);
        answered.await.unwrap_or_default()
    }

    /// Whether the process is to end.
    pub(crate) fn is_to_end(&self) -> bool {
        self.is_to_end
    }

    /// Lets the instance go; the process is to end after it.
    pub(crate) fn end(&mut self) {
        event("info", "told to end");
        self.is_to_end = true;
        let _ = self.orders.send(oneshot::channel().0);
    }

    /// What is left of its time.
    pub(crate) fn left(&self) -> Duration {
        let began = self.began.borrow().unwrap_or_else(Instant::now);
        (began + self.within).saturating_duration_since(Instant::now())
    }

    /// Comes when it has gone, and its application, which may still have calls to make, too; or there is no more time.
    pub(crate) async fn over(&mut self) {
        // They end with the process.
        let began = self.began.wait_for(Option::is_some).await.ok().and_then(|began| *began);
        let deadline = began.unwrap_or_else(Instant::now) + self.within;
        // At the deadline what is under way is cut, and control is told: that takes its moment.
        let _ = self.drained.wait_for(Option::is_some).await;
        let gone = async {
            while !self.check.is_gone().await {
                tokio::time::sleep(LOOK_EVERY).await;
            }
        };
        let _ = tokio::time::timeout_at(deadline.into(), gone).await;
    }
}

impl Check {
    /// Whether the application is ready, and if not, why.
    async fn ready(&self) -> Result<(), String> {
        let gone = |error: std::io::Error| format!("{}: {error}", self.app);
        let asked = async {
            let mut stream = TcpStream::connect(self.app).await.map_err(gone)?;
            let Some(path) = &self.path else { return Ok(()) };
            let question = format!(
                "GET {path} HTTP/1.1\r\nHost: {}\r\nUser-Agent: evenkeel-ready\r\nConnection: close\r\n\r\n",
                self.app
            );
            stream.write_all(question.as_bytes()).await.map_err(gone)?;
            let mut head = [0; STATUS_BYTES];
            stream.read_exact(&mut head).await.map_err(gone)?;
            let status = head[9..].escape_ascii();
            match head.starts_with(b"HTTP/1.") {
                true if matches!(head[9], b'2' | b'3') => Ok(()),
                true => Err(format!("{} answers {path} with {status}", self.app)),
                false => Err(format!("{} does not answer {path} in HTTP/1.1", self.app)),
            }
        };
        let late = |_| Err(format!("{} does not answer within {CHECK_WITHIN:?}", self.app));
        timeout(CHECK_WITHIN, asked).await.unwrap_or_else(late)
    }

    /// Whether nobody listens there any more.
    pub(crate) async fn is_gone(&self) -> bool {
        let connected = timeout(CHECK_WITHIN, TcpStream::connect(self.app)).await;
        // No other error says anything of it: there may be no descriptor left here.
        matches!(connected, Ok(Err(error)) if error.kind() == ErrorKind::ConnectionRefused)
    }
}

impl Instance {
    /// Begins its life.
    pub(crate) fn start(self) -> Handle {
        let (orders, ordered) = unbounded_channel();
        let (over, drained) = watch::channel(None);
        let (begins, began) = watch::channel(None);
        let (within, check) = (self.terms.within, self.check.clone());
        tokio::spawn(self.live(ordered, begins, over));
        Handle { orders, drained, began, within, check, is_to_end: false }
    }

    async fn live(
        mut self,
        mut orders: UnboundedReceiver<Order>,
        begins: watch::Sender<Option<Instant>>,
        over: watch::Sender<Option<Value>>,
    ) {
        let Some(first) = self.serve(&mut orders).await else { return };
        let mut waiting = vec![first];
        begins.send_replace(Some(Instant::now()));
        let receipt = self.drain(&mut orders, &mut waiting).await;
        over.send_replace(Some(receipt.clone()));
        for order in waiting {
            // Who has gone does not need to know; this and below.
            let _ = order.send(receipt.clone());
        }
        while let Some(order) = orders.recv().await {
            let _ = order.send(receipt.clone());
        }
        drop(self.silence);
    }

    /// Serves until somebody wants it to go. None: the process ends.
    async fn serve(&mut self, orders: &mut UnboundedReceiver<Order>) -> Option<Order> {
        let (mut failures, mut told_at) = (0, None::<Instant>);
        // Since when it answers as it should, and since when it counts as ready, which a failure or two do not change.
        let (mut answers_since, mut ready_since) = (None::<Instant>, None::<Instant>);
        let mut calls: Arc<[String]> = Arc::default();
        loop {
            let told = self.known.borrow().calls.clone();
            if told != calls {
                // Its first call need not wait for what others of its Service call, and not fail if control goes before it.
                told.iter().for_each(|service| self.shared.ask_control_for(&format!("Service/{service}/*").into()));
                calls = told;
            }
            let (check, has_rules) = (self.check.clone(), self.status.has_rules());
            let look =
                async { if has_rules { check.ready().await } else { Err("its rules are not in force".to_owned()) } };
            let found = tokio::select! {
                found = look => found,
                order = orders.recv() => return order,
            };
            let was_ready = *self.standing.borrow() == Standing::Ready;
            answers_since = found.is_ok().then(|| answers_since.unwrap_or_else(Instant::now));
            let found = found.and_then(|()| match answers_since {
                Some(since) if !was_ready && since.elapsed() < check.settles_within => {
                    Err(format!("it answers, and has {:?} to settle", check.settles_within))
                }
                _ => Ok(()),
            });
            let pause = if found.is_ok() { CHECK_EVERY } else { LOOK_EVERY };
            match found {
                Ok(()) => {
                    failures = 0;
                    if !was_ready {
                        event("info", "the application is ready");
                        ready_since = Some(Instant::now());
                        self.standing.send_replace(Standing::Ready);
                    }
                }
                Err(_) if was_ready && failures + 1 < FAILURES_MAX => failures += 1,
                Err(why) => {
                    let is_new = *self.standing.borrow() != Standing::Starting(why.clone());
                    if is_new && (was_ready || told_at.is_none_or(|at| at.elapsed() >= TOLD_EVERY)) {
                        told_at = Some(Instant::now());
                        let (level, how) = match was_ready {
                            true => ("warn", "not ready any more"),
                            false => ("info", "not ready"),
                        };
                        event(level, &format!("the application is {how}: {why}"));
                        ready_since = None;
                        self.standing.send_replace(Standing::Starting(why));
                    }
                }
            }
            let ready_for = ready_since.map(|since| since.elapsed());
            if self.known.borrow().response.as_ref().is_some_and(|response| response.drain) {
                event("info", "asked to go: by control");
                return Some(oneshot::channel().0);
            }
            self.status.set_app(self.is_told(ready_for));
            let pause = if ready_for.is_some_and(|time| time < TOLD_WITHIN) { LOOK_EVERY } else { pause };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                order = orders.recv() => return order,
                () = news(&mut self.known) => {}
            }
        }
    }

    /// Whether callers are told of an instance that has been ready for so long, so that an orchestrator may go on: control
    /// says so, or is not there to say anything.
    fn is_told(&self, ready_for: Option<Duration>) -> bool {
        let known = self.known.borrow();
        match (&known.response, ready_for) {
            (_, None) => false,
            (Some(response), _) => response.phase() == Phase::Ready,
            (None, Some(ready_for)) => !known.is_refused && (!self.terms.is_announced || ready_for >= TOLD_WITHIN),
        }
    }

    /// Goes: serves until nobody sends to it any more.
    async fn drain(&mut self, orders: &mut UnboundedReceiver<Order>, waiting: &mut Vec<Order>) -> Value {
        let began = Instant::now();
        event("info", &format!("going, within {} s", self.terms.within.as_secs()));
        self.status.leaving();
        let until = began + self.terms.within;
        let going = |waits_for| Standing::Draining { since: began, until, waits_for };
        self.standing.send_replace(going(""));
        let mut seen = Seen::default();
        let (mut counts, mut told_at) = (self.counts(), None);
        let (mut late, mut waited_for, mut looked_at, mut is_gone) = (0, None, None::<Instant>, false);
        let reason = loop {
            if seen.is_last && looked_at.is_none_or(|at| at.elapsed() >= CHECK_EVERY) {
                looked_at = Some(Instant::now());
                // Once may be while it binds its address anew.
                let was_gone = std::mem::replace(&mut is_gone, self.check.is_gone().await);
                seen.is_app_gone = was_gone && is_gone;
            }
            let (now, next) = (Instant::now(), self.counts());
            let at = |ms: u64| (ms > 0).then(|| self.shared.origin + Duration::from_millis(ms));
            (seen.last_request, seen.last_outside) = (at(next.at_ms), at(next.outside_at_ms));
            if told_at.is_some() {
                late += next.begun - counts.begun;
            }
            (seen.in_flight, counts) = (next.in_flight, next);
            self.look(&mut seen);
            if seen.forgetting.as_ref().is_some_and(|forgetting| forgetting.is_over) {
                told_at.get_or_insert(now);
            }
            if drain::says_so(&self.terms, began, &seen, now) {
                self.shared.is_leaving.store(true, Relaxed);
            }
            let until = match drain::decide(&self.terms, began, &seen, now) {
                Verdict::Drained(reason) => break reason,
                Verdict::Wait(until, what) => {
                    if waited_for.replace(what) != Some(what) {
                        event("info", &format!("waits for {}", what.words()));
                        self.standing.send_replace(going(what.words()));
                    }
                    until.min(now + DRAIN_EVERY)
                }
            };
            tokio::select! {
                () = tokio::time::sleep_until(until.into()) => {}
                () = news(&mut self.known) => {}
                Some(order) = orders.recv() => waiting.push(order),
            }
        };
        self.end(began, &seen, reason, late, told_at).await
    }

    /// What control says of it now.
    fn look(&mut self, seen: &mut Seen) {
        let known = self.known.borrow_and_update();
        (seen.is_unknown, seen.is_heard) = (known.is_unknown, known.response.is_some());
        if !seen.is_heard {
            // Control that is back may know as little as one that has just started, and has the same time again.
            seen.announced = seen.announced.filter(|_| seen.forgetting.as_ref().is_some_and(|told| told.is_over));
        }
        let Some(response) = &known.response else { return };
        seen.is_last = response.phase() == Phase::Last;
        seen.forgetting = response.forgetting.as_ref().map(|told| Forgetting {
            is_over: told.is_over,
            unreachable: told.unreachable,
            holders: told.holders,
            waiting_for: told.waiting_for.clone(),
            unreachable_ids: told.unreachable_ids.clone(),
        });
        if response.phase() == Phase::Draining {
            seen.announced.get_or_insert_with(Instant::now);
        }
    }

    /// Tells control that it has gone, and what there is to say of that.
    async fn end(&mut self, began: Instant, seen: &Seen, reason: Reason, late: u64, told: Option<Instant>) -> Value {
        let since = |at: Instant| at.saturating_duration_since(began).as_millis() as u64;
        let last = seen.last_request.filter(|at| *at > began).map_or(0, |at| since(at).max(1));
        let is_over = matches!(reason, Reason::Deadline(_) | Reason::AppGone);
        let cut = if is_over { self.cut().await } else { CutRequests::default() };
        let ending = Ending {
            last_request_after_ms: last,
            late_requests: late,
            cut: cut.count,
            cut_requests: cut.names.clone(),
            reason: reason.words(),
        };
        self.standing.send_replace(Standing::Ended { since: began, ending });
        let is_heard = |known: &Known| known.response.as_ref().is_none_or(|response| response.phase() == Phase::Ended);
        // Control finds out by itself where it does not hear it.
        let _ = timeout(ENDED_WITHIN, self.known.wait_for(is_heard)).await;
        let took = began.elapsed();
        event("info", &format!("gone after {} ms: {}", took.as_millis(), reason.words()));
        let forgetting = seen.forgetting.clone().unwrap_or_default();
        json!({
            "tookMilliseconds": took.as_millis() as u64,
            "forgottenMilliseconds": told.map(since),
            "holders": forgetting.holders,
            "unreachable": forgetting.unreachable,
            "waitingFor": forgetting.waiting_for,
            "unreachableProxies": forgetting.unreachable_ids,
            "lastRequestMilliseconds": last,
            "lateRequests": late,
            "cut": cut.count,
            "cutRequests": cut.names,
            "reason": reason.words(),
        })
    }

    /// Cuts what is under way.
    async fn cut(&self) -> CutRequests {
        let (told, mut tells) = unbounded_channel();
        self.shared.mailboxes.iter().for_each(|mailbox| mailbox.send(Mail::Cut(told.clone())));
        drop(told);
        let mut all = CutRequests::default();
        let heard = async {
            while let Some(cut) = tells.recv().await {
                all.join(cut);
            }
        };
        if timeout(CUT_WITHIN, heard).await.is_err() {
            event("error", "a worker has not told what it cut");
        }
        for name in &all.names {
            event("warn", &format!("cut: {name}"));
        }
        all
    }

    fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        for stats in self.shared.stats.iter() {
            counts.begun += stats.inbound.get();
            counts.in_flight += stats.inbound_in_flight.get();
            counts.at_ms = counts.at_ms.max(stats.inbound_at_ms.get());
            counts.outside_at_ms = counts.outside_at_ms.max(stats.outside_at_ms.get());
        }
        counts
    }
}
