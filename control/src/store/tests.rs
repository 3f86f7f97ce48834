//! Tables of transactions and what becomes of them, in memory and on a disk.

use super::*;
use crate::access::{Bounds, Identity, Role};

fn key(name: &str) -> Key {
    Key { kind: "Service".into(), namespace: "default".into(), name: name.into() }
}

fn put(name: &str, text: &str, expected: Expected) -> Change {
    Change { key: key(name), text: Some(text.into()), expected }
}

fn remove(name: &str) -> Change {
    Change { key: key(name), text: None, expected: Expected::Anything }
}

fn by(name: &str) -> Author {
    Author { name: name.into(), role: Some(Role::Operator), from: None }
}

fn by_test(changes: Vec<Change>) -> Transaction {
    Transaction { changes, author: by("test"), message: "a try".into(), cause: Cause::CHANGE }
}

/// Never both `y` and `z`; remembers what it let pass.
#[derive(Default)]
struct Picky(Arc<Mutex<Vec<u64>>>);

impl Check for Picky {
    fn begin(&mut self, _: &State) {}

    fn check(&mut self, draft: &Draft<'_>, committed: &Committed) -> Result<(), Refusal> {
        // It sees the whole as it would be.
        assert!(committed.moved.iter().all(|moved| draft.get(&moved.key) == moved.after.as_ref()));
        if draft.get(&key("y")).is_some() && draft.get(&key("z")).is_some() {
            return Err(Refusal::Wrong(Vec::new()));
        }
        self.0.lock().expect("a list").push(committed.revision);
        Ok(())
    }

    fn undo(&mut self, committed: &Committed) {
        assert_eq!(self.0.lock().expect("a list").pop(), Some(committed.revision));
    }
}

fn anything() -> Box<dyn Check> {
    Box::new(Picky::default())
}

fn commit(store: &Store, changes: Vec<Change>) -> Result<u64, Refusal> {
    wait_for(store.commit(by_test(changes))).map(|committed| committed.revision)
}

/// The store answers from a thread of its own.
fn wait_for<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().expect("a runtime").block_on(future)
}

fn shown(store: &Store) -> String {
    let state = store.state();
    let objects = state
        .objects()
        .map(|object| format!("{}={}@{}:{}", object.key.name, object.text, object.created, object.revision));
    objects.collect::<Vec<_>>().join(" ")
}

#[test]
fn transactions_are_made_whole_or_not_at_all() {
    let store = Store::start(Disk::open(File::Memory).expect("memory"), anything()).expect("a store");
    use Expected::{Absent, Anything, Revision};
    let conflict = |name: &str, found| Err(Refusal::Conflict { key: key(name), found });
    for (changes, expected, after) in [
        (vec![put("a", "1", Absent), put("b", "1", Anything)], Ok(1), "a=1@1:1 b=1@1:1"),
        (vec![put("a", "2", Absent)], conflict("a", Some(1)), "a=1@1:1 b=1@1:1"),
        (vec![put("b", "2", Anything), put("a", "2", Revision(9))], conflict("a", Some(1)), "a=1@1:1 b=1@1:1"),
        (vec![put("c", "2", Revision(1))], conflict("c", None), "a=1@1:1 b=1@1:1"),
        (vec![put("a", "2", Revision(1)), put("b", "1", Anything)], Ok(2), "a=2@1:2 b=1@1:1"),
        (vec![put("a", "2", Anything)], Ok(2), "a=2@1:2 b=1@1:1"),
        (vec![put("a", "3", Anything), remove("a")], Err(Refusal::Twice(key("a"))), "a=2@1:2 b=1@1:1"),
        (vec![remove("b"), remove("none")], Ok(3), "a=2@1:2"),
        (vec![put("b", "4", Absent)], Ok(4), "a=2@1:2 b=4@4:4"),
    ] {
        assert_eq!(commit(&store, changes.clone()), expected, "{changes:?}");
        assert_eq!(shown(&store), after, "{changes:?}");
    }
    let Missed::Changes(missed) = store.since(2) else { panic!("two are remembered") };
    assert_eq!(missed.iter().map(|committed| committed.revision).collect::<Vec<_>>(), [3, 4]);
    assert_eq!(*store.revisions().borrow(), 4);
}

