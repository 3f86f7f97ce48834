//! Lanes decided, inherited and written; shares are counted over 200,000 users of fixed names.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use config::snapshot::lanes::LaneGroup;

use super::*;

const USERS: u32 = 200_000;
const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 1, 2, 3));

/// A group with these lanes, each with a selector of its own.
pub(super) fn group_of(namespace: &str, name: &str, lanes: &[&str]) -> Arc<LaneGroup> {
    let lanes: Vec<String> =
        lanes.iter().enumerate().map(|(index, lane)| format!("{{selector: {{lane: l{index}}}, {lane}}}")).collect();
    let text = format!(
        "{{apiVersion: evenkeel.dev/v1alpha1, kind: LaneGroup, metadata: {{name: {name}, namespace: {namespace}}}, \
         spec: {{lanes: [{}]}}}}",
        lanes.join(", ")
    );
    let source = config::Source { name: "lanes.yaml".into(), bytes: text.clone().into_bytes() };
    let checked = config::read(&[source]).unwrap_or_else(|problems| panic!("{problems:#?}\n{text}"));
    checked.snapshot.lane_groups[0].clone()
}

pub(super) fn group(lanes: &[&str]) -> Arc<LaneGroup> {
    group_of("default", "g", lanes)
}

/// `GET /path?query` and then header fields, `name: value`, separated by two blanks.
pub(super) fn head(line: &str) -> Head {
    let mut parts = line.split("  ");
    let (method, target) = parts.next().and_then(|start| start.split_once(' ')).expect("rows start with a method");
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let mut head = Head::default();
    head.method = head.append(method.as_bytes());
    head.path = head.append(path.as_bytes());
    head.query = head.append(query.as_bytes());
    for header in parts {
        let (name, value) = header.split_once(": ").expect("rows have name: value");
        // As a head is read.
        let known = if name.eq_ignore_ascii_case("traceparent") { Known::Traceparent } else { Known::Other };
        head.add_with(name, known, |text| text.extend_from_slice(value.as_bytes()));
    }
    head
}

fn everything(_: usize) -> f64 {
    1.0
}

fn lane_of(group: &LaneGroup, line: &str) -> String {
    let decision = decide(group, &head(line), CLIENT, 7, everything);
    decision.lane.map_or_else(|| "-".to_owned(), |lane| group.lanes[lane].name.to_string())
}

/// The lane of each user, who differ in the header `u`.
fn lanes_of_users(group: &LaneGroup, guard: impl Fn(usize) -> f64) -> Vec<Option<usize>> {
    let mut users = Vec::with_capacity(USERS as usize);
    let mut head = Head::default();
    for user in 0..USERS {
        head.clear();
        head.add("u", format!("user-{user}").as_bytes());
        users.push(decide(group, &head, CLIENT, 0, &guard).lane);
    }
    users
}

/// Fails unless so many users, as a share of all, are where the test says.
fn check_share(what: &str, users: impl Iterator<Item = bool>, expected: f64) {
    let share = users.filter(|is_there| *is_there).count() as f64 / f64::from(USERS);
    // Some five standard deviations.
    assert!((share - expected).abs() < 0.005, "{what}: {share} and not {expected}");
}

fn of_header(name: &str, percentage: &str) -> String {
    format!("name: {name}, percentage: {percentage}, stickyBy: {{header: u}}, capacityGuard: false")
}

