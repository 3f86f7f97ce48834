//! Single values that people write: names, hosts, header fields, paths, addresses, times. Each type holds
//! only what is right, so that nothing past this file checks it again. What is right, `text` says; numbers
//! are `number`'s. Pure, Cold.

mod moment;
mod number;
mod text;

use std::net::IpAddr;

use serde_json::json;

use crate::decode::{Decode, Path, text_as};
use crate::problem::{Place, Problems};
use crate::tree::Node;

pub(crate) use moment::Moment;
pub(crate) use number::{Decimal, Percentage, Period, Port, Ratio, RedirectStatus, Size, Whole};
pub(crate) use text::{is_label, label, label_key, label_value, object_name, path as check_path};

/// Defines a text with rules: a type around what `parse` makes of it, and its schema.
macro_rules! text {
    ($(#[doc = $about:literal])* $name:ident = $parse:path, $schema:expr) => {
        text! { $(#[doc = $about])* $name(Box<str>) = $parse, $schema }

        impl $name {
            /// As it is written.
            pub(crate) fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    };
    ($(#[doc = $about:literal])* $name:ident($inner:ty) = $parse:path, $schema:expr) => {
        $(#[doc = $about])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub(crate) struct $name(pub $inner);

        impl Decode for $name {
            fn decode(node: &Node<'_>, path: &Path<'_>, problems: &mut Problems) -> Option<Self> {
                text_as(node, path, problems, $parse).map($name)
            }

            fn schema() -> serde_json::Value {
                $schema
            }
        }
    };
}

text! {
    /// The name of an object: a DNS subdomain in lower case (RFC 1123), as in Kubernetes.
    ObjectName = text::object_name,
    json!({"type": "string", "minLength": 1, "maxLength": 253,
        "pattern": "^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$"})
}

text! {
    /// The name of a listener, a rule or a port: written as an object's name.
    SectionName = text::object_name,
    json!({"type": "string", "minLength": 1, "maxLength": 253,
        "pattern": "^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$"})
}

text! {
    /// A namespace: one DNS label.
    Namespace = text::label,
    json!({"type": "string", "minLength": 1, "maxLength": 63, "pattern": "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"})
}

text! {
    /// An API group; empty for Kubernetes' core.
    Group = text::group,
    json!({"type": "string", "maxLength": 253,
        "pattern": "^$|^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$"})
}

text! {
    /// A kind of object.
    Kind = text::kind,
    json!({"type": "string", "minLength": 1, "maxLength": 63, "pattern": "^[a-zA-Z]([-a-zA-Z0-9]*[a-zA-Z0-9])?$"})
}

text! {
    /// A host name, or `*.` and the rest of one. No addresses.
    Hostname = text::hostname,
    json!({"type": "string", "minLength": 1, "maxLength": 253,
        "pattern": "^(\\*\\.)?[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$"})
}

text! {
    /// A host name without wildcard.
    PreciseHostname = text::precise_hostname,
    json!({"type": "string", "minLength": 1, "maxLength": 253,
        "pattern": "^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$"})
}

text! {
    /// A name in the DNS, `.` at its end allowed.
    DnsName = text::dns_name,
    json!({"type": "string", "minLength": 1, "maxLength": 253,
        "pattern": "^[a-z0-9_]([-a-z0-9_]*[a-z0-9_])?(\\.[a-z0-9_]([-a-z0-9_]*[a-z0-9_])?)*\\.?$"})
}

text! {
    /// The name of a header field: a token (RFC 9110 5.6.2).
    HeaderName = text::header_name,
    json!({"type": "string", "minLength": 1, "maxLength": 256, "pattern": "^[A-Za-z0-9!#$%&'*+\\-.^_`|~]+$"})
}

impl HeaderName {
    /// Whether every listener drops what clients send under this name: many servers take `_` for `-`.
    pub(crate) fn is_dropped(&self) -> bool {
        self.0.contains('_')
    }

    /// Warns of a rule that looks for such a field. `path` is the name's.
    pub(crate) fn warn_if_dropped(&self, place: Place, path: &Path<'_>, problems: &mut Problems) {
        if self.is_dropped() {
            let reason = "clients' fields with '_' in their name are dropped before rules see them";
            problems.warning(place, path, reason, None);
        }
    }
}

text! {
    /// The value of a header field: visible ASCII with single blanks inside (RFC 9110 5.5).
    HeaderValue = text::header_value,
    json!({"type": "string", "minLength": 1, "maxLength": 4096, "pattern": "^[!-~]+([\\t ]+[!-~]+)*$"})
}

text! {
    /// Any text of up to 4,096 bytes without control characters.
    Line = text::line,
    json!({"type": "string", "minLength": 1, "maxLength": 4096})
}

text! {
    /// A token (RFC 9110 5.6.2), as names of cookies and of members of `baggage` are.
    Token = text::token,
    json!({"type": "string", "minLength": 1, "maxLength": 256, "pattern": "^[A-Za-z0-9!#$%&'*+\\-.^_`|~]+$"})
}

text! {
    /// The name of a lane: one DNS label.
    LaneName = text::lane_name,
    json!({"type": "string", "minLength": 1, "maxLength": 63, "pattern": "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"})
}

text! {
    /// The body of an answer, of up to 64 KiB.
    Body = text::body,
    json!({"type": "string", "maxLength": 65536})
}

text! {
    /// A label's key, such as `lane` or `topology.kubernetes.io/zone`.
    LabelKey = text::label_key,
    json!({"type": "string", "minLength": 1, "maxLength": 317,
        "pattern": "^([a-z0-9.-]{1,253}/)?[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?$"})
}

text! {
    /// A label's value.
    LabelValue = text::label_value,
    json!({"type": "string", "maxLength": 63, "pattern": "^([A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?)?$"})
}

text! {
    /// An IPv4 or IPv6 address.
    Address(IpAddr) = text::address,
    json!({"type": "string", "anyOf": [{"format": "ipv4"}, {"format": "ipv6"}]})
}

text! {
    /// A network in CIDR notation.
    Cidr(ipnet::IpNet) = text::cidr,
    json!({"type": "string", "pattern": "^[0-9a-fA-F.:]+/[0-9]{1,3}$"})
}

text! {
    /// A moment in RFC 3339, kept in a form whose order is that of time.
    Timestamp(Moment) = moment::parse,
    json!({"type": "string", "format": "date-time"})
}

text! {
    /// What stands in a request line after the method: from `/` on, a query with it.
    RequestTarget = text::request_target,
    json!({"type": "string", "minLength": 1, "maxLength": 1024, "pattern": "^/[!\"$-~]*$"})
}

text! {
    /// A path to put in place of another; empty, or from `/` on, and such as a request could have.
    PathText = text::path_text,
    json!({"type": "string", "maxLength": 1024, "pattern": "^(/([-A-Za-z0-9/._~!$&'()*+,;=:@]|%[0-9a-fA-F]{2})*)?$"})
}
