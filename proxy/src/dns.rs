//! Names of Services become addresses: asks the DNS, as `names` says when, and brings the answers. On the main thread:
//! no request ever waits for it. What follows from an answer is `names`' business. Cold.

mod names;

use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::{Name, RecordType};
use hickory_resolver::system_conf::read_system_conf;
use tokio::task::{Id, JoinSet};

pub(crate) use self::names::Names;
use self::names::{Action, Answer, Event, Family};
use crate::log::event;
use crate::status::Status;

/// Where servers and search domains are told, unless they are by flags.
const RESOLV_CONF: &str = "/etc/resolv.conf";
/// One try at one server.
const TRY_TIMEOUT: Duration = Duration::from_secs(2);
/// All tries at all names that one may stand for.
const QUESTION_TIMEOUT: Duration = Duration::from_secs(10);

/// The name is there, its addresses are not.
const NO_ADDRESSES: &str = "it has no addresses";

/// The names in use, and the questions under way.
pub(crate) struct Dns {
    status: Arc<Status>,
    servers: Vec<SocketAddr>,
    asker: Result<Arc<Asker>, String>,
    /// When what `asker` was made of was written.
    read: Option<SystemTime>,
    questions: JoinSet<Answer>,
    asked: HashMap<Id, Arc<str>>,
}

impl Dns {
    /// Asks these servers, or those of the machine if there are none. What is known of names is `status`'.
    pub(crate) fn new(status: Arc<Status>, servers: Vec<SocketAddr>) -> Dns {
        let asker = Err("nobody was asked yet".to_owned());
        Dns { status, servers, asker, read: None, questions: JoinSet::new(), asked: HashMap::new() }
    }

    /// Needs these names from now on, and no others.
    pub(crate) fn follow(&mut self, names: BTreeSet<Arc<str>>) {
        self.handle(Event::Use(names));
    }

    /// What is known is in force.
    pub(crate) fn applied(&mut self) {
        self.handle(Event::Applied);
    }

    /// Asks until `is_enough`. May be dropped at any time and called again.
    pub(crate) async fn work(&mut self, mut is_enough: impl FnMut(&Names, Duration) -> bool) {
        loop {
            let now = self.now();
            let next = self.status.names(|names| (!is_enough(names, now)).then(|| names.next(now)));
            let Some(next) = next else { return };
            let next = next.map(|next| self.status.started + next);
            tokio::select! {
                Some(joined) = self.questions.join_next_with_id() => {
                    let (id, answer) = match joined {
                        Ok((id, answer)) => (id, answer),
                        Err(error) => (error.id(), failed("the question was lost")),
                    };
                    if let Some(name) = self.asked.remove(&id) {
                        self.handle(Event::Answered(name, answer));
                    }
                }
                () = sleep_until(next) => self.handle(Event::Time),
            }
        }
    }

    fn now(&self) -> Duration {
        self.status.started.elapsed()
    }

    fn handle(&mut self, event: Event) {
        let (now, mut actions) = (self.now(), Vec::new());
        self.status.names(|names| names.handle(now, event, &mut actions));
        for action in actions {
            match action {
                Action::Tell(level, told) => self::event(level, &told),
                Action::Ask(name) => {
                    self.renew();
                    let (asker, asked) = (self.asker.clone(), name.clone());
                    let question = async move {
                        match asker {
                            Ok(asker) => asker.ask(&asked).await,
                            Err(reason) => failed(&reason),
                        }
                    };
                    self.asked.insert(self.questions.spawn(question).id(), name);
                }
            }
        }
    }

    /// Follows the machine's settings when they change.
    fn renew(&mut self) {
        let written = match self.servers.is_empty() {
            true => Path::new(RESOLV_CONF).metadata().and_then(|file| file.modified()).ok(),
            false => None,
        };
        if self.asker.is_err() || written != self.read {
            self.read = written;
            self.asker = Asker::new(&self.servers).map(Arc::new);
        }
    }
}

async fn sleep_until(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time.into()).await,
        None => std::future::pending().await,
    }
}

/// An answer of nobody.
fn failed(reason: &str) -> Answer {
    Answer { families: [Family::Failed(reason.to_owned()), Family::Failed(reason.to_owned())], ttl: Duration::ZERO }
}

/// The way to some servers.
struct Asker {
    resolver: TokioResolver,
    search: Vec<Name>,
    /// A name with as many dots is first looked up as it stands.
    dots_min: usize,
}

impl Asker {
    fn new(servers: &[SocketAddr]) -> Result<Asker, String> {
        let (config, mut options) = match servers {
            [] => read_system_conf().map_err(|error| format!("{RESOLV_CONF}: {error}"))?,
            _ => {
                let mut options = ResolverOpts::default();
                options.use_hosts_file = ResolveHosts::Never;
                (ResolverConfig::from_parts(None, Vec::new(), servers.iter().map(server).collect()), options)
            }
        };
        let search = match (config.search(), config.domain()) {
            ([], domain) => domain.cloned().into_iter().collect(),
            (search, _) => search.to_vec(),
        };
        let dots_min = options.ndots;
        options.timeout = options.timeout.min(TRY_TIMEOUT);
        // How long an answer is good is `names`' business.
        options.cache_size = 0;
        let builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
        let resolver = builder.with_options(options).build().map_err(|error| error.to_string())?;
        Ok(Asker { resolver, search, dots_min })
    }

