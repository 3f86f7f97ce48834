//! Many proxies at once, each with its real machine and no socket.

use std::sync::Mutex;
use std::time::Duration;

use config::Source;
use config::document;
use config::wire::envoy::config::core::v3::Node;
use config::wire::envoy::service::discovery::v3::DeltaDiscoveryRequest;
use config::xds::TYPE;

use super::*;
use crate::access::Author;
use crate::server::check::Checker;
use crate::server::feed::Feed;
use crate::server::limits::Places;
use crate::server::wire::Link;
use crate::store::{Cause, Change, Disk, Expected, File, Transaction};

const PROXIES: u64 = 10_000;

/// A store, what proxies can get of it, and those that are connected.
struct World {
    store: Store,
    feed: Arc<Feed>,
    fleet: Arc<Fleet>,
    roll: Arc<Roll>,
    proxies: Vec<Arc<Proxy>>,
}

impl World {
    fn start() -> World {
        let checker = Arc::new(Mutex::new(Checker::default()));
        let disk = Disk::open(File::Memory).expect("memory");
        let store = Store::start(disk, Box::new(checker)).expect("an empty store");
        let roll = Roll::new(store.clone(), Arc::default());
        let fleet = Arc::new(Fleet::new(store.clone(), Arc::default(), roll.clone(), BTreeSet::new()));
        let feed = Arc::new(Feed::new(fleet.clone(), roll.clone()));
        tokio::spawn({
            let (feed, store) = (feed.clone(), store.clone());
            async move { feed.run(store).await }
        });
        World { fleet, store, feed, roll, proxies: Vec::new() }
    }

    /// Applies documents, and waits until proxies can get them.
    async fn apply(&self, text: &str) -> u64 {
        let sources = [Source { name: "t".into(), bytes: text.into() }];
        let documents = document::documents(&sources).expect("they are right");
        let change = |one: document::Document| Change {
            key: one.key,
            text: Some(one.value.to_string().into()),
            expected: Expected::Anything,
        };
        let changes = documents.into_iter().map(change).collect();
        let made = self
            .store
            .commit(Transaction {
                changes,
                author: Author { name: "t".into(), role: None, from: None },
                message: "t".into(),
                cause: Cause::CHANGE,
            })
            .await;
        let revision = made.expect("it is right").revision;
        while self.feed.catalog().revision() < revision {
            tokio::task::yield_now().await;
        }
        revision
    }

    fn connect(&mut self, id: u64) {
        let request = DeltaDiscoveryRequest {
            node: Some(Node { id: format!("p{id}"), ..Node::default() }),
            type_url: TYPE.into(),
            resource_names_subscribe: vec!["Gateway/default/g/*".into()],
            ..DeltaDiscoveryRequest::default()
        };
        self.proxies.push(Proxy::new(None));
        self.tell(id, request);
    }

    fn tell(&self, id: u64, request: DeltaDiscoveryRequest) {
        let proxy = &self.proxies[id as usize];
        let catalog = self.feed.catalog();
        let mut life = proxy.life();
        life.stream.on_request(&catalog, request).expect("it is right");
        let responses = life.stream.responses(&catalog);
        drop(life);
        self.fleet.note(id, proxy, &catalog, &responses);
    }

    /// Whatever was sent to a proxy is in force there.
    fn answer(&self, id: u64) {
        let nonces: Vec<String> = self.proxies[id as usize].life().stream.unanswered().map(str::to_owned).collect();
        for response_nonce in nonces {
            self.tell(id, DeltaDiscoveryRequest { type_url: TYPE.into(), response_nonce, ..Default::default() });
        }
    }
}

fn gateway() -> &'static str {
    "{apiVersion: gateway.networking.k8s.io/v1, kind: Gateway, metadata: {name: g}, spec: {gatewayClassName: evenkeel, \
     listeners: [{name: http, port: 80, protocol: HTTP}]}}"
}

