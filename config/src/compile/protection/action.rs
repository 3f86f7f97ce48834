//! What limits, breakers and faults do, every default filled in. Pure, Cold.

use std::net::IpAddr;
use std::time::Duration;

use crate::decode::At;
use crate::model::policy::{Mode as WrittenMode, Reply as WrittenReply, ReplyHeaders, Status, TargetRef};
use crate::model::{circuit_breaker, concurrency_limit, fault_injection, rate_limit};
use crate::snapshot::HashKey;
use crate::snapshot::policy::{
    Abort, Action, BreakerScope, CircuitBreaker, Concurrency, ConcurrencyLimit, Delay, Effect, FaultInjection,
    FaultMatch, Key, Mode, OnMissing, Override, RateLimit, Reply, Scope, Window,
};
use crate::value::Body;

/// A kind that protects a target.
pub(super) trait Protects {
    /// Its name.
    const KIND: &'static str;
    /// Whether several on one target all act, and one of them counts over all of its targets.
    const ADDS_UP: bool = false;
    /// What it stands on.
    fn targets(&self) -> &[TargetRef];
    /// Whether it acts.
    fn mode(&self) -> Mode;
    /// What it does.
    fn action(&self) -> Action;
}

fn mode(written: WrittenMode) -> Mode {
    match written {
        WrittenMode::Enforce => Mode::Enforce,
        WrittenMode::Shadow => Mode::Shadow,
    }
}

impl Protects for rate_limit::Spec {
    const KIND: &'static str = "RateLimit";
    const ADDS_UP: bool = true;

    fn targets(&self) -> &[TargetRef] {
        &self.target_refs
    }

    fn mode(&self) -> Mode {
        mode(self.mode)
    }

    fn action(&self) -> Action {
        let window = |requests: u64, per: Duration, burst: Option<u64>| Window {
            requests,
            per,
            burst: burst.unwrap_or(requests),
        };
        Action::RateLimit(RateLimit {
            windows: self
                .limits
                .iter()
                .map(|limit| window(limit.requests.0, limit.per.0, limit.burst.map(|burst| burst.0)))
                .collect(),
            by: self.by.iter().filter_map(key).collect(),
            on_missing: match self.on_missing.as_ref().map(|word| word.value) {
                Some(rate_limit::OnMissing::Skip) => OnMissing::Skip,
                Some(rate_limit::OnMissing::Deny) => OnMissing::Deny,
                Some(rate_limit::OnMissing::Shared) | None => OnMissing::Shared,
            },
            overrides: self
                .overrides
                .iter()
                .map(|one| Override {
                    value: value(one.value.as_str(), self.by.iter().any(|by| by.client_address.is_some())),
                    windows: vec![window(one.requests.0, one.per.0, one.burst.map(|burst| burst.0))],
                })
                .collect(),
            effect: effect(self.effect.as_ref()),
            scope: match self.scope.as_ref().map(|scope| scope.scope_type) {
                Some(rate_limit::ScopeType::SharedByReplicas) => Scope::SharedByReplicas,
                Some(rate_limit::ScopeType::Local) | None => Scope::Local,
            },
            values_max: self.max_values.as_ref().map_or(1_000_000, |count| count.0.try_into().unwrap_or(usize::MAX)),
        })
    }
}

/// Addresses may be written in several ways; one of them is compared.
fn value(written: &str, is_address: bool) -> Box<str> {
    match written.parse::<IpAddr>() {
        Ok(address) if is_address => address.to_canonical().to_string().into(),
        _ => written.into(),
    }
}

fn key(written: &rate_limit::By) -> Option<Key> {
    let header = written.header.as_ref().map(|name| HashKey::Header(name.as_str().to_ascii_lowercase().into()));
    let cookie = written.cookie.as_ref().map(|name| HashKey::Cookie(name.as_str().into()));
    let query = written.query.as_ref().map(|name| HashKey::Query(name.as_str().into()));
    let address = written.client_address.as_ref().map(|_| HashKey::ClientAddress);
    let carried = header.or(cookie).or(query).or(address).map(Key::Of);
    let route = written.route.as_ref().map(|_| Key::Route);
    let service = written.service.as_ref().map(|_| Key::Service);
    let caller = written.caller.as_ref().map(|_| Key::Caller);
    carried.or(route).or(service).or(caller).or(written.lane.as_ref().map(|_| Key::Lane))
}

