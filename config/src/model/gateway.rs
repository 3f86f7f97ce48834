//! Gateway: addresses and listeners. Pure, Cold.

use crate::decode::{At, List, Path};
use crate::model::GATEWAY_GROUP;
use crate::object::{object, words};
use crate::problem::Problems;
use crate::value::{Address, Group, Hostname, Kind, Port, SectionName};

object! {
    /// Where requests arrive.
    Spec {
        /// Only `evenkeel`: Gateways of other classes are other implementations' business.
        required class: ClassName = "gatewayClassName",
        /// Each a port with a protocol; names are unique.
        required listeners: List<Listener, 1, 64> = "listeners",
        /// Addresses to listen on; all, IPv4 and IPv6, if absent.
        defaulted addresses: List<GatewayAddress, 0, 16> = "addresses" or List::default(),
    }
    refused { "infrastructure", "allowedListeners", "tls", "defaultScope", "backendTLS" }
    check names_are_unique;
}

words! {
    /// Who serves a Gateway.
    ClassName {
        /// This program.
        Evenkeel = "evenkeel",
    }
}

object! {
    /// One port with what is accepted there.
    Listener {
        /// Unique in its Gateway.
        required name: At<SectionName> = "name",
        /// Only requests to this host; all if absent.
        optional hostname: Hostname = "hostname",
        /// Where to listen; listeners may share a port when their host names differ.
        required port: At<Port> = "port",
        /// Only `HTTP` in this build.
        required protocol: Protocol = "protocol",
        /// Which routes may attach; those of the Gateway's namespace if absent.
        optional allowed_routes: AllowedRoutes = "allowedRoutes",
    }
    refused { "tls" }
}

words! {
    /// What a listener speaks.
    Protocol {
        /// HTTP/1.1 in plain text.
        Http = "HTTP",
    }
    refused { "HTTPS", "TLS", "TCP", "UDP" }
}

object! {
    /// Which routes may attach to a listener.
    AllowedRoutes {
        /// Of which namespaces.
        optional namespaces: RouteNamespaces = "namespaces",
        /// Of which kinds; every kind that fits the protocol if absent.
        defaulted kinds: List<RouteKind, 0, 8> = "kinds" or List::default(),
    }
}

object! {
    /// Namespaces whose routes may attach.
    RouteNamespaces {
        /// `Same` if absent.
        defaulted from: FromNamespaces = "from" or FromNamespaces::Same,
    }
    refused { "selector" }
}

words! {
    /// Namespaces whose routes may attach.
    FromNamespaces {
        /// Every one.
        All = "All",
        /// The Gateway's own.
        Same = "Same",
    }
    refused { "Selector", "None" }
}

object! {
    /// A kind of route.
    RouteKind {
        /// Gateway API's if absent.
        optional group: At<Group> = "group",
        /// Only `HTTPRoute` in this build.
        required kind: At<Kind> = "kind",
    }
    check kind_is_http_route;
}

object! {
    /// An address to listen on.
    GatewayAddress {
        /// `IPAddress` if absent.
        defaulted address_type: AddressType = "type" or AddressType::IpAddress,
        /// The address; `::` stands for all, IPv4 among them.
        required value: At<Address> = "value",
    }
}

words! {
    /// What an address is.
    AddressType {
        /// IPv4 or IPv6.
        IpAddress = "IPAddress",
    }
    refused { "Hostname", "NamedAddress" }
}

fn names_are_unique(spec: &Spec, path: &Path<'_>, problems: &mut Problems) {
    let path = path.field("listeners");
    for (index, listener) in spec.listeners.iter().enumerate() {
        if spec.listeners[..index].iter().any(|before| before.name.value == listener.name.value) {
            let reason = format!("{:?} is the name of another listener", listener.name.as_str());
            problems.error(listener.name.place, path.item(index).field("name"), reason);
        }
    }
    let path = Path::Field(&Path::Field(&Path::Document, "spec"), "addresses");
    for (index, address) in spec.addresses.iter().enumerate() {
        if spec.addresses[..index].iter().any(|before| before.value.value == address.value.value) {
            let reason = format!("{} is there twice", address.value.0);
            problems.error(address.value.place, path.item(index).field("value"), reason);
        }
    }
}

fn kind_is_http_route(route: &RouteKind, path: &Path<'_>, problems: &mut Problems) {
    let group = route.group.as_ref().map_or(GATEWAY_GROUP, |group| group.as_str());
    if group != GATEWAY_GROUP || route.kind.as_str() != "HTTPRoute" {
        let reason = format!("{} of {group:?} is not enforced by this build", route.kind.as_str());
        problems.error_with_hint(route.kind.place, path.field("kind"), reason, "only HTTPRoute is");
    }
}
