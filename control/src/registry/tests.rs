//! Who is told to callers, by what happened before: each row is a time in milliseconds, an event, and what is stored then.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::*;

/// A registry of the Service `shop/web`, or of others where an event says so.
struct Scene {
    start: Instant,
    registry: Registry,
}

fn name(text: &str) -> Name {
    let (service, name) = text.split_once('.').unwrap_or(("web", text));
    Name { namespace: "shop".into(), service: service.into(), name: name.into() }
}

fn mark(text: &str, is_from_before: bool, asked: Instant) -> Mark {
    Mark { name: name(text), revision: 9, asked, is_from_before }
}

/// `NAME[@HOST][#INCARNATION][:LANE][=PORT]`
fn instance(text: &str) -> (Name, Instance) {
    let (text, port) = text.split_once('=').unwrap_or((text, ""));
    let (text, lane) = text.split_once(':').unwrap_or((text, ""));
    let (text, incarnation) = text.split_once('#').unwrap_or((text, "1"));
    let (text, host) = match text.split_once('@') {
        Some((text, host)) => (text, host.parse().expect("a number")),
        None => (text, text.bytes().map(u32::from).fold(0, |sum, byte| sum * 31 + byte) % 60_000),
    };
    let labels = if lane.is_empty() { BTreeMap::new() } else { [("lane".into(), lane.into())].into() };
    let instance = Instance {
        incarnation: incarnation.parse().expect("a number"),
        address: std::net::Ipv4Addr::from(0x0a00_0000 + host).into(),
        ports: [(port.into(), 80)].into(),
        weight: 1,
        zone: None,
        labels,
        is_draining: false,
        going_ms: 0,
        ready_ms: 0,
    };
    (name(text), instance)
}

fn place(instance: &Instance) -> Place {
    let lane = instance.labels.get("lane").cloned().unwrap_or_default();
    Place { lane, ports: instance.ports.keys().cloned().collect() }
}

/// One that stands for the stream of a name and process.
fn stream(text: &str) -> u64 {
    text.bytes().fold(7, |sum, byte| sum.wrapping_mul(31).wrapping_add(u64::from(byte)))
}

impl Scene {
    fn new(stored: &[&str]) -> Scene {
        let start = Instant::now();
        let stored = stored.iter().map(|text| instance(text)).map(|(name, instance)| (name, Arc::new(instance)));
        Scene { start, registry: Registry::new(stored.collect(), |_, one| place(one), 0, start) }
    }

    /// `join INSTANCE`, `ready`, `starting`, `drain MS`, `end`, `leave`, `ask` with a name and perhaps `#INCARNATION`, or `time`.
    fn step(&mut self, at_ms: u64, event: &str) -> String {
        let now = self.start + Duration::from_millis(at_ms);
        let mut words = event.split(' ');
        let verb = words.next().expect("a verb");
        let what = words.next().unwrap_or_default();
        let short = what.split([':', '=']).next().expect("a name");
        let plain = name(short.split(['@', '#']).next().expect("a name"));
        let number = || words.clone().next().and_then(|word| word.parse().ok()).expect("milliseconds");
        let speaker = stream(&short.replace('@', "-"));
        let word = match verb {
            "ready" => Some(Word::Ready),
            "starting" => Some(Word::Starting),
            "drain" => Some(Word::Draining { since: Duration::ZERO, within: Duration::from_millis(number()) }),
            "end" => Some(Word::Ended { since: Duration::ZERO }),
            _ => None,
        };
        let mut refused = String::new();
        match (word, verb) {
            (Some(word), _) => self.registry.on_word(&plain, speaker, word, 1, now),
            (None, "join") => {
                let (name, instance) = instance(what);
                if let Err(refusal) = self.registry.on_join(&name, instance.clone(), place(&instance), speaker, now) {
                    refused = format!("! {refusal}");
                }
            }
            (None, "leave") => self.registry.on_leave(&plain, speaker, now),
            (None, "ask") => assert!(self.registry.on_ask(&plain, 0, now)),
            (None, "time") => self.registry.on_time(now),
            (None, verb) => panic!("{verb}"),
        }
        self.store();
        if refused.is_empty() { self.told() } else { refused }
    }

