//! How configuration travels: both ends of a stream of resources between control and a proxy, as delta xDS
//! (<https://www.envoyproxy.io/docs/envoy/latest/api-docs/xds_protocol>) with resources of our own. Both ends are
//! machines: events in, messages out, time and dice as arguments; sockets are somebody else's.
//!
//! - A **transaction** of the store changes some resources at one revision. Nobody ever sees a part of it: a response
//!   holds everything that changed for a proxy, and stands or falls whole.
//! - A proxy **acknowledges** what is *in force*: every worker has taken it. So control knows where a revision is in
//!   force by what it reads on the same stream, and no second one is needed for that.
//! - What a proxy **refuses** is sent again transaction by transaction, so that one that is wrong does not keep the
//!   others; that one is left until something of it changes.
//! - **Endpoints** do not wait for rules: they have a place of their own among what is under way.
//! - What a proxy has is **never sent again**: not on a new stream either, where it says the versions it has.
//!
//! A proxy subscribes to names of resources, and to *collections*: names that end with `/*`, whose members control
//! knows, such as all rules of a gateway. Either is answered, with a removal if there is no such thing.

pub mod catalog;
pub mod client;
pub mod server;
pub mod service;
#[cfg(test)]
mod tests;
mod trial;

use std::fmt;
use std::str::FromStr;

/// The type of all resources, so that a transaction of several kinds is one response.
pub const TYPE: &str = "type.googleapis.com/evenkeel.v1.Resource";

/// Bytes of a name at most.
pub const NAME_BYTES_MAX: usize = 512;

/// What a name of endpoints begins with. They are urgent: no rule is compiled for them, and no canary waits for them.
pub const ENDPOINTS: &str = "Endpoints/";

/// The name of a Service's endpoints.
pub fn endpoints_of(namespace: &str, service: &str) -> String {
    format!("{ENDPOINTS}{namespace}/{service}")
}

/// Whether a name stands for members that control knows.
pub fn is_collection(name: &str) -> bool {
    name.ends_with("/*")
}

/// Which bytes a resource has: the revision of the store that changed it last, and a hash, since a store that was put
/// back to an older state counts the same revisions once more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Version {
    /// 0: there is no such resource.
    pub revision: u64,
    /// `consistent::hash` of the bytes.
    pub hash: u64,
}

impl Version {
    /// Of what is not there.
    pub const ABSENT: Version = Version { revision: 0, hash: 0 };
}

impl fmt::Display for Version {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}-{:016x}", self.revision, self.hash)
    }
}

impl FromStr for Version {
    type Err = ();

    /// The error is for everything that `Display` does not write.
    fn from_str(text: &str) -> Result<Version, ()> {
        let (revision, hash) = text.split_once('-').ok_or(())?;
        let version = Version {
            revision: revision.parse().map_err(|_| ())?,
            hash: u64::from_str_radix(hash, 16).map_err(|_| ())?,
        };
        if version.to_string() == text { Ok(version) } else { Err(()) }
    }
}
