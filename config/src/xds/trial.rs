//! A transaction on trial: some proxies see it, over what all others see, until it is promoted or taken back. A view is the
//! catalog as one proxy is to see it. Machine, Cold.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::xds::catalog::{Catalog, Entry};

/// What those see that try it.
#[derive(Debug, Default)]
pub(super) struct Trial {
    /// Of the transaction.
    pub(super) revision: u64,
    /// Who they are, by their nodes' ids: whoever of them comes back sees it again.
    pub(super) proxies: BTreeSet<Arc<str>>,
    pub(super) resources: BTreeMap<Arc<str>, Option<Entry>>,
    pub(super) collections: BTreeMap<Arc<str>, Option<BTreeSet<Arc<str>>>>,
}

/// The catalog, as one proxy is to see it.
#[derive(Debug, Clone, Copy)]
pub(super) struct View<'c> {
    pub(super) catalog: &'c Catalog,
    /// What it sees over the others' catalog.
    trial: Option<&'c Trial>,
    /// Nothing from this revision on is complete for it. None: there is nothing that it does not see.
    hidden: Option<u64>,
}

impl<'c> View<'c> {
    pub(super) fn new(catalog: &'c Catalog, trial: Option<&'c Trial>, id: &str) -> View<'c> {
        let seen = trial.filter(|trial| trial.proxies.contains(id));
        let hidden = trial.filter(|_| seen.is_none()).map(|trial| trial.revision);
        View { catalog, trial: seen, hidden }
    }

    /// Up to here, everything is to be seen.
    pub(super) fn revision(self) -> u64 {
        let revision = self.catalog.revision();
        self.hidden.map_or(revision, |hidden| revision.min(hidden.saturating_sub(1)))
    }

    /// A resource; None: there is none of that name.
    pub(super) fn resource(self, name: &str) -> Option<&'c Entry> {
        match self.trial.and_then(|trial| trial.resources.get(name)) {
            Some(tried) => tried.as_ref(),
            None => self.catalog.resource(name),
        }
    }

    /// The members of a collection; None: there is none of that name.
    pub(super) fn collection(self, name: &str) -> Option<&'c BTreeSet<Arc<str>>> {
        match self.trial.and_then(|trial| trial.collections.get(name)) {
            Some(tried) => tried.as_ref(),
            None => self.catalog.collection(name),
        }
    }

    /// What the transaction on trial changed, if it is seen.
    pub(super) fn tried(self) -> impl Iterator<Item = (u64, Vec<&'c Arc<str>>)> {
        self.trial.into_iter().map(|trial| (trial.revision, trial.resources.keys().collect()))
    }
}
