//! The life of a request, in the order things happen: what is known of it, its lane, the rule it meets, what protects the
//! way, what the rule does to it, the target and what protects that, the attempts and their answer, the record. Every
//! decision of that way is made here, but for those about attempts, which are `attempts`'; helpers compute. Hot.

use std::cell::Cell;
use std::net::{IpAddr, SocketAddr};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use config::snapshot::lanes::{LaneRole, TraceHeaders};
use config::snapshot::{ClientAddress, Filter, ListenerSettings, Mirror};
use filters::head::Known;
use filters::lane::leak::{self, Watched, Why};
use filters::lane::trace::{self, Ids, Lookup, Token};
use filters::{Entry, Head, Verdict};

use crate::attempts;
use crate::buffer::LentHead;
use crate::connection::Client;
use crate::cut;
use crate::error::{Kind, ProxyError};
use crate::first_use;
use crate::forwarded;
use crate::h1::{self, Framing, HeadLimits, Method, RequestMeta};
use crate::hop::{self, Sent};
use crate::lanes::{Found, LaneView, Ready, Source};
use crate::passage::{Passage, Stage};
use crate::record::Record;
use crate::reply::{self, Redirect};
use crate::stats::Leak;
use crate::view::{self, ClusterView, ListenerView, RuleView};
use crate::worker::{BindView, ConnectionGuard, Worker};

/// For so long a request whose rules were replaced while it waited, and that found nobody by them, meets those in force.
const ANEW_MAX: Duration = Duration::from_secs(1);

/// What becomes of the downstream connection after an exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum After {
    /// The next request may come.
    KeepAlive,
    /// Our side ends; what the client still sends is read for a moment, so that it sees the answer.
    Linger,
    /// Our side ends, and the client has no more to send.
    Shutdown,
    /// Nothing can be told any more.
    Close,
}

/// Serves one request whose head has been read: the answer is the service's, a rule's, or an error's.
pub(crate) async fn serve(
    guard: &ConnectionGuard,
    client: &mut Client,
    settings: &ListenerView,
    mut head: LentHead,
    meta: RequestMeta,
) -> After {
    let worker = &guard.worker;
    let mut record = Record::start(worker.driver.now());
    record.ask(&head);
    client.tell_shadow(settings, &mut record);
    let in_flight = InFlight::count(worker);
    let inbound = Inbound::enter(guard, &head);
    let misdirected = inbound.as_ref().is_some_and(|inbound| inbound.is_misdirected);

    let revision = worker.stats().revision.get();
    let client_address = learn(worker, &guard.bind, settings, client.peer, &mut head);
    let issue = match worker.has_lanes() {
        true => take_lane(guard, client_address, &mut head, inbound.as_ref(), &mut record),
        // Most gateways know of none, and shall not pay for them.
        false => {
            trace::start_or_continue(&mut head, TraceHeaders::default, || worker.dice());
            None
        }
    };

    let asked = Asked { client_address, settings, meta: &meta, issue, inbound: inbound.as_ref() };
    let mut result = match misdirected {
        // It is counted as this instance's, which tells that it was not meant.
        true => meet(worker, &guard.bind, &head, &mut record).and(Err(ProxyError::here(Kind::Misdirected))),
        false => {
            let forwarding = pin!(forward(guard, client, &asked, &mut head, &mut record));
            until_cut(asked.inbound, forwarding).await
        }
    };
    if let Err(error) = result
        && error.kind.finds_nobody()
        && worker.stats().revision.get() != revision
    {
        result = Box::pin(meet_others(guard, client, asked, &mut head, &mut record, revision, error)).await;
    }
    let after = match result {
        Ok(after) => after,
        Err(error) => {
            if error.kind == Kind::Cut {
                note_cut(worker, client, settings, &mut head, &record);
            }
            fail(guard, client, &meta, error, &mut record).await
        }
    };
    drop((in_flight, inbound));
    if let Some(trial) = &settings.trial {
        trial.ended(&mut record, meta.framing);
    }
    record.finish(worker, client_address, Some(&head));
    after
}

