//! The traffic: several users with browsers that keep connections and cookies. Each request is sent once, whatever becomes
//! of it, and each answer is judged. Cold.

use std::sync::Arc;
use std::time::Duration;

use hyper::header::{COOKIE, HeaderMap, HeaderName, HeaderValue, SET_COOKIE};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval_at};

use super::app::LANES_SEEN;
use super::call::{Answer, Caller, Place};
use super::judge::{Asker, Reply, judge};
use super::world::World;

/// Somebody who shops.
struct User {
    fields: &'static [(&'static str, &'static str)],
    /// The lane that the rules name for them.
    lane: Option<&'static str>,
    /// Whether they ask more than the rules let them.
    is_greedy: bool,
    /// Each asks on its own, with its own cookies.
    browsers: u32,
    per_second: u32,
    /// After so many requests somebody new comes in their place.
    stays: Option<u32>,
}

const USERS: [User; 6] = [
    // Alice and Bob test what is new.
    User { fields: &[("x-user", "alice")], lane: Some("blue"), browsers: 4, per_second: 20, ..ANYBODY },
    User { fields: &[("x-user", "bob"), ("cookie", "beta=1")], lane: Some("blue"), per_second: 12, ..ANYBODY },
    User { fields: &[("x-user", "carol")], per_second: 20, ..ANYBODY },
    User { fields: &[("x-user", "dave")], per_second: 20, ..ANYBODY },
    User { fields: &[("x-user", "robot")], is_greedy: true, browsers: 1, per_second: 10, ..ANYBODY },
    // Visitors have no name, and do not stay.
    User { browsers: 6, per_second: 18, stays: Some(6), ..ANYBODY },
];

const ANYBODY: User = User { fields: &[], lane: None, is_greedy: false, browsers: 4, per_second: 10, stays: None };

/// Sends the traffic of all users to the gateway, until the world ends.
pub fn start(world: &Arc<World>) -> JoinSet<()> {
    let edge = world.mesh.edge;
    let mut browsers = JoinSet::new();
    for (place, user) in USERS.iter().enumerate() {
        let period = Duration::from_secs(1) * user.browsers / user.per_second;
        for browser in 0..user.browsers {
            // Not all at the same moment.
            let begin = period * browser / user.browsers + Duration::from_millis(7) * place as u32;
            let caller = Caller::new(Place::At(edge), &edge.to_string());
            browsers.spawn(browse(world.clone(), user, caller, begin, period));
        }
    }
    browsers
}

/// What a browser remembers.
#[derive(Default)]
struct Session {
    cookie: Option<HeaderValue>,
    /// The lane that it was in, and when.
    lane: Option<(&'static str, std::time::Instant)>,
    asked: u32,
}

async fn browse(world: Arc<World>, user: &'static User, caller: Caller, begin: Duration, period: Duration) {
    let mut ending = world.ending.subscribe();
    let mut ticks = interval_at(Instant::now() + begin, period);
    // After a pause the rate is what it was, never more.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut session = Session::default();
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            _ = ending.wait_for(|is_ending| *is_ending) => return,
        }
        if user.stays.is_some_and(|stays| session.asked >= stays) {
            session = Session::default();
        }
        session.asked += 1;
        let started = Instant::now();
        let answer = caller.get("/", &fields(user, &session)).await;
        enter(&world, user, &mut session, started.elapsed(), answer);
    }
}

fn fields(user: &User, session: &Session) -> HeaderMap {
    let own = user.fields.iter();
    let own = own.map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
    own.chain(session.cookie.clone().map(|cookie| (COOKIE, cookie))).collect()
}

/// Judges an answer and writes it down.
fn enter(world: &World, user: &User, session: &mut Session, latency: Duration, answer: Result<Answer, String>) {
    // Without the cookie nothing makes a client stay where it was.
    let before = session.lane.filter(|(_, then)| session.cookie.is_some() && world.has_settled(*then));
    let before = before.map(|(lane, _)| lane);
    let asker = Asker { lane: user.lane, before, is_greedy: user.is_greedy };
    let reply = answer.as_ref().map(|answer| Reply {
        status: answer.status,
        lanes: answer.headers.get(LANES_SEEN).and_then(|lanes| lanes.to_str().ok()),
        body: &answer.body,
    });
    let judgement =
        judge(asker, reply.map_err(|problem| &problem[..]), |service, lane| world.shop.presence(service, lane));
    if let Ok(answer) = &answer {
        let told = answer.headers.get(SET_COOKIE).and_then(|cookie| cookie.to_str().ok());
        if let Some(Ok(cookie)) = told.and_then(|told| told.split(';').next()).map(HeaderValue::from_str) {
            session.cookie = Some(cookie);
        }
    }
    if judgement.is_told {
        session.lane = Some((judgement.lane, std::time::Instant::now()));
    }
    let said = answer.as_ref().map_or("", |answer| &answer.body);
    world.ledger().add(world.uptime(), latency, &judgement, said);
}
