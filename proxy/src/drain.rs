//! How an instance leaves. It serves until nobody sends to it any more: callers that control knows say so themselves, others
//! are given a time; and then it must be quiet. There is one timer, the deadline, which counts from the moment when it was
//! told to go. Time is an argument. Pure, Cold.

use std::time::{Duration, Instant};

/// For how long nothing may come before an instance is quiet, once all callers have forgotten it: what they sent before is
/// on its way for no longer.
const QUIET: Duration = Duration::from_millis(100);
/// The same where somebody may still send, and nobody knows: callers that ask rarely ask as often as this.
const QUIET_IN_DOUBT: Duration = Duration::from_secs(5);
/// A control that cannot say who has forgotten it is waited for no longer than this.
const ANNOUNCED_WITHIN: Duration = Duration::from_secs(10);
/// For control to say what becomes of it.
const SAID_WITHIN: Duration = Duration::from_secs(1);
/// What control leaves of the time of a last instance for callers to forget it.
const LAST_MARGIN: Duration = Duration::from_secs(3);
/// Whoever came within this time before, and is not of the mesh, may come again.
const OUTSIDE_RECENT: Duration = Duration::from_secs(60);

/// What an instance goes by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Terms {
    /// From the moment when it was told to go.
    pub(crate) within: Duration,
    /// What callers outside the mesh are given to hear of it in their own ways (a balancer's checks, say).
    pub(crate) outside_grace: Duration,
    /// There is a control that tells callers.
    pub(crate) is_announced: bool,
}

/// What control says of who has forgotten it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Forgetting {
    /// Nobody is left that is waited for.
    pub(crate) is_over: bool,
    /// Those that may still send, since nobody could tell them.
    pub(crate) unreachable: u32,
    /// The first of those.
    pub(crate) unreachable_ids: Vec<String>,
    /// All that were to forget it.
    pub(crate) holders: u32,
    /// The first of those that are waited for.
    pub(crate) waiting_for: Vec<String>,
}

/// What is known at one moment.
#[derive(Debug, Clone, Default)]
pub(crate) struct Seen {
    /// None: control has not said anything of it.
    pub(crate) forgetting: Option<Forgetting>,
    /// When it said that callers are to forget it, since it is there: a last instance is told of late, and one whose control
    /// was away anew.
    pub(crate) announced: Option<Instant>,
    /// Control is there.
    pub(crate) is_heard: bool,
    /// Of a last one: its application has ended, and can serve nobody.
    pub(crate) is_app_gone: bool,
    /// Control never let it in: no caller in the mesh ever knew it.
    pub(crate) is_unknown: bool,
    /// There is another instance that has to be ready first.
    pub(crate) is_last: bool,
    /// Requests for the application that are being served.
    pub(crate) in_flight: u64,
    /// When the last one began or ended; None: none since the process started.
    pub(crate) last_request: Option<Instant>,
    /// The same for those of callers outside the mesh.
    pub(crate) last_outside: Option<Instant>,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Something has to happen first, or this time has to come.
    Wait(Instant, For),
    /// It may end, for this reason.
    Drained(Reason),
}

/// What it waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum For {
    /// It is the last one.
    Another,
    /// Not all of them have said that they have forgotten it.
    Callers,
    /// Some are under way.
    Requests,
    /// Some of them called lately, and nobody can tell them.
    Outside,
    /// For so long as requests that were sent before may be on their way.
    Quiet,
    /// For longer, since somebody may still send.
    QuietInDoubt,
}

impl For {
    /// In words for people, behind "waits for".
    pub(crate) fn words(self) -> &'static str {
        match self {
            For::Another => "another instance to be ready",
            For::Callers => "callers to forget it",
            For::Requests => "requests under way",
            For::Outside => "callers outside the mesh to notice",
            For::Quiet => "100 ms without a request",
            For::QuietInDoubt => "5 s without a request, since not all callers can be told",
        }
    }
}

