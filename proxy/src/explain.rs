//! What a request would meet: the same functions as for one that comes, in the same order, but nothing is sent, nobody's
//! turn is taken and nothing is counted. `request` and `attempts` are the originals. Cold.

use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use config::snapshot::policy::{Action, Effect, Mode};
use config::snapshot::{ListenerSettings, Mirror};
use filters::Verdict;
use filters::rules::{Peek, Rule};
use serde_json::{Value, json};
use tokio::sync::oneshot;

use crate::attempts;
use crate::balance;
use crate::buffer::LentHead;
use crate::census;
use crate::choice::{self, Choice, Standing, Use};
use crate::error::{Kind, ProxyError};
use crate::h1::{self, Framing, HeadLimits, Method, Refusal, RequestMeta};
use crate::lanes::{Found, Shadowed, Source};
use crate::passage::{self, facts};
use crate::record::Record;
use crate::request::{check, enter_lane, learn, meet, spend_hop};
use crate::shadow;
use crate::view::{ClusterView, ListenerView, Wanted};
use crate::worker::{BindView, Worker};

/// Listeners that are named to who asked for another port.
const NAMED_MAX: usize = 10;

/// A request to be explained, as a client would send it.
pub(crate) struct Question {
    /// The listener's port; None: the only one there is.
    pub(crate) port: Option<u16>,
    pub(crate) client: SocketAddr,
    /// Its head with the empty line.
    pub(crate) head: Vec<u8>,
    pub(crate) reply: oneshot::Sender<Value>,
}

/// Explains a request on the worker that would serve it; any would, but what is measured differs between them.
pub(crate) fn answer(worker: &Rc<Worker>, question: Question) {
    let Question { port, client, head, reply } = question;
    let told = match &worker.binds_on(port)[..] {
        [bind, ..] => explain(worker, bind, client, &head),
        [] => json!({"problem": format!("nothing listens on that port{}", others(worker))}),
    };
    // Who asked may have gone.
    let _ = reply.send(told);
}

/// Where a request may arrive.
fn others(worker: &Worker) -> String {
    let binds = worker.binds_on(None);
    let named = binds.iter().filter_map(|bind| {
        let (view, index) = worker.place(bind)?;
        Some(format!("{} ({})", bind.port, view.snapshot.binds[index].name))
    });
    match named.take(NAMED_MAX).collect::<Vec<_>>().join(", ") {
        named if named.is_empty() => String::new(),
        named => format!("; --port may be {named}"),
    }
}

fn explain(worker: &Worker, bind: &BindView, client: SocketAddr, text: &[u8]) -> Value {
    let Some((view, index)) = worker.place(bind) else { return json!({"problem": "the listener was removed"}) };
    let settings = view.settings[index].clone();
    let name = view.snapshot.binds[index].name.to_string();
    let mut told = json!({"listener": {"name": name, "address": bind.address.to_string()}});
    told["policies"] = tried(&settings, text).into_iter().collect();
    let mut head = LentHead::lend();
    let meta = match read(text, &settings, &mut head) {
        Ok(Some(meta)) => meta,
        Ok(None) => return json!({"problem": "the head is not complete"}),
        Err(refusal) => {
            told["answer"] = json!({"status": refusal.status(), "flag": "DPE", "reason": refusal.reason()});
            return told;
        }
    };
    let mut request = Request {
        worker,
        client: learn(worker, bind, &settings, client, &mut head),
        head,
        record: Record::start(worker.driver.now()),
        issues: false,
        told,
    };
    if let Err(error) = request.forward(bind, &settings, &meta) {
        let reply = error.reply();
        request.told["answer"] = json!({"status": reply.status, "flag": reply.flag, "reason": reply.body.trim()});
    }
    if request.issues {
        // Only what a service answers carries the cookie.
        let is_answered = request.told.get("answer").is_some();
        request.told["laneCookie"] = json!(if is_answered { "notIssued" } else { "issued" });
    }
    request.told
}

