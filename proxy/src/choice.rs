//! Which of a cluster's endpoints requests go to, and in which parts: who is well, who is new, who is near. Which of those
//! one request goes to is `balance`'s business. Pure, Cold: made anew when something has changed, not for a request.

use std::time::Duration;

use config::snapshot::{Endpoint, SlowStart, Usage};

use crate::cluster::{EndpointState, Health};

/// Weights in a choice are this many times what is written, so that a part of one is a number, too.
const WEIGHT_SCALE: f64 = 1000.0;
/// A zone that has lost less than a third of its weight still takes all of its requests (Envoy's overprovisioning factor).
const SPARE: f64 = 1.4;
/// Weights that grow are looked at again after this.
const GROWTH_STEP: Duration = Duration::from_millis(250);

/// What is known of an endpoint when a choice is made.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Standing {
    pub(crate) health: Health,
    /// Until when it is left alone; in the past if it is not.
    pub(crate) ejected_until: Duration,
    /// Until when it is left alone since no connection could be made; in the past if it is not.
    pub(crate) refused_until: Duration,
    pub(crate) ready_since: Option<Duration>,
    /// It says that it goes.
    pub(crate) is_leaving: bool,
}

impl Standing {
    /// As it is now.
    pub(crate) fn of(state: &EndpointState) -> Standing {
        Standing {
            health: state.health(),
            ejected_until: state.ejected_until(),
            refused_until: state.refused_until(),
            ready_since: state.ready_since(),
            is_leaving: state.is_leaving(),
        }
    }
}

/// Whether requests go to an endpoint, and why not.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Use {
    /// They do, with this part (0 to 1) of its weight.
    Ready(f64),
    /// No active check has spoken yet: only where nobody is ready.
    Unproven,
    /// Active checks say that it is not well.
    Unwell,
    /// It failed too often.
    Ejected,
    /// No connection to it could be made a moment ago.
    Refusing,
    /// It says that it goes.
    Leaving,
}

/// Whom requests go to.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Choice {
    /// The zones in their order, or all endpoints together; each with its part (0 to 1) of the requests.
    pub(crate) tiers: Vec<Tier>,
    /// Nobody is ready, and all are asked all the same.
    pub(crate) panic: bool,
    /// When it has to be made again though nothing was told.
    pub(crate) until: Duration,
    /// The weight of those that are ready, in the units in which weights are written.
    pub(crate) ready_weight: f64,
}

/// Endpoints that are equally near.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Tier {
    pub(crate) share: f64,
    /// Places among the cluster's endpoints, each with its weight.
    pub(crate) members: Vec<(u32, u64)>,
}

/// Chooses among the `members` of a group; `standing` tells of each endpoint of the cluster. `zone` is where this process
/// stands.
pub(crate) fn choose(
    endpoints: &[Endpoint],
    members: &[u32],
    standing: impl Fn(u32) -> Standing,
    usage: &Usage,
    zone: Option<&str>,
    now: Duration,
) -> Choice {
    let mut uses: Vec<Use> = members.iter().map(|member| usability(standing(*member), usage, now)).collect();
    let all = members.iter().map(|member| standing(*member));
    let times = all.flat_map(|one| [one.ejected_until, one.refused_until]);
    let mut until = times.filter(|until| *until > now).min().unwrap_or(Duration::MAX);
    guard(&mut uses, usage.slow_start.as_ref());
    if uses.iter().any(|one| matches!(one, Use::Ready(part) if *part < 1.0)) {
        until = until.min(now + GROWTH_STEP);
    }
    let ready = uses.iter().filter(|one| matches!(one, Use::Ready(_))).count();
    let has_unproven = uses.contains(&Use::Unproven);
    let panic = ready == 0 && !has_unproven && !members.is_empty();
    let part = |one: Use| match one {
        Use::Ready(part) => Some(part),
        Use::Unproven if ready == 0 => Some(1.0),
        _ if panic => Some(1.0),
        _ => None,
    };
    let weight = |member: u32| f64::from(endpoints[member as usize].weight);
    let scale = match uses.iter().all(|one| part(*one).is_none_or(|part| part == 1.0)) {
        true => 1.0,
        false => WEIGHT_SCALE,
    };
    let chosen: Vec<(u32, u64)> = members
        .iter()
        .zip(&uses)
        .filter_map(|(member, one)| Some((*member, ((weight(*member) * scale * part(*one)?) as u64).max(1))))
        .collect();
    let tiers = match (usage.locality.as_ref(), zone) {
        (Some(locality), Some(zone)) if chosen.len() > 1 => {
            let order = std::iter::once(zone).chain(locality.failover.iter().map(|zone| &**zone));
            zones(endpoints, members, chosen, order, locality.local_share_min)
        }
        _ => vec![Tier { share: 1.0, members: chosen }],
    };
    let ready_weight = match panic {
        true => 0.0,
        false => members.iter().zip(&uses).filter_map(|(member, one)| Some(weight(*member) * part(*one)?)).sum(),
    };
    Choice { tiers, panic, until, ready_weight }
}