/// Finds out which lane a request is in, and remembers it for the calls that the instance makes on its behalf. The value of a
/// `Set-Cookie` for the answer: a sticky key that was made here.
#[inline(never)]
fn take_lane(
    guard: &ConnectionGuard,
    client: IpAddr,
    head: &mut Head,
    inbound: Option<&Inbound<'_>>,
    record: &mut Record,
) -> Option<Box<[u8]>> {
    let stats = guard.worker.stats();
    let Found { lane, issue, differs, is_stripped, shadow, missed, stray, .. } =
        enter_lane(&guard.worker, &guard.bind, client, head, true);
    if let Some(inbound) = inbound {
        inbound.remember(head, lane.as_deref());
        // What is given back comes to nobody.
        if let Some(missed) = missed.filter(|_| !inbound.is_misdirected) {
            inbound.tell_untagged(&missed, head);
        }
    }
    (record.lane, record.stray) = (lane, stray);
    if let Some(decided) = shadow {
        record.tell_lanes(stats, &decided);
    }
    stats.lanes_differ.add(u64::from(differs));
    stats.lanes_stripped.add(u64::from(is_stripped));
    issue
}

/// Serves a request that found nobody by rules which were replaced while it waited: by those in force now, if nothing has been
/// done with it so far.
#[cold]
async fn meet_others(
    guard: &ConnectionGuard,
    client: &mut Client,
    mut asked: Asked<'_>,
    head: &mut Head,
    record: &mut Record,
    mut revision: u64,
    mut error: ProxyError,
) -> Result<After, ProxyError> {
    let worker = &guard.worker;
    let until = worker.driver.now() + ANEW_MAX;
    while worker.driver.now() < until {
        let before = std::mem::replace(&mut revision, worker.stats().revision.get());
        if revision == before || record.has_begun || !restore(head, asked.settings) {
            break;
        }
        record.begin_again();
        learn(worker, &guard.bind, asked.settings, client.peer, head);
        // What groups in shadow would have done has been counted.
        let Found { lane, issue, stray, .. } = enter_lane(worker, &guard.bind, asked.client_address, head, true);
        if let Some(inbound) = asked.inbound {
            inbound.remember(head, lane.as_deref());
        }
        (record.lane, record.stray, asked.issue) = (lane, stray, issue);
        let forwarding = pin!(forward(guard, client, &asked, head, record));
        match until_cut(asked.inbound, forwarding).await {
            Err(again) if again.kind.finds_nobody() => error = again,
            result => return result,
        }
    }
    Err(error)
}

/// Brings a head back into the form that it came in: what was received stands at the front of its text, whatever was done
/// to it since.
fn restore(head: &mut Head, settings: &ListenerSettings) -> bool {
    let received = head.text().to_vec();
    let limits = HeadLimits { bytes_max: usize::MAX, fields_max: usize::MAX };
    h1::parse_request(&received, &mut 0, limits, head).is_ok_and(|bytes| bytes.is_some())
        && h1::check_request(head, settings.encoded_slash).is_ok()
}

/// Brings a head into the form that rules see, but for its lane and its trace, and tells the client's address.
pub(crate) fn learn(
    worker: &Worker,
    bind: &BindView,
    settings: &ListenerSettings,
    peer: SocketAddr,
    head: &mut Head,
) -> IpAddr {
    if !matches!(settings.client_address, ClientAddress::Kept) {
        // Many servers read `_` as `-`, and would take such a field for one of ours. Services may have theirs.
        head.remove_known(Known::Underscored);
    }
    // It was said to us, or by somebody who has nothing to say here.
    head.remove_known(Known::Hop);
    let trusted = forwarded::trusts(&settings.client_address, peer.ip());
    let client_address = forwarded::apply(head, &settings.client_address, peer, "http");
    forwarded::identify(head, trusted, || worker.dice());
    if head.known(Known::Mirror).is_some() && !trusted && !is_inside(worker, bind) {
        // A service must not take for a copy what a client only calls one.
        head.remove_known(Known::Mirror);
    }
    client_address
}

/// What is known of a request beside its head, and stays as it is.
pub(crate) struct Asked<'a> {
    pub(crate) client_address: IpAddr,
    pub(crate) settings: &'a ListenerView,
    pub(crate) meta: &'a RequestMeta,
    /// The value of a `Set-Cookie` that the answer gets.
    pub(crate) issue: Option<Box<[u8]>>,
    /// If it goes to the instance beside which this proxy stands.
    inbound: Option<&'a Inbound<'a>>,
}