fn limits(settings: &ListenerSettings) -> HeadLimits {
    HeadLimits { bytes_max: settings.head_bytes_max as usize, fields_max: usize::from(settings.header_count_max) }
}

/// What a ListenerPolicy in shadow would do with a head.
fn tried(settings: &ListenerView, text: &[u8]) -> Option<Value> {
    let trial = settings.trial.as_ref()?;
    let (limits, mut head) = (limits(settings), LentHead::lend());
    let parsed = h1::parse_request(text, &mut 0, limits, &mut head);
    let judged = shadow::Head::of(&parsed, limits, &head);
    let mut checked = LentHead::lend();
    let meta = read(text, settings, &mut checked).ok().flatten();
    Some(trial.peek(judged.as_ref(), meta.map_or(Framing::None, |meta| meta.framing)))
}

fn read(text: &[u8], settings: &ListenerSettings, head: &mut LentHead) -> Result<Option<RequestMeta>, Refusal> {
    match h1::parse_request(text, &mut 0, limits(settings), head)? {
        Some(_) => h1::check_request(head, settings.encoded_slash).map(Some),
        None => Ok(None),
    }
}

/// A request on its way, with what is told of it so far.
struct Request<'w> {
    worker: &'w Worker,
    client: IpAddr,
    head: LentHead,
    record: Record,
    /// The dice decided its lane, for want of the cookie that an answer would set.
    issues: bool,
    told: Value,
}

