//! Who is to hear of which changes: one that concerns a hundred proxies wakes those and nobody else, however many are
//! connected. Cold.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use config::xds::catalog::Changed;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

/// All streams, by number.
#[derive(Debug, Default)]
pub(crate) struct Followers(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    streams: HashMap<u64, UnboundedSender<Arc<Changed>>>,
    /// Who subscribes to a resource or a collection.
    by_name: HashMap<Arc<str>, BTreeSet<u64>>,
}

impl Followers {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A stream that hears of nothing so far.
    pub(crate) fn add(&self, stream: u64) -> UnboundedReceiver<Arc<Changed>> {
        let (sender, receiver) = unbounded_channel();
        self.inner().streams.insert(stream, sender);
        receiver
    }

    /// A stream subscribes to these from now on, beside others.
    pub(crate) fn subscribe<'n>(&self, stream: u64, names: impl IntoIterator<Item = &'n Arc<str>>) {
        let mut inner = self.inner();
        for name in names {
            inner.by_name.entry(name.clone()).or_default().insert(stream);
        }
    }

    /// And to these no longer.
    pub(crate) fn unsubscribe<'n>(&self, stream: u64, names: impl IntoIterator<Item = &'n Arc<str>>) {
        let mut inner = self.inner();
        for name in names {
            if let Some(streams) = inner.by_name.get_mut(name) {
                streams.remove(&stream);
                if streams.is_empty() {
                    inner.by_name.remove(name);
                }
            }
        }
    }

    /// A stream has ended, which subscribed to nothing any more.
    pub(crate) fn remove(&self, stream: u64) {
        self.inner().streams.remove(&stream);
    }

    /// Whoever subscribes to one of these.
    pub(crate) fn concerned(&self, names: &BTreeSet<Arc<str>>) -> BTreeSet<u64> {
        let inner = self.inner();
        names.iter().filter_map(|name| inner.by_name.get(name)).flatten().copied().collect()
    }

    /// Tells a change to these streams.
    pub(crate) fn tell_those(&self, streams: &BTreeSet<u64>, changed: &Arc<Changed>) {
        let inner = self.inner();
        for sender in streams.iter().filter_map(|stream| inner.streams.get(stream)) {
            // Whoever has just ended does not need to know.
            let _ = sender.send(changed.clone());
        }
    }

    /// Tells a change to whoever subscribes to one of these; None: to all. Returns who that is.
    pub(crate) fn tell(&self, names: Option<&BTreeSet<Arc<str>>>, changed: &Arc<Changed>) -> BTreeSet<u64> {
        let inner = self.inner();
        let told: BTreeSet<u64> = match names {
            None => inner.streams.keys().copied().collect(),
            Some(names) => names.iter().filter_map(|name| inner.by_name.get(name)).flatten().copied().collect(),
        };
        for stream in &told {
            // Whoever has just ended does not need to know.
            let _ = inner.streams.get(stream).map(|sender| sender.send(changed.clone()));
        }
        told
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(text: &str) -> BTreeSet<Arc<str>> {
        text.split_whitespace().map(Arc::from).collect()
    }

    #[test]
    fn only_those_hear_whom_it_concerns() {
        let followers = Followers::default();
        let mut streams: Vec<_> = (0..3).map(|stream| followers.add(stream)).collect();
        for (stream, subscribed) in [(0, "a b"), (1, "b c"), (2, "")] {
            followers.subscribe(stream, &names(subscribed));
        }
        let mut check = |changed: Option<&str>, expected: &[u64]| {
            let told = followers.tell(changed.map(names).as_ref(), &Arc::default());
            assert_eq!(told.into_iter().collect::<Vec<_>>(), expected);
            for (stream, receiver) in (0..).zip(&mut streams) {
                assert_eq!(receiver.try_recv().is_ok(), expected.contains(&stream), "{stream}");
            }
        };
        check(Some("b"), &[0, 1]);
        check(Some("b c"), &[0, 1]);
        check(Some("d"), &[]);
        check(None, &[0, 1, 2]);
        followers.unsubscribe(0, &names("b x"));
        check(Some("b"), &[1]);
        check(Some("a"), &[0]);
        followers.unsubscribe(1, &names("b c"));
        followers.remove(1);
        check(Some("b c"), &[]);
        assert_eq!(followers.inner().by_name.len(), 1);
    }
}