#[test]
fn the_first_lane_whose_match_holds_has_the_request() {
    let group = group(&[
        "name: user, match: [{headers: [{name: X-User, value: alice}]}, {cookies: [{name: beta, value: '1'}]}]",
        "name: both, match: [{query: [{name: v, value: a b}], methods: [POST, PUT]}]",
        "name: path, match: [{path: {value: /cart/}}, {path: {type: Exact, value: /x}}, \
         {path: {type: RegularExpression, value: '/y[0-9]+'}}]",
        "name: regex, match: [{headers: [{name: x-user, type: RegularExpression, value: 'b.*, c'}]}]",
        "name: here, match: [{sources: [10.1.0.0/16], headers: [{name: x-here, value: '1'}]}]",
        "name: all, match: [{path: {type: PathPrefix, value: /}, headers: [{name: x-all, value: '1'}]}]",
    ]);
    let rows = [
        ("GET /", "-"),
        ("GET /  x-user: alice", "user"),
        ("GET /  x-user: Alice", "-"),
        ("GET /  cookie: a=b; beta=1", "user"),
        ("GET /  cookie: a=b  cookie: beta = 1", "user"),
        ("GET /  cookie: beta=12", "-"),
        ("POST /?w=1&v=a+b", "both"),
        ("GET /?v=a+b", "-"),
        ("PUT /cart?v=a%20b", "both"),
        ("PUT /cart?v=b", "path"),
        ("GET /cart/1", "path"),
        ("GET /carts", "-"),
        ("GET /x", "path"),
        ("GET /x/", "-"),
        ("GET /y12", "path"),
        ("GET /y12/", "-"),
        ("GET /  x-user: bob  x-user: c", "regex"),
        ("GET /  x-here: 1", "here"),
        ("GET /z  x-all: 1", "all"),
        ("OPTIONS *  x-all: 1", "-"),
    ];
    for (line, expected) in rows {
        assert_eq!(lane_of(&group, line), expected, "{line}");
    }
    let elsewhere = |client: IpAddr| decide(&group, &head("GET /  x-here: 1"), client, 0, everything).lane;
    assert_eq!(elsewhere(Ipv4Addr::new(10, 2, 0, 1).into()), None);
    assert_eq!(elsewhere(Ipv4Addr::new(10, 1, 0, 1).to_ipv6_mapped().into()), Some(4));
}

#[test]
fn each_lane_has_its_share_of_all() {
    let shares = [0.05, 0.2, 0.005, 0.3333, 0.4117];
    let lanes: Vec<String> = ["a", "b", "c", "d", "e"]
        .iter()
        .zip(["5", "20", "0.5", "33.33", "41.17"])
        .map(|(name, percentage)| of_header(name, percentage))
        .collect();
    let lanes: Vec<&str> = lanes.iter().map(String::as_str).collect();
    let users = lanes_of_users(&group(&lanes), everything);
    for (lane, share) in shares.iter().enumerate() {
        check_share(lanes[lane], users.iter().map(|user| *user == Some(lane)), *share);
    }
    // All of it is all of it, and nothing is nothing.
    assert!(users.iter().all(Option::is_some));
    assert!(lanes_of_users(&group(&[&of_header("a", "0")]), everything).iter().all(Option::is_none));
    let halves = lanes_of_users(&group(&[&of_header("a", "0"), &of_header("b", "100")]), everything);
    assert!(halves.iter().all(|user| *user == Some(1)));
}

#[test]
fn growth_only_adds() {
    let at = |first: &str, second: &str| {
        lanes_of_users(&group(&[&of_header("a", first), &of_header("b", second)]), everything)
    };
    let before = at("5", "10");
    for (first, second, shares) in [("20", "10", [0.2, 0.1]), ("5", "40", [0.05, 0.4]), ("5.01", "10.5", [0.05, 0.105])]
    {
        let after = at(first, second);
        for lane in [0, 1] {
            check_share("after", after.iter().map(|user| *user == Some(lane)), shares[lane]);
        }
        for (before, after) in before.iter().zip(&after) {
            match (before, after) {
                (Some(0), after) => assert_eq!(*after, Some(0), "the first lane keeps its own"),
                (Some(1), after) => assert!(after.is_some(), "nobody goes back to the baseline"),
                _ => {}
            }
        }
        if first == "5" {
            // The last lane grows from the baseline alone.
            assert!(before.iter().zip(&after).all(|(before, after)| before.is_none() || before == after));
        }
    }
}