/// What is refused whatever the rules say.
pub(crate) fn check(settings: &ListenerSettings, head: &Head, meta: &RequestMeta) -> Result<(), ProxyError> {
    if is_websocket(head, meta) {
        return Err(ProxyError::downstream(Kind::Upgrade));
    }
    match (meta.framing, settings.request_body_bytes_max) {
        (Framing::Length(length), Some(max)) if length > max => Err(ProxyError::downstream(Kind::BodyTooLarge)),
        _ => Ok(()),
    }
}

/// What becomes of a request, unless the instance that it is for has no more time before that: then it is left where it is.
fn until_cut<'f>(
    inbound: Option<&'f Inbound<'_>>,
    mut forwarding: Pin<&'f mut impl Future<Output = Result<After, ProxyError>>>,
) -> impl Future<Output = Result<After, ProxyError>> {
    std::future::poll_fn(move |context| match inbound {
        Some(inbound) if inbound.is_cut() => Poll::Ready(Err(ProxyError::here(Kind::Cut))),
        _ => forwarding.as_mut().poll(context),
    })
}

/// Names a request that is cut.
#[cold]
fn note_cut(worker: &Worker, client: &Client, settings: &ListenerSettings, head: &mut Head, record: &Record) {
    let took = record.took(worker.driver.precise_now());
    // As it came: what was done to it since says less of who sent it.
    let head = restore(head, settings).then_some(&*head);
    worker.cut.borrow_mut().note(|| cut::told(head, client.peer, took, record.response_body_bytes));
}

/// Finds where the request goes, and brings the answer back.
async fn forward(
    guard: &ConnectionGuard,
    client: &mut Client,
    asked: &Asked<'_>,
    head: &mut Head,
    record: &mut Record,
) -> Result<After, ProxyError> {
    let worker = &guard.worker;
    let Asked { settings, meta, .. } = asked;
    check(settings, head, meta)?;
    if matches!(meta.method, Method::Options | Method::Trace) && !spend_hop(head) {
        // RFC 9110 7.6.2: this is the last recipient. It has nothing to say of itself, and reflects nothing.
        let status = if meta.method == Method::Options { 200 } else { 501 };
        return Ok(reply::send_status(guard, client, meta, status, record).await);
    }
    let (mut met, cluster) = match meet(worker, &guard.bind, head, record) {
        Err(ProxyError { kind: Kind::Unheard, .. }) => {
            return Err(first_use::hear_of(worker, client, &guard.bind, head).await);
        }
        met => met?,
    };
    let deadline = after(worker.driver.now(), met.rule.request_timeout);
    let mut passage = Passage::begin(worker);
    if !met.rule.protection.is_empty()
        && let Some(refused) =
            passage.enter(Stage::Route(met.rule.clone()), asked, head, record, client, deadline).await?
    {
        return Ok(refused.answer(guard, client, meta, record).await);
    }
    if let Verdict::Redirect(status, location) = met.change(head) {
        let redirect = Redirect { status, location, filters: met.filters() };
        return Ok(reply::send_redirect(guard, client, meta, redirect, record).await);
    }
    let cluster = cluster.ok_or(ProxyError::here(Kind::NoCluster))?;
    if !cluster.protection.is_empty()
        && let Some(refused) =
            passage.enter(Stage::Cluster(cluster.clone()), asked, head, record, client, deadline).await?
    {
        return Ok(refused.answer(guard, client, meta, record).await);
    }
    let cluster = match passage.has_waited {
        false => cluster,
        true => worker.view().cluster(&cluster.cluster.name).ok_or(ProxyError::here(Kind::NoEndpoint))?,
    };
    let cluster = first_use::ensure(worker, client, cluster, deadline).await?;
    record.tell_fallbacks(worker, &cluster);
    if let Some((callee, why)) = record.stray.take() {
        worker.tell_stray(&cluster, head, callee, why);
    }
    if head.authority.is_empty() {
        // HTTP/1.0 may come without a host; what we send must have one (RFC 9112 3.2).
        let cluster = &cluster.cluster;
        head.authority = head.append_with(|text| write_service(text, &cluster.service, &cluster.namespace));
    }
    if let Some(hop) = &cluster.hop {
        head.add_with(hop::NAME, Known::Hop, |text| text.extend_from_slice(hop));
    }
    let result = attempts::run(guard, client, asked, head, &met, cluster, deadline, record).await;
    passage.outcome = record.outcome(worker.driver.now(), result.as_ref().err());
    result
}

