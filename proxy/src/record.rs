//! What is known of a request at its end: counted once, and written to the access log if there is one. Hot.

use std::borrow::Cow;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use filters::Head;
use filters::head::{Known, Span};
use filters::lane::leak::Why;
use filters::rules::Outcome;
use serde_json::json;

use crate::attempts;
use crate::error::{ProxyError, Side};
use crate::lanes::{LaneView, Shadowed};
use crate::log::{Format, timestamp};
use crate::stats::WorkerStats;
use crate::view::{ClusterView, RuleView};
use crate::worker::Worker;

/// One request's record, filled while it goes its way.
pub(crate) struct Record {
    /// In the driver's time.
    started: Duration,
    pub(crate) first_byte: Option<Duration>,
    /// Host and path as the client asked for them, before rules change them.
    asked: (Span, Span),
    pub(crate) rule: Option<Rc<RuleView>>,
    pub(crate) cluster: Option<Rc<ClusterView>>,
    pub(crate) endpoint: Option<SocketAddr>,
    pub(crate) lane: Option<Rc<LaneView>>,
    /// It is a call that names nobody, by whom it calls and why.
    pub(crate) stray: Option<(u16, Why)>,
    /// The policy that answered in place of a service.
    pub(crate) policy: Option<Arc<str>>,
    /// What is known for policies in shadow; of most requests nothing.
    shadow: Option<Box<InShadow>>,
    /// When the last attempt began.
    pub(crate) departed: Duration,
    /// Attempts at endpoints.
    pub(crate) attempts: u32,
    /// Whether the last attempt used a pooled connection.
    pub(crate) reused: bool,
    pub(crate) status: u16,
    pub(crate) flag: &'static str,
    /// The word for what was wrong with a message, beside the flag.
    pub(crate) detail: &'static str,
    pub(crate) request_body_bytes: u64,
    pub(crate) response_body_bytes: u64,
    /// The head of an answer is on its way to the client.
    pub(crate) answer_started: bool,
    /// Its body is no longer as it came, or something of an answer went to the client: it cannot begin again.
    pub(crate) has_begun: bool,
    /// Copies of it were made.
    pub(crate) is_copied: bool,
}

/// A request under policies in shadow.
#[derive(Default)]
struct InShadow {
    /// Each policy with what it would have done.
    told: Vec<(Arc<str>, Cow<'static, str>)>,
    /// The lanes that groups would have put it into.
    lanes: Vec<Rc<LaneView>>,
    /// The longest pause in a body, its own or its answer's.
    body_pause_max: Duration,
}

impl InShadow {
    #[cold]
    fn tell_fallbacks(&mut self, worker: &Worker, cluster: &ClusterView) {
        for lane in std::mem::take(&mut self.lanes) {
            let (now, zone) = (worker.driver.now(), worker.shared.zone.as_deref());
            if let Some(reason) = attempts::shadow_fallback(cluster, &lane, now, zone) {
                worker.stats().shadow_fell_back(lane.group(), &lane.name, &cluster.cluster.name, reason);
                self.told.push((format!("LaneGroup {}", lane.group()).into(), format!("fallback {reason}").into()));
            }
        }
    }
}

impl Record {
    /// A request that came in now.
    pub(crate) fn start(now: Duration) -> Record {
        Record {
            started: now,
            first_byte: None,
            asked: (Span::default(), Span::default()),
            rule: None,
            cluster: None,
            endpoint: None,
            lane: None,
            stray: None,
            policy: None,
            shadow: None,
            departed: now,
            attempts: 0,
            reused: false,
            status: 0,
            flag: "-",
            detail: "",
            request_body_bytes: 0,
            response_body_bytes: 0,
            answer_started: false,
            has_begun: false,
            is_copied: false,
        }
    }

    /// Forgets what rules that are no longer in force decided; what they did, such as attempts, stays.
    pub(crate) fn begin_again(&mut self) {
        (self.rule, self.cluster, self.lane, self.endpoint) = (None, None, None, None);
    }

    /// For how long it has been under way, by now.
    pub(crate) fn took(&self, now: Duration) -> Duration {
        now.saturating_sub(self.started)
    }

    /// Remembers what the client asked for.
    pub(crate) fn ask(&mut self, head: &Head) {
        self.asked = (head.authority, head.path);
    }

    /// Notes what a policy in shadow would have done.
    #[cold]
    pub(crate) fn would(&mut self, policy: Arc<str>, what: impl Into<Cow<'static, str>>) {
        self.shadow.get_or_insert_default().told.push((policy, what.into()));
    }

    /// Notes a pause in a body that a policy in shadow may have a word on.
    #[cold]
    pub(crate) fn paused(&mut self, longest: Duration) {
        let shadow = self.shadow.get_or_insert_default();
        shadow.body_pause_max = shadow.body_pause_max.max(longest);
    }

    /// The longest pause that was noted.
    pub(crate) fn body_pause_max(&self) -> Duration {
        self.shadow.as_ref().map_or(Duration::ZERO, |shadow| shadow.body_pause_max)
    }

    /// Counts what groups in shadow would have decided.
    #[cold]
    pub(crate) fn tell_lanes(&mut self, stats: &WorkerStats, decided: &[Shadowed]) {
        for Shadowed { group, lane } in decided {
            stats.shadow_lane(group, lane.as_ref().map(|lane| &lane.name));
            if let Some(lane) = lane {
                self.would(format!("LaneGroup {group}").into(), format!("lane {}", lane.name));
                self.shadow.get_or_insert_default().lanes.push(lane.clone());
            }
        }
    }

