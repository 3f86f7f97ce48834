//! Each row is a moment: seconds from the start, what happens, and what is then done and known.

use super::*;

/// `.`: time passes. `=a,b`: these names are needed. `a: 10.0.0.1 10.0.0.2 / - ttl 5`: an answer, with addresses, `-` for
/// none or `!` for a failure of each kind. `applied`.
fn event(text: &str) -> Event {
    if text == "." {
        return Event::Time;
    }
    if text == "applied" {
        return Event::Applied;
    }
    if let Some(names) = text.strip_prefix('=') {
        return Event::Use(names.split(',').filter(|name| !name.is_empty()).map(Arc::from).collect());
    }
    let (name, rest) = text.split_once(": ").expect("rows are events");
    let (families, ttl) = rest.split_once(" ttl ").unwrap_or((rest, "0"));
    let (v4, v6) = families.split_once(" / ").expect("rows have both kinds");
    let family = |text: &str| match text {
        "-" => Family::None("NXDOMAIN".into()),
        "!" => Family::Failed("SERVFAIL".into()),
        list => {
            Family::Addresses(list.split(' ').map(|address| address.parse().expect("rows are addresses")).collect())
        }
    };
    let ttl = Duration::from_secs(ttl.parse().expect("rows have numbers"));
    Event::Answered(name.into(), Answer { families: [family(v4), family(v6)], ttl })
}

/// After each row: questions as `ask a`, sentences, then what is known as `a=10.0.0.1`, then `next 5`, `apply a`.
fn check(rows: &[(f64, &str, &str)]) {
    let mut names = Names::default();
    for (at, happens, expected) in rows {
        let now = Duration::from_secs_f64(*at);
        let mut actions = Vec::new();
        names.handle(now, event(happens), &mut actions);
        let mut shown: Vec<String> = actions
            .iter()
            .map(|action| match action {
                Action::Ask(name) => format!("ask {name}"),
                Action::Tell(level, told) => format!("{level} {told}"),
            })
            .collect();
        for (name, known) in &names.known {
            let addresses: Vec<String> = known.addresses.iter().map(IpAddr::to_string).collect();
            shown.push(format!("{name}={}", addresses.join(" ")));
        }
        shown.extend(names.next(now).map(|next| format!("next {}", next.as_secs_f64())));
        let to_apply = names.to_apply(now).map(|names| names.iter().cloned().collect::<Vec<_>>().join(","));
        shown.extend(to_apply.map(|names| format!("apply {names}")));
        assert_eq!(shown.join("; "), *expected, "{at} {happens}");
    }
}

#[test]
fn names_are_asked_for_as_their_time_to_live_says() {
    check(&[
        (0.0, "=a", "ask a; a="),
        (0.1, "a: 10.0.0.2 10.0.0.1 / fd00::1 ttl 5", "a=10.0.0.1 10.0.0.2 fd00::1; next 0.15"),
        (0.15, ".", "a=10.0.0.1 10.0.0.2 fd00::1; next 5.1; apply a"),
        (0.16, "applied", "a=10.0.0.1 10.0.0.2 fd00::1; next 5.1"),
        (5.1, ".", "ask a; a=10.0.0.1 10.0.0.2 fd00::1"),
        // The order of an answer means nothing; 0 is a second, a day five minutes.
        (5.2, "a: 10.0.0.1 10.0.0.2 10.0.0.1 / fd00::1 ttl 0", "a=10.0.0.1 10.0.0.2 fd00::1; next 6.2"),
        (6.2, ".", "ask a; a=10.0.0.1 10.0.0.2 fd00::1"),
        (6.2, "a: 10.0.0.1 / - ttl 86400", "a=10.0.0.1; next 6.25"),
        (6.3, "applied", "a=10.0.0.1; next 306.2"),
    ]);
}

#[test]
fn failures_change_nothing_and_are_told_once() {
    check(&[
        (0.0, "=a", "ask a; a="),
        (1.0, "a: ! / !", "warn asking for a fails: SERVFAIL; addresses: 0; a=; next 2"),
        (2.0, ".", "ask a; a="),
        (2.0, "a: - / -", "a=; next 4"),
        (4.0, ".", "ask a; a="),
        (
            4.0,
            "a: 10.0.0.1 / - ttl 1",
            "info asking for a succeeds again after 3 s, addresses: 1; a=10.0.0.1; next 4.05",
        ),
        (4.1, "applied", "a=10.0.0.1; next 5"),
        (5.0, ".", "ask a; a=10.0.0.1"),
        (10.0, "a: - / -", "warn asking for a fails: NXDOMAIN; its addresses of 6 s ago stay: 1; a=10.0.0.1; next 11"),
        (11.0, ".", "ask a; a=10.0.0.1"),
        (11.0, "a: ! / -", "a=10.0.0.1; next 13"),
        (13.0, ".", "ask a; a=10.0.0.1"),
        (13.0, "a: ! / -", "a=10.0.0.1; next 17"),
        (17.0, ".", "ask a; a=10.0.0.1"),
        (
            17.0,
            "a: 10.0.0.1 / ! ttl 9",
            "info asking for a succeeds again after 7 s, addresses: 1; a=10.0.0.1; next 26",
        ),
    ]);
    let times: Vec<u64> = [1, 2, 3, 4, 5, 6, 7, 100, u32::MAX].map(|row| backoff(row).as_secs()).to_vec();
    assert_eq!(times, [1, 2, 4, 8, 16, 30, 30, 30, 30]);
}