/// Counts a request for as long as it is served, however that ends.
struct InFlight<'w>(&'w Worker);

impl InFlight<'_> {
    fn count(worker: &Worker) -> InFlight<'_> {
        worker.stats().requests_in_flight.add(1);
        InFlight(worker)
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.stats().requests_in_flight.subtract(1);
    }
}

/// Counts a request to the instance beside which this proxy stands, for as long as it is served, however that ends.
struct Inbound<'w> {
    worker: &'w Worker,
    /// It was meant for another Service.
    is_misdirected: bool,
    sent: Sent,
    /// How often requests had been cut when it came.
    cuts: u32,
    /// Its place in the trace map.
    token: Cell<Option<Token>>,
    /// Whether it loses its lane here, if it is in one.
    watched: Cell<Option<(Arc<str>, Watched)>>,
}

impl<'w> Inbound<'w> {
    /// None: it goes elsewhere.
    fn enter(guard: &'w ConnectionGuard, head: &Head) -> Option<Inbound<'w>> {
        let service = guard.bind.instance_of.as_ref()?;
        let worker = &*guard.worker;
        let (stats, now_ms) = (worker.stats(), worker.driver.now().as_millis() as u64);
        stats.inbound.add(1);
        stats.inbound_in_flight.add(1);
        stats.inbound_at_ms.set(now_ms.max(1));
        let sent = hop::sent(head);
        let is_misdirected = match sent {
            Sent::Outside => {
                stats.outside_at_ms.set(now_ms.max(1));
                false
            }
            Sent::By(_, meant) => head.bytes(meant) != service.as_bytes(),
        };
        stats.misdirected.add(u64::from(is_misdirected));
        let (cuts, token, watched) = (worker.cuts.get(), Cell::default(), Cell::default());
        Some(Inbound { worker, is_misdirected, sent, cuts, token, watched })
    }

    /// Whether the time of the instance is over, and so its own.
    fn is_cut(&self) -> bool {
        self.worker.cuts.get() != self.cuts
    }

    /// Remembers the lane of its trace, for calls that the instance makes on its behalf; before the instance sees it.
    fn remember(&self, head: &Head, lane: Option<&LaneView>) {
        let Some(traces) = self.worker.shared.traces.get().filter(|_| !self.is_misdirected) else { return };
        let token = traces.enter(&Ids::of(head), lane.map(LaneView::remembered), now_ns(self.worker));
        // It is not over, if it was remembered before: nothing is lost by it.
        self.forget(u16::MAX);
        self.token.set(Some(token));
        self.watched.set(lane.map(|lane| (lane.name.clone(), self.worker.shared.strays.begin())));
    }

    /// `called`: whom calls of its own went to, beside those that the trace map knows.
    fn forget(&self, called: u16) {
        let Worker { shared, .. } = self.worker;
        let Some((token, traces)) = self.token.take().zip(shared.traces.get()) else { return };
        let called = called | traces.leave(token, now_ns(self.worker));
        if let Some((lane, watched)) = self.watched.take() {
            for stray in shared.strays.end(watched, called) {
                let leak = match stray.is_doubtful {
                    true => Leak::Doubtful(stray.service),
                    false => Leak::Lost(stray.service, stray.why),
                };
                self.worker.stats().leaked(&lane, leak, stray.example);
            }
        }
    }

    /// It came to an instance of a lane that it is not in.
    #[cold]
    fn tell_untagged(&self, missed: &LaneView, head: &Head) {
        let from = match self.sent {
            Sent::Outside => Box::default(),
            Sent::By(from, _) => cut::shown(head.bytes(from), cut::NAME_BYTES_MAX).into(),
        };
        self.worker.stats().leaked(&missed.name, Leak::Untagged(from), cut::asked(head).into());
    }
}

impl Drop for Inbound<'_> {
    fn drop(&mut self) {
        self.forget(0);
        // In this order: who sees that none is left sees when that was.
        self.worker.stats().inbound_at_ms.set((self.worker.driver.now().as_millis() as u64).max(1));
        self.worker.stats().inbound_in_flight.subtract(1);
    }
}