/// What an endpoint's standing means.
pub(crate) fn usability(standing: Standing, usage: &Usage, now: Duration) -> Use {
    if standing.is_leaving {
        return Use::Leaving;
    }
    if usage.outlier.is_some() && standing.ejected_until > now {
        return Use::Ejected;
    }
    if standing.refused_until > now {
        return Use::Refusing;
    }
    if usage.health_check.is_some() {
        match standing.health {
            Health::Well => {}
            Health::Unproven => return Use::Unproven,
            Health::Unwell => return Use::Unwell,
        }
    }
    match (&usage.slow_start, standing.ready_since) {
        (Some(settings), Some(since)) => Use::Ready(part_of_weight(settings, now.saturating_sub(since))),
        _ => Use::Ready(1.0),
    }
}

/// How much of its weight an endpoint has that is new (as Envoy's slow start: time to the power of 1/aggression).
fn part_of_weight(settings: &SlowStart, age: Duration) -> f64 {
    let part = age.as_secs_f64() / settings.window.as_secs_f64();
    part.powf(1.0 / settings.aggression).clamp(settings.weight_min, 1.0)
}

/// Where too many are new, sparing them would overload the others (as Polaris' overload protection).
fn guard(uses: &mut [Use], slow_start: Option<&SlowStart>) {
    let Some(settings) = slow_start else { return };
    let is_new = |one: &&Use| matches!(one, Use::Ready(part) if *part < 1.0);
    let is_ready = |one: &&Use| matches!(one, Use::Ready(_));
    let (new, ready) = (uses.iter().filter(is_new).count(), uses.iter().filter(is_ready).count());
    if new > 0 && new as f64 >= settings.guard * ready as f64 {
        for one in uses.iter_mut() {
            if let Use::Ready(part) = one {
                *part = 1.0;
            }
        }
    }
}

/// Zones in their order, each with what it can bear: as much as it has lost no more than its spare, else as much as is
/// left of it. What no zone of the order can bear goes to the others, and if there are none, to all in proportion.
fn zones<'z>(
    endpoints: &[Endpoint],
    members: &[u32],
    chosen: Vec<(u32, u64)>,
    order: impl Iterator<Item = &'z str>,
    local_share_min: f64,
) -> Vec<Tier> {
    let zone_of = |member: u32| endpoints[member as usize].zone.as_deref();
    let mut rest = chosen.clone();
    let mut left = 1.0;
    let mut tiers: Vec<Tier> = Vec::new();
    let written = |member: &u32| f64::from(endpoints[*member as usize].weight);
    let all: f64 = members.iter().map(written).sum();
    for (index, zone) in order.enumerate() {
        let (here, others): (Vec<_>, Vec<_>) = rest.into_iter().partition(|(member, _)| zone_of(*member) == Some(zone));
        rest = others;
        // By what the zone has, not by what of it is ready: one that is lost is what the others are for.
        let local: f64 = members.iter().filter(|member| zone_of(**member) == Some(zone)).map(written).sum();
        if index == 0 && local < local_share_min * all {
            return vec![Tier { share: 1.0, members: chosen }];
        }
        let there: usize = members.iter().filter(|member| zone_of(**member) == Some(zone)).count();
        if here.is_empty() {
            continue;
        }
        let bears = (SPARE * here.len() as f64 / there as f64).min(1.0);
        let share = f64::min(left, bears);
        left -= share;
        if share > 0.0 {
            tiers.push(Tier { share, members: here });
        }
    }
    if left > 1e-9 && !rest.is_empty() {
        tiers.push(Tier { share: left, members: rest });
        left = 0.0;
    }
    if left > 1e-9 {
        let taken: f64 = tiers.iter().map(|tier| tier.share).sum();
        tiers.iter_mut().for_each(|tier| tier.share /= taken);
    }
    match tiers.is_empty() {
        true => vec![Tier { share: 1.0, members: chosen }],
        false => tiers,
    }
}

#[cfg(test)]
mod tests;