#[test]
fn what_a_check_refuses_changes_nothing() {
    let passed = Arc::<Mutex<Vec<u64>>>::default();
    let check = Box::new(Picky(passed.clone()));
    let store = Store::start(Disk::open(File::Memory).expect("memory"), check).expect("a store");
    let any = Expected::Anything;
    assert_eq!(commit(&store, vec![put("a", "1", any), put("y", "1", any)]), Ok(1));
    assert_eq!(commit(&store, vec![put("z", "1", any), put("a", "2", any)]), Err(Refusal::Wrong(Vec::new())));
    assert_eq!(shown(&store), "a=1@1:1 y=1@1:1");
    assert_eq!(commit(&store, vec![remove("y"), put("z", "1", any)]), Ok(2));
    assert_eq!(*passed.lock().expect("a list"), [1, 2]);
}

#[test]
fn history_is_remembered_and_leads_back() {
    let folder = std::env::temp_dir().join(format!("evenkeel-store-{}", std::process::id()));
    let any = Expected::Anything;
    {
        let store = Store::open(&folder, anything()).expect("a store");
        for changes in [
            vec![put("a", "1", any), put("b", "1", any)],
            vec![put("a", "2", any)],
            vec![remove("b"), put("c", "3", any)],
        ] {
            commit(&store, changes).expect("it is right");
        }
        assert!(Store::open(&folder, anything()).is_err(), "one process at a time");
        assert_eq!(shown(&store), "a=2@1:2 c=3@3:3");
    }
    // As after the end of the process.
    let store = reopened(&folder);
    assert_eq!(shown(&store), "a=2@1:2 c=3@3:3");
    let history = store.history(u64::MAX, 2).expect("it can be read");
    let shown_history: Vec<_> = history.iter().map(|record| (record.revision, record.keys.join(" "))).collect();
    let expected = [(3, "Service/default/b Service/default/c".to_owned()), (2, "Service/default/a".to_owned())];
    assert_eq!(shown_history, expected);
    assert_eq!((&*history[0].author, &*history[0].message), ("test", "a try"));
    let versions = store.versions(&key("b"), 10).expect("they can be read");
    let expected = [Version { revision: 3, text: None }, Version { revision: 1, text: Some("1".into()) }];
    assert_eq!(versions, expected);
    for (revision, name, after) in
        [(1, None, "a=1@1:4 b=1@4:4"), (3, Some("a"), "a=2@1:5 b=1@4:4"), (0, None, ""), (5, None, "a=2@7:7 b=1@7:7")]
    {
        let changes =
            store.way_back(revision, |key| name.is_none_or(|name| *key.name == *name)).expect("it is remembered");
        commit(&store, changes).expect("it was right before");
        assert_eq!(shown(&store), after, "back to {revision}");
    }
    assert!(store.way_back(8, |_| true).is_err());
    drop(store);
    std::fs::remove_dir_all(&folder).expect("it is ours");
}

