//! The gRPC side of the roll: a proxy that speaks for its instance, for as long as its stream is open. Cold.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use config::wire::evenkeel::v1::{Ending, JoinRequest, JoinResponse, Member, Phase};
use http::HeaderMap;
use tonic::Status;

use crate::access::Action;
use crate::registry::{Instance, Name, Word};
use crate::server::admission::{self, Speech};
use crate::server::grpc::Exchange;
use crate::server::guard::{Caller, Guard};
use crate::server::lanes::Lanes;
use crate::server::roll::{Roll, Seat};
use crate::server::wire::Link;

/// Letters of one word of an instance.
const WORD_BYTES_MAX: usize = 253;
const LABELS_MAX: usize = 64;
const PORTS_MAX: usize = 16;
const WEIGHT_MAX: u32 = 1_000_000;
/// Of why an instance is not ready.
const NOTE_LETTERS_MAX: usize = 200;
/// For a drain: what takes longer is a mistake.
const DRAIN_MAX: Duration = Duration::from_secs(86_400);
/// Requests that are named where they were cut, and letters of each such name.
const CUT_NAMED_MAX: usize = 16;
const CUT_LETTERS_MAX: usize = 2_000;

/// Lets instances in.
#[derive(Clone)]
pub(crate) struct Joins {
    guard: Arc<Guard>,
    roll: Arc<Roll>,
    lanes: Arc<Lanes>,
}

/// A proxy that speaks for its instance.
pub(crate) struct Join {
    joins: Joins,
    caller: Caller,
    link: Arc<Link>,
    speech: Speech,
    /// Comes when it may no longer be here.
    ended: Pin<Box<dyn Future<Output = ()> + Send>>,
    spoken: Option<Spoken>,
    /// Whom others of its Service call, so that it knows them before it does: not said so far.
    calls: Vec<String>,
}

/// What it speaks for.
struct Spoken {
    roll: Arc<Roll>,
    name: Name,
    number: u64,
    seat: Seat,
}

impl Drop for Spoken {
    fn drop(&mut self) {
        self.roll.leave(&self.name, self.number);
    }
}

impl Joins {
    pub(crate) fn new(guard: Arc<Guard>, roll: Arc<Roll>, lanes: Arc<Lanes>) -> Joins {
        Joins { guard, roll, lanes }
    }

    /// Lets somebody speak, or says why not.
    pub(crate) fn begin(&self, headers: &HeaderMap, link: &Arc<Link>) -> Result<Join, Status> {
        let caller = admission::caller(&self.guard, headers, link, "an instance")?;
        let ended = Box::pin(caller.ended());
        let (joins, link, speech) = (self.clone(), link.clone(), Speech::begins());
        Ok(Join { joins, caller, link, speech, ended, spoken: None, calls: Vec::new() })
    }
}

impl Join {
    /// Ready: it has ended.
    pub(crate) fn poll(&mut self, exchange: &mut Exchange, context: &mut Context<'_>) -> Poll<Result<(), Status>> {
        let Exchange { incoming, outgoing } = exchange;
        if self.ended.as_mut().poll(context).is_ready() {
            return Poll::Ready(Err(Status::unauthenticated("its token is revoked, or over")));
        }
        loop {
            // Whoever does not listen is not listened to.
            if outgoing.poll_taken(context)?.is_pending() {
                return Poll::Pending;
            }
            match self.spoken.as_ref().map_or(Poll::Pending, |spoken| spoken.seat.poll(context)) {
                Poll::Ready(Some(told)) => {
                    outgoing.say(&JoinResponse { calls: std::mem::take(&mut self.calls), ..told });
                    continue;
                }
                Poll::Ready(None) => {
                    return Poll::Ready(Err(Status::aborted("its proxy speaks for it on another stream")));
                }
                Poll::Pending => {}
            }
            match incoming.poll_next(context)? {
                Poll::Ready(None) => return Poll::Ready(Ok(())),
                Poll::Ready(Some(request)) => {
                    self.speech.heard()?;
                    self.take(request)?;
                }
                Poll::Pending => return self.speech.poll_silence(context).map(Err),
            }
        }
    }

    fn take(&mut self, request: JoinRequest) -> Result<(), Status> {
        let phase = request.phase();
        match (&self.spoken, request.member) {
            (None, Some(member)) => self.enter(member, phase)?,
            (None, None) => return Err(Status::invalid_argument("the first message says which instance it is")),
            (Some(_), Some(_)) => return Err(Status::invalid_argument("an instance is told once")),
            (Some(_), None) => {}
        }
        let Some(spoken) = &self.spoken else { return Ok(()) };
        let since = Duration::from_millis(request.drain_since_ms).min(DRAIN_MAX);
        let word = match phase {
            Phase::Starting => Word::Starting,
            Phase::Ready => Word::Ready,
            Phase::Draining => {
                Word::Draining { since, within: Duration::from_millis(request.drain_within_ms).min(DRAIN_MAX) }
            }
            Phase::Ended => Word::Ended { since },
            Phase::Unspecified | Phase::Last => return Err(Status::invalid_argument("it does not say how far it is")),
        };
        let note = harmless(&request.note, NOTE_LETTERS_MAX);
        spoken.roll.say(&spoken.name, spoken.number, word, note.into(), request.ending.map(ending));
        Ok(())
    }