    fn store(&mut self) {
        let shift = |(name, after): (Name, Option<Instance>)| Shift { name, before: None, after: after.map(Arc::new) };
        let shifts: Vec<Shift> = self.registry.take().into_iter().map(shift).collect();
        self.registry.on_stored(&shifts);
    }

    fn told(&self) -> String {
        let told = self.registry.stored.iter().map(|(name, instance)| {
            let service = if *name.service == *"web" { String::new() } else { format!("{}.", name.service) };
            format!("{service}{}{}", name.name, if instance.is_draining { "-" } else { "" })
        });
        told.collect::<Vec<_>>().join(" ")
    }

    fn check(&mut self, rows: &[(u64, &str, &str)]) {
        for (at_ms, event, expected) in rows {
            assert_eq!(self.step(*at_ms, event), *expected, "{at_ms} {event}");
            let due = self.registry.due().map(|due| due.saturating_duration_since(self.start));
            // Time that has been looked at is over.
            assert!(*event != "time" || due.is_none_or(|due| due > Duration::from_millis(*at_ms)), "{at_ms}: {due:?}");
            // Whoever waits until then has missed nothing.
            assert!(due.is_none_or(|due| due <= Duration::from_millis(at_ms + 60_000)), "{at_ms} {event}: {due:?}");
        }
    }
}

#[test]
fn an_instance_is_told_while_it_is_ready_and_goes_by_a_mark() {
    Scene::new(&[]).check(&[
        (0, "join a", ""),
        (1, "ready a", "a"),
        (2, "join b", "a"),
        (3, "ready b", "a b"),
        (4, "drain a 5000", "a- b"),
        // It does not come back from there.
        (5, "ready a", "a- b"),
        (6, "end a", "b"),
        // One that was never told has nobody who must forget it.
        (7, "join c", "b"),
        (7, "starting c", "b"),
        (8, "drain c 5000", "b"),
        (9, "end c", "b"),
        // An application that does not answer is left out without a drain, and comes back.
        (10, "join d", "b"),
        (11, "ready d", "b d"),
        (12, "starting d", "b"),
        (13, "ready d", "b d"),
        // But callers may still know it: should it go now, they are to forget it.
        (14, "starting d", "b"),
        (15, "drain d 5000", "b d-"),
        (16, "end d", "b"),
        // So may those of one whose proxy lost control before, and comes when it goes.
        (17, "join e", "b"),
        (18, "drain e 5000", "b e-"),
        (19, "end e", "b"),
    ]);
}

#[test]
fn the_last_one_stays_until_another_is_ready_or_its_time_is_over() {
    Scene::new(&[]).check(&[
        (0, "join a", ""),
        (1, "ready a", "a"),
        (2, "drain a 10000", "a"),
        (3, "join b", "a"),
        (4, "ready b", "a- b"),
        (5, "end a", "b"),
        (6, "drain b 10000", "b"),
        (7_505, "time", "b"),
        (7_506, "time", "b-"),
        (7_507, "end b", ""),
    ]);
    // A lane may go as soon as the baseline is there; the baseline waits for its own kind.
    Scene::new(&[]).check(&[
        (0, "join a", ""),
        (1, "ready a", "a"),
        (2, "join x:blue", "a"),
        (3, "ready x", "a x"),
        (4, "drain x 10000", "a x-"),
        (5, "join y:blue", "a x-"),
        (6, "ready y", "a x- y"),
        (7, "drain a 10000", "a x- y"),
        (8, "join b", "a x- y"),
        (9, "ready b", "a- b x- y"),
    ]);
}