impl Request<'_> {
    /// As `request::forward`; what answers in place of a service stands under `answer`, the first of them counts.
    fn forward(&mut self, bind: &BindView, settings: &ListenerSettings, meta: &RequestMeta) -> Result<(), ProxyError> {
        let worker = self.worker;
        self.told["client"] = json!(self.client.to_string());
        let Found { lane, issue, source, shadow: decided_in_shadow, .. } =
            enter_lane(worker, bind, self.client, &mut self.head, false);
        self.record.lane = lane;
        self.tell(decided_in_shadow.iter().flatten().map(decided));
        self.told["lane"] = json!(self.record.lane.as_ref().map(|lane| lane.name.to_string()));
        if let Some(source) = source {
            self.told["laneBy"] = json!(match source {
                Source::Tag => "tag",
                Source::Trace => "trace",
                Source::Caller => "instance",
            });
        }
        self.issues = issue.is_some();
        check(settings, &self.head, meta)?;
        if matches!(meta.method, Method::Options | Method::Trace) && !spend_hop(&mut self.head) {
            let status = if meta.method == Method::Options { 200 } else { 501 };
            self.answer(json!({"status": status, "reason": "Max-Forwards is spent"}));
            return Ok(());
        }
        let (mut met, cluster) = meet(worker, bind, &self.head, &mut self.record)?;
        self.told["route"] = json!(met.rule.name.to_string());
        let targets = met.rule.backends.choices.iter().enumerate().map(|(place, choice)| {
            let cluster = choice.cluster.and_then(|cluster| worker.view().clusters.get(cluster).cloned());
            json!({
                "cluster": cluster.map(|cluster| cluster.cluster.name.to_string()),
                "weight": choice.weight,
                "chosen": met.target() == Some(place),
            })
        });
        self.told["targets"] = targets.collect();
        let rule = met.rule.clone();
        let of_route: Vec<&Rule> = rule.protection.iter().collect();
        let asked = self.ask(&of_route);
        self.tell(asked);
        if let Verdict::Redirect(status, location) = met.change(&mut self.head) {
            self.answer(json!({"status": status, "location": location, "reason": "redirect"}));
            return Ok(());
        }
        let cluster = cluster.ok_or(ProxyError::here(Kind::NoCluster));
        if let Ok(cluster) = &cluster {
            let is_new = |rule: &&Rule| !of_route.iter().any(|known| passage::is_same(known, rule));
            let of_cluster: Vec<&Rule> = cluster.protection.iter().filter(is_new).collect();
            let asked = self.ask(&of_cluster);
            self.tell(asked);
            self.tell(cluster.trial.as_ref().map(|trial| trial.peek(cluster, worker.driver.now())));
            for lane in decided_in_shadow.iter().flatten().filter_map(|decided| decided.lane.as_ref()) {
                let (now, zone) = (worker.driver.now(), worker.shared.zone.as_deref());
                let fallback = attempts::shadow_fallback(cluster, lane, now, zone);
                let name = format!("LaneGroup {}", lane.group());
                let policies = self.told["policies"].as_array_mut();
                for told in policies.into_iter().flatten().filter(|told| told["policy"] == *name) {
                    told["fallback"] = json!(fallback);
                }
            }
        }
        let cluster = cluster?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if self.told.get("answer").is_none() {
            let percent = |mirror: &Mirror| 100.0 * f64::from(mirror.numerator) / f64::from(mirror.denominator);
            let mirrors =
                met.mirrors().map(|mirror| json!({"cluster": mirror.cluster.to_string(), "percent": percent(mirror)}));
            self.told["mirrors"] = mirrors.collect();
        }
        self.told["upstream"] = json!({
            "host": text(self.head.bytes(self.head.authority)),
            "path": text(self.head.bytes(self.head.path)),
            "query": self.head.has_query.then(|| text(self.head.bytes(self.head.query))),
            "cluster": cluster.cluster.name.to_string(),
            "timeouts": {
                "request": seconds(met.rule.request_timeout),
                "attempt": seconds(met.rule.backend_request_timeout),
                "connect": seconds(Some(cluster.cluster.settings.connect_timeout)),
                "firstByte": seconds(Some(cluster.cluster.settings.first_byte_timeout)),
            },
            "retries": cluster.cluster.settings.retries.attempts,
        });
        if cluster.cluster.is_awaited() {
            self.told["waits"] = json!("for the endpoints of the service, which control has not told so far");
            return Ok(());
        }
        self.choose(&cluster)
    }

    /// The endpoint, and why each other was passed over.
    fn choose(&mut self, cluster: &ClusterView) -> Result<(), ProxyError> {
        let worker = self.worker;
        let (now, zone) = (worker.driver.now(), worker.shared.zone.as_deref());
        let lane = self.record.lane.clone();
        let chosen = attempts::group(cluster, lane.as_deref(), now, zone);
        let group = chosen.as_ref().ok().map(|(group, _)| *group);
        if let Ok((_, Some(reason))) = &chosen {
            self.told["fallback"] = json!(reason);
        }
        let closed: Vec<SocketAddr> = cluster
            .endpoints
            .iter()
            .map(|endpoint| endpoint.address)
            .filter(|address| closing(cluster, *address, now).is_some())
            .collect();
        let bounds = &cluster.cluster.settings.bounds;
        let is_full = bounds.requests_max.is_some_and(|max| !cluster.credits.would_take(&cluster.state.requests, max));
        let hash = balance::hash(&cluster.cluster.settings.hash_on, &self.head, self.client);
        let pick = |group| cluster.would_pick(&Wanted { group, now, hash, tried: &closed, zone }, || worker.dice());
        let picked = group.and_then(pick).map(|endpoint| endpoint.address);
        // Where the way to all of them is closed, one of those is picked.
        let closed_by =
            picked.filter(|picked| closed.contains(picked)).and_then(|picked| closing(cluster, picked, now));
        let picked = picked.filter(|_| closed_by.is_none() && !is_full);
        let choice = group.map(|group| cluster.choice(group, now, zone));
        if choice.as_ref().is_some_and(|choice| choice.panic) {
            self.told["panic"] = json!(true);
        }
        let among = Among { cluster, group, choice, closed, picked, now };
        let endpoints = (0..cluster.endpoints.len()).map(|place| {
            let endpoint = &cluster.endpoints[place];
            let (in_flight, latency) = endpoint.load.told(now);
            json!({
                "address": endpoint.address.to_string(),
                "verdict": self.verdict(&among, place as u32),
                "inFlight": in_flight,
                "latencyMs": (latency.as_secs_f64() * 1e6).round() / 1e3,
            })
        });
        let endpoints: Vec<Value> = endpoints.collect();
        self.told["endpoints"] = endpoints.into();
        chosen?;
        if is_full {
            // Nor is it copied.
            self.told["mirrors"] = json!([]);
            return Err(ProxyError::here(Kind::Overflow));
        }
        if let Some(rule) = closed_by {
            let policy = rule.policy().name.to_string();
            self.answer(json!({"status": status(rule), "flag": passage::flag(rule), "policy": policy}));
            return Ok(());
        }
        if let Some(max) = bounds.connections_max
            && cluster.state.connections.used() >= max
            && !cluster.endpoints.iter().any(|endpoint| endpoint.pool.has_any(now))
        {
            // It would wait for one, or is one too many of those that do.
            if cluster.state.connections.waiting() >= bounds.pending_max as usize {
                return Err(ProxyError::here(Kind::Overflow));
            }
            self.told["waits"] = json!("for a connection");
        }
        let picked = picked.ok_or(ProxyError::here(Kind::NoEndpoint))?;
        self.told["endpoint"] = json!(picked.to_string());
        Ok(())
    }

    /// Whether a request goes to an endpoint, and if not, why.
    fn verdict(&self, among: &Among<'_>, place: u32) -> String {
        let &Among { cluster, group, ref choice, ref closed, picked, now } = among;
        let endpoint = &cluster.endpoints[place as usize];
        let standing = Standing::of(&endpoint.state);
        let usage = choice::usability(standing, &cluster.cluster.settings.usage, now);
        let trouble = trouble(usage, standing, now);
        let panic = choice.as_ref().is_some_and(|choice| choice.panic);
        if picked == Some(endpoint.address) {
            return match trouble.filter(|_| panic) {
                Some(trouble) => format!("chosen, though {trouble}"),
                None => "chosen".to_owned(),
            };
        }
        let groups = &cluster.cluster.groups;
        let own = groups.iter().position(|group| group.members.contains(&place));
        let Some(own) = own else {
            let label = cluster.cluster.endpoints[place as usize].labels.get("lane");
            return format!("no lane has its label {:?}", label.map_or("", |label| label));
        };
        if group != Some(own) {
            let is_in_lane = self.record.lane.as_ref().is_some_and(|lane| cluster.lane(lane) == Some(own));
            return match (trouble.filter(|_| is_in_lane), &groups[own].lane) {
                (Some(trouble), _) => trouble,
                (None, Some(lane)) => format!("it is in lane {lane}"),
                (None, None) => "it is in the baseline".to_owned(),
            };
        }
        let mut members = choice.iter().flat_map(|choice| &choice.tiers).flat_map(|tier| &tier.members);
        let is_member = members.any(|(member, _)| *member == place);
        let reason = match (usage, &trouble) {
            _ if closed.contains(&endpoint.address) => "its breaker is open".to_owned(),
            (_, Some(trouble)) if !is_member && !panic => return trouble.clone(),
            _ if !is_member => "its zone is farther away".to_owned(),
            (Use::Ready(part), _) if part < 1.0 => {
                format!("another was chosen; it is new and has {:.0} % of its weight", part * 100.0)
            }
            _ => "another was chosen".to_owned(),
        };
        match trouble.filter(|_| panic) {
            Some(trouble) => format!("{reason}; {trouble}"),
            None => reason,
        }
    }

    /// What rules would do, and the answer of the first that refuses.
    fn ask(&mut self, rules: &[&Rule]) -> Vec<Value> {
        let facts = facts(self.worker, self.client, &self.record);
        let now_ns = facts.now_ns;
        let peeks: Vec<Peek> = rules.iter().map(|rule| rule.peek(&self.head, &facts)).collect();
        for (rule, peek) in rules.iter().zip(&peeks) {
            let policy = rule.policy();
            let refuses = matches!(peek, Peek::Refuse { .. }) || matches!(peek, Peek::Chance { abort: 1.0, .. });
            if refuses && policy.mode == Mode::Enforce {
                let flag = passage::flag(rule);
                self.answer(json!({"status": status(rule), "flag": flag, "policy": policy.name.to_string()}));
            }
        }
        rules.iter().zip(&peeks).map(|(rule, peek)| told(rule, peek, now_ns)).collect()
    }

    /// More policies that it meets.
    fn tell(&mut self, policies: impl IntoIterator<Item = Value>) {
        if let Some(told) = self.told["policies"].as_array_mut() {
            told.extend(policies);
        }
    }

    /// The first answer counts.
    fn answer(&mut self, answer: Value) {
        if self.told.get("answer").is_none() {
            self.told["answer"] = answer;
        }
    }
}

