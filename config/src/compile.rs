//! Documents become a [`Snapshot`], of a Gateway or of a Service's sidecar: references are resolved as Gateway API says, in the
//! order a request meets them: listeners, their policies, routes, rules, backends. Errors are what cannot be understood or
//! reaches into another namespace without leave; what dangles or is hidden has a meaning and is a warning. Pure, Cold.

mod actions;
mod backends;
mod filters;
mod lanes;
mod listeners;
mod policies;
mod protection;
mod routes;
mod shadow;
mod sidecar;
#[cfg(test)]
mod tests;
mod traffic;

use std::collections::HashMap;

use crate::compile::lanes::Lanes;
use crate::compile::protection::Protection;
use crate::consistent::Tables;
use crate::model::Documents;
use crate::problem::Problems;
use crate::reader::Origin;
use crate::route::Expressions;
use crate::sidecar::{Called, Sidecar};
use crate::snapshot::Snapshot;

/// What is costly to make and stays from one configuration to the next.
#[derive(Debug, Default)]
pub(crate) struct Kept {
    expressions: Expressions,
    tables: Tables,
}

/// Whose configuration is made of documents.
#[derive(Debug, Default)]
pub(crate) enum Subject {
    /// That of all Gateways among them.
    #[default]
    Gateways,
    /// That of a Service's instance.
    Sidecar {
        sidecar: Sidecar,
        /// Which Services it may call; None: all that are there.
        called: Option<Called>,
    },
}

/// Resolves everything. The result is of use only if no error was told.
pub(crate) fn compile(
    documents: &Documents,
    origin: Origin,
    subject: &Subject,
    kept: &mut Kept,
    problems: &mut Problems,
) -> Snapshot {
    let Kept { expressions, tables } = kept;
    expressions.renew();
    tables.renew();
    check_identities(documents, problems);
    let mut listeners = listeners::gather(documents, problems);
    policies::attach(documents, &mut listeners, problems);
    let lanes = Lanes::gather(documents, &mut listeners, expressions, problems);
    let protection = Protection::gather(documents, problems);
    let settings = traffic::settings(documents, problems);
    let mut backends = backends::Resolver::new(documents, settings, &protection, &lanes, origin, tables);
    let of_services = routes::attach(documents, &mut listeners, &mut backends, expressions, problems);
    // What is wrong with listeners is told to whoever reads them.
    let mut binds = listeners::into_binds(listeners, problems);
    if let Subject::Sidecar { sidecar, called } = subject {
        let called = called.as_ref();
        binds = sidecar::binds(sidecar, called, documents, &of_services, &lanes, &mut backends, problems);
    }
    let clusters = backends.into_clusters();
    Snapshot { binds: binds.into(), clusters, lane_groups: lanes.groups, shadow_lane_groups: lanes.shadow_groups }
}

fn check_identities(documents: &Documents, problems: &mut Problems) {
    let mut seen = HashMap::new();
    for (kind, metadata, place) in documents.identities() {
        let identity = (kind, metadata.namespace(), metadata.name());
        if let Some(first) = seen.insert(identity, place) {
            let reason = format!("{kind} {metadata} is there already, at {}", problems.name(first));
            problems.error(metadata.name.place, "metadata.name", reason);
            seen.insert(identity, first);
        }
    }
}