/// A service's name in the cluster.
fn write_service(text: &mut Vec<u8>, service: &str, namespace: &str) {
    for part in [service, ".", namespace] {
        text.extend_from_slice(part.as_bytes());
    }
}

/// Counts `Max-Forwards` down and tells whether the request may go further (RFC 9110 7.6.2).
pub(crate) fn spend_hop(head: &mut Head) -> bool {
    let text = head.get("max-forwards").and_then(|value| std::str::from_utf8(value).ok());
    match text.and_then(|text| text.parse::<u64>().ok()) {
        None => true,
        Some(0) => false,
        Some(left) => {
            head.set("Max-Forwards", (left - 1).to_string().as_bytes());
            true
        }
    }
}

/// Whether a WebSocket handshake (RFC 6455 4.1) was asked for. Other upgrades, such as h2c, are an offer that may be
/// ignored (RFC 9110 7.8); this one makes no sense as a plain request.
fn is_websocket(head: &Head, meta: &RequestMeta) -> bool {
    let asks =
        |value: &[u8]| value.split(|byte| *byte == b',').any(|one| one.trim_ascii().eq_ignore_ascii_case(b"websocket"));
    meta.upgrade && head.fields().iter().any(|field| field.known == Known::Upgrade && asks(head.bytes(field.value)))
}

/// The rule that a request met, and the target that was chosen of it.
pub(crate) struct Met {
    pub(crate) rule: Rc<RuleView>,
    /// The index of the target in the rule, if one was chosen; its filters come after the rule's.
    choice: Option<usize>,
    entry: Entry,
}

impl Met {
    /// The filters that see the answer, in their order.
    pub(crate) fn filters(&self) -> [&[Filter]; 2] {
        [&self.rule.filters, self.choice.map_or(&[], |choice| &self.rule.backends.choices[choice].filters)]
    }

    /// The place of the target among those of the rule, if one was chosen.
    pub(crate) fn target(&self) -> Option<usize> {
        self.choice
    }

    /// Who gets a copy.
    pub(crate) fn mirrors(&self) -> impl Iterator<Item = &Mirror> {
        let of_target = self.choice.map_or(&[][..], |choice| &self.rule.backends.choices[choice].mirrors);
        self.rule.mirrors.iter().chain(of_target)
    }

    /// What the rule's filters, and then the target's, do to the request.
    pub(crate) fn change(&mut self, head: &mut Head) -> Verdict {
        let [of_rule, of_target] = [&self.rule.filters[..], self.filters()[1]];
        match filters::on_request(of_rule, head, self.entry) {
            Verdict::Continue => filters::on_request(of_target, head, self.entry),
            redirect => {
                // The target has no part in this.
                self.choice = None;
                redirect
            }
        }
    }
}

/// The rule that a request meets, and the cluster that it goes to if it is not redirected.
pub(crate) fn meet(
    worker: &Worker,
    bind: &BindView,
    head: &Head,
    record: &mut Record,
) -> Result<(Met, Option<Rc<ClusterView>>), ProxyError> {
    let (view, index) = worker.place(bind).ok_or(ProxyError::here(Kind::NoRoute))?;
    let listener = &view.snapshot.binds[index];
    let found = listener.table.find(head).ok_or_else(|| ProxyError::here(first_use::missing(listener, head)))?;
    let rule = view.rule(index, found);
    record.rule = Some(rule.clone());
    let entry = Entry { scheme: "http", port: bind.port, prefix_bytes: found.prefix_bytes };
    let choice = view::choose(&rule.backends, worker.dice());
    let cluster = match choice.and_then(|choice| rule.backends.choices[choice].cluster) {
        None => None,
        Some(cluster) if bind.index.get().is_some() => Some(view.clusters[cluster].clone()),
        // The rules of an address that was removed, but the endpoints of now.
        Some(cluster) => {
            let name = &view.clusters[cluster].cluster.name;
            Some(worker.view().cluster(name).ok_or(ProxyError::here(Kind::NoEndpoint))?)
        }
    };
    record.cluster = cluster.clone();
    Ok((Met { rule, choice, entry }, cluster))
}