/// Why it may end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reason {
    /// All have forgotten it, and it was quiet.
    Forgotten,
    /// The same, and those outside the mesh were given their time.
    Graced,
    /// No caller knew it, and it was quiet.
    Unknown,
    /// Nobody tells callers, and it was quiet.
    Unannounced,
    /// Its application had ended, before there was another.
    AppGone,
    /// Not all said so, and it was quiet all the same.
    Quiet,
    /// The same, since control was away.
    QuietAlone,
    /// There was no more time, and this was waited for.
    Deadline(For),
}

impl Reason {
    /// In words for people.
    pub(crate) fn words(self) -> String {
        let words = match self {
            Reason::Forgotten => "all callers have forgotten it, and it was quiet",
            Reason::Graced => "all callers have forgotten it, those outside the mesh had their time, and it was quiet",
            Reason::Unknown => "control had not let it in, and it was quiet",
            Reason::Unannounced => "it was quiet; where there is no control, nobody tells callers",
            Reason::AppGone => "its application had ended, and there was no other instance",
            Reason::Quiet => "it was quiet, though not all callers said that they have forgotten it",
            Reason::QuietAlone => "it was quiet; control was away, so that nobody knows who has forgotten it",
            Reason::Deadline(what) => return format!("its time was over while it waited for {}", what.words()),
        };
        words.to_owned()
    }
}

/// Whether an instance that was told to go at `began` may end now.
pub(crate) fn decide(terms: &Terms, began: Instant, seen: &Seen, now: Instant) -> Verdict {
    let deadline = began + terms.within;
    match wait(terms, began, seen, now) {
        Verdict::Wait(_, what) if now >= deadline => Verdict::Drained(Reason::Deadline(what)),
        verdict => verdict,
    }
}

/// Whether its answers say that it goes, so that callers leave it alone: not before control, where that is there, has told
/// them, since it may be the last one; but in time where nobody does.
pub(crate) fn says_so(terms: &Terms, began: Instant, seen: &Seen, now: Instant) -> bool {
    let is_announced = terms.is_announced && !seen.is_unknown;
    let is_late = now + LAST_MARGIN.min(terms.within / 4) >= began + terms.within;
    !is_announced
        || seen.announced.is_some()
        || is_late
        || (!seen.is_last && (!seen.is_heard || now >= began + SAID_WITHIN))
}