#[test]
fn one_kind_that_fails_leaves_the_other() {
    check(&[
        (0.0, "=a", "ask a; a="),
        (0.0, "a: 10.0.0.1 / fd00::1 ttl 20", "a=10.0.0.1 fd00::1; next 0.05"),
        (0.1, "applied", "a=10.0.0.1 fd00::1; next 20"),
        (20.0, ".", "ask a; a=10.0.0.1 fd00::1"),
        (
            20.0,
            "a: 10.0.0.2 / ! ttl 20",
            "warn asking for a fails: SERVFAIL; its addresses of 20 s ago stay: 2; a=10.0.0.2 fd00::1; next 20.05",
        ),
        (20.1, "applied", "a=10.0.0.2 fd00::1; next 21"),
        (21.0, ".", "ask a; a=10.0.0.2 fd00::1"),
        // Now somebody says that there is none.
        (
            21.0,
            "a: 10.0.0.2 / - ttl 20",
            "info asking for a succeeds again after 1 s, addresses: 1; a=10.0.0.2; next 21.1",
        ),
    ]);
}

#[test]
fn changes_are_gathered_and_what_is_not_used_is_forgotten() {
    check(&[
        (0.0, "=a,b", "ask a; ask b; a=; b="),
        (0.0, "a: 10.0.0.1 / - ttl 9", "a=10.0.0.1; b=; next 0.05"),
        (0.04, "b: 10.0.0.2 / - ttl 9", "a=10.0.0.1; b=10.0.0.2; next 0.05"),
        (0.05, ".", "a=10.0.0.1; b=10.0.0.2; next 9; apply a,b"),
        (0.05, "applied", "a=10.0.0.1; b=10.0.0.2; next 9"),
        (9.1, ".", "ask a; ask b; a=10.0.0.1; b=10.0.0.2"),
        (9.1, "a: 10.0.0.3 / - ttl 9", "a=10.0.0.3; b=10.0.0.2; next 9.15"),
        (9.2, "applied", "a=10.0.0.3; b=10.0.0.2; next 18.1"),
        // The next revision comes a second after the last.
        (9.3, "b: 10.0.0.4 / - ttl 9", "a=10.0.0.3; b=10.0.0.4; next 10.2"),
        (9.4, "=a,c", "ask c; a=10.0.0.3; c=; next 18.1"),
        (9.6, "=a", "a=10.0.0.3; next 18.1"),
        // It is asked for already.
        (9.7, "=a,c", "a=10.0.0.3; c=; next 18.1"),
        (9.8, "c: 10.0.0.5 / - ttl 9", "a=10.0.0.3; c=10.0.0.5; next 10.2"),
        (9.9, "=", ""),
        (9.9, "c: 10.0.0.5 / - ttl 9", ""),
    ]);
}

#[test]
fn questions_and_addresses_are_bounded() {
    let mut names = Names::default();
    let all: BTreeSet<Arc<str>> = (0..100).map(|index| format!("n{index:02}").into()).collect();
    let mut actions = Vec::new();
    names.handle(Duration::ZERO, Event::Use(all), &mut actions);
    assert_eq!(actions.len(), ASKING_MAX);
    assert_eq!(names.next(Duration::ZERO), None, "nothing to do until an answer comes");
    actions.clear();
    let many = (0..3_000_u32).map(|index| IpAddr::from((index % 1_500 + 0x0a00_0000).to_be_bytes())).collect();
    let families = [Family::Addresses(many), Family::None(String::new())];
    let answer = Answer { families, ttl: Duration::from_secs(60) };
    names.handle(Duration::ZERO, Event::Answered("n00".into(), answer), &mut actions);
    assert_eq!(names.addresses("n00").map(<[IpAddr]>::len), Some(ADDRESSES_MAX));
    let told = "n00 has more than 1024 addresses: the rest is not used".to_owned();
    assert_eq!(actions, [Action::Tell("warn", told), Action::Ask("n32".into())]);
    assert!(!names.is_settled());
}