/// Whom a request's endpoint is chosen among, and which it is.
struct Among<'c> {
    cluster: &'c ClusterView,
    /// None: its lane may not be left, and has none that is ready.
    group: Option<usize>,
    /// That of the group.
    choice: Option<Choice>,
    /// Those that a breaker keeps requests from.
    closed: Vec<SocketAddr>,
    picked: Option<SocketAddr>,
    now: Duration,
}

/// Why an endpoint is not ready.
fn trouble(usage: Use, standing: Standing, now: Duration) -> Option<String> {
    match usage {
        Use::Ready(_) => None,
        Use::Unproven | Use::Unwell => Some(format!("it is {}", census::word(usage))),
        Use::Leaving => Some("it says that it goes".to_owned()),
        Use::Refusing => Some("no connection to it could be made a moment ago".to_owned()),
        Use::Ejected => {
            let left = standing.ejected_until.saturating_sub(now);
            Some(format!("it is ejected for {} more seconds", left.as_secs() + 1))
        }
    }
}

/// What a LaneGroup in shadow would do.
fn decided(decided: &Shadowed) -> Value {
    json!({
        "policy": format!("LaneGroup {}", decided.group),
        "mode": "shadow",
        "verdict": "lane",
        "lane": decided.lane.as_ref().map(|lane| lane.name.to_string()),
    })
}