fn wait(terms: &Terms, began: Instant, seen: &Seen, now: Instant) -> Verdict {
    let deadline = began + terms.within;
    // Where nobody tells callers, all of them are outside.
    let is_announced = terms.is_announced && !seen.is_unknown;
    let told = |is_so: fn(&Forgetting) -> bool| !is_announced || seen.forgetting.as_ref().is_some_and(is_so);
    let is_forgotten = told(|forgetting| forgetting.is_over);
    let is_sure = told(|forgetting| forgetting.is_over && forgetting.unreachable == 0);
    if seen.is_last && seen.is_app_gone {
        // It takes no more, and may finish what it has.
        return match seen.in_flight {
            0 => Verdict::Drained(Reason::AppGone),
            _ => Verdict::Wait(deadline, For::Requests),
        };
    }
    if seen.is_last && !is_forgotten {
        return Verdict::Wait(deadline, For::Another);
    }
    // Callers have their time from when they were told, and not from when it was the last one.
    let announced_until = seen.announced.unwrap_or(began) + ANNOUNCED_WITHIN;
    if !is_forgotten && now < announced_until {
        return Verdict::Wait(announced_until.min(deadline), For::Callers);
    }
    if seen.in_flight > 0 {
        return Verdict::Wait(deadline, For::Requests);
    }
    let quiet = if is_sure { QUIET } else { QUIET_IN_DOUBT };
    let quiet_at = seen.last_request.map_or(began, |last| last.max(began)) + quiet;
    let is_asked_from_outside = seen.last_outside.is_some_and(|last| last + OUTSIDE_RECENT >= began);
    let graced_at = if is_asked_from_outside { began + terms.outside_grace } else { began };
    match (now >= quiet_at, now >= graced_at) {
        (_, false) => Verdict::Wait(quiet_at.max(graced_at).min(deadline), For::Outside),
        (false, true) => Verdict::Wait(quiet_at.min(deadline), if is_sure { For::Quiet } else { For::QuietInDoubt }),
        (true, true) if !terms.is_announced => Verdict::Drained(Reason::Unannounced),
        (true, true) if is_announced && !seen.is_heard && seen.forgetting.is_none() => {
            Verdict::Drained(Reason::QuietAlone)
        }
        (true, true) if !is_sure => Verdict::Drained(Reason::Quiet),
        (true, true) if seen.is_unknown => Verdict::Drained(Reason::Unknown),
        (true, true) if graced_at > began => Verdict::Drained(Reason::Graced),
        (true, true) => Verdict::Drained(Reason::Forgotten),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instance_ends_when_nobody_sends_to_it_any_more() {
        let began = Instant::now() + Duration::from_secs(1_000);
        let s = Duration::from_secs;
        let terms = Terms { within: s(27), outside_grace: s(10), is_announced: true };
        let at = |milliseconds: i64| match u64::try_from(milliseconds) {
            Ok(after) => began + Duration::from_millis(after),
            Err(_) => began - Duration::from_millis(milliseconds.unsigned_abs()),
        };
        let told = |is_over: bool, unreachable: u32| {
            Some(Forgetting { is_over, unreachable, holders: 3, ..Forgetting::default() })
        };
        // What control said, and when first; whether it is the last one; requests in flight; when the last one was, and the
        // last from outside; now; and what comes of it: a reason, or until when it waits and for what.
        let (a, u, marked) = (told(true, 0), told(true, 1), told(false, 0));
        let rows = [
            // All said so: it ends when it was quiet for a moment.
            (&a, 5, false, 0, Some(20), None, 119, Err((120, For::Quiet))),
            (&a, 5, false, 0, Some(20), None, 120, Ok(Reason::Forgotten)),
            (&a, 5, false, 0, None, None, 99, Err((100, For::Quiet))),
            (&a, 5, false, 0, Some(-5_000), None, 100, Ok(Reason::Forgotten)),
            // A request may take as long as there is time.
            (&a, 5, false, 1, Some(20), None, 20_000, Err((27_000, For::Requests))),
            (&a, 5, false, 1, Some(20), None, 27_000, Ok(Reason::Deadline(For::Requests))),
            // Somebody has not said so.
            (&marked, 5, false, 0, Some(20), None, 5_000, Err((10_005, For::Callers))),
            (&marked, 5, false, 0, Some(20), None, 10_005, Ok(Reason::Quiet)),
            (&marked, 5, false, 0, Some(9_000), None, 10_005, Err((14_000, For::QuietInDoubt))),
            // Somebody cannot be told.
            (&u, 5, false, 0, Some(7_000), None, 11_000, Err((12_000, For::QuietInDoubt))),
            (&u, 5, false, 0, Some(7_000), None, 12_000, Ok(Reason::Quiet)),
            // Control is not there.
            (&None, -1, false, 0, Some(-1), None, 100, Err((10_000, For::Callers))),
            (&None, -1, false, 0, Some(-1), None, 10_000, Ok(Reason::QuietAlone)),
            (&None, -1, false, 0, Some(9_500), None, 10_000, Err((14_500, For::QuietInDoubt))),
            (&None, -1, false, 0, Some(26_000), None, 26_500, Err((27_000, For::QuietInDoubt))),
            (&None, -1, false, 0, Some(26_000), None, 27_000, Ok(Reason::Deadline(For::QuietInDoubt))),
            // The last one waits for another, as long as it can; then callers have as much time as others give them.
            (&None, -1, true, 0, None, None, 20_000, Err((27_000, For::Another))),
            (&None, -1, true, 0, None, None, 27_000, Ok(Reason::Deadline(For::Another))),
            (&marked, 12_000, false, 0, None, None, 12_001, Err((22_000, For::Callers))),
            (&marked, 24_000, false, 0, None, None, 24_001, Err((27_000, For::Callers))),
            (&a, 24_000, false, 0, None, None, 24_003, Ok(Reason::Forgotten)),
            // Callers outside the mesh hear of it in their own way.
            (&a, 5, false, 0, Some(50), Some(50), 5_000, Err((10_000, For::Outside))),
            (&a, 5, false, 0, Some(9_990), Some(9_990), 10_000, Err((10_090, For::Quiet))),
            (&a, 5, false, 0, Some(9_990), Some(9_990), 10_090, Ok(Reason::Graced)),
            (&a, 5, false, 0, Some(50), Some(-50_000), 9_999, Err((10_000, For::Outside))),
            (&a, 5, false, 0, Some(50), Some(-60_001), 200, Ok(Reason::Forgotten)),
            (&u, 5, false, 0, Some(50), Some(50), 5_100, Err((10_000, For::Outside))),
            (&u, 5, false, 0, Some(50), Some(50), 10_000, Ok(Reason::Quiet)),
        ];
        for (forgetting, announced, is_last, in_flight, last, outside, now, expected) in rows {
            let (last_request, last_outside) = (last.map(at), outside.map(at));
            let (forgetting, announced) = (forgetting.clone(), (announced >= 0).then(|| at(announced)));
            let seen =
                Seen { forgetting, announced, is_last, in_flight, last_request, last_outside, ..Seen::default() };
            let expected = expected.map_or_else(|(until, what)| Verdict::Wait(at(until), what), Verdict::Drained);
            assert_eq!(decide(&terms, began, &seen, at(now)), expected, "{seen:?} at {now}");
        }
        // Control is there, and could not keep what it was told.
        let stuck = Seen { is_heard: true, ..Seen::default() };
        assert_eq!(decide(&terms, began, &stuck, at(10_000)), Verdict::Drained(Reason::Quiet));
        // Whom control never let in, nobody knows.
        let stranger = Seen { is_unknown: true, ..Seen::default() };
        assert_eq!(decide(&terms, began, &stranger, at(99)), Verdict::Wait(at(100), For::Quiet));
        assert_eq!(decide(&terms, began, &stranger, at(100)), Verdict::Drained(Reason::Unknown));
        let alone = Terms { is_announced: false, ..terms };
        let seen = Seen { last_request: Some(at(20)), ..Seen::default() };
        assert_eq!(decide(&alone, began, &seen, at(120)), Verdict::Drained(Reason::Unannounced));
        let orphan = Seen { is_last: true, is_app_gone: true, ..Seen::default() };
        assert_eq!(decide(&terms, began, &orphan, at(1)), Verdict::Drained(Reason::AppGone));
        let finishing = Seen { in_flight: 1, ..orphan };
        assert_eq!(decide(&terms, began, &finishing, at(1)), Verdict::Wait(at(27_000), For::Requests));
        let seen = Seen { last_outside: Some(at(-1)), ..seen };
        assert_eq!(decide(&alone, began, &seen, at(120)), Verdict::Wait(at(10_000), For::Outside));
    }

    #[test]
    fn its_answers_say_that_it_goes_once_callers_may_leave_it() {
        let began = Instant::now();
        let terms = Terms { within: Duration::from_secs(27), outside_grace: Duration::ZERO, is_announced: true };
        let at = |ms: u64| began + Duration::from_millis(ms);
        let (heard, seen) = (Seen { is_heard: true, ..Seen::default() }, Seen::default());
        let last = Seen { is_last: true, ..heard.clone() };
        let announced = Seen { announced: Some(at(5)), ..heard.clone() };
        for (what, seen, now, expected) in [
            ("control is about to say what becomes of it", &heard, 4, false),
            ("control is silent", &heard, 1_000, true),
            ("callers are to forget it", &announced, 5, true),
            ("control is not there", &seen, 0, true),
            ("it is the last one", &last, 23_999, false),
            ("there is no more time for another", &last, 24_000, true),
            ("control is gone since it said so", &Seen { is_heard: false, ..last.clone() }, 2_000, false),
            ("nobody knows it", &Seen { is_unknown: true, ..seen.clone() }, 0, true),
        ] {
            assert_eq!(says_so(&terms, began, seen, at(now)), expected, "{what}");
        }
        assert!(says_so(&Terms { is_announced: false, ..terms }, began, &heard, began));
    }
}