/// Whether what requests here say of the mesh is believed.
fn is_inside(worker: &Worker, bind: &BindView) -> bool {
    worker.place(bind).is_some_and(|(view, index)| view.snapshot.binds[index].lanes.is_inside())
}

/// What the address does about the request's lane, and about its trace, which goes on or begins here. `is_real`: it is made,
/// not only explained, and counts.
pub(crate) fn enter_lane(worker: &Worker, bind: &BindView, client: IpAddr, head: &mut Head, is_real: bool) -> Found {
    let place = if worker.has_lanes() { worker.place(bind) } else { None };
    let Some((view, index)) = place else {
        trace::start_or_continue(head, TraceHeaders::default, || worker.dice());
        return Found::default();
    };
    let zone = worker.shared.zone.as_deref();
    let ready = Ready { clusters: &view.clusters, now: worker.driver.now(), zone };
    let (bind, dice) = (&view.snapshot.binds[index], worker.dice());
    let shadow = view.lanes.try_out(&bind.shadow_lanes, head, client, dice, ready);
    let traces = worker.shared.traces.get();
    let callee = |head: &Head| leak::callee(head.bytes(head.authority));
    let mut why = Why::NoTag;
    let traced = |head: &Head| {
        let Some(traces) = traces else { return Lookup::Unknown };
        let ids = Ids::of(head);
        let lookup = match is_real {
            true => traces.find(&ids, callee(head), now_ns(worker)),
            false => traces.peek(&ids, now_ns(worker)),
        };
        why = match lookup {
            Lookup::Lane(_) => Why::NoTag,
            Lookup::Ambiguous => Why::AmbiguousTrace,
            Lookup::Unknown if ids.as_slice().is_empty() => Why::NoTrace,
            Lookup::Unknown => Why::UnknownTrace,
        };
        lookup
    };
    let mut found = view.lanes.enter(&bind.lanes, head, client, dice, ready, traced);
    if is_real && matches!(bind.lanes, LaneRole::Call { own: None, .. }) {
        match (found.source, traces) {
            (Some(Source::Caller), _) => found.stray = Some((callee(head), why)),
            // Calls of others to the same callee may name nobody since they have no tag to name.
            (Some(Source::Tag), Some(traces)) if !traces.mark(&Ids::of(head), callee(head)) => {
                worker.shared.strays.leave_out(callee(head), now_ns(worker));
            }
            _ => {}
        }
    }
    // Not before: conditions see what a client says of its trace, and a call is looked up by what the instance sent.
    match trace::must_start(&bind.lanes) {
        true => trace::start(head, bind.lanes.trace_headers(), || worker.dice()),
        false => {
            trace::start_or_continue(head, || bind.lanes.trace_headers(), || worker.dice());
        }
    }
    Found { shadow, ..found }
}

/// The time of the trace map.
fn now_ns(worker: &Worker) -> u64 {
    worker.driver.now().as_nanos() as u64
}

/// Answers a request that failed, as far as it can still be answered.
async fn fail(
    guard: &ConnectionGuard,
    client: &mut Client,
    meta: &RequestMeta,
    error: ProxyError,
    record: &mut Record,
) -> After {
    let answer = error.reply();
    let is_overflow = matches!(error.kind, Kind::Overflow | Kind::PendingTimeout);
    guard.worker.stats().overflows.add(u64::from(is_overflow));
    record.flag = answer.flag;
    record.detail = error.detail();
    if record.answer_started {
        // The status was sent: only the missing end can tell, and where the close is the end, a reset.
        return After::Close;
    }
    record.status = answer.status;
    if answer.status == 499 {
        return After::Close;
    }
    let hop = hop::of_failure(error.kind, guard.bind.instance_of.is_some());
    reply::send_error(guard, client, meta, &answer, hop, record).await
}

pub(crate) fn after(now: Duration, timeout: Option<Duration>) -> Duration {
    timeout.map_or(Duration::MAX, |timeout| now + timeout)
}