/// What a rule would do.
fn told(rule: &Rule, peek: &Peek, now_ns: u64) -> Value {
    let policy = rule.policy();
    let mut told = json!({
        "policy": policy.state_key.to_string(),
        "mode": if policy.mode == Mode::Shadow { "shadow" } else { "enforce" },
    });
    match peek {
        Peek::NotConcerned => told["verdict"] = json!("notConcerned"),
        Peek::Admit => told["verdict"] = json!("admit"),
        Peek::Delay { until_ns } => {
            told["verdict"] = json!("delay");
            told["milliseconds"] = json!(until_ns.saturating_sub(now_ns) / 1_000_000);
        }
        Peek::Refuse { retry_after_seconds } => {
            told["verdict"] = json!("refuse");
            told["retryAfterSeconds"] = json!(retry_after_seconds);
        }
        Peek::Chance { delay, abort } => {
            told["verdict"] = json!("chance");
            (told["delayPercent"], told["abortPercent"]) = (json!(delay * 100.0), json!(abort * 100.0));
        }
    }
    told
}

/// What a rule answers with.
fn status(rule: &Rule) -> u16 {
    match &rule.policy().action {
        Action::RateLimit(limit) => match &limit.effect {
            Effect::Reject(reply) | Effect::Queue { reply, .. } | Effect::WarmUp { reply, .. } => reply.status,
        },
        Action::ConcurrencyLimit(limit) => limit.reply.status,
        Action::CircuitBreaker(breaker) => breaker.fallback.status,
        Action::FaultInjection(fault) => fault.abort.as_ref().map_or(0, |abort| abort.reply.status),
    }
}

/// The rule that watches each endpoint and has closed the way to this one.
fn closing(cluster: &ClusterView, address: SocketAddr, now: Duration) -> Option<&Rule> {
    let now_ns = now.as_nanos() as u64;
    let closes = |rule: &&Rule| rule.policy().mode == Mode::Enforce && rule.is_open(now_ns, address);
    cluster.protection.iter().find(closes)
}

fn seconds(time: Option<Duration>) -> Option<f64> {
    time.map(|time| time.as_secs_f64())
}