    fn enter(&mut self, member: Member, phase: Phase) -> Result<(), Status> {
        let told = [&member.namespace, &member.service, &member.name].map(|word| shown(word)).join("/");
        let entered = self.try_enter(member);
        // Who has gone, and says so again since another has taken its name, is missed by nobody.
        if let Err(status) = &entered
            && phase != Phase::Ended
        {
            self.joins.roll.note_refused(told, status.message().to_owned(), true);
        }
        entered
    }

    fn try_enter(&mut self, member: Member) -> Result<(), Status> {
        let (name, instance) = read(member, self.link.source.ip()).map_err(Status::invalid_argument)?;
        let (id, cluster) = (name.proxy(), format!("{}/{}", name.namespace, name.service));
        self.caller.may(&Action::Introduce { id: &id, cluster: &cluster }, "an instance").map_err(admission::denied)?;
        if !self.link.is_of(&id) {
            return Err(Status::permission_denied(format!(
                "a proxy speaks for its own instance, beside its stream: it is not {id}"
            )));
        }
        let written = instance.labels.get("lane").map_or("", |lane| lane);
        self.caller.may(&Action::Join { lane: written }, "an instance").map_err(admission::denied)?;
        let refused = |refusal: crate::registry::Refusal| Status::already_exists(refusal.to_string());
        let (number, seat) = self.joins.roll.join(&name, instance).map_err(refused)?;
        self.calls = self.joins.lanes.called_by(&format!("Service/{cluster}"), Instant::now());
        self.spoken = Some(Spoken { roll: self.joins.roll.clone(), name, number, seat });
        Ok(())
    }
}

/// What a proxy says of its instance, if that can be. The error says what cannot.
fn read(member: Member, source: IpAddr) -> Result<(Name, Instance), String> {
    let Member { namespace, service, name, incarnation, address, ports, weight, zone, labels } = member;
    let is_word = |word: &str| {
        let is_letter = |letter: char| letter.is_ascii_alphanumeric() || "-._:[]".contains(letter);
        !word.is_empty() && word.len() <= WORD_BYTES_MAX && word.chars().all(is_letter)
    };
    for (what, word) in [("namespace", &namespace), ("service", &service), ("name", &name)] {
        if !is_word(word) {
            return Err(format!("{} is no {what}: 1 to {WORD_BYTES_MAX} letters, digits, - . _ :", shown(word)));
        }
    }
    let source = source.to_canonical();
    let address = match (<[u8; 4]>::try_from(&*address), <[u8; 16]>::try_from(&*address)) {
        (Ok(v4), _) => IpAddr::from(v4),
        (_, Ok(v6)) => IpAddr::from(v6).to_canonical(),
        _ if address.is_empty() => source,
        _ => return Err("its address has 4 or 16 bytes".into()),
    };
    let address = if address.is_unspecified() { source } else { address };
    // On one machine each instance may have an address of its own, and the way to control is any of them.
    if address != source && !(address.is_loopback() && source.is_loopback()) {
        return Err(format!("{address} is not its own: it comes from {source}"));
    }
    let port = |(name, port): (String, u32)| match u16::try_from(port) {
        Ok(port) if port > 0 && (name.is_empty() || is_word(&name)) => Ok((Box::from(name), port)),
        _ => Err(format!("{port} is no port, or {} no name of one", shown(&name))),
    };
    if ports.is_empty() || ports.len() > PORTS_MAX {
        return Err(format!("an instance has 1 to {PORTS_MAX} ports"));
    }
    if labels.len() > LABELS_MAX {
        return Err(format!("an instance has at most {LABELS_MAX} labels"));
    }
    let is_key = |key: &str| key.split('/').count() <= 2 && key.split('/').all(is_word);
    let label = |(key, value): (String, String)| match is_key(&key) && (value.is_empty() || is_word(&value)) {
        true => Ok((Box::from(key), Box::from(value))),
        false => Err(format!("{}={} is no label", shown(&key), shown(&value))),
    };
    if !zone.is_empty() && !is_word(&zone) {
        return Err(format!("{} is no zone: 1 to {WORD_BYTES_MAX} letters, digits, - . _ :", shown(&zone)));
    }
    if weight > WEIGHT_MAX {
        return Err(format!("{weight} is no weight: at most {WEIGHT_MAX}"));
    }
    let instance = Instance {
        incarnation,
        address,
        ports: ports.into_iter().map(port).collect::<Result<BTreeMap<_, _>, String>>()?,
        weight: weight.max(1),
        zone: Some(zone).filter(|zone| !zone.is_empty()).map(Box::from),
        labels: labels.into_iter().map(label).collect::<Result<BTreeMap<_, _>, String>>()?,
        is_draining: false,
        going_ms: 0,
        ready_ms: 0,
    };
    Ok((Name { namespace: namespace.into(), service: service.into(), name: name.into() }, instance))
}

