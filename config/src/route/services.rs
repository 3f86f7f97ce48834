//! Which entry a call to a Service meets: the name and the port in its authority say which port of which Service is meant,
//! and that has entries of its own. Which names a Service has is `sidecar`'s business. Pure, Hot.

use std::ops::Range;
use std::sync::Arc;

use crate::route::bytes::ByteMap;
use crate::route::paths::Paths;
use crate::route::{Found, RequestView, RouteEntry, number};
use crate::snapshot::Rule;

/// Entries by the port that they are for.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Services {
    by_authority: ByteMap<u32>,
    ports: Vec<Paths>,
    /// Of each port its Service, and the numbers of its rules.
    rules: Vec<(Arc<str>, Range<usize>)>,
}

/// A port of a Service.
pub(crate) struct Port {
    /// `namespace/name`.
    pub service: Arc<str>,
    /// The names of the Service, without port.
    pub hosts: Vec<String>,
    /// Its number.
    pub number: u16,
    /// Whether it is meant where none is named.
    pub is_default: bool,
    /// What requests to it meet.
    pub entries: Vec<RouteEntry>,
}

impl Services {
    /// Indexes ports, and appends their rules.
    pub(super) fn new(all: &[Port], rules: &mut Vec<Arc<Rule>>) -> Services {
        let mut services = Services::default();
        for port in all {
            let (mut paths, first) = (Paths::default(), rules.len());
            port.entries.iter().for_each(|entry| paths.add(entry, number(rules, entry)));
            paths.finish();
            services.rules.push((port.service.clone(), first..rules.len()));
            let place = services.ports.len() as u32;
            services.ports.push(paths);
            for host in &port.hosts {
                if port.is_default {
                    services.by_authority.entry(host.as_bytes(), || place);
                }
                services.by_authority.entry(format!("{host}:{}", port.number).as_bytes(), || place);
            }
        }
        services
    }

    /// Whether this is the name of one, or of one and one of its ports.
    pub(super) fn has(&self, authority: &[u8]) -> bool {
        self.by_authority.get(authority).is_some()
    }

    /// The Service of each port, and the numbers of its rules.
    pub(super) fn rules(&self) -> impl Iterator<Item = (&Arc<str>, Range<usize>)> {
        self.rules.iter().map(|(service, rules)| (service, rules.clone()))
    }

    /// The first entry of the port that is called whose conditions all hold.
    pub(super) fn find(&self, request: &impl RequestView) -> Option<Found<'_>> {
        let place = *self.by_authority.get(request.authority())?;
        self.ports[place as usize].find(request)
    }
}
