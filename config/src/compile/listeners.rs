//! Which listener stands at which socket address, and what it takes: several may share a port when their
//! host names differ. Pure, Cold.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use crate::model::gateway::{FromNamespaces, Listener as Written, Spec};
use crate::model::{Documents, Object};
use crate::problem::{Place, Problems};
use crate::route::{RouteEntry, Table};
use crate::snapshot::lanes::LaneRole;
use crate::snapshot::shadow::ListenerShadow;
use crate::snapshot::{Bind, ListenerSettings};

/// A listener with everything that is found out about it.
pub(crate) struct Listener<'d> {
    /// The Gateway it belongs to.
    pub gateway: &'d Object<Spec>,
    /// As it is written.
    pub written: &'d Written,
    /// Its index in the Gateway.
    pub index: usize,
    /// The socket addresses it stands at.
    pub addresses: Vec<SocketAddr>,
    /// What its policy says.
    pub settings: Arc<ListenerSettings>,
    /// What its policy in shadow says.
    pub shadow: Option<Arc<ListenerShadow>>,
    /// What it does about lanes.
    pub lanes: LaneRole,
    /// What it would do about lanes, if LaneGroups in shadow acted.
    pub shadow_lanes: LaneRole,
    /// The matches of all routes attached to it.
    pub entries: Vec<RouteEntry>,
}

impl Listener<'_> {
    /// `namespace/gateway/listener`.
    pub(crate) fn name(&self) -> String {
        format!("{}/{}", self.gateway.metadata, self.written.name.as_str())
    }

    /// The host it is for; None for all.
    pub(crate) fn hostname(&self) -> Option<&str> {
        self.written.hostname.as_ref().map(|hostname| hostname.as_str())
    }

    /// Whether routes of a namespace may attach.
    pub(crate) fn takes_routes_of(&self, namespace: &str) -> bool {
        let namespaces = self.written.allowed_routes.as_ref().and_then(|allowed| allowed.namespaces.as_ref());
        match namespaces.map_or(FromNamespaces::Same, |namespaces| namespaces.from) {
            FromNamespaces::All => true,
            FromNamespaces::Same => self.gateway.metadata.namespace() == namespace,
        }
    }

    fn place(&self) -> Place {
        self.written.port.place
    }

    fn field(&self, name: &str) -> String {
        format!("spec.listeners[{}].{name}", self.index)
    }
}

/// All listeners of all Gateways, in the order they are written.
pub(crate) fn gather<'d>(documents: &'d Documents, problems: &mut Problems) -> Vec<Listener<'d>> {
    let mut listeners = Vec::new();
    for gateway in documents.gateways.iter().map(Arc::as_ref) {
        let addresses = addresses(gateway, problems);
        for (index, written) in gateway.spec.listeners.iter().enumerate() {
            let port = written.port.number();
            let addresses = addresses.iter().map(|address| SocketAddr::new(*address, port)).collect();
            listeners.push(Listener {
                gateway,
                written,
                index,
                addresses,
                settings: Arc::default(),
                shadow: None,
                lanes: LaneRole::Strip,
                shadow_lanes: LaneRole::Strip,
                entries: Vec::new(),
            });
        }
    }
    check_distinct(&listeners, problems);
    check_overlap(&listeners, problems);
    listeners
}

/// The addresses of a Gateway without those that a wildcard among them covers.
fn addresses(gateway: &Object<Spec>, problems: &mut Problems) -> Vec<IpAddr> {
    let written: Vec<IpAddr> = gateway.spec.addresses.iter().map(|address| address.value.0).collect();
    if written.is_empty() {
        return vec![IpAddr::V6(Ipv6Addr::UNSPECIFIED)];
    }
    let mut kept = Vec::new();
    for (index, address) in written.iter().enumerate() {
        match written.iter().find(|other| covers(**other, *address)) {
            None => kept.push(*address),
            Some(wider) => {
                let place = gateway.spec.addresses[index].value.place;
                let field = format!("spec.addresses[{index}].value");
                problems.warning(place, field, format!("{address} is part of {wider}, which is there too"), None);
            }
        }
    }
    kept
}

