//! What rules do, each different thing once: most of ten thousand rules do what others do, and a request finds in
//! the cache what the one before it met. Pure, Cold.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::snapshot::policy::Policy;
use crate::snapshot::{Backends, Filter};

/// The filters, backends and policies of all rules so far.
#[derive(Default)]
pub(crate) struct Actions {
    filters: HashSet<Arc<[Filter]>>,
    backends: HashSet<Arc<Backends>>,
    /// By the addresses of the policies, of which there is one for each target, and which the lists keep alive.
    policies: HashMap<Vec<usize>, Arc<[Arc<Policy>]>>,
}

impl Actions {
    /// These filters, or equal ones of an earlier rule.
    pub(crate) fn filters(&mut self, filters: Vec<Filter>) -> Arc<[Filter]> {
        if let Some(known) = self.filters.get(&filters[..]) {
            return known.clone();
        }
        let filters: Arc<[Filter]> = filters.into();
        self.filters.insert(filters.clone());
        filters
    }

    /// These backends, or equal ones of an earlier rule.
    pub(crate) fn backends(&mut self, backends: Backends) -> Arc<Backends> {
        if let Some(known) = self.backends.get(&backends) {
            return known.clone();
        }
        let backends = Arc::new(backends);
        self.backends.insert(backends.clone());
        backends
    }

    /// These policies, or the same ones of an earlier rule or Service.
    pub(crate) fn policies(&mut self, policies: Vec<Arc<Policy>>) -> Arc<[Arc<Policy>]> {
        let addresses = policies.iter().map(|policy| Arc::as_ptr(policy).addr()).collect();
        self.policies.entry(addresses).or_insert_with(|| policies.into()).clone()
    }
}
