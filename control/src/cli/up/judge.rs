//! What an answer means: whether it is as it should be, and whether each hop was served in the right lane. Pure.

use super::shop::{BASE, LANES, SERVICES};

/// What is known of who asked.
#[derive(Debug, Clone, Copy, Default)]
pub struct Asker {
    /// The lane that the rules name for them.
    pub lane: Option<&'static str>,
    /// The lane they were in before, which they must keep.
    pub before: Option<&'static str>,
    /// Whether they ask more than they may.
    pub is_greedy: bool,
}

/// What came back, as far as it matters.
#[derive(Debug, Clone, Copy)]
pub struct Reply<'a> {
    /// The status.
    pub status: u16,
    /// Which lane the request was in when it reached the first service.
    pub lane: Option<&'a str>,
    /// Who served, such as `web(blue) > cart(base)`.
    pub body: &'a str,
}

/// Whether a service has an instance in a lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// None.
    Absent,
    /// One that the gateway may have left alone, or does.
    Troubled,
    /// One that should have been asked.
    Well,
}

/// What an answer is counted as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// As it should be.
    Good,
    /// As it should be, with a part that the breaker's fallback stood in for.
    Fallback,
    /// Refused, as it should be.
    Limited,
    /// No answer, or not the one it should be.
    Unexpected(String),
    /// An instance of another lane served though the right lane had one.
    WrongLane(String),
}

/// A verdict with the lane that it is counted under.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judgement {
    /// One of `LANES`.
    pub lane: &'static str,
    /// Whether the answer itself named the lane.
    pub is_told: bool,
    /// What it is.
    pub verdict: Verdict,
}

/// Judges an answer, or the failure to get one.
pub fn judge(asker: Asker, reply: Result<Reply<'_>, &str>, presence: impl Fn(&str, &str) -> Presence) -> Judgement {
    let supposed = asker.lane.or(asker.before).unwrap_or(BASE);
    let untold = |verdict: Verdict| Judgement { lane: supposed, is_told: false, verdict };
    let reply = match reply {
        Err(problem) => return untold(Verdict::Unexpected(problem.to_owned())),
        Ok(reply) => reply,
    };
    match reply.status {
        200 => {}
        429 if asker.is_greedy => return untold(Verdict::Limited),
        status => return untold(Verdict::Unexpected(format!("{status} {}", reply.body.trim_end()))),
    }
    let Some(lane) = reply.lane.and_then(|told| LANES.into_iter().find(|lane| *lane == told)) else {
        return untold(Verdict::Unexpected(format!("200 without a known lane: {}", reply.body.trim_end())));
    };
    let verdict = wrong_entry(asker, lane, &presence).or_else(|| wrong_hop(lane, reply.body, &presence));
    Judgement { lane, is_told: true, verdict: verdict.unwrap_or_else(|| served(reply.body)) }
}

fn served(body: &str) -> Verdict {
    if body.contains("(fallback)") { Verdict::Fallback } else { Verdict::Good }
}

/// Whether the gateway put the request into a lane where it does not belong.
fn wrong_entry(asker: Asker, lane: &str, presence: &impl Fn(&str, &str) -> Presence) -> Option<Verdict> {
    if let Some(right) = asker.lane.filter(|right| *right != lane) {
        return Some(Verdict::WrongLane(format!("put into {lane} instead of {right}")));
    }
    // A percentage that grows adds clients, but takes none out.
    let before = asker.before.filter(|before| *before != lane && *before != BASE)?;
    // A lane takes no more than its instances bear: while they are in trouble, clients may leave and come back.
    let is_troubled = |lane: &str| SERVICES.iter().any(|service| presence(service, lane) == Presence::Troubled);
    match is_troubled(before) || is_troubled(lane) {
        true => None,
        false => Some(Verdict::WrongLane(format!("moved from {before} to {lane}"))),
    }
}