#[tokio::test]
async fn ten_thousand_answers_are_one_piece_of_news() {
    let mut world = World::start();
    let revision = world.apply(gateway()).await;
    let started = Instant::now();
    (0..PROXIES).for_each(|id| world.connect(id));
    let mut floor = world.fleet.floor();
    assert_eq!(*floor.borrow_and_update(), Some(0), "they have been sent it, and nobody has taken it");
    (0..PROXIES - 1).for_each(|id| world.answer(id));
    assert!(!floor.has_changed().expect("the fleet is there"), "one is missing");
    assert_eq!(world.fleet.reached(revision), None);
    world.answer(PROXIES - 1);
    assert!(floor.has_changed().expect("the fleet is there"));
    assert_eq!(*floor.borrow_and_update(), Some(revision));
    assert!(world.fleet.reached(revision).is_some_and(|at| at >= started));
    // The machine is as slow as its owner likes; what is quadratic in the number of proxies would take minutes.
    assert!(started.elapsed().as_secs() < 20, "{:?}", started.elapsed());
    eprintln!("{PROXIES} proxies introduced and answered in {:?}", started.elapsed());

    // Who was here before the start, and is not back in time, has gone.
    let before = BTreeSet::from(["lost".into()]);
    let other = Fleet::new(world.store.clone(), Arc::default(), world.roll.clone(), before);
    assert!(!other.give_up(Instant::now()) && other.give_up(Instant::now() + Duration::from_secs(60)));
    let lost = other.gone_since(started);
    assert_eq!(lost.iter().map(|gone| (&*gone.id, &gone.how)).collect::<Vec<_>>(), [("lost", &Leave::Lost)]);
    assert_eq!((other.awaited().1.len(), *other.awaited_count().borrow()), (0, 0));

    // Who goes is remembered, and does not hold the others up.
    world.connect(PROXIES);
    assert_eq!(*floor.borrow_and_update(), Some(0));
    let before = Instant::now();
    world.fleet.forget(PROXIES, Leave::Orderly);
    assert_eq!(*floor.borrow_and_update(), Some(revision));
    let gone = world.fleet.gone_since(before);
    assert_eq!(gone.iter().map(|gone| (&*gone.id, gone.settled)).collect::<Vec<_>>(), [("p10000", 0)]);
    assert!(world.fleet.gone_since(Instant::now()).is_empty());
}

#[tokio::test]
async fn one_that_fell_silent_may_be_there_for_long() {
    const WEB: &str = "Endpoints/default/web";
    let service = |host: u8| {
        format!(
            "{{apiVersion: evenkeel.dev/v1alpha1, kind: Service, metadata: {{name: web}}, spec: {{ports: [{{name: http, port: 80}}], \
             endpoints: [{{address: 10.0.0.{host}, ports: {{http: 80}}}}]}}}}"
        )
    };
    let mut world = World::start();
    world.apply(&service(1)).await;
    // The last one is the third, back before its connection is known to be gone.
    for (number, id) in [(0, "closed"), (1, "silent"), (2, "back"), (3, "back")] {
        let source = std::net::SocketAddr::from(([10, 0, 0, 1], 4_711));
        let place = || Places::new(1, 1).take(&source.ip(), 1).expect("the first");
        world.proxies.push(Proxy::new(Some(Arc::new(Link::new(source, place(), place())))));
        let request = DeltaDiscoveryRequest {
            node: Some(Node { id: id.into(), ..Node::default() }),
            type_url: TYPE.into(),
            resource_names_subscribe: vec![WEB.into()],
            ..DeltaDiscoveryRequest::default()
        };
        world.tell(number, request);
        world.answer(number);
    }
    world.proxies[0].life().link.as_ref().expect("it is connected").note_closed();
    (0..3).for_each(|number| world.fleet.forget(number, Leave::Broken));
    let revision = world.apply(&service(2)).await;
    let now = Instant::now();
    for (after, expected) in [
        (Duration::ZERO, &["closed", "silent"][..]),
        (LEASE, &["silent"]),
        (SILENT_FOR - Duration::from_secs(1), &["silent"]),
        (SILENT_FOR, &[]),
    ] {
        let holders = world.fleet.holders(&world.feed.catalog(), WEB, revision, now + after);
        let mut lost: Vec<&str> = holders.lost.iter().map(|(_, id, _)| &**id).collect();
        lost.sort_unstable();
        assert_eq!(lost, expected, "{after:?}");
        assert_eq!(holders.open.iter().map(|(number, _)| *number).collect::<Vec<_>>(), [3]);
    }
}