/// Whether a socket on `wide` takes what one on `narrow` would. `::` takes IPv4 too.
fn covers(wide: IpAddr, narrow: IpAddr) -> bool {
    wide != narrow
        && match wide {
            IpAddr::V6(wide) => wide == Ipv6Addr::UNSPECIFIED,
            IpAddr::V4(wide) => wide == Ipv4Addr::UNSPECIFIED && narrow.is_ipv4(),
        }
}

/// A request must belong to exactly one listener (Gateway API, "Distinct Listeners").
fn check_distinct(listeners: &[Listener<'_>], problems: &mut Problems) {
    let mut seen: BTreeMap<(SocketAddr, Option<&str>), &Listener<'_>> = BTreeMap::new();
    for listener in listeners {
        for address in &listener.addresses {
            let Some(first) = seen.insert((*address, listener.hostname()), listener) else {
                continue;
            };
            let of = listener.hostname().map_or_else(String::new, |hostname| format!(" for {hostname:?}"));
            let place = problems.name(first.place());
            let reason =
                format!("port {} of {}{of} is that of {} at {place}", address.port(), address.ip(), first.name());
            let hint = "give them different ports or host names";
            problems.error_with_hint(listener.place(), listener.field("port"), reason, hint);
            break;
        }
    }
}

/// One socket on all addresses and another on one of them would share a port by the kernel's choice.
fn check_overlap(listeners: &[Listener<'_>], problems: &mut Problems) {
    let mut by_port: BTreeMap<u16, Vec<(&Listener<'_>, IpAddr)>> = BTreeMap::new();
    for listener in listeners {
        for address in &listener.addresses {
            let known = by_port.entry(address.port()).or_default();
            if !known.iter().any(|(_, known)| *known == address.ip()) {
                known.push((listener, address.ip()));
            }
        }
    }
    for addresses in by_port.values() {
        for (listener, narrow) in addresses {
            if let Some((other, wide)) = addresses.iter().find(|(_, wide)| covers(*wide, *narrow)) {
                let port = listener.written.port.number();
                let place = problems.name(other.place());
                let reason =
                    format!("port {port} of {narrow} is part of {wide}, where {} listens, at {place}", other.name());
                problems.error(listener.place(), listener.field("port"), reason);
            }
        }
    }
}

/// One bind for each socket address, sorted.
pub(crate) fn into_binds(listeners: Vec<Listener<'_>>, problems: &mut Problems) -> Vec<Bind> {
    let mut by_address: BTreeMap<SocketAddr, Vec<&Listener<'_>>> = BTreeMap::new();
    for listener in &listeners {
        for address in &listener.addresses {
            by_address.entry(*address).or_default().push(listener);
        }
    }
    let mut binds: Vec<Bind> = Vec::with_capacity(by_address.len());
    for (address, sharing) in by_address {
        let Some(first) = sharing.first() else {
            continue;
        };
        for other in &sharing {
            if (&other.settings, &other.shadow) != (&first.settings, &first.shadow) {
                // Bounds act before a request names its host, so they cannot differ by it.
                let reason =
                    format!("shares port {} with {} and needs the same ListenerPolicy", address.port(), first.name());
                let hint = "let one policy target the whole Gateway, or each of these listeners";
                problems.error_with_hint(other.place(), other.field("port"), reason, hint);
            }
            if (&other.lanes, &other.shadow_lanes) != (&first.lanes, &first.shadow_lanes) {
                // A lane is decided before the host is looked at.
                let reason =
                    format!("shares port {} with {} and needs the same part in lanes", address.port(), first.name());
                let hint = "let the LaneGroup name both of them, or the whole Gateway";
                problems.error_with_hint(other.place(), other.field("port"), reason, hint);
            }
        }
        let table = Table::new(sharing.iter().map(|listener| (listener.hostname(), listener.entries.as_slice())));
        binds.push(Bind {
            address,
            name: first.name().into(),
            settings: first.settings.clone(),
            lanes: first.lanes.clone(),
            shadow_lanes: first.shadow_lanes.clone(),
            shadow: first.shadow.clone(),
            table,
            calls: None,
            instance_of: None,
        });
    }
    binds
}
