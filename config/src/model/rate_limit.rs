//! RateLimit: so many requests in a time, told apart by what they carry. Pure, Cold.

use crate::decode::{At, List, Path};
use crate::model::policy::{self, Mode, ReplyHeaders, Status, TargetKind, TargetRef};
use crate::object::{exactly_one, object, words};
use crate::problem::{Place, Problems};
use crate::value::{Body, Decimal, HeaderName, Line, Period, Token, Whole};

object! {
    /// So many requests in a time. Limits on different targets all act; those of one policy count together.
    Spec {
        /// What it applies to.
        required target_refs: List<TargetRef, 1, 16> = "targetRefs",
        /// `enforce` if absent.
        defaulted mode: Mode = "mode" or Mode::Enforce,
        /// All of them hold.
        required limits: List<Limit, 1, 8> = "limits",
        /// What requests are told apart by, all of these together; not at all if absent.
        defaulted by: List<By, 0, 4> = "by" or List::default(),
        /// What becomes of a request that lacks one of `by`; `shared` if absent.
        optional on_missing: At<OnMissing> = "onMissing",
        /// Other limits for some values, where `by` has one item.
        defaulted overrides: List<Override, 0, 1_000> = "overrides" or List::default(),
        /// Values counted apart at the same time; more share one count. 1000000 if absent.
        optional max_values: At<Whole<1, 10_000_000>> = "maxValues",
        /// What becomes of a request above the limit; it is answered 429 if absent.
        optional effect: Effect = "effect",
        /// Who counts together; each process on its own if absent.
        optional scope: Scope = "scope",
    }
    refused { "effectiveTime" }
    check fields_suit_each_other;
}

object! {
    /// So many requests in a time.
    Limit {
        /// How many, evenly spread.
        required requests: Whole<1, 1_000_000_000> = "requests",
        /// In which time.
        required per: Period<1> = "per",
        /// How many may come at the same moment after a quiet time; as many as `requests` if absent.
        optional burst: Whole<1, 1_000_000_000> = "burst",
    }
    check limit_is_countable;
}

object! {
    /// Exactly one of these.
    By {
        /// `true`: the HTTPRoute's rule that it meets.
        optional route: At<bool> = "route",
        /// `true`: the Service that it goes to.
        optional service: At<bool> = "service",
        /// `true`: who calls, the workload's identity or else the client's address.
        optional caller: At<bool> = "caller",
        /// `true`: its lane.
        optional lane: At<bool> = "lane",
        /// The value of a header field.
        optional header: HeaderName = "header",
        /// The value of a cookie.
        optional cookie: Token = "cookie",
        /// The value of a parameter of the query.
        optional query: Line = "query",
        /// `true`: the client's address.
        optional client_address: At<bool> = "clientAddress",
    }
    check one_thing_to_tell_by;
}

words! {
    /// What becomes of a request that lacks one of `by`.
    OnMissing {
        /// It is not limited.
        Skip = "skip",
        /// It is refused.
        Deny = "deny",
        /// All such requests are one value.
        Shared = "shared",
    }
}

object! {
    /// Another limit for one value.
    Override {
        /// As it stands in the request.
        required value: At<Line> = "value",
        /// How many, evenly spread.
        required requests: Whole<1, 1_000_000_000> = "requests",
        /// In which time.
        required per: Period<1> = "per",
        /// How many may come at the same moment after a quiet time; as many as `requests` if absent.
        optional burst: Whole<1, 1_000_000_000> = "burst",
    }
    check override_is_countable;
}

