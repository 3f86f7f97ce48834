//! Who is used: one row for each situation, endpoints written as `zone:state` where it matters.

use config::snapshot::{HealthCheck, Locality, Outlier};

use super::*;

const NOW: Duration = Duration::from_secs(1000);

fn standing(word: &str) -> Standing {
    let never = Duration::ZERO;
    let well = Standing {
        health: Health::Well,
        ejected_until: never,
        refused_until: never,
        ready_since: None,
        is_leaving: false,
    };
    match word {
        "ok" => well,
        "unproven" => Standing { health: Health::Unproven, ..well },
        "leaving" => Standing { is_leaving: true, ..well },
        "unwell" => Standing { health: Health::Unwell, ..well },
        "ejected" => Standing { ejected_until: NOW + Duration::from_secs(7), ..well },
        "refusing" => Standing { refused_until: NOW + Duration::from_secs(3), ..well },
        "was-ejected" => Standing { ejected_until: NOW, ..well },
        // Its age in seconds.
        age => Standing {
            ready_since: Some(NOW - Duration::from_secs(age.parse().expect("rows have known words"))),
            ..well
        },
    }
}

fn usage() -> Usage {
    let s = Duration::from_secs;
    Usage {
        locality: None,
        outlier: Some(Outlier { failures: 5, interval: s(10), ejection: s(30), ejected_percent_max: 50 }),
        slow_start: Some(SlowStart { window: s(60), weight_min: 0.1, aggression: 1.0, guard: 0.5 }),
        health_check: Some(HealthCheck {
            target: "/".into(),
            host: "a".into(),
            interval: s(5),
            timeout: s(1),
            healthy_threshold: 1,
            unhealthy_threshold: 1,
        }),
    }
}

fn chosen(row: &str, usage: &Usage, zone: Option<&str>) -> Choice {
    let (mut endpoints, mut standings) = (Vec::new(), Vec::new());
    for (index, word) in row.split_whitespace().enumerate() {
        let (zone, state) = word.split_once(':').unwrap_or(("", word));
        endpoints.push(Endpoint {
            address: ([10, 0, 0, index as u8 + 1], 80).into(),
            weight: 1,
            zone: (!zone.is_empty()).then(|| zone.into()),
            labels: Default::default(),
            incarnation: 0,
        });
        standings.push(standing(state));
    }
    let members: Vec<u32> = (0..endpoints.len() as u32).collect();
    choose(&endpoints, &members, |member| standings[member as usize], usage, zone, NOW)
}

/// `share%: member*weight member ...` for each tier.
fn told(choice: &Choice) -> String {
    let tier = |tier: &Tier| {
        let member = |(member, weight): &(u32, u64)| match weight {
            1 => format!("{member}"),
            weight => format!("{member}*{weight}"),
        };
        let members: Vec<String> = tier.members.iter().map(member).collect();
        format!("{:.0}%: {}", tier.share * 100.0, members.join(" "))
    };
    let tiers: Vec<String> = choice.tiers.iter().map(tier).collect();
    format!("{}{}", if choice.panic { "panic " } else { "" }, tiers.join(", "))
}

#[test]
fn who_is_well_is_used() {
    for (row, expected) in [
        ("ok ok ok", "100%: 0 1 2"),
        ("ok unwell ok", "100%: 0 2"),
        ("ok ejected was-ejected", "100%: 0 2"),
        ("ok unproven", "100%: 0"),
        // Nobody has been asked yet: that is no panic.
        ("unproven unproven unwell", "100%: 0 1"),
        ("ok refusing", "100%: 0"),
        ("refusing unproven", "100%: 1"),
        ("unwell ejected", "panic 100%: 0 1"),
        ("refusing", "panic 100%: 0"),
        ("", "100%: "),
    ] {
        assert_eq!(told(&chosen(row, &usage(), None)), expected, "{row}");
    }
    // Where nothing is asked for, nothing is looked at.
    assert_eq!(told(&chosen("unwell ejected 1 refusing", &Usage::default(), None)), "100%: 0 1 2");
}