/// The writer of a store ends a moment after the last handle.
fn reopened(folder: &Path) -> Store {
    loop {
        match Store::open(folder, anything()) {
            Ok(store) => return store,
            Err(error) if error.0.contains("open already") => std::thread::yield_now(),
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
fn no_change_is_without_its_place_in_the_audit() {
    let folder = std::env::temp_dir().join(format!("evenkeel-audit-{}", std::process::id()));
    let any = Expected::Anything;
    let identity = Identity { name: "ci".into(), role: Role::Operator, bounds: Bounds::default() };
    let token = Token { identity, hash: [7; 32], created_ms: 1, expires_ms: None, author: "test".into() };
    {
        let store = Store::open(&folder, anything()).expect("a store");
        let change = |change| wait_for(store.change_token(change, by("root")));
        commit(&store, vec![put("a", "1", any)]).expect("it is right");
        commit(&store, vec![put("a", "1", any)]).expect("nothing changes");
        assert_eq!(change(TokenChange::Create(token.clone())), Ok(()));
        assert_eq!(change(TokenChange::Create(token.clone())), Err(TokenRefusal::Taken("ci".into())));
        store.note(Attempt { author: by("ci"), action: "DELETE x".into(), reason: "no".into(), count: 3 });
        commit(&store, vec![put("a", r#"{"x":2}"#, any)]).expect("it is right");
        assert_eq!(change(TokenChange::Create(Token { hash: [8; 32], ..token.clone() })).map_err(|_| ()), Err(()));
        assert!(store.tokens().borrow().has(&token));
    }
    let store = reopened(&folder);
    assert!(store.tokens().borrow().has(&token), "it is on disk");
    assert_eq!(wait_for(store.change_token(TokenChange::Revoke("ci".into()), by("root"))), Ok(()));
    assert!(!store.tokens().borrow().has(&token));
    let audit = store.audit(u64::MAX, 10).expect("it can be read");
    let shown: Vec<String> = audit
        .iter()
        .map(|(number, entry)| {
            let [who, action, about] = ["who", "action", "attempt"].map(|field| entry[field].as_str().unwrap_or("-"));
            let name = entry["token"]["name"].as_str().or(entry["objects"][0]["object"].as_str()).unwrap_or(about);
            format!("{number} {who} {action} {name} at {}", entry["revision"])
        })
        .collect();
    let expected = [
        "5 root revoked token ci at 2",
        "4 test changed Service/default/a at 2",
        "3 ci refused DELETE x at null",
        "2 root created token ci at 1",
        "1 test changed Service/default/a at 1",
    ];
    assert_eq!(shown, expected);
    assert_eq!(audit[1].1["objects"][0]["differences"][0]["after"].to_string(), r#"{"x":2}"#);
    assert_eq!(store.audit(3, 1).expect("it can be read")[0].0, 2);
    drop(store);
    std::fs::remove_dir_all(&folder).expect("it is ours");
}

#[test]
fn many_at_a_time_are_written_in_one_go() {
    let store = Store::start(Disk::open(File::Memory).expect("memory"), anything()).expect("a store");
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let mut revisions = runtime.block_on(async {
        let mut all = tokio::task::JoinSet::new();
        for number in 0..500 {
            let store = store.clone();
            let changes = vec![put(&number.to_string(), "1", Expected::Absent)];
            all.spawn(async move { store.commit(by_test(changes)).await.map(|committed| committed.revision) });
        }
        all.join_all().await.into_iter().collect::<Result<Vec<_>, _>>().expect("they are right")
    });
    revisions.sort_unstable();
    assert_eq!(revisions, (1..=500).collect::<Vec<_>>());
}

#[test]
fn a_full_disk_takes_nothing_that_was_answered() {
    let disk = faulty::Faulty::new();
    let open = || Disk::open(File::Faulty(disk.clone()));
    let store = Store::start(open().expect("there is room"), anything()).expect("a store");
    assert_eq!(commit(&store, vec![put("a", "1", Expected::Absent)]), Ok(1));
    let mut revision = 1;
    let mut failures = 0;
    // Wherever in a write the room ends: it is refused as a whole, and what was there stays.
    for room in 0..40 {
        disk.fill_after(room);
        let text = format!("{room}");
        match commit(&store, vec![put("a", &text, Expected::Anything), put(&text, "new", Expected::Absent)]) {
            Ok(made) => assert_eq!(made, revision + 1),
            Err(Refusal::Unavailable(reason)) => {
                failures += 1;
                assert!(store.state().get(&key(&text)).is_none(), "{reason}");
                assert_eq!(store.state().revision(), revision);
            }
            Err(other) => panic!("{other:?}"),
        }
        disk.heal();
        // There is room again: the same store goes on.
        let again = put("b", &text, Expected::Anything);
        revision = commit(&store, vec![again]).unwrap_or_else(|refusal| panic!("room for {room}: {refusal:?}"));
    }
    assert!((5..40).contains(&failures), "{failures}");
    let objects = |state: &State| {
        state.objects().map(|object| (object.key.to_string(), object.text.to_string())).collect::<Vec<_>>()
    };
    let kept = objects(&store.state());
    drop(store);
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    // Its thread ends a moment after the last handle, and lets go of the disk.
    let read = loop {
        match open().and_then(|disk| disk.load()) {
            Ok(read) => break read,
            Err(error) => assert!(std::time::Instant::now() < deadline, "{error:?}"),
        }
    };
    assert_eq!((objects(&read), read.revision()), (kept, revision), "what was answered is on disk");
}