#[test]
fn the_last_one_is_not_another_while_its_application_does_not_answer() {
    Scene::new(&[]).check(&[
        (0, "join a", ""),
        (1, "ready a", "a"),
        (2, "join b", "a"),
        (3, "ready b", "a b"),
        (4, "starting b", "a"),
        // Left to callers,
        (5, "starting a", "a"),
        // until another is well.
        (6, "ready b", "b"),
        (7, "starting b", "b"),
        (8, "ready a", "a"),
        (9, "starting a", "a"),
        (10, "ready a", "a"),
        (11, "ready b", "a b"),
    ]);
    // One that nobody else can use instead is no other one.
    Scene::new(&[]).check(&[
        (0, "join a", ""),
        (1, "ready a", "a"),
        (2, "join b=nope", "a"),
        (3, "ready b", "a b"),
        (4, "drain a 8000", "a b"),
        (5, "join c", "a b"),
        (6, "ready c", "a- b c"),
    ]);
    // One that has just died is not kept while the last one goes: callers would use it in its place.
    Scene::new(&[]).check(&[
        (0, "join a", ""),
        (1, "ready a", "a"),
        (2, "join b", "a"),
        (3, "ready b", "a b"),
        (4, "leave a", "a b"),
        (5, "drain b 40000", "a b"),
        (10_004, "time", "b"),
        // Of a short time a quarter is for callers, of a long one three seconds.
        (37_004, "time", "b"),
        (37_005, "time", "b-"),
    ]);
    Scene::new(&[]).check(&[
        (0, "join a", ""),
        (1, "ready a", "a"),
        (2, "drain a 4000", "a"),
        (3_001, "time", "a"),
        (3_002, "time", "a-"),
    ]);
    // One that is back may be the one that was waited for.
    Scene::new(&[]).check(&[
        (0, "join a", ""),
        (1, "ready a", "a"),
        (2, "join b", "a"),
        (3, "ready b", "a b"),
        (4, "leave b", "a b"),
        (5, "drain a 10000", "a b"),
        (6, "join b", "a- b"),
    ]);
}

#[test]
fn one_that_waits_for_another_hears_of_documents_that_make_it_one() {
    let mut scene = Scene::new(&[]);
    let web = ("shop".into(), "web".into());
    scene.check(&[
        (0, "join a", ""),
        (1, "ready a", "a"),
        (2, "join b=admin", "a"),
        (3, "ready b", "a b"),
        (4, "drain a 8000", "a b"),
    ]);
    let now = scene.start + Duration::from_millis(5);
    let (lane, ports) = (Box::default(), ["admin".into()].into());
    let both = Place { lane, ports };
    let place_of = |_: &Name, _: &Instance| both.clone();
    assert_eq!(scene.registry.on_documents(&[("shop".into(), "pay".into())], &[], place_of, now), []);
    assert_eq!(scene.registry.on_documents(&[web], &[], place_of, now), [name("a")]);
    scene.store();
    assert_eq!(scene.told(), "a- b");
    let elsewhere = |_: &Name, _: &Instance| Place::default();
    assert_eq!(scene.registry.on_documents(&[], &["shop".into()], elsewhere, now), [name("a"), name("b")]);
}

#[test]
fn since_when_one_goes_is_known_after_a_restart() {
    let mut scene = Scene::new(&[]);
    let rows = [
        (0, "join a", ""),
        (1, "ready a", "a"),
        (2, "join b", "a"),
        (3, "ready b", "a b"),
        (4, "drain a 9000", "a- b"),
    ];
    scene.check(&rows);
    let stored = scene.registry.stored.iter().map(|(name, one)| (name.clone(), one.text()));
    let stored = stored.map(|(name, text)| (name, Arc::new(Instance::parse(&text).expect("it was written"))));
    let now = scene.start + Duration::from_secs(60);
    let again = Registry::new(stored.collect(), |_, one| place(one), 5_001, now);
    let going = |name: &Name| again.get(name).expect("it is stored").going.map(|since| now - since);
    assert_eq!((going(&name("a")), going(&name("b"))), (Some(Duration::from_secs(5)), None));
}