#[test]
fn canaries_choose_independently() {
    let of = |namespace: &str, name: &str, lane: &str, salt: &str| {
        let salt = if salt.is_empty() { String::new() } else { format!(", salt: {salt}") };
        let lane = format!("name: {lane}, percentage: 20, stickyBy: {{header: u{salt}}}, capacityGuard: false");
        lanes_of_users(&group_of(namespace, name, &[&lane]), everything)
    };
    let overlap = |left: &[Option<usize>], right: &[Option<usize>], expected: f64| {
        let both = left.iter().zip(right).map(|(left, right)| left.is_some() && right.is_some());
        check_share("both", both, expected);
    };
    let plain = of("a", "g", "canary", "");
    overlap(&plain, &of("a", "g", "canary", ""), 0.2);
    for (namespace, name, lane, salt) in
        [("b", "g", "canary", ""), ("a", "h", "canary", ""), ("a", "g", "other", ""), ("a", "g", "canary", "s")]
    {
        overlap(&plain, &of(namespace, name, lane, salt), 0.04);
    }
    overlap(&of("a", "g", "canary", "s"), &of("a", "g", "canary", "t"), 0.04);
    overlap(&of("a", "g", "canary", "s"), &of("a", "g", "other", "s"), 0.04);
    // One salt and one name in two groups: the same clients, as the salt's writer wants.
    overlap(&of("a", "g", "canary", "s"), &of("b", "h", "canary", "s"), 0.2);
    // Two lanes of one group have nobody in common, and the second is no neighbour of the first: of those that the
    // first would add next, the second has its share and not all.
    let two = |first: &str| lanes_of_users(&group(&[&of_header("a", first), &of_header("b", "20")]), everything);
    let (before, after) = (two("20"), two("40"));
    let moved = before.iter().zip(&after).map(|(before, after)| *before == Some(1) && *after == Some(0));
    check_share("from the second to the first", moved, 0.2 * 0.2 / 0.8);
}

#[test]
fn the_guard_lowers_a_share_and_moves_nobody_else() {
    let lane = |name: &str| format!("name: {name}, percentage: 20, stickyBy: {{header: u}}");
    let group = group(&[&lane("a"), &lane("b")]);
    let free = lanes_of_users(&group, everything);
    for (bears, expected) in [(0.5, 0.2), (0.2, 0.2), (0.1, 0.1), (0.0, 0.0), (f64::NAN, 0.0), (-1.0, 0.0)] {
        let held = lanes_of_users(&group, |lane| if lane == 0 { bears } else { 1.0 });
        check_share("first", held.iter().map(|user| *user == Some(0)), expected);
        for (free, held) in free.iter().zip(&held) {
            match free {
                Some(0) => assert!(matches!(held, Some(0) | None), "they wait in the baseline"),
                _ => assert_eq!(free, held, "the others notice nothing"),
            }
        }
    }
    // What bears more has all of those it had when it bore less.
    let at = |bears: f64| -> HashSet<usize> {
        let users = lanes_of_users(&group, |_| bears);
        users.iter().enumerate().filter(|(_, lane)| lane.is_some()).map(|(user, _)| user).collect()
    };
    assert!(at(0.05).is_subset(&at(0.1)));
    // Nobody is asked about lanes without a guard, or about those who are out anyway.
    let asked = std::cell::Cell::new(0);
    let lanes = [&lane("a"), &of_header("b", "50")[..]];
    lanes_of_users(&super::tests::group(&lanes), |lane| {
        assert_eq!(lane, 0);
        asked.set(asked.get() + 1);
        1.0
    });
    check_share("asked", (0..asked.get()).map(|_| true), 0.2);
}

/// What as many requests as there are users meet, one after the other.
fn taken<'g>(group: &'g LaneGroup, line: &str) -> Vec<Decision<'g>> {
    let head = head(line);
    // Any sequence of numbers will do for dice.
    let dice = (0..u64::from(USERS)).map(|number| number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    dice.map(|dice| decide(group, &head, CLIENT, dice, everything)).collect()
}

