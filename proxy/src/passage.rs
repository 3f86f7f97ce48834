//! A request's way through the rules of traffic protection: it asks one after the other, waits where it is told to, and
//! gives back in reverse order what it holds, however it ends. What a rule says is `filters`' business. Hot.

use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use filters::Head;
use filters::rules::{Facts, Outcome, Refusal, Rule, Step, Ticket, Token, Waiter};
use smallvec::SmallVec;

use crate::connection::Client;
use crate::error::{Kind, ProxyError};
use crate::h1::RequestMeta;
use crate::record::Record;
use crate::reply;
use crate::request::{After, Asked};
use crate::view::{ClusterView, RuleView};
use crate::worker::{ConnectionGuard, Worker};

/// Whose rules a request has met.
pub(crate) enum Stage {
    /// Those of the route's rule.
    Route(Rc<RuleView>),
    /// Those of the cluster.
    Cluster(Rc<ClusterView>),
}

impl Stage {
    fn rules(&self) -> &[Rule] {
        match self {
            Stage::Route(rule) => &rule.protection,
            Stage::Cluster(cluster) => &cluster.protection,
        }
    }
}

/// What a request holds, until it is over.
pub(crate) struct Passage<'w> {
    worker: &'w Worker,
    stages: SmallVec<[Stage; 2]>,
    /// One for each rule that was asked, in the order of the stages.
    tokens: SmallVec<[Token; 4]>,
    /// Time has passed, in which another revision may have come.
    pub(crate) has_waited: bool,
    /// What is known of the service at the end.
    pub(crate) outcome: Outcome,
}

/// A rule that answers a request in place of a service.
pub(crate) struct Refused<'r> {
    rule: &'r Rule,
    refusal: Refusal<'r>,
}

impl Refused<'_> {
    /// A rule refused an attempt, and no other endpoint is left: this is the answer after all.
    pub(crate) fn count(&self) {
        self.rule.on_answered();
    }

    /// Sends the answer.
    pub(crate) async fn answer(
        &self,
        guard: &ConnectionGuard,
        client: &mut Client,
        meta: &RequestMeta,
        record: &mut Record,
    ) -> After {
        let (policy, flag) = (self.rule.policy(), flag(self.rule));
        record.policy = Some(policy.name.clone());
        record.flag = flag;
        reply::send_answer(guard, client, meta, &self.refusal, record).await
    }
}

/// Whether both count the same: a RateLimit that stands before a route and before its Service counts a request once.
pub(crate) fn is_same(one: &Rule, other: &Rule) -> bool {
    matches!((one, other), (Rule::RateLimit(_), Rule::RateLimit(_)))
        && one.policy().state_key == other.policy().state_key
}

/// The reason in log and metrics, in Envoy's letters where Envoy has them.
pub(crate) fn flag(rule: &Rule) -> &'static str {
    match rule {
        Rule::RateLimit(_) => "RL",
        Rule::ConcurrencyLimit(_) => "CL",
        Rule::CircuitBreaker(_) => "CB",
        Rule::FaultInjection(_) => "FI",
    }
}

impl<'w> Passage<'w> {
    /// At the first rule.
    pub(crate) fn begin(worker: &'w Worker) -> Passage<'w> {
        let (stages, tokens) = (SmallVec::new(), SmallVec::new());
        Passage { worker, stages, tokens, has_waited: false, outcome: Outcome::Cancelled }
    }

    /// Asks the rules of a stage until one refuses, and waits where they say so, but not beyond `deadline` nor for a client
    /// that has gone.
    pub(crate) async fn enter(
        &mut self,
        stage: Stage,
        asked: &Asked<'_>,
        head: &Head,
        record: &Record,
        client: &Client,
        deadline: Duration,
    ) -> Result<Option<Refused<'_>>, ProxyError> {
        let worker = self.worker;
        if stage.rules().is_empty() {
            return Ok(None);
        }
        let mut facts = facts(worker, asked.client_address, record);
        self.stages.push(stage);
        let (here, before) = self.stages.split_last().expect("it was just pushed");
        for rule in here.rules() {
            self.tokens.push(Token::default());
            let token = self.tokens.last_mut().expect("it was just pushed");
            if before.iter().any(|stage| stage.rules().iter().any(|known| is_same(known, rule))) {
                continue;
            }
            let mut dice = || worker.dice();
            let mut step = rule.on_request(head, &facts, &mut dice, token, &mut |waiter| worker.grant(waiter));
            while let Step::Wait(ticket) = step {
                wait(worker, client, ticket, deadline).await?;
                self.has_waited = true;
                facts.now_ns = nanos(worker.driver.now());
                step = rule.on_ticket(&facts, token, &mut |waiter| worker.grant(waiter));
            }
            if let Step::Respond(refusal) = step {
                return Ok(Some(Refused { rule, refusal }));
            }
        }
        Ok(None)
    }
}

