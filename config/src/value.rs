//! Single values that people write: names, hosts, header fields, paths, numbers, sizes, times. Each type
//! holds only what is right, so that nothing past this file checks it again. Pure, Cold.

use std::net::IpAddr;
use std::time::Duration;

use serde_json::json;

use crate::decode::{Decode, Path, refuse_shape, text_as};
use crate::model::http_route::check_path;
use crate::problem::Problems;
use crate::tree::{Node, Word};

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
    ObjectName = object_name,
    json!({"type": "string", "minLength": 1, "maxLength": 253,
        "pattern": "^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$"})
}

text! {
    /// The name of a listener, a rule or a port: written as an object's name.
    SectionName = object_name,
    json!({"type": "string", "minLength": 1, "maxLength": 253,
        "pattern": "^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$"})
}

text! {
    /// A namespace: one DNS label.
    Namespace = label,
    json!({"type": "string", "minLength": 1, "maxLength": 63, "pattern": "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"})
}

text! {
    /// An API group; empty for Kubernetes' core.
    Group = group,
    json!({"type": "string", "maxLength": 253,
        "pattern": "^$|^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$"})
}

text! {
    /// A kind of object.
    Kind = kind,
    json!({"type": "string", "minLength": 1, "maxLength": 63, "pattern": "^[a-zA-Z]([-a-zA-Z0-9]*[a-zA-Z0-9])?$"})
}

text! {
    /// A host name, or `*.` and the rest of one. No addresses.
    Hostname = hostname,
    json!({"type": "string", "minLength": 1, "maxLength": 253,
        "pattern": "^(\\*\\.)?[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$"})
}

text! {
    /// A host name without wildcard.
    PreciseHostname = precise_hostname,
    json!({"type": "string", "minLength": 1, "maxLength": 253,
        "pattern": "^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$"})
}

text! {
    /// The name of a header field: a token (RFC 9110 5.6.2).
    HeaderName = header_name,
    json!({"type": "string", "minLength": 1, "maxLength": 256, "pattern": "^[A-Za-z0-9!#$%&'*+\\-.^_`|~]+$"})
}

text! {
    /// The value of a header field: visible ASCII with single blanks inside (RFC 9110 5.5).
    HeaderValue = header_value,
    json!({"type": "string", "minLength": 1, "maxLength": 4096, "pattern": "^[!-~]+([\\t ]+[!-~]+)*$"})
}

text! {
    /// Any text of up to 4,096 bytes without control characters.
    Line = line,
    json!({"type": "string", "minLength": 1, "maxLength": 4096})
}

text! {
    /// A label's key, such as `lane` or `topology.kubernetes.io/zone`.
    LabelKey = label_key,
    json!({"type": "string", "minLength": 1, "maxLength": 317,
        "pattern": "^([a-z0-9.-]{1,253}/)?[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?$"})
}

text! {
    /// A label's value.
    LabelValue = label_value,
    json!({"type": "string", "maxLength": 63, "pattern": "^([A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?)?$"})
}

text! {
    /// An IPv4 or IPv6 address.
    Address(IpAddr) = address,
    json!({"type": "string", "anyOf": [{"format": "ipv4"}, {"format": "ipv6"}]})
}

text! {
    /// A network in CIDR notation.
    Cidr(ipnet::IpNet) = cidr,
    json!({"type": "string", "pattern": "^[0-9a-fA-F.:]+/[0-9]{1,3}$"})
}

text! {
    /// A moment in RFC 3339, kept in a form whose order is that of time.
    Timestamp(Moment) = crate::moment::parse,
    json!({"type": "string", "format": "date-time"})
}

pub(crate) use crate::moment::Moment;

text! {
    /// A path to put in place of another; empty, or from `/` on, and such as a request could have.
    PathText = path_text,
    json!({"type": "string", "maxLength": 1024, "pattern": "^(/([-A-Za-z0-9/._~!$&'()*+,;=:@]|%[0-9a-fA-F]{2})*)?$"})
}

/// 301, 302, 303, 307 or 308.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RedirectStatus(u16);

impl RedirectStatus {
    const ALL: [u16; 5] = [301, 302, 303, 307, 308];

    /// What Gateway API takes where none is written.
    pub(crate) const FOUND: RedirectStatus = RedirectStatus(302);

    /// The status code.
    pub(crate) fn code(self) -> u16 {
        self.0
    }
}

impl Decode for RedirectStatus {
    fn decode(node: &Node<'_>, path: &Path<'_>, problems: &mut Problems) -> Option<Self> {
        let complaint = "is not one of 301, 302, 303, 307, 308";
        let code = integer(node, path, complaint, 301, 308, problems)?;
        let known = Self::ALL.into_iter().find(|known| u64::from(*known) == code);
        if known.is_none() {
            problems.error(node.place, path, format!("{code} {complaint}"));
        }
        known.map(RedirectStatus)
    }

    fn schema() -> serde_json::Value {
        json!({"type": "integer", "enum": Self::ALL})
    }
}

/// A time span of at least MIN_MS milliseconds in Gateway API's format (GEP-2257): `5s`, `1h30m`, `100ms`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Period<const MIN_MS: u64>(pub Duration);