#[test]
fn one_that_is_silent_is_used_until_its_lease_ends() {
    Scene::new(&[]).check(&[
        (0, "join a", ""),
        (1, "ready a", "a"),
        (2, "join b", "a"),
        (3, "ready b", "a b"),
        (4, "join c", "a b"),
        (5, "leave c", "a b"),
        (10, "leave a", "a b"),
        (10_009, "time", "a b"),
        // Back in time.
        (10_009, "join a", "a b"),
        (10_010, "time", "a b"),
        (10_020, "leave a", "a b"),
        (20_020, "time", "b"),
        // Whoever was taken away enters as any other.
        (20_030, "join a", "b"),
        (20_031, "ready a", "a b"),
        // The last one is not taken away, and neither is the last of a lane.
        (20_040, "leave a", "a b"),
        (30_040, "time", "b"),
        (30_050, "leave b", "b"),
        (90_000, "time", "b"),
        (90_010, "join x:blue", "b"),
        (90_011, "ready x", "b x"),
        (90_012, "join b", "b x"),
        (90_013, "leave x", "b x"),
        (110_000, "time", "b x"),
        // One that drains goes when its time is over, whatever is left.
        (110_010, "drain b 1000", "b x"),
        (110_760, "time", "b- x"),
        (110_761, "leave b", "b- x"),
        (120_761, "time", "x"),
    ]);
}

#[test]
fn many_that_fall_silent_at_once_stay() {
    let names = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j"];
    let mut scene = Scene::new(&[]);
    for name in names {
        scene.step(0, &format!("join {name}"));
        scene.step(1, &format!("ready {name}"));
    }
    scene.check(&[
        // One of ten goes,
        (2, "leave a", "a b c d e f g h i j"),
        (10_002, "time", "b c d e f g h i j"),
        // four of nine do not,
        (10_010, "leave b", "b c d e f g h i j"),
        (10_011, "leave c", "b c d e f g h i j"),
        (10_012, "leave d", "b c d e f g h i j"),
        (10_013, "leave e", "b c d e f g h i j"),
        (20_013, "time", "b c d e f g h i j"),
        // not even hours later,
        (9_000_000, "time", "b c d e f g h i j"),
        // but when others have come in their place: 8 of 9 are there.
        (9_000_001, "join k", "b c d e f g h i j"),
        (9_000_002, "ready k", "b c d e f g h i j k"),
        (9_000_003, "time", "b c d e f g h i j k"),
        (9_000_004, "join l", "b c d e f g h i j k"),
        (9_000_005, "ready l", "b c d e f g h i j k l"),
        (9_000_006, "time", "b c d e f g h i j k l"),
        (9_000_007, "join m", "b c d e f g h i j k l"),
        (9_000_008, "ready m", "b c d e f g h i j k l m"),
        (9_000_009, "time", "f g h i j k l m"),
    ]);
    // Of three, one may go; of those that come back none is missing.
    Scene::new(&[]).check(&[
        (0, "join a", ""),
        (0, "ready a", "a"),
        (0, "join b", "a"),
        (0, "ready b", "a b"),
        (0, "join c", "a b"),
        (0, "ready c", "a b c"),
        (1, "leave a", "a b c"),
        (2, "leave b", "a b c"),
        (20_000, "time", "a b c"),
        (20_001, "join b", "a b c"),
        (20_002, "time", "b c"),
        // Those that go because they want to are not missed.
        (20_003, "join d", "b c"),
        (20_004, "ready d", "b c d"),
        (20_005, "leave b", "b c d"),
        (20_006, "drain c 9000", "b c- d"),
        (20_007, "end c", "b d"),
        (40_000, "time", "d"),
    ]);
}

#[test]
fn control_that_has_just_started_takes_nobody_away() {
    Scene::new(&["a", "b", "c"]).check(&[
        (29_999, "time", "a b c"),
        (29_999, "join a", "a b c"),
        (29_999, "join b", "a b c"),
        (30_000, "time", "a b"),
    ]);
    Scene::new(&["a", "b", "c"]).check(&[(60_000, "time", "a b c"), (60_001, "join a", "a b c")]);
}