#[test]
fn requests_without_a_key() {
    let lane = |sticky: &str| format!("name: a, percentage: 30, stickyBy: {{{sticky}}}, capacityGuard: false");
    let skip = group(&[&lane("header: u")]);
    assert!(taken(&skip, "GET /").iter().chain(&taken(&skip, "GET /  u: ")).all(|one| *one == Decision::default()));
    let random = group(&[&lane("query: u, onMissing: random")]);
    let random = taken(&random, "GET /?u=");
    check_share("random", random.iter().map(|one| one.lane.is_some()), 0.3);
    assert!(random.iter().all(|one| one.issue.is_none()));
    // A client that is given a cookie is where it will be with it, in or out.
    let group = group(&[&lane("cookie: key")]);
    let issued = taken(&group, "GET /  cookie: other=1; key=");
    check_share("issued", issued.iter().map(|one| one.lane.is_some()), 0.3);
    let mut seen = HashSet::new();
    for decision in &issued {
        let issue = decision.issue.expect("there was no cookie");
        assert!(seen.insert(issue.value), "two clients have one key");
        let value = std::str::from_utf8(issue.value()).expect("it is text");
        let next = decide(&group, &head(&format!("GET /  cookie: key={value}")), CLIENT, 99, everything);
        assert_eq!(next, Decision { lane: decision.lane, issue: None });
    }
    let mut answer = Head::default();
    decide(&group, &head("GET /"), CLIENT, 0xab, everything).issue.expect("there was no cookie").set(&mut answer);
    let cookie = "key=00000000000000ab; Path=/; Max-Age=31536000; HttpOnly; SameSite=Lax";
    assert_eq!(answer.get("Set-Cookie"), Some(cookie.as_bytes()));
}

#[test]
fn a_lane_that_has_no_part_in_a_request_takes_nothing_from_the_next() {
    let by = |sticky: &str, name: &str| {
        format!("name: {name}, percentage: 50, stickyBy: {{{sticky}}}, capacityGuard: false")
    };
    let group = group(&[&by("header: absent", "a"), &by("header: u", "b")]);
    check_share("b", lanes_of_users(&group, everything).iter().map(|user| *user == Some(1)), 0.5);
    // No cookie is issued where a match decided, or for a lane that is closed.
    let closed = "name: c, percentage: 0, stickyBy: {cookie: key}";
    let matched = "name: m, match: [{methods: [POST]}], percentage: 5, stickyBy: {cookie: key}";
    let decided = |lanes: &[&str], line: &str| {
        decide(&super::tests::group(lanes), &head(line), CLIENT, 0, everything).issue.is_some()
    };
    assert!(!decided(&[closed], "GET /"));
    assert!(!decided(&[matched], "POST /"));
    assert!(decided(&[matched], "GET /"));
}

/// The live header fields, separated by two blanks.
pub(super) fn fields(head: &Head) -> String {
    let mut lines = Vec::new();
    head.copy_fields(&mut lines, |_| true);
    String::from_utf8(lines).expect("rows are text").trim_end().replace("\r\n", "  ")
}

/// Groups `x` (header x, member x; lanes a, b) and `y` (header y, member y; lane c).
fn two_groups() -> Vec<Arc<LaneGroup>> {
    let group = |name: &str, lanes: &[&str]| {
        let group = group(lanes);
        Arc::new(LaneGroup { header: name.into(), baggage: Some(name.into()), ..(*group).clone() })
    };
    vec![group("x", &["name: a", "name: b"]), group("y", &["name: c"])]
}

#[test]
fn tags_of_clients_are_removed_and_nothing_else() {
    let rows = [
        ("", ""),
        ("X: a  other: 1  y: c  x: b", "other: 1"),
        ("baggage: x=a", ""),
        ("Baggage: x = a;p=1 , y=c", ""),
        ("baggage: k=v, x=a;p=1;q ,l=w;z=1  other: 1", "other: 1  baggage: k=v,l=w;z=1"),
        ("baggage: k=v, , l=x=a", "baggage: k=v, , l=x=a"),
        ("baggage: k=v  baggage: x=a,y=c  baggage: x=a,x=b,l=1", "baggage: k=v,l=1"),
        ("baggage: xx=a,X=b,x", "baggage: xx=a,X=b,x"),
        ("baggage: ,x=a,", ""),
    ];
    for (before, after) in rows {
        let line = if before.is_empty() { "GET /".to_owned() } else { format!("GET /  {before}") };
        let mut head = head(&line);
        let is_changed = fields(&head) != after;
        assert_eq!(strip(&mut head, &two_groups()), is_changed, "{before}");
        assert_eq!(fields(&head), after, "{before}");
    }
}

