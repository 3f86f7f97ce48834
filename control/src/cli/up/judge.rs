//! What an answer means: whether it is as it should be, and whether each hop was served in the right lane. Pure.

use super::app::BASE;
use super::shop::{LANES, SERVICES};

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
    /// In which lane the request was when it reached each service, such as `blue > blue`.
    pub lanes: Option<&'a str>,
    /// Who served, such as `web(blue) > cart(base)`.
    pub body: &'a str,
}

/// Whether a service has an instance in a lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// None.
    Absent,
    /// Only such that callers may have left alone, or do.
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
    let lanes: Vec<&str> = reply.lanes.unwrap_or_default().split(" > ").collect();
    let Some(lane) = LANES.into_iter().find(|lane| lanes.first() == Some(lane)) else {
        return untold(Verdict::Unexpected(format!("200 without a known lane: {}", reply.body.trim_end())));
    };
    let verdict = wrong_entry(asker, lane, &presence).or_else(|| wrong_hop(lane, &lanes, reply.body, &presence));
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

/// The first hop that somebody served who should not, with the edge on which the request left its lane: `lanes` says where each
/// service saw it.
fn wrong_hop(lane: &str, lanes: &[&str], body: &str, presence: &impl Fn(&str, &str) -> Presence) -> Option<Verdict> {
    let mut hops = body.trim_end().split(" > ");
    for (number, service) in SERVICES.into_iter().enumerate() {
        let hop = hops.next().and_then(|hop| hop.strip_suffix(')')?.split_once('('));
        let Some((_, by)) = hop.filter(|(name, _)| *name == service) else {
            return Some(Verdict::Unexpected(format!("200 {}", body.trim_end())));
        };
        match by {
            "fallback" => break,
            _ if by == lane => {}
            BASE if presence(service, lane) != Presence::Well => {}
            _ => {
                let left = lanes.iter().position(|seen| *seen != lane).unwrap_or(number).min(number);
                let edge = if left == 0 { "edge" } else { SERVICES[left - 1] };
                let served = format!("{service}({by}) served a request of {lane}");
                return Some(Verdict::WrongLane(format!("{edge} > {}: {served}", SERVICES[left])));
            }
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

    /// As the shop is, but for one lane of a service.
    fn check(asker: Asker, troubled: (&str, &str), answer: (u16, &str, &str), expected: &str) {
        let presence = |service: &str, lane: &str| {
            let place = SERVICES.iter().position(|known| *known == service).expect("one of the services");
            match lane == BASE || super::super::shop::LANE_OF[place] == lane {
                _ if (service, lane) == troubled => Presence::Troubled,
                true => Presence::Well,
                false => Presence::Absent,
            }
        };
        let (status, lanes, body) = answer;
        let reply = Reply { status, lanes: (!lanes.is_empty()).then_some(lanes), body };
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

    const IN_BASE: &str = "base > base > base > base";
    const IN_BLUE: &str = "blue > blue > blue > blue";
    const IN_GREEN: &str = "green > green > green > green";

    #[test]
    fn each_hop_is_served_in_the_lane_of_the_request_if_it_is_there() {
        let none = ("", "");
        let base = "web(base) > cart(base) > price(base) > stock(base)\n";
        let blue = "web(blue) > cart(blue) > price(base) > stock(blue)\n";
        let green = "web(base) > cart(base) > price(green) > stock(base)\n";
        check(ALICE, none, (200, IN_BLUE, blue), "blue good");
        check(ANYBODY, none, (200, IN_BASE, base), "base good");
        check(ANYBODY, none, (200, IN_GREEN, green), "green good");
        check(ALICE, none, (200, IN_BASE, base), "base wrong lane: put into base instead of blue");
        let by_base = "blue wrong lane: edge > web: web(base) served a request of blue";
        check(ALICE, none, (200, IN_BLUE, base), by_base);
        check(ALICE, ("web", "blue"), (200, IN_BLUE, &blue.replace("web(blue)", "web(base)")), "blue good");
        let by_blue = "base wrong lane: edge > web: web(blue) served a request of base";
        check(ANYBODY, none, (200, IN_BASE, blue), by_blue);
        check(ANYBODY, ("web", BASE), (200, IN_BASE, blue), by_blue);
        check(GREEN, none, (200, IN_GREEN, green), "green good");
        check(GREEN, none, (200, IN_BASE, base), "base wrong lane: moved from green to base");
        check(GREEN, ("price", "green"), (200, IN_BASE, base), "base good");
        check(Asker { before: Some(BASE), ..ANYBODY }, none, (200, IN_GREEN, green), "green good");
    }

    #[test]
    fn the_edge_on_which_a_request_left_its_lane_is_named() {
        let none = ("", "");
        let left = |lanes: &str, body: &str, expected: &str| {
            check(ALICE, none, (200, lanes, body), &format!("blue wrong lane: {expected}"));
        };
        left(
            "blue > blue > blue > base",
            "web(blue) > cart(blue) > price(base) > stock(base)",
            "price > stock: stock(base) served a request of blue",
        );
        left(
            "blue > base > base > base",
            "web(blue) > cart(base) > price(base) > stock(base)",
            "web > cart: cart(base) served a request of blue",
        );
        // It was in its lane all the way, and sent to the wrong one.
        left(
            IN_BLUE,
            "web(blue) > cart(base) > price(base) > stock(blue)",
            "web > cart: cart(base) served a request of blue",
        );
        let base = "web(base) > cart(base) > price(base) > stock(base)";
        let expected = "green wrong lane: web > cart: price(base) served a request of green";
        check(ANYBODY, none, (200, "green > base > base > base", base), expected);
        let expected = "green wrong lane: cart > price: price(base) served a request of green";
        check(ANYBODY, none, (200, IN_GREEN, base), expected);
    }

    #[test]
    fn what_is_refused_or_replaced_is_told_from_what_failed() {
        let none = ("", "");
        check(ROBOT, none, (429, "", "slow down\n"), "base limited");
        check(ALICE, none, (429, "", "slow down\n"), "blue unexpected: 429 slow down");
        check(ALICE, none, (503, "", ""), "blue unexpected: 503 ");
        check(ALICE, none, (200, "blue > blue", "web(blue) > cart(blue) > price(fallback)"), "blue fallback");
        check(
            ALICE,
            none,
            (200, "blue > blue", "web(base) > price(fallback)"),
            "blue wrong lane: edge > web: web(base) served a request of blue",
        );
        check(ANYBODY, none, (200, "base", "hello"), "base unexpected: 200 hello");
        check(ANYBODY, none, (200, "", "hello"), "base unexpected: 200 without a known lane: hello");
        let lost = judge(GREEN, Err("reset"), |_, _| Presence::Well);
        assert_eq!((lost.lane, lost.verdict), ("green", Verdict::Unexpected("reset".into())));
    }
}