/// The first hop that somebody served who should not.
fn wrong_hop(lane: &str, body: &str, presence: &impl Fn(&str, &str) -> Presence) -> Option<Verdict> {
    let mut hops = body.trim_end().split(" > ");
    for service in SERVICES {
        let hop = hops.next().and_then(|hop| hop.strip_suffix(')')?.split_once('('));
        let Some((_, by)) = hop.filter(|(name, _)| *name == service) else {
            return Some(Verdict::Unexpected(format!("200 {}", body.trim_end())));
        };
        match by {
            "fallback" => break,
            _ if by == lane => {}
            BASE if presence(service, lane) != Presence::Well => {}
            _ => return Some(Verdict::WrongLane(format!("{service}({by}) served a request of {lane}"))),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALICE: Asker = Asker { lane: Some("blue"), before: None, is_greedy: false };
    const ANYBODY: Asker = Asker { lane: None, before: None, is_greedy: false };
    const GREEN: Asker = Asker { before: Some("green"), ..ANYBODY };
    const ROBOT: Asker = Asker { is_greedy: true, ..ANYBODY };

    /// As the shop is, but for one instance.
    fn check(asker: Asker, troubled: (&str, &str), answer: (u16, &str, &str), expected: &str) {
        let presence = |service: &str, lane: &str| {
            let has =
                lane == BASE || super::super::shop::CAST.iter().any(|known| (known.0, known.1) == (service, lane));
            match has {
                _ if (service, lane) == troubled => Presence::Troubled,
                true => Presence::Well,
                false => Presence::Absent,
            }
        };
        let (status, lane, body) = answer;
        let reply = Reply { status, lane: (!lane.is_empty()).then_some(lane), body };
        let Judgement { lane, verdict, .. } = judge(asker, Ok(reply), presence);
        let told = match verdict {
            Verdict::Good => "good".into(),
            Verdict::Fallback => "fallback".into(),
            Verdict::Limited => "limited".into(),
            Verdict::Unexpected(what) => format!("unexpected: {what}"),
            Verdict::WrongLane(what) => format!("wrong lane: {what}"),
        };
        assert_eq!(format!("{lane} {told}"), expected, "{answer:?}");
    }

    #[test]
    fn each_hop_is_served_in_the_lane_of_the_request_if_it_is_there() {
        let none = ("", "");
        let base = "web(base) > cart(base) > price(base) > stock(base)\n";
        let blue = "web(blue) > cart(blue) > price(base) > stock(blue)\n";
        let green = "web(base) > cart(base) > price(green) > stock(base)\n";
        check(ALICE, none, (200, "blue", blue), "blue good");
        check(ANYBODY, none, (200, "base", base), "base good");
        check(ANYBODY, none, (200, "green", green), "green good");
        check(ALICE, none, (200, "base", base), "base wrong lane: put into base instead of blue");
        check(ALICE, none, (200, "blue", base), "blue wrong lane: web(base) served a request of blue");
        check(ALICE, ("web", "blue"), (200, "blue", &blue.replace("web(blue)", "web(base)")), "blue good");
        check(ANYBODY, none, (200, "base", blue), "base wrong lane: web(blue) served a request of base");
        check(ANYBODY, ("web", BASE), (200, "base", blue), "base wrong lane: web(blue) served a request of base");
        check(ANYBODY, none, (200, "green", base), "green wrong lane: price(base) served a request of green");
        check(GREEN, none, (200, "green", green), "green good");
        check(GREEN, none, (200, "base", base), "base wrong lane: moved from green to base");
        check(GREEN, ("price", "green"), (200, "base", base), "base good");
        check(Asker { before: Some(BASE), ..ANYBODY }, none, (200, "green", green), "green good");
    }

    #[test]
    fn what_is_refused_or_replaced_is_told_from_what_failed() {
        let none = ("", "");
        check(ROBOT, none, (429, "", "slow down\n"), "base limited");
        check(ALICE, none, (429, "", "slow down\n"), "blue unexpected: 429 slow down");
        check(ALICE, none, (503, "", ""), "blue unexpected: 503 ");
        check(ALICE, none, (200, "blue", "web(blue) > cart(blue) > price(fallback)"), "blue fallback");
        check(
            ALICE,
            none,
            (200, "blue", "web(base) > price(fallback)"),
            "blue wrong lane: web(base) served a request of blue",
        );
        check(ANYBODY, none, (200, "base", "hello"), "base unexpected: 200 hello");
        check(ANYBODY, none, (200, "", "hello"), "base unexpected: 200 without a known lane: hello");
        let lost = judge(GREEN, Err("reset"), |_, _| Presence::Well);
        assert_eq!((lost.lane, lost.verdict), ("green", Verdict::Unexpected("reset".into())));
    }
}