object! {
    /// What becomes of a request above the limit.
    Effect {
        /// The way it is treated.
        required effect_type: EffectType = "type",
        /// Of the answer to what is refused; 429 if absent.
        optional status: At<Status> = "status",
        /// Of the same answer; empty if absent.
        defaulted body: Body = "body" or Body("".into()),
        /// Header fields of the same answer.
        defaulted headers: ReplyHeaders = "headers" or ReplyHeaders::default(),
        /// `queue`: how long a request may wait for its turn; one that would wait longer is refused at once.
        optional max_wait: At<Period<1>> = "maxWait",
        /// `warmUp`: how long the limit takes to grow to all of itself after a quiet time.
        optional period: At<Period<1>> = "period",
        /// `warmUp`: it starts with the limit over this; 3 if absent.
        optional cold_factor: At<Decimal<1_000, 1_000_000>> = "coldFactor",
    }
    check fields_suit_type;
}

words! {
    /// What becomes of a request above the limit.
    EffectType {
        /// It is answered here.
        Reject = "reject",
        /// It waits for its turn.
        Queue = "queue",
        /// It is answered here, and the limit itself grows after a quiet time.
        WarmUp = "warmUp",
    }
}

object! {
    /// Who counts together.
    Scope {
        /// The range of one count.
        required scope_type: ScopeType = "type",
    }
    refused { "withoutControl" }
}

words! {
    /// The range of one count.
    ScopeType {
        /// Each process.
        Local = "local",
        /// Each process has its part: the limit over the number of replicas.
        SharedByReplicas = "sharedByReplicas",
    }
    refused { "global" }
}