impl<const MIN_MS: u64> Decode for Period<MIN_MS> {
    fn decode(node: &Node<'_>, path: &Path<'_>, problems: &mut Problems) -> Option<Self> {
        text_as(node, path, problems, |text| match period(text)? {
            span if span < Duration::from_millis(MIN_MS) => Err(format!("must be at least {MIN_MS}ms")),
            span => Ok(Period(span)),
        })
    }

    fn schema() -> serde_json::Value {
        json!({"type": "string", "pattern": "^([0-9]{1,5}(h|m|s|ms)){1,4}$"})
    }
}

/// A size of MIN to MAX bytes: a number, or one with `k`, `M`, `G`, `Ki`, `Mi` or `Gi` (Kubernetes' quantities).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Size<const MIN: u64, const MAX: u64>(pub u64);

impl<const MIN: u64, const MAX: u64> Decode for Size<MIN, MAX> {
    fn decode(node: &Node<'_>, path: &Path<'_>, problems: &mut Problems) -> Option<Self> {
        let text = match node.word() {
            Some(Word::Text | Word::Integer(_)) => node.text().unwrap_or_default(),
            _ => {
                refuse_shape(node, path, "a size such as 10Mi", problems);
                return None;
            }
        };
        match quantity(text) {
            Some(bytes) if (MIN..=MAX).contains(&bytes) => return Some(Size(bytes)),
            Some(bytes) => problems.error(node.place, path, format!("{bytes} bytes is not within {MIN} to {MAX}")),
            None => problems.error(node.place, path, format!("{text:?} is not a size (such as 1000, 32Ki or 10Mi)")),
        }
        None
    }

    fn schema() -> serde_json::Value {
        json!({"anyOf": [
            {"type": "integer", "minimum": MIN, "maximum": MAX},
            {"type": "string", "pattern": "^[0-9]{1,18}(k|M|G|Ki|Mi|Gi)?$"},
        ]})
    }
}

/// A whole number from MIN to MAX.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Whole<const MIN: u64, const MAX: u64>(pub u64);

impl<const MIN: u64, const MAX: u64> Decode for Whole<MIN, MAX> {
    fn decode(node: &Node<'_>, path: &Path<'_>, problems: &mut Problems) -> Option<Self> {
        integer(node, path, &format!("is not a number from {MIN} to {MAX}"), MIN, MAX, problems).map(Whole)
    }

    fn schema() -> serde_json::Value {
        json!({"type": "integer", "minimum": MIN, "maximum": MAX})
    }
}

/// A port number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Port(u16);

impl Port {
    /// The number, 1 to 65535.
    pub(crate) fn number(self) -> u16 {
        self.0
    }
}

impl Decode for Port {
    fn decode(node: &Node<'_>, path: &Path<'_>, problems: &mut Problems) -> Option<Self> {
        let number = integer(node, path, "is not a port (1 to 65535)", 1, 65_535, problems)?;
        u16::try_from(number).ok().map(Port)
    }

    fn schema() -> serde_json::Value {
        json!({"type": "integer", "minimum": 1, "maximum": 65_535})
    }
}

fn integer(
    node: &Node<'_>,
    path: &Path<'_>,
    complaint: &str,
    min: u64,
    max: u64,
    problems: &mut Problems,
) -> Option<u64> {
    match node.word() {
        Some(Word::Integer(number)) => match u64::try_from(number) {
            Ok(number) if (min..=max).contains(&number) => Some(number),
            _ => {
                problems.error(node.place, path, format!("{number} {complaint}"));
                None
            }
        },
        Some(Word::Float) => {
            problems.error(node.place, path, format!("{} {complaint}", node.text().unwrap_or_default()));
            None
        }
        _ => {
            refuse_shape(node, path, "a number", problems);
            None
        }
    }
}

/// The characters of one label, and where `-` may not stand.
fn is_label(text: &str) -> bool {
    (1..=63).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
        && !text.starts_with('-')
        && !text.ends_with('-')
}

fn is_subdomain(text: &str) -> bool {
    text.len() <= 253 && text.split('.').all(is_label)
}

fn object_name(text: &str) -> Result<Box<str>, String> {
    match is_subdomain(text) {
        true => Ok(text.into()),
        false => Err(format!("{text:?} is not a name (lower case letters, digits, '-' and '.')")),
    }
}

fn label(text: &str) -> Result<Box<str>, String> {
    match is_label(text) {
        true => Ok(text.into()),
        false => Err(format!("{text:?} is not a namespace (lower case letters, digits and '-')")),
    }
}

fn group(text: &str) -> Result<Box<str>, String> {
    match text.is_empty() || is_subdomain(text) {
        true => Ok(text.into()),
        false => Err(format!("{text:?} is not an API group")),
    }
}

fn kind(text: &str) -> Result<Box<str>, String> {
    let is_kind = (1..=63).contains(&text.len())
        && text.starts_with(|first: char| first.is_ascii_alphabetic())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        && !text.ends_with('-');
    match is_kind {
        true => Ok(text.into()),
        false => Err(format!("{text:?} is not a kind")),
    }
}