#[test]
fn who_is_new_gets_less_at_first() {
    for (row, expected) in [
        ("ok ok ok 0", "100%: 0*1000 1*1000 2*1000 3*100"),
        ("ok ok ok 6", "100%: 0*1000 1*1000 2*1000 3*100"),
        ("ok ok ok 30", "100%: 0*1000 1*1000 2*1000 3*500"),
        ("ok ok ok 60", "100%: 0 1 2 3"),
        // Half of them new: nobody could take what they are spared.
        ("ok 1", "100%: 0 1"),
        ("ok ok 1 1", "100%: 0 1 2 3"),
        ("unwell ok ok 1", "100%: 1*1000 2*1000 3*100"),
    ] {
        assert_eq!(told(&chosen(row, &usage(), None)), expected, "{row}");
    }
    let steep =
        Usage { slow_start: usage().slow_start.map(|settings| SlowStart { aggression: 2.0, ..settings }), ..usage() };
    assert_eq!(told(&chosen("ok ok ok 15", &steep, None)), "100%: 0*1000 1*1000 2*1000 3*500");
}

#[test]
fn choices_are_made_again_when_time_changes_them() {
    for (row, expected) in [
        ("ok ok", Duration::MAX),
        ("ok ejected", NOW + Duration::from_secs(7)),
        ("ok ejected refusing", NOW + Duration::from_secs(3)),
        ("ok ok ok 3", NOW + GROWTH_STEP),
        ("ok ok ejected 3", NOW + GROWTH_STEP),
    ] {
        assert_eq!(chosen(row, &usage(), None).until, expected, "{row}");
    }
}

#[test]
fn the_own_zone_comes_first_as_far_as_it_is_well() {
    let locality = Locality { local_share_min: 0.2, failover: vec!["b".into(), "c".into()] };
    let usage = Usage { locality: Some(locality), ..usage() };
    for (zone, row, expected) in [
        (Some("a"), "a:ok a:ok b:ok b:ok", "100%: 0 1"),
        (Some("b"), "a:ok a:ok b:ok b:ok", "100%: 2 3"),
        // Less than a third is lost: the zone still bears it all.
        (Some("a"), "a:ok a:ok a:ok a:unwell b:ok", "100%: 0 1 2"),
        (Some("a"), "a:ok a:unwell b:ok b:ok", "70%: 0, 30%: 2 3"),
        (Some("a"), "a:ok a:unwell b:ok b:unwell b:unwell c:ok d:ok", "70%: 0, 30%: 2"),
        (Some("a"), "a:ok a:unwell a:unwell a:unwell b:ok b:unwell b:unwell b:unwell c:ok", "35%: 0, 35%: 4, 30%: 8"),
        // Zones that nobody named come last and together.
        (Some("a"), "a:ok a:unwell d:ok e:ok", "70%: 0, 30%: 2 3"),
        (Some("a"), "a:unwell b:unwell d:ok ok", "100%: 2 3"),
        // The zone is lost: the next in the order takes over, not all of them.
        (Some("a"), "a:unwell b:ok c:ok d:ok", "100%: 1"),
        // Nobody else is left to bear the rest.
        (Some("a"), "a:ok a:unwell b:unwell", "100%: 0"),
        // A zone of one in six would be overrun by its callers.
        (Some("a"), "a:ok b:ok b:ok b:ok b:ok b:ok", "100%: 0 1 2 3 4 5"),
        (Some("x"), "a:ok b:ok", "100%: 0 1"),
        (None, "a:ok b:ok", "100%: 0 1"),
        (Some("a"), "a:unwell a:unwell b:unwell b:unwell", "panic 100%: 0 1"),
    ] {
        assert_eq!(told(&chosen(row, &usage, zone)), expected, "{zone:?}: {row}");
    }
}