impl By {
    fn fields(&self) -> [(&'static str, bool); 8] {
        [
            ("route", self.route.is_some()),
            ("service", self.service.is_some()),
            ("caller", self.caller.is_some()),
            ("lane", self.lane.is_some()),
            ("header", self.header.is_some()),
            ("cookie", self.cookie.is_some()),
            ("query", self.query.is_some()),
            ("clientAddress", self.client_address.is_some()),
        ]
    }

    fn is_same(&self, other: &By) -> bool {
        let name = |by: &By| {
            let header = by.header.as_ref().map(|name| name.as_str().to_ascii_lowercase());
            let cookie = by.cookie.as_ref().map(|name| name.as_str().to_owned());
            header.or(cookie).or(by.query.as_ref().map(|name| name.as_str().to_owned()))
        };
        self.fields() == other.fields() && name(self) == name(other)
    }
}

fn limit_is_countable(limit: &Limit, path: &Path<'_>, problems: &mut Problems) {
    check_rate(limit.requests.0, limit.per, limit.place, path, problems);
}

fn override_is_countable(one: &Override, path: &Path<'_>, problems: &mut Problems) {
    check_rate(one.requests.0, one.per, one.place, path, problems);
}

/// Time is counted in nanoseconds: a limit of several requests in one of them would be none.
fn check_rate(requests: u64, per: Period<1>, place: Place, path: &Path<'_>, problems: &mut Problems) {
    if u128::from(requests) > per.0.as_nanos() {
        problems.error(place, path.field("requests"), "are more than one in a nanosecond");
    }
}

fn one_thing_to_tell_by(by: &By, path: &Path<'_>, problems: &mut Problems) {
    exactly_one(&by.fields(), by.place, path, problems);
    if let Some(header) = &by.header {
        header.warn_if_dropped(by.place, &path.field("header"), problems);
    }
    let said = [
        ("route", &by.route),
        ("service", &by.service),
        ("caller", &by.caller),
        ("lane", &by.lane),
        ("clientAddress", &by.client_address),
    ];
    for (name, said) in said {
        if let Some(said) = said.as_ref().filter(|said| !said.value) {
            problems.error(said.place, path.field(name), "must be true, or left out");
        }
    }
}

fn fields_suit_type(effect: &Effect, path: &Path<'_>, problems: &mut Problems) {
    let of = effect.effect_type;
    let fields: [(&str, EffectType, Option<Place>, bool); 3] = [
        ("maxWait", EffectType::Queue, effect.max_wait.as_ref().map(|field| field.place), true),
        ("period", EffectType::WarmUp, effect.period.as_ref().map(|field| field.place), true),
        ("coldFactor", EffectType::WarmUp, effect.cold_factor.as_ref().map(|field| field.place), false),
    ];
    for (name, owner, place, is_needed) in fields {
        match place {
            Some(place) if owner != of => {
                let reason = format!("means nothing with {}", of.word());
                problems.error_with_hint(place, path.field(name), reason, format!("only with {}", owner.word()));
            }
            None if owner == of && is_needed => {
                problems.error(effect.place, path.field(name), format!("is missing, as {} demands it", of.word()));
            }
            _ => {}
        }
    }
    policy::check_reply(effect.status.as_ref(), &effect.body, &effect.headers, path, problems);
}

fn fields_suit_each_other(spec: &Spec, path: &Path<'_>, problems: &mut Problems) {
    policy::targets_are_distinct(&spec.target_refs, &path.field("targetRefs"), problems);
    warn_of_idle_windows(spec, path, problems);
    if spec.by.is_empty() {
        let fields = [
            ("onMissing", spec.on_missing.as_ref().map(|field| field.place)),
            ("maxValues", spec.max_values.as_ref().map(|field| field.place)),
        ];
        for (name, place) in fields {
            if let Some(place) = place {
                problems.error(place, path.field(name), "means nothing without by");
            }
        }
    }
    let keys = path.field("by");
    for (index, by) in spec.by.iter().enumerate() {
        if let Some(first) = spec.by[..index].iter().position(|before| before.is_same(by)) {
            problems.error(by.place, keys.item(index), format!("is the same as by[{first}]"));
        }
        let early = spec
            .target_refs
            .iter()
            .find(|target| matches!(target.target_kind(), Some(TargetKind::Gateway | TargetKind::HttpRoute)));
        if let (Some(_), Some(early)) = (&by.service, early) {
            let reason =
                format!("is not known yet where a limit on {} acts: onMissing decides there", early.kind.as_str());
            problems.warning(by.place, keys.item(index).field("service"), reason, Some("target the Services"));
        }
    }
    check_overrides(spec, path, problems);
}

/// A window that admits whatever another one does.
fn warn_of_idle_windows(spec: &Spec, path: &Path<'_>, problems: &mut Problems) {
    let path = path.field("limits");
    let burst = |limit: &Limit| limit.burst.unwrap_or(limit.requests).0;
    // What a window admits in any time t is at most burst + t x requests / per.
    let is_within = |one: &Limit, other: &Limit| {
        let (rate, other_rate) =
            (u128::from(one.requests.0) * other.per.0.as_nanos(), u128::from(other.requests.0) * one.per.0.as_nanos());
        rate <= other_rate && burst(one) <= burst(other)
    };
    for (index, limit) in spec.limits.iter().enumerate() {
        let stricter = spec.limits.iter().enumerate().find(|(other_index, other)| {
            let is_equal = is_within(limit, other);
            *other_index != index && is_within(other, limit) && (!is_equal || *other_index < index)
        });
        if let Some((stricter, _)) = stricter {
            let reason =
                format!("never decides: limits[{stricter}] admits no more, neither at once nor in the long run");
            problems.warning(limit.place, path.item(index), reason, None);
        }
    }
}

fn check_overrides(spec: &Spec, path: &Path<'_>, problems: &mut Problems) {
    let path = path.field("overrides");
    let Some(first) = spec.overrides.first() else {
        return;
    };
    let [key] = &*spec.by else {
        let reason = format!("need exactly one item in by, which has {}", spec.by.len());
        return problems.error(first.place, path, reason);
    };
    for (index, one) in spec.overrides.iter().enumerate() {
        let field = path.item(index);
        let field = field.field("value");
        if key.client_address.is_some() && one.value.as_str().parse::<std::net::IpAddr>().is_err() {
            problems.error(one.value.place, field, format!("{:?} is not an IP address", one.value.as_str()));
        } else if let Some(before) = spec.overrides[..index].iter().find(|before| *before.value == *one.value) {
            let at = problems.name(before.value.place);
            problems.error(
                one.value.place,
                field,
                format!("{:?} has an override already, at {at}", one.value.as_str()),
            );
        }
    }
}