fn hostname(text: &str) -> Result<Box<str>, String> {
    let rest = text.strip_prefix("*.").unwrap_or(text);
    match is_subdomain(rest) && text.len() <= 253 && !is_address(text) {
        true => Ok(text.into()),
        false => Err(format!("{text:?} is not a host name (lower case, no address; *. may stand first)")),
    }
}

fn precise_hostname(text: &str) -> Result<Box<str>, String> {
    match is_subdomain(text) && !is_address(text) {
        true => Ok(text.into()),
        false => Err(format!("{text:?} is not a host name (lower case, no address, no wildcard)")),
    }
}

/// Whether a name of digits would be read as an IPv4 address.
fn is_address(text: &str) -> bool {
    text.parse::<IpAddr>().is_ok()
}

fn header_name(text: &str) -> Result<Box<str>, String> {
    let is_token = (1..=256).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte));
    match is_token {
        true => Ok(text.into()),
        false => Err(format!("{text:?} is not a header name")),
    }
}

fn header_value(text: &str) -> Result<Box<str>, String> {
    let is_visible = |byte: u8| byte.is_ascii_graphic();
    let bytes = text.as_bytes();
    let is_value = bytes.len() <= 4096
        && bytes.first().copied().is_some_and(is_visible)
        && bytes.last().copied().is_some_and(is_visible)
        && bytes.iter().all(|byte| is_visible(*byte) || matches!(byte, b' ' | b'\t'));
    match is_value {
        true => Ok(text.into()),
        false => Err(format!("{text:?} is not a header value (visible ASCII, blanks only inside)")),
    }
}

fn line(text: &str) -> Result<Box<str>, String> {
    match (1..=4096).contains(&text.len()) && !text.chars().any(char::is_control) {
        true => Ok(text.into()),
        false => Err("must have 1 to 4096 bytes and no control characters".to_owned()),
    }
}

fn path_text(text: &str) -> Result<Box<str>, String> {
    if text.len() > 1024 {
        return Err("is longer than 1024 bytes".to_owned());
    }
    match text {
        "" => Ok(text.into()),
        _ => check_path(text).map(|()| text.into()).map_err(|reason| format!("{text:?} {reason}")),
    }
}

/// The middle part of label keys and values.
fn is_label_text(text: &str) -> bool {
    let is_end = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    text.len() <= 63
        && is_end(text.as_bytes().first())
        && is_end(text.as_bytes().last())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte))
}

fn label_key(text: &str) -> Result<Box<str>, String> {
    let is_key = match text.split_once('/') {
        Some((prefix, name)) => is_subdomain(prefix) && is_label_text(name),
        None => is_label_text(text),
    };
    match is_key {
        true => Ok(text.into()),
        false => Err(format!("{text:?} is not a label's key")),
    }
}

fn label_value(text: &str) -> Result<Box<str>, String> {
    match text.is_empty() || is_label_text(text) {
        true => Ok(text.into()),
        false => Err(format!("{text:?} is not a label's value")),
    }
}

fn address(text: &str) -> Result<IpAddr, String> {
    // An IPv4 address in IPv6 clothes is the same socket as the plain one.
    let parsed: Result<IpAddr, _> = text.parse();
    parsed.map(|address| address.to_canonical()).map_err(|_| format!("{text:?} is not an IP address"))
}

fn cidr(text: &str) -> Result<ipnet::IpNet, String> {
    let network: ipnet::IpNet = text.parse().map_err(|_| format!("{text:?} is not a network (such as 10.0.0.0/8)"))?;
    match network.trunc() == network {
        true => Ok(network),
        false => Err(format!("{text:?} has bits beyond its prefix: {} is meant", network.trunc())),
    }
}

fn period(text: &str) -> Result<Duration, String> {
    let complaint = || format!("{text:?} is not a duration (such as 5s, 1h30m or 100ms)");
    let mut rest = text;
    let mut total = Duration::ZERO;
    for _ in 0..4 {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        if digits == 0 || digits > 5 {
            return Err(complaint());
        }
        let number: u64 = rest[..digits].parse().map_err(|_| complaint())?;
        rest = &rest[digits..];
        let units = [("ms", 1), ("h", 3_600_000), ("m", 60_000), ("s", 1_000)];
        let unit = units.iter().find(|(unit, _)| rest.starts_with(unit));
        let (name, milliseconds) = unit.ok_or_else(complaint)?;
        total += Duration::from_millis(number * milliseconds);
        rest = &rest[name.len()..];
        if rest.is_empty() {
            return Ok(total);
        }
    }
    Err(complaint())
}

fn quantity(text: &str) -> Option<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let number: u64 = text[..digits].parse().ok()?;
    let unit: u64 = match &text[digits..] {
        "" => 1,
        "k" => 1_000,
        "M" => 1_000_000,
        "G" => 1_000_000_000,
        "Ki" => 1 << 10,
        "Mi" => 1 << 20,
        "Gi" => 1 << 30,
        _ => return None,
    };
    number.checked_mul(unit)
}