#[test]
fn names_and_addresses_belong_to_one_at_a_time() {
    Scene::new(&[]).check(&[
        (0, "join a@1", ""),
        (1, "ready a@1", "a"),
        (2, "join a@2#2", "! another process of that name is there, at 10.0.0.1:80: give each a name of its own"),
        (3, "join pay.b@1", "! shop/web/a is at 10.0.0.1:80"),
        (4, "join b@5", "a"),
        (5, "ready b@5", "a b"),
        // Dead, and its address is another Service's at once: callers of `web` must not send there.
        (6, "leave a@1", "a b"),
        (7, "join pay.b@1", "b"),
        (8, "ready pay.b@1", "pay.b b"),
        // Dead, and started anew under its name: what it was is gone before it is ready.
        (9, "leave b@5", "pay.b b"),
        (10, "join b@6#2", "pay.b"),
        (11, "ready b@6#2", "pay.b b"),
        // Words of those before come to nothing.
        (12, "end b@5", "pay.b b"),
        (13, "leave b@5", "pay.b b"),
        (14, "ask b", "pay.b b"),
    ]);
    // Nobody speaks for it: whoever wants it gone need not wait for its lease.
    Scene::new(&[]).check(&[
        (0, "join a", ""),
        (1, "ready a", "a"),
        (2, "leave a", "a"),
        (3, "ask a", "a-"),
        (20_000, "time", ""),
    ]);
}

#[test]
fn what_could_not_be_stored_is_handed_out_again() {
    let mut scene = Scene::new(&[]);
    let (name, instance) = instance("a");
    scene.registry.on_join(&name, instance, Place::default(), 1, scene.start).expect("nobody is there");
    scene.registry.on_word(&name, 1, Word::Ready, 5, scene.start);
    let taken = scene.registry.take();
    assert_eq!((taken.len(), scene.registry.take().len()), (1, 0));
    assert!(!scene.registry.is_stored(&name));
    scene.registry.on_failed(taken);
    scene.store();
    assert_eq!(scene.told(), "a");
    assert!(scene.registry.is_stored(&name));
}

