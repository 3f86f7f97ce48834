//! Which rule a request meets: Gateway API's precedence, precomputed so that ten thousand rules cost what
//! ten do. What the rule then does is `filters`' business. Pure, Hot.

use std::sync::Arc;

use crate::snapshot::Rule;

/// What the table needs to see of a request. Bytes are normalised: host in lower case without port, path
/// without query, unreserved characters decoded.
pub trait RequestView {
    /// The method, as sent.
    fn method(&self) -> &[u8];
    /// The host in lower case, without port and trailing dot.
    fn host(&self) -> &[u8];
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
    /// Bytes of the path that the rule's PathPrefix took, without a trailing slash; 0 for other matches.
    pub prefix_bytes: usize,
}

/// Every rule served at one address, indexed for look-up.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Table {}

impl Table {
    /// The first rule in order of precedence whose conditions all hold.
    pub fn find<'t>(&'t self, _request: &impl RequestView) -> Option<Found<'t>> {
        None
    }
}