fn effect(written: Option<&rate_limit::Effect>) -> Effect {
    const TOO_MANY_REQUESTS: u16 = 429;
    let Some(written) = written else {
        return Effect::Reject(answer(None, TOO_MANY_REQUESTS));
    };
    let reply = reply(written.status.as_ref(), &written.body, &written.headers, TOO_MANY_REQUESTS);
    match written.effect_type {
        rate_limit::EffectType::Reject => Effect::Reject(reply),
        rate_limit::EffectType::Queue => {
            Effect::Queue { wait_max: written.max_wait.as_ref().map_or(Duration::ZERO, |span| span.value.0), reply }
        }
        rate_limit::EffectType::WarmUp => Effect::WarmUp {
            period: written.period.as_ref().map_or(Duration::ZERO, |span| span.value.0),
            cold_factor: written.cold_factor.as_ref().map_or(3.0, |factor| factor.value.0),
            reply,
        },
    }
}

impl Protects for concurrency_limit::Spec {
    const KIND: &'static str = "ConcurrencyLimit";

    fn targets(&self) -> &[TargetRef] {
        &self.target_refs
    }

    fn mode(&self) -> Mode {
        mode(self.mode)
    }

    fn action(&self) -> Action {
        let limit = match (&self.limit.fixed, &self.limit.adaptive) {
            (_, Some(bounds)) => Concurrency::Adaptive { min: small(bounds.min.0), max: small(bounds.max.0) },
            (fixed, None) => Concurrency::Fixed(fixed.map_or(u32::MAX, |count| small(count.0))),
        };
        Action::ConcurrencyLimit(ConcurrencyLimit {
            limit,
            queue_max: self.queue.as_ref().map_or(0, |queue| small(queue.max.0)),
            queue_timeout: self.queue.as_ref().map_or(Duration::ZERO, |queue| queue.timeout.0),
            reply: answer(self.reply.as_ref(), 503),
        })
    }
}

impl Protects for circuit_breaker::Spec {
    const KIND: &'static str = "CircuitBreaker";

    fn targets(&self) -> &[TargetRef] {
        &self.target_refs
    }

    fn mode(&self) -> Mode {
        mode(self.mode)
    }

    fn action(&self) -> Action {
        let errors = self.errors.as_ref();
        Action::CircuitBreaker(CircuitBreaker {
            per: match self.per {
                circuit_breaker::Per::Service => BreakerScope::Service,
                circuit_breaker::Per::Endpoint => BreakerScope::Endpoint,
            },
            slow_calls: self.slow_calls.as_ref().map(|slow| (slow.over.0, slow.ratio.0)),
            error_ratio: errors.and_then(|errors| errors.ratio).map(|ratio| ratio.0),
            error_count: errors.and_then(|errors| errors.count).map(|count| small(count.0)),
            window: self.window.map_or(Duration::from_secs(10), |span| span.0),
            calls_min: self.minimum_calls.map_or(20, |count| small(count.0)),
            open_for: self.open_for.map_or(Duration::from_secs(5), |span| span.0),
            probes: self.half_open_probes.map_or(5, |count| small(count.0)),
            fallback: answer(self.fallback.as_ref(), 503),
        })
    }
}

impl Protects for fault_injection::Spec {
    const KIND: &'static str = "FaultInjection";

    fn targets(&self) -> &[TargetRef] {
        &self.target_refs
    }

    fn mode(&self) -> Mode {
        mode(self.mode)
    }

    fn action(&self) -> Action {
        let headers = |one: &fault_injection::FaultMatch| {
            let pair = |header: &fault_injection::HeaderMatch| {
                (header.name.as_str().to_ascii_lowercase().into(), header.value.as_str().into())
            };
            one.headers.iter().map(pair).collect()
        };
        let matches = self.matches.iter().map(|one| FaultMatch {
            headers: headers(one),
            lanes: one.lanes.iter().map(|lane| lane.as_str().into()).collect(),
        });
        Action::FaultInjection(FaultInjection {
            matches: matches.collect(),
            delay: self.delay.as_ref().map(|delay| Delay { fixed: delay.fixed.0, share: delay.percentage.share() }),
            abort: self.abort.as_ref().map(|abort| Abort {
                reply: reply(Some(&abort.status), &abort.body, &abort.headers, 503),
                share: abort.percentage.share(),
            }),
        })
    }
}

fn answer(written: Option<&WrittenReply>, status: u16) -> Reply {
    match written {
        Some(written) => reply(written.status.as_ref(), &written.body, &written.headers, status),
        None => Reply { status, body: Box::default(), headers: Vec::new() },
    }
}

fn reply(status: Option<&At<Status>>, body: &Body, headers: &ReplyHeaders, default: u16) -> Reply {
    Reply {
        status: status.map_or(default, |status| status.0.try_into().unwrap_or(default)),
        body: body.as_str().into(),
        headers: headers.iter().map(|(name, value)| (name.as_str().into(), value.as_str().into())).collect(),
    }
}

/// The types' own bounds are far below, so that nothing is lost.
fn small(number: u64) -> u32 {
    number.try_into().unwrap_or(u32::MAX)
}