#[test]
fn tags_inside_are_believed() {
    let groups = two_groups();
    let rows = [
        ("GET /", None, false),
        ("GET /  x: b", Some((0, 1)), false),
        ("GET /  y: c", Some((1, 0)), false),
        ("GET /  x: c", None, false),
        ("GET /  x: base  y: c", Some((1, 0)), false),
        ("GET /  baggage: k=v, x=b;p", Some((0, 1)), false),
        ("GET /  x: a  baggage: x=a", Some((0, 0)), false),
        ("GET /  x: a  baggage: x=b", Some((0, 0)), true),
        ("GET /  x: base  baggage: x=b", None, true),
        ("GET /  x: a  x: b", Some((0, 0)), true),
        ("GET /  baggage: x=a  baggage: x=b", Some((0, 0)), true),
        ("GET /  x: a  y: c", Some((0, 0)), false),
    ];
    for (line, lane, differs) in rows {
        assert_eq!(inherit(&groups, &head(line)), Inherited { lane, differs }, "{line}");
    }
    assert_eq!(inherit(&[], &head("GET /  x: a")), Inherited::default());
}

#[test]
fn tags_are_written_for_the_next_hop() {
    let groups = two_groups();
    let rows = [
        ("GET /", "x: b  baggage: x=b"),
        ("GET /  baggage: x=b  x: b", "baggage: x=b  x: b"),
        ("GET /  X: a  baggage: x=a;p=1,k=v;q=1", "x: b  baggage: x=b,k=v;q=1"),
        ("GET /  baggage: k=v, l=w  o: 1  baggage: m=1", "o: 1  x: b  baggage: x=b,k=v,l=w,m=1"),
        ("GET /  x: b  baggage: k=v", "x: b  baggage: x=b,k=v"),
        ("GET /  x: b  x: b  baggage: k=v,x=b,x=b", "x: b  baggage: x=b,k=v"),
    ];
    for (line, after) in rows {
        let mut head = head(line);
        tag(&mut head, &groups[0], 1);
        assert_eq!(fields(&head), after, "{line}");
        assert_eq!(inherit(&groups, &head), Inherited { lane: Some((0, 1)), differs: false }, "{line}");
    }
    let only_header = LaneGroup { baggage: None, ..(*groups[0]).clone() };
    let mut head = head("GET /  baggage: k=v");
    tag(&mut head, &only_header, 0);
    assert_eq!(fields(&head), "baggage: k=v  x: a");
}

fn is_ours(member: &[u8]) -> bool {
    let equals = member.iter().position(|byte| *byte == b'=');
    equals.is_some_and(|equals| [&b"x"[..], b"y"].contains(&member[..equals].trim_ascii()))
}

/// Members of baggage, ours or those of others.
fn members(head: &Head, ours: bool) -> Vec<Vec<u8>> {
    let members = head.get_all("baggage").flat_map(|field| field.split(|byte| *byte == b','));
    let wanted = |member: &&[u8]| !member.is_empty() && is_ours(member) == ours;
    members.map(<[u8]>::trim_ascii).filter(wanted).map(<[u8]>::to_vec).collect()
}

proptest::proptest! {
    #[test]
    fn any_baggage_keeps_what_is_not_ours(fields in proptest::collection::vec("[xyk=;, ]{0,16}", 0..4)) {
        let groups = two_groups();
        let mut head = head("GET /");
        fields.iter().for_each(|field| head.add("baggage", field.as_bytes()));
        let before = members(&head, false);
        strip(&mut head, &groups);
        proptest::prop_assert_eq!(&members(&head, false), &before);
        proptest::prop_assert_eq!(inherit(&groups, &head), Inherited::default());
        proptest::prop_assert!(members(&head, true).is_empty());
        tag(&mut head, &groups[0], 0);
        proptest::prop_assert_eq!(&members(&head, false), &before);
        proptest::prop_assert_eq!(inherit(&groups, &head), Inherited { lane: Some((0, 0)), differs: false });
        // A request that says so already is not written again.
        let written = head.text().len();
        tag(&mut head, &groups[0], 0);
        proptest::prop_assert_eq!(head.text().len(), written);
    }
}