impl Drop for Passage<'_> {
    fn drop(&mut self) {
        if self.tokens.is_empty() {
            return;
        }
        let (worker, now_ns) = (self.worker, nanos(self.worker.driver.now()));
        let rules = self.stages.iter().flat_map(|stage| stage.rules());
        // A stage in which a rule refused has no tokens for the rules after it.
        let mut asked: SmallVec<[(&Rule, &mut Token); 8]> = rules.zip(&mut self.tokens).collect();
        for (rule, token) in asked.drain(..).rev() {
            rule.on_end(now_ns, token, &self.outcome, &mut |waiter| worker.grant(waiter));
        }
    }
}

/// What rules know of a request.
pub(crate) fn facts<'r>(worker: &Worker, client: IpAddr, record: &'r Record) -> Facts<'r> {
    Facts {
        now_ns: nanos(worker.driver.now()),
        waiter: Waiter { worker: worker.id as u32, task: u64::from(worker.driver.current()) },
        client,
        lane: record.lane.as_ref().map(|lane| &*lane.name),
        route: record.rule.as_ref().map_or("", |rule| &rule.name),
        service: record.cluster.as_ref().map_or("", |cluster| &cluster.cluster.name),
        caller: None,
    }
}

/// Waits for a ticket, or for as long as it makes sense.
async fn wait(worker: &Worker, client: &Client, ticket: Ticket, deadline: Duration) -> Result<(), ProxyError> {
    let driver = &worker.driver;
    let until = Duration::from_nanos(match ticket {
        Ticket::Until(until) | Ticket::Slot { until_ns: until } => until,
    });
    // Without a place among the events the end of the client is noticed later.
    let _ = client.wire.socket.watch();
    driver.set_deadline(until.min(deadline));
    let mut is_woken = false;
    std::future::poll_fn(|_| {
        if client.wire.socket.is_ended() {
            // Who has gone, or will send no more, holds no place in a line.
            return Poll::Ready(Err(ProxyError::downstream(Kind::Gone)));
        }
        let now = driver.now();
        if now >= deadline {
            return Poll::Ready(Err(ProxyError::here(Kind::RequestTimeout)));
        }
        // Whoever woke us, the rule knows whether it was time: asking too early does no harm.
        match std::mem::replace(&mut is_woken, true) || now >= until {
            true => Poll::Ready(Ok(())),
            false => Poll::Pending,
        }
    })
    .await
}

/// The rules' time.
pub(crate) fn nanos(time: Duration) -> u64 {
    time.as_nanos() as u64
}

/// What an attempt holds of the rules that watch each endpoint, until it is over.
pub(crate) struct Watch<'c> {
    worker: &'c Worker,
    cluster: &'c ClusterView,
    endpoint: SocketAddr,
    tokens: SmallVec<[Token; 2]>,
    outcome: Outcome,
}

impl<'c> Watch<'c> {
    /// Asks the rules of a cluster whether an attempt at this endpoint is made.
    pub(crate) fn begin(
        worker: &'c Worker,
        cluster: &'c ClusterView,
        endpoint: SocketAddr,
    ) -> Result<Watch<'c>, Refused<'c>> {
        let tokens = SmallVec::new();
        let mut watch = Watch { worker, cluster, endpoint, tokens, outcome: Outcome::Cancelled };
        let now_ns = nanos(worker.driver.now());
        for rule in &cluster.protection {
            let mut token = Token::default();
            let step = rule.on_attempt(now_ns, worker.id as u32, endpoint, &mut token);
            watch.tokens.push(token);
            if let Step::Respond(refusal) = step {
                return Err(Refused { rule, refusal });
            }
        }
        Ok(watch)
    }

    /// The attempt is over, and what it says of its endpoint.
    pub(crate) fn ended(mut self, record: &Record, error: Option<&ProxyError>) {
        // A connection that was idle may be closed whenever the endpoint likes, and one that became free while a request
        // waited may be another endpoint's: neither says anything of this one.
        if record.endpoint == Some(self.endpoint) && !error.is_some_and(|error| error.is_stale(record.reused)) {
            self.outcome = record.outcome(self.worker.driver.now(), error);
        }
    }
}

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        let now_ns = nanos(self.worker.driver.now());
        for (rule, token) in self.cluster.protection.iter().zip(&mut self.tokens).rev() {
            rule.on_attempt_end(now_ns, self.endpoint, token, &self.outcome);
        }
    }
}