#[test]
fn it_is_forgotten_when_nobody_is_left_who_may_send() {
    enum Event {
        Applies(u64),
        Leaves(u64, bool),
        /// With what it had, or not.
        Comes(u64, &'static str, bool),
        Time,
    }
    use Event::{Applies, Comes, Leaves, Time};
    // Streams 1 and 2 are open; 3 broke a second ago. Milliseconds, event, and: who is waited for, who is unreachable, and
    // whether it is forgotten.
    let check = |rows: &[(u64, Event, &str, &str, bool)]| {
        let start = Instant::now() + Duration::from_secs(100);
        let mut drains = Drains::default();
        let open = [(1, "a".into()), (2, "b".into())];
        drains.begin(mark("x", false, start), open, [(3, "c".into(), start - Duration::from_secs(1))], start);
        for (at_ms, event, waiting, unreachable, is_forgotten) in rows {
            let now = start + Duration::from_millis(*at_ms);
            match event {
                Applies(stream) => {
                    let matters = drains.on_progress(*stream, now, |resource, revision| {
                        assert_eq!((resource, revision), ("Endpoints/shop/web", 9));
                        false
                    });
                    let is_done = drains.on_progress(*stream, now, |_, _| panic!("it is not waited for any more"));
                    assert!(matters.len() == 1 && is_done.is_empty(), "{at_ms}");
                }
                Leaves(stream, has_ended) => assert_eq!(drains.on_leave(*stream, *has_ended, now).len(), 1, "{at_ms}"),
                Comes(stream, id, holds) => drop(drains.on_come(*stream, &Arc::from(*id), now, |_, _| *holds)),
                Time => drains.on_time(now),
            }
            assert!(drains.on_progress(1, now, |_, _| true).is_empty());
            let drain = drains.get(&name("x")).expect("it is under way");
            let named = |is_it: fn(HolderState) -> bool| {
                let mut named = drain.named(9, is_it);
                named.sort_unstable();
                (named.len(), named.join(" "))
            };
            let (count, found) = named(HolderState::waits);
            assert_eq!((drain.waiting(), &*found), (count, *waiting), "{at_ms}");
            let (count, found) = named(|state| matches!(state, HolderState::Unreachable(_)));
            assert_eq!((drain.unreachable(), &*found), (count, *unreachable), "{at_ms}");
            assert_eq!(drain.forgotten.is_some(), *is_forgotten, "{at_ms}");
        }
    };
    check(&[
        (1, Applies(1), "b c", "", false),
        (2, Applies(2), "c", "", false),
        // Back with what is new.
        (3, Comes(4, "c", false), "", "", true),
    ]);
    check(&[
        (1, Applies(1), "b c", "", false),
        (2, Leaves(2, true), "c", "", false),
        (8_999, Time, "c", "", false),
        (9_000, Time, "", "c", true),
        // It is back, and may send: so it is not forgotten after all.
        (9_001, Comes(4, "c", true), "c", "", false),
        (9_002, Applies(4), "", "", true),
        // Another one comes with what was on its disk.
        (9_003, Comes(5, "d", true), "d", "", false),
        (9_004, Leaves(5, false), "d", "", false),
        (9_005, Comes(6, "d", true), "d", "", false),
        (9_006, Applies(6), "", "", true),
        (9_007, Comes(7, "e", false), "", "", true),
    ]);
    check(&[
        (1, Applies(2), "a c", "", false),
        (2, Leaves(1, false), "a c", "", false),
        (10_002, Time, "", "a c", true),
    ]);
}

#[test]
fn control_that_has_just_started_calls_nothing_forgotten() {
    let start = Instant::now();
    let mut drains = Drains::starting(start);
    drains.begin(mark("y", false, start), [], [], start);
    assert!(drains.end(&name("y")).is_some_and(|drain| drain.forgotten.is_some()), "it came after that");
    drains.begin(mark("x", true, start), [], [], start);
    let is_forgotten = |drains: &Drains| drains.get(&name("x")).is_some_and(|drain| drain.forgotten.is_some());
    drains.on_time(start + LEASE - Duration::from_millis(1));
    assert!(!is_forgotten(&drains));
    assert_eq!(drains.due(), Some(start + LEASE));
    drains.on_time(start + LEASE);
    assert!(is_forgotten(&drains));
    assert_eq!(drains.due(), None);
    assert!(drains.end(&name("x")).is_some() && drains.all().is_empty());
}

#[test]
fn those_that_go_without_a_drain_are_remembered() {
    let mut scene = Scene::new(&["pay.o", "pay.l"]);
    for (at_ms, event, expected) in [
        (0, "join a", None),
        (1, "ready a", None),
        (2, "join b", None),
        (3, "ready b", None),
        (10, "leave a", None),
        (10_010, "time", Some(("a", 10, Departed::Lease))),
        (11_000, "leave b", None),
        (11_001, "join b#2", Some(("b", 11_000, Departed::Replaced))),
        (11_002, "ready b#2", None),
        // Callers were told of it, and control was away when it went.
        (12_000, "join pay.o", None),
        (12_001, "end pay.o", Some(("o", 12_001, Departed::Unseen))),
        (12_500, "join d", None),
        (12_501, "ready d", None),
        // One that is drained has a receipt of its own, and one that callers never knew is missed by nobody.
        (13_000, "drain b#2 5000", None),
        (13_100, "end b#2", None),
        (14_000, "join c", None),
        (14_001, "leave c", None),
        (30_000, "time", None),
    ] {
        scene.step(at_ms, event);
        let told = scene.registry.take_departures();
        let since = |departure: &Departure| departure.since.duration_since(scene.start).as_millis() as u64;
        let told: Vec<_> = told.iter().map(|one| (&*one.name.name, since(one), one.how)).collect();
        assert_eq!(told, expected.into_iter().collect::<Vec<_>>(), "{at_ms} {event}");
    }
    // Whoever comes to a control that has just started says for how long it has been going.
    let at = |ms| scene.start + Duration::from_millis(ms);
    let (name, instance) = instance("pay.l");
    scene.registry.on_join(&name, instance, Place::default(), 1, at(30_001)).expect("it is known");
    let word = Word::Draining { since: Duration::from_millis(700), within: Duration::from_secs(20) };
    scene.registry.on_word(&name, 1, word, 0, at(30_001));
    scene.registry.on_word(&name, 1, word, 0, at(30_500));
    assert_eq!(scene.registry.get(&name).and_then(|seen| seen.going), Some(at(29_301)));
}