    /// Asks for both kinds of addresses.
    async fn ask(&self, name: &str) -> Answer {
        let asked = tokio::time::timeout(QUESTION_TIMEOUT, self.ask_all(name)).await;
        asked.unwrap_or_else(|_| failed("no answer in time"))
    }

    /// The first of the names that this one may stand for that has addresses. Where somebody cannot say, those after it
    /// are not asked for: they may be others' names.
    async fn ask_all(&self, name: &str) -> Answer {
        let candidates = match candidates(name, &self.search, self.dots_min) {
            Ok(candidates) => candidates,
            Err(reason) => return failed(&reason),
        };
        let mut answer = failed("there is no such name");
        for candidate in candidates {
            let (v4, v6) = tokio::join!(
                self.resolver.lookup(candidate.clone(), RecordType::A),
                self.resolver.lookup(candidate, RecordType::AAAA),
            );
            let ttls = [&v4, &v6].into_iter().flatten().flat_map(|lookup| lookup.answers()).map(|record| record.ttl);
            let ttl = Duration::from_secs(ttls.min().unwrap_or(0).into());
            let families = [v4, v6].map(|looked_up| match looked_up {
                Ok(lookup) => family(lookup.answers().iter().filter_map(|record| record.data.ip_addr())),
                Err(NetError::Dns(DnsError::NoRecordsFound(none))) => Family::None(match none.response_code {
                    ResponseCode::NoError => NO_ADDRESSES.to_owned(),
                    code => code.to_string(),
                }),
                Err(error) => Family::Failed(error.to_string()),
            });
            let is_last = families.iter().any(|family| !matches!(family, Family::None(_)));
            answer = Answer { families, ttl };
            if is_last {
                break;
            }
        }
        answer
    }
}

/// UDP, and TCP for what does not fit.
fn server(address: &SocketAddr) -> NameServerConfig {
    let connection = |mut connection: ConnectionConfig| {
        connection.port = address.port();
        connection
    };
    let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(connection);
    NameServerConfig::new(address.ip(), true, connections.into())
}

/// Those of the addresses that an instance can have.
fn family(addresses: impl Iterator<Item = std::net::IpAddr>) -> Family {
    let addresses = addresses.map(|address| address.to_canonical());
    let usable: Vec<_> = addresses.filter(|address| !address.is_unspecified() && !address.is_multicast()).collect();
    match usable.is_empty() {
        true => Family::None(NO_ADDRESSES.to_owned()),
        false => Family::Addresses(usable),
    }
}

/// The names that one may stand for, in the order of resolv.conf(5).
fn candidates(name: &str, search: &[Name], dots_min: usize) -> Result<Vec<Name>, String> {
    let mut own = Name::from_ascii(name).map_err(|error| error.to_string())?;
    if own.is_fqdn() {
        return Ok(vec![own]);
    }
    let is_first = name.matches('.').count() >= dots_min;
    // Too long is nobody's name.
    let within = search.iter().filter_map(|domain| own.clone().append_domain(domain).ok());
    let mut all: Vec<Name> = within
        .map(|mut name| {
            name.set_fqdn(true);
            name
        })
        .collect();
    own.set_fqdn(true);
    all.insert(if is_first { 0 } else { all.len() }, own);
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_stands_for_several() {
        let check = |name: &str, search: &str, dots_min: usize, expected: &str| {
            let search: Vec<Name> =
                search.split_whitespace().map(|name| Name::from_ascii(name).expect("rows are names")).collect();
            let shown = candidates(name, &search, dots_min).expect("rows are names");
            let shown: Vec<String> = shown.iter().map(Name::to_string).collect();
            assert_eq!(shown.join(" "), expected, "{name}");
        };
        check("web", "", 1, "web.");
        check("web.", "a.test b.test", 1, "web.");
        check("web", "a.test b.test.", 1, "web.a.test. web.b.test. web.");
        check("web.shop", "a.test", 1, "web.shop. web.shop.a.test.");
        check("web.shop", "a.test", 5, "web.shop.a.test. web.shop.");
        check("my_web", "", 1, "my_web.");
    }

    #[test]
    fn addresses_of_nobody_are_left_out() {
        let check = |addresses: &str, expected: &str| {
            let parsed = addresses.split(' ').map(|address| address.parse().expect("rows are addresses"));
            let shown = match family(parsed) {
                Family::Addresses(addresses) => addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "),
                Family::None(_) | Family::Failed(_) => "-".to_owned(),
            };
            assert_eq!(shown, expected, "{addresses}");
        };
        check("10.0.0.1 0.0.0.0 224.0.0.1", "10.0.0.1");
        check(":: ff02::1", "-");
        check("::ffff:10.0.0.1 fd00::1", "10.0.0.1 fd00::1");
    }
}
