//! Which rule a request meets: Gateway API's precedence, precomputed so that ten thousand rules cost what
//! ten do. What the rule then does is `filters`' business. Pure, Hot.

mod bytes;
mod candidates;
mod entry;
mod expression;
mod hosts;
mod paths;
mod query;
mod services;
#[cfg(test)]
pub(crate) mod tests;

use std::sync::Arc;

use crate::route::hosts::Hosts;
use crate::route::paths::Paths;
use crate::route::services::Services;
use crate::snapshot::Rule;

pub use query::first as query_param;

pub use expression::Expression;

pub(crate) use entry::{Condition, Conditions, PathCondition, Rank, RouteEntry, ValueTest};
pub(crate) use expression::Expressions;
pub(crate) use services::Port;

/// What the table needs to see of a request. Bytes are normalised: host in lower case without port, path
/// without query, unreserved characters decoded.
pub trait RequestView {
    /// The method, as sent.
    fn method(&self) -> &[u8];
    /// The host in lower case, without port and trailing dot.
    fn host(&self) -> &[u8];
    /// The same with the port, if the client named one.
    fn authority(&self) -> &[u8];
    /// The normalised path, always starting with `/` (or `*` for `OPTIONS *`).
    fn path(&self) -> &[u8];
    /// The query without `?`, undecoded; empty if there is none.
    fn query(&self) -> &[u8];
    /// The values of all fields of that name (given in lower case), in their order.
    fn header<'h>(&'h self, name_lower: &'h str) -> impl Iterator<Item = &'h [u8]>;
}

/// The rule that a request meets.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Found<'t> {
    /// The rule.
    pub rule: &'t Arc<Rule>,
    /// Its place among `Table::rules`.
    pub number: usize,
    /// Bytes of the path that the rule's PathPrefix took, without a trailing slash; 0 for other matches.
    pub prefix_bytes: usize,
}

/// Every rule served at one address, indexed for look-up.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Table {
    index: Index,
    /// Each once, in the order of the routes.
    rules: Vec<Arc<Rule>>,
}

#[derive(Debug, Clone, PartialEq)]
enum Index {
    /// By the listeners' host names, then by the routes'.
    Listeners(Hosts<Hosts<Paths>>),
    /// By the names of Services with their ports.
    Services(Services),
}

impl Default for Index {
    fn default() -> Self {
        Index::Listeners(Hosts::default())
    }
}

impl Table {
    /// Indexes the entries of listeners that share an address, each with the host it is for.
    pub(crate) fn new<'e>(listeners: impl Iterator<Item = (Option<&'e str>, &'e [RouteEntry])>) -> Table {
        let (mut by_host, mut rules) = (Hosts::<Hosts<Paths>>::default(), Vec::new());
        for (hostname, entries) in listeners {
            let routes = by_host.entry(hostname);
            for entry in entries {
                routes.entry(entry.host()).add(entry, number(&mut rules, entry));
            }
        }
        by_host.for_each(|routes| routes.for_each(Paths::finish));
        Table { index: Index::Listeners(by_host), rules }
    }

    /// Indexes the entries of Services' ports; the hosts that entries are for say nothing.
    pub(crate) fn of_services(ports: &[Port]) -> Table {
        let mut rules = Vec::new();
        let services = Services::new(ports, &mut rules);
        Table { index: Index::Services(services), rules }
    }

    /// Whether this is the name of a Service here, or of one and one of its ports.
    pub fn has_service(&self, authority: &[u8]) -> bool {
        matches!(&self.index, Index::Services(services) if services.has(authority))
    }

    /// The Services here, `namespace/name`, and the rules that calls to a port of one meet; several times if it has several
    /// ports.
    pub fn services(&self) -> impl Iterator<Item = (&Arc<str>, &[Arc<Rule>])> {
        let services = match &self.index {
            Index::Services(services) => Some(services),
            Index::Listeners(_) => None,
        };
        let all = services.into_iter().flat_map(Services::rules);
        all.map(|(service, rules)| (service, self.rules.get(rules).unwrap_or_default()))
    }

    /// The rules, in the order of the routes, for people to look at.
    pub fn rules(&self) -> impl ExactSizeIterator<Item = &Arc<Rule>> {
        self.rules.iter()
    }

    /// The first rule in order of precedence whose conditions all hold: the most specific host name, then an
    /// Exact path, the longest PathPrefix, a RegularExpression; then a method, the most header conditions, the
    /// most query conditions; then the oldest route, the first by `namespace/name`, the first rule in it.
    pub fn find<'t>(&'t self, request: &impl RequestView) -> Option<Found<'t>> {
        match &self.index {
            Index::Listeners(listeners) => {
                let host = request.host();
                // A request belongs to one listener only: where that has no route for it, others are not asked
                // (Gateway API, "Listener Isolation").
                let routes = listeners.first(host, Some)?;
                routes.first(host, |paths| paths.find(request))
            }
            Index::Services(services) => services.find(request),
        }
    }
}

/// The number of an entry's rule among all. A rule's entries, one for each of its matches and hosts, stand together.
fn number(rules: &mut Vec<Arc<Rule>>, entry: &RouteEntry) -> usize {
    if rules.last().is_none_or(|last| !Arc::ptr_eq(last, &entry.rule)) {
        rules.push(entry.rule.clone());
    }
    rules.len() - 1
}