    /// Counts where the lanes that it would be in have nobody for it at its cluster.
    #[inline]
    pub(crate) fn tell_fallbacks(&mut self, worker: &Worker, cluster: &ClusterView) {
        if let Some(shadow) = &mut self.shadow {
            shadow.tell_fallbacks(worker, cluster);
        }
    }

    /// What it says of the service, to the rules that protect it.
    pub(crate) fn outcome(&self, now: Duration, error: Option<&ProxyError>) -> Outcome {
        let took_ns = |until: Duration| until.saturating_sub(self.departed).as_nanos() as u64;
        match (error, self.first_byte) {
            (Some(error), _) if error.side == Side::Upstream => Outcome::Failed { took_ns: took_ns(now) },
            (None, Some(at)) if self.status >= 500 => Outcome::Failed { took_ns: took_ns(at) },
            (None, Some(at)) => Outcome::Served { took_ns: took_ns(at) },
            _ => Outcome::Cancelled,
        }
    }

    /// Counts and logs it. `head` is None where none was understood.
    pub(crate) fn finish(&self, worker: &Worker, client: IpAddr, head: Option<&Head>) {
        let duration = worker.driver.precise_now().saturating_sub(self.started);
        let stats = worker.stats();
        let lane = self.lane.as_ref().map(|lane| &lane.name);
        let series = match &self.cluster {
            Some(cluster) => cluster.series.get(stats, lane, self.status, self.flag),
            None => worker.view().nowhere.get(stats, lane, self.status, self.flag),
        };
        stats.requests.add(1);
        stats.failed.add(u64::from(self.has_failed()));
        series.duration_us.observe(duration.as_micros() as u64);
        series.request_bytes.observe(self.request_body_bytes);
        series.response_bytes.observe(self.response_body_bytes);
        if let Some(log) = &worker.shared.access_log {
            let line = match log.format {
                Format::Json => self.json(client, duration, head),
                Format::Text => self.text(client, duration, head),
            };
            log.offer(line);
        }
    }

    /// Whether control is told that it failed: by the service or by us, or since rules refused it or know no way for it. A
    /// policy that answers with 500 or above, or 429, does what it is for.
    fn has_failed(&self) -> bool {
        match self.status {
            500.. => self.policy.is_none(),
            401 | 403 | 404 => self.endpoint.is_none(),
            _ => false,
        }
    }

    /// Each policy in shadow with what it would have done.
    fn told(&self) -> impl Iterator<Item = &(Arc<str>, Cow<'static, str>)> {
        self.shadow.iter().flat_map(|shadow| &shadow.told)
    }

    fn json(&self, client: IpAddr, duration: Duration, head: Option<&Head>) -> Vec<u8> {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let mut line = json!({
            "time": timestamp(),
            "client": client.to_string(),
            "method": head.map(|head| text(head.bytes(head.method))),
            "host": head.map(|head| text(head.bytes(self.asked.0))),
            "path": head.map(|head| text(head.bytes(self.asked.1))),
            "query": head.filter(|head| head.has_query).map(|head| text(head.bytes(head.query))),
            "route": self.rule.as_ref().map(|rule| &*rule.name),
            "cluster": self.cluster.as_ref().map(|cluster| cluster.cluster.name.to_string()),
            "lane": self.lane.as_ref().map(|lane| &*lane.name),
            "endpoint": self.endpoint.map(|endpoint| endpoint.to_string()),
            "status": self.status,
            "flag": self.flag,
            "duration_us": duration.as_micros() as u64,
            "first_byte_us": self.first_byte.map(|at| at.saturating_sub(self.started).as_micros() as u64),
            "request_bytes": self.request_body_bytes,
            "response_bytes": self.response_body_bytes,
            "request_id": head.and_then(|head| head.known(Known::RequestId)).map(text),
        });
        if self.attempts > 1 {
            line["attempts"] = json!(self.attempts);
        }
        if let Some(policy) = &self.policy {
            line["policy"] = json!(&**policy);
        }
        let shadow: Vec<_> = self.told().map(|(policy, would)| json!(format!("{policy}: {would}"))).collect();
        if !shadow.is_empty() {
            line["shadow"] = shadow.into();
        }
        if !self.detail.is_empty() {
            line["detail"] = json!(self.detail);
        }
        let mut line = serde_json::to_vec(&line).expect("a map of strings and numbers can be written");
        line.push(b'\n');
        line
    }

    fn text(&self, client: IpAddr, duration: Duration, head: Option<&Head>) -> Vec<u8> {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let (method, host, path) = match head {
            Some(head) => {
                (text(head.bytes(head.method)), text(head.bytes(self.asked.0)), text(head.bytes(self.asked.1)))
            }
            None => ("-".into(), "-".into(), "-".into()),
        };
        let endpoint = self.endpoint.map_or("-".into(), |endpoint| endpoint.to_string());
        let rule = self.rule.as_ref().map_or("-", |rule| &rule.name);
        let lane = self.lane.as_ref().map(|lane| format!(" lane={}", lane.name)).unwrap_or_default();
        let policy = self.policy.as_ref().map(|policy| format!(" policy={policy:?}")).unwrap_or_default();
        let shadow = self.told().map(|(policy, would)| format!(" shadow=\"{policy}: {would}\"")).collect::<String>();
        let attempts = if self.attempts > 1 { format!(" attempts={}", self.attempts) } else { String::new() };
        format!(
            "{} {client} {method} {host}{path} {} {} {}us route={rule}{lane} endpoint={endpoint}{attempts} in={} out={}\
             {policy}{shadow}{}{}\n",
            timestamp(),
            self.status,
            self.flag,
            duration.as_micros(),
            self.request_body_bytes,
            self.response_body_bytes,
            if self.detail.is_empty() { "" } else { " detail=" },
            self.detail,
        )
        .into_bytes()
    }
}