/// What is kept of what a proxy says of the end of its instance.
fn ending(told: Ending) -> Ending {
    let cut_requests =
        told.cut_requests.iter().take(CUT_NAMED_MAX).map(|name| harmless(name, CUT_LETTERS_MAX)).collect();
    Ending { cut_requests, reason: harmless(&told.reason, WORD_BYTES_MAX), ..told }
}

/// What somebody says, cut to what people read.
fn shown(word: &str) -> String {
    let cut = harmless(word, 64);
    if cut.is_empty() { "\"\"".into() } else { cut }
}

/// Without what a terminal would take for its own.
fn harmless(word: &str, letters_max: usize) -> String {
    word.chars().filter(|letter| !letter.is_control()).take(letters_max).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_an_end_no_more_is_kept_than_people_read() {
        let told = Ending {
            cut: 20,
            cut_requests: vec!["\u{1b}[2J".to_owned() + &"x".repeat(3_000); 20],
            reason: "its time\nwas over".into(),
            ..Ending::default()
        };
        let kept = ending(told);
        assert_eq!((kept.cut, kept.cut_requests.len(), &*kept.reason), (20, 16, "its timewas over"));
        assert_eq!(kept.cut_requests[0], "[2J".to_owned() + &"x".repeat(1_997));
    }

    #[test]
    fn what_an_instance_says_of_itself_is_read_or_refused_by_name() {
        let member = || Member {
            namespace: "shop".into(),
            service: "web".into(),
            name: "host:7".into(),
            ports: [(String::new(), 80)].into(),
            ..Member::default()
        };
        let source = |text: &str| text.parse::<IpAddr>().expect("an address");
        let bytes = |octets: &'static [u8]| prost::bytes::Bytes::from_static(octets);
        let label = |key: &str, value: &str| [(key.to_owned(), value.to_owned())].into();
        let rows: [(Member, &str, Result<&str, &str>); 14] = [
            (member(), "10.0.0.1", Ok("10.0.0.1")),
            (member(), "::ffff:10.0.0.1", Ok("10.0.0.1")),
            (Member { address: bytes(&[0; 4]), ..member() }, "10.0.0.1", Ok("10.0.0.1")),
            (Member { address: bytes(&[10, 0, 0, 1]), ..member() }, "10.0.0.1", Ok("10.0.0.1")),
            (Member { address: bytes(&[127, 0, 0, 5]), ..member() }, "127.0.0.1", Ok("127.0.0.5")),
            (
                Member { address: bytes(&[10, 0, 0, 2]), ..member() },
                "10.0.0.1",
                Err("10.0.0.2 is not its own: it comes from 10.0.0.1"),
            ),
            (Member { address: bytes(&[1]), ..member() }, "10.0.0.1", Err("its address has 4 or 16 bytes")),
            (
                Member { service: "a/b".into(), ..member() },
                "10.0.0.1",
                Err("a/b is no service: 1 to 253 letters, digits, - . _ :"),
            ),
            (
                Member { ports: [("http".into(), 70_000)].into(), ..member() },
                "10.0.0.1",
                Err("70000 is no port, or http no name of one"),
            ),
            (Member { ports: BTreeMap::new(), ..member() }, "10.0.0.1", Err("an instance has 1 to 16 ports")),
            (Member { labels: label("lane", "blue"), ..member() }, "10.0.0.1", Ok("10.0.0.1")),
            (Member { labels: label("a b", "x"), ..member() }, "10.0.0.1", Err("a b=x is no label")),
            (Member { weight: 2_000_000, ..member() }, "10.0.0.1", Err("2000000 is no weight: at most 1000000")),
            (
                Member { zone: "a b".into(), ..member() },
                "10.0.0.1",
                Err("a b is no zone: 1 to 253 letters, digits, - . _ :"),
            ),
        ];
        for (member, from, expected) in rows {
            let found = read(member.clone(), source(from)).map(|(_, instance)| instance.address.to_string());
            assert_eq!(found.as_deref().map_err(String::as_str), expected, "{member:?}");
        }
    }
}
