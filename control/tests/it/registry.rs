//! Instances that proxies speak for: callers are told of them, and forget them, each by its own word; what is said of a drain
//! is so. Proxies and callers are streams without traffic here.

use std::collections::BTreeMap;
use std::time::Duration;

use config::wire::evenkeel::v1::{Ending, Member, Phase};
use e2e::kit::{Scratch, Speaker, Subscriber, until};
use serde_json::Value;

use crate::server::{Control, service};

const WEB: &str = "Endpoints/default/web";
const LONG: Duration = Duration::from_secs(25);

fn member(service: &str, name: &str, port: u32) -> Member {
    Member {
        namespace: "default".into(),
        service: service.into(),
        name: name.into(),
        incarnation: 1,
        ports: [(String::new(), port)].into(),
        ..Member::default()
    }
}

/// The proxy of an instance, which speaks for it.
fn speaker(control: &Control, member: Member) -> (Subscriber, Speaker) {
    let mut proxy = Subscriber::new(&format!("default/{}@{}", member.service, member.name), &[]);
    proxy.connect(control.xds);
    proxy.take();
    let speaker = proxy.join(member);
    (proxy, speaker)
}

fn ready(control: &Control, member: Member) -> (Subscriber, Speaker) {
    let (proxy, mut speaker) = speaker(control, member);
    speaker.say(Phase::Ready);
    speaker.wait_for(Phase::Ready);
    (proxy, speaker)
}

/// One that sends requests to `web`, and has what is newest.
fn caller(control: &Control, name: &str, expected: &[&str]) -> Subscriber {
    let mut caller = Subscriber::new(&format!("default/g@{name}"), &[WEB]);
    caller.connect(control.xds);
    take_until(&mut caller, expected);
    caller
}

fn take_until(caller: &mut Subscriber, expected: &[&str]) {
    while caller.endpoints(WEB) != expected {
        caller.take();
    }
}

fn instances(control: &Control) -> BTreeMap<String, String> {
    let told = control.ask("GET /api/v1/instances", "", "").1;
    let word = |one: &Value, field: &str| one[field].as_str().unwrap_or_default().to_owned();
    let all = told["instances"].as_array().expect("a list").iter();
    let shown = all.map(|one| {
        let unconfirmed = if one["unconfirmed"] == true { " unconfirmed" } else { "" };
        (word(one, "instance"), word(one, "phase") + unconfirmed)
    });
    shown.collect()
}

fn receipts(control: &Control, list: &str) -> Vec<Value> {
    control.ask("GET /api/v1/drains", "", "").1[list].as_array().cloned().unwrap_or_default()
}

#[test]
fn an_instance_is_told_when_it_is_ready_and_gone_when_each_caller_has_forgotten_it() {
    let folder = Scratch::create("registry").expect("a folder");
    let control = Control::start(&folder);
    control.apply(&service("web", 80));
    let (_a, mut a) = ready(&control, member("web", "a", 7001));
    let [mut one, mut two] = ["1", "2"].map(|name| caller(&control, name, &["127.0.0.1:7001"]));
    // One that is not ready is nobody's.
    let (_b, mut b) = speaker(&control, member("web", "b", 7002));
    b.say(Phase::Starting);
    b.wait_for(Phase::Starting);
    assert!(one.hears_nothing_for(Duration::from_millis(50)));
    assert_eq!(instances(&control)["default/web/b"], "starting");
    // The last one stays until another is ready.
    a.drain(LONG);
    a.wait_for(Phase::Last);
    b.say(Phase::Ready);
    b.wait_for(Phase::Ready);
    let told = a.wait_for_mark();
    assert_eq!((told.holders, told.waiting, told.is_over), (2, 2, false));
    take_until(&mut one, &["127.0.0.1:7002"]);
    let told = a.hear_until(|told| told.forgetting.as_ref().is_some_and(|told| told.waiting == 1));
    assert_eq!(told.forgetting.expect("it is there").waiting_for, ["default/g@2"]);
    // Whoever comes in between never knew it.
    let _three = caller(&control, "3", &["127.0.0.1:7002"]);
    assert_eq!(receipts(&control, "underWay")[0]["waiting"], 1);
    take_until(&mut two, &["127.0.0.1:7002"]);
    let told = a.hear_until(|told| told.forgetting.as_ref().is_some_and(|told| told.is_over));
    assert_eq!(told.forgetting.map(|told| (told.holders, told.unreachable)), Some((2, 0)));
    a.end(Ending { reason: "all have forgotten it".into(), late_requests: 3, ..Ending::default() });
    a.wait_for(Phase::Ended);
    let (receipt, _) = until("a receipt", || receipts(&control, "over").first().cloned());
    assert_eq!((&receipt["instance"], &receipt["lateRequests"]), (&"default/web/a".into(), &3.into()));
    assert_eq!((&receipt["reason"], &receipt["holders"]), (&"all have forgotten it".into(), &2.into()));
    assert!(receipt["proxies"].as_array().expect("a list").iter().all(|one| one["state"] == "forgot"), "{receipt}");
    assert_eq!(instances(&control).into_keys().collect::<Vec<_>>(), ["default/web/b"]);
    // Instances are no documents: nobody's history tells of them.
    let history = control.ask("GET /api/v1/history", "", "").1;
    assert_eq!(history["revisions"].as_array().map(Vec::len), Some(1), "{history}");
    // An operator may want one to go.
    assert_eq!(control.ask("POST /api/v1/instances/default/web/b/drain", "", "").0, 202);
    b.hear_until(|told| told.drain);
    assert_eq!(control.ask("POST /api/v1/instances/default/web/c/drain", "", "").0, 404);
}

#[test]
fn whoever_may_still_send_is_waited_for() {
    let folder = Scratch::create("registry").expect("a folder");
    let control = Control::start(&folder);
    control.apply(&service("web", 80));
    let (_a, mut a) = ready(&control, member("web", "a", 7001));
    let both = ["127.0.0.1:7001", "127.0.0.1:7002"];
    let (_b, _b_speaker) = ready(&control, member("web", "b", 7002));
    let [mut cut, mut ends, mut late] = ["cut", "ends", "late"].map(|name| caller(&control, name, &both));
    // Control has not heard of it, and it will be back with what it had.
    cut.lose();
    late.lose();
    until("two that are gone", || {
        let proxies = control.ask("GET /api/v1/proxies", "", "").1;
        (proxies["proxies"].as_array().map(Vec::len) == Some(3)).then_some(())
    });
    a.drain(LONG);
    let told = a.wait_for_mark();
    assert_eq!((told.holders, told.waiting), (3, 3));
    cut.connect(control.xds);
    take_until(&mut cut, &["127.0.0.1:7002"]);
    let told = a.hear_until(|told| told.forgetting.as_ref().is_some_and(|told| told.waiting == 2));
    assert_eq!(told.forgetting.expect("it is there").waiting_for, ["default/g@ends", "default/g@late"]);
    // Who has ended sends nothing.
    ends.leave();
    let told = a.hear_until(|told| told.forgetting.as_ref().is_some_and(|told| told.waiting == 1));
    assert!(!told.forgetting.expect("it is there").is_over);
    // One that does not come back is named, and the instance knows that it may still be asked.
    let told = a.hear_until(|told| told.forgetting.as_ref().is_some_and(|told| told.is_over));
    let told = told.forgetting.expect("it is there");
    assert_eq!((told.waiting, told.unreachable_ids), (0, vec!["default/g@late".to_owned()]));
    // It may be back all the same.
    late.connect(control.xds);
    take_until(&mut late, &["127.0.0.1:7002"]);
    a.hear_until(|told| told.forgetting.as_ref().is_some_and(|told| told.unreachable == 0 && told.is_over));
}

#[test]
fn control_that_is_killed_in_a_drain_goes_on_with_it() {
    let folder = Scratch::create("registry").expect("a folder");
    let control = Control::start(&folder);
    control.apply(&service("web", 80));
    let (mut a_proxy, mut a) = ready(&control, member("web", "a", 7001));
    let (mut b_proxy, _b) = ready(&control, member("web", "b", 7002));
    let mut one = caller(&control, "1", &["127.0.0.1:7001", "127.0.0.1:7002"]);
    a.drain(LONG);
    a.wait_for_mark();
    let places = [control.address, control.xds];
    control.kill();
    for proxy in [&mut a_proxy, &mut b_proxy, &mut one] {
        proxy.lose();
    }
    let control = Control::start_at(&folder, places);
    let expected = [("default/web/a".to_owned(), "draining unconfirmed".to_owned())];
    assert_eq!(instances(&control).into_iter().take(1).collect::<Vec<_>>(), expected);
    a_proxy.connect(control.xds);
    a_proxy.take();
    let mut a = a_proxy.join(member("web", "a", 7001));
    // Whatever its proxy believes by now: there is no way back.
    a.say(Phase::Ready);
    let told = a.wait_for_mark();
    assert!(!told.is_over, "{told:?}");
    a.drain(LONG);
    one.connect(control.xds);
    take_until(&mut one, &["127.0.0.1:7002"]);
    // Nobody knows who else had it, until all had the time to come back.
    let told = a.hear_until(|told| told.forgetting.as_ref().is_some_and(|told| told.is_over));
    let told = told.forgetting.expect("it is there");
    assert!(told.unreachable_ids.iter().all(|id| !id.contains("g@1")), "{told:?}");
    a.end(Ending::default());
    a.wait_for(Phase::Ended);
    // What was not told to end is there, and was never away.
    assert_eq!(instances(&control).into_keys().collect::<Vec<_>>(), ["default/web/b"]);
    assert_eq!(one.endpoints(WEB), ["127.0.0.1:7002"]);
}

#[test]
fn an_instance_that_cannot_be_is_refused_by_name() {
    let folder = Scratch::create("registry").expect("a folder");
    let control = Control::start(&folder);
    control.apply(&service("web", 80));
    let (_a, _speaker) = ready(&control, member("web", "a", 7001));
    let foreign = prost::bytes::Bytes::from_static(&[10, 9, 8, 7]);
    for (proxy, member, expected) in [
        ("web@b", member("web", "c", 7002), "a proxy speaks for its own instance, beside its stream: it is not"),
        ("web@b", member("pay", "b", 7002), "a proxy speaks for its own instance, beside its stream: it is not"),
        (
            "web@b",
            Member { address: foreign, ..member("web", "b", 7002) },
            "10.9.8.7 is not its own: it comes from 127",
        ),
        ("web@b", member("web", "b", 7001), "default/web/a is at 127.0.0.1:7001"),
        (
            "web@a",
            Member { incarnation: 2, ..member("web", "a", 7003) },
            "another process of that name is there, at 127",
        ),
        ("web@b", member("web", "b", 0), "0 is no port"),
    ] {
        let mut other = Subscriber::new(&format!("default/{proxy}"), &[]);
        other.connect(control.xds);
        other.take();
        let name = format!("default/{}/{}", member.service, member.name);
        let refused = other.join(member).hear().expect_err("it is refused");
        assert!(refused.message().starts_with(expected), "{refused}");
        let told = control.ask("GET /api/v1/instances", "", "").1;
        let listed = told["refused"].as_array().expect("a list").last().cloned().expect("one");
        assert_eq!(listed["instance"], name);
        assert!(listed["reason"].as_str().is_some_and(|reason| reason.starts_with(expected)), "{listed}");
        assert_eq!(instances(&control).len(), 1);
    }
}
